package msgp

import (
	"encoding/binary"
	"fmt"
)

// MaxDepth is how deep arrays and maps may nest in anything that is encoded or decoded here. Decoders recurse, and a
// Go stack that overflows cannot be recovered.
const MaxDepth = 64

// Check reports whether data is exactly one sound msgpack value: every length and count fits the bytes that follow,
// nothing nests deeper than [MaxDepth], nothing is left over. Extensions other than timestamps are refused. It does
// not allocate unless it fails, and its errors wrap [ErrMalformed].
//
// The msgpack library trusts lengths (the five bytes of a map header make it ask for 5 GiB), so whatever comes from the
// network passes here first. After it, decoding costs memory in proportion to len(data): up
// to some 170 bytes per byte into untyped values, up to the size of one element per byte into a slice.
func Check(data []byte) error {
	_, _, err := checkWhole(data)
	return err
}

// CheckPrefix is [Check] for a value that other bytes may follow. It returns the value's length.
func CheckPrefix(data []byte) (n int, err error) {
	n, _, err = scan(data)
	return n, err
}

func checkWhole(data []byte) (n, timestamps int, err error) {
	n, timestamps, err = scan(data)
	if err == nil && n != len(data) {
		err = fmt.Errorf("%w: %d bytes follow the value, which ends at offset %d", ErrMalformed, len(data)-n, n)
	}
	return n, timestamps, err
}

// scan walks the first value of data and returns its length and how many timestamps it holds. It keeps its own stack,
// and stops at the first count that the remaining bytes cannot hold, all values still owed to outer containers
// included: no input makes it do more than len(data) steps.
func scan(data []byte) (n, timestamps int, err error) {
	var left [MaxDepth]int // children still to come, per open container
	depth, pos := 0, 0
	owed := 1 // values still to come, over all open containers
	for owed > 0 {
		h, f := readHead(data[pos:])
		if f != faultNone {
			return 0, 0, malformedAt(pos, f)
		}
		pos += h.size
		owed--
		if depth > 0 {
			left[depth-1]--
		}
		switch h.kind {
		case kindArray, kindMap:
			// Every value takes at least a byte. owed never exceeds the bytes left, so the difference is not negative.
			if h.children > uint64(len(data)-pos-min(owed, len(data)-pos)) {
				return 0, 0, malformedAt(pos-h.size, faultCount)
			}
			if depth == MaxDepth {
				return 0, 0, malformedAt(pos-h.size, faultDepth)
			}
			left[depth] = int(h.children)
			depth++
			owed += int(h.children)
		case kindTime:
			timestamps++
		}
		for depth > 0 && left[depth-1] == 0 {
			depth--
		}
	}
	return pos, timestamps, nil
}

type kind uint8

const (
	kindScalar kind = iota // nil, booleans, numbers
	kindString
	kindBinary
	kindTime
	kindArray
	kindMap
)

// head is what the first bytes of a msgpack value say.
type head struct {
	kind     kind
	header   int    // bytes before the body
	size     int    // bytes of header and body; containers have no body of their own, their children follow
	children uint64 // values that follow: elements of an array, keys and values of a map
}

type fault uint8

const (
	faultNone fault = iota
	faultTruncated
	faultLength
	faultCount
	faultDepth
	faultReserved
	faultExtension
	faultTimestamp
)

var faultText = [...]string{
	faultTruncated: "the bytes end inside a value",
	faultLength:    "a length exceeds the bytes that follow",
	faultCount:     "a count of elements exceeds the bytes that follow",
	faultDepth:     fmt.Sprintf("nested deeper than %d", MaxDepth),
	faultReserved:  "byte 0xc1 is not msgpack",
	faultExtension: "an extension other than a timestamp",
	faultTimestamp: "a timestamp of an impossible length",
}

func malformedAt(pos int, f fault) error {
	return fmt.Errorf("%w: offset %d: %s", ErrMalformed, pos, faultText[f])
}

// readHead reads the value that starts at p[0]. Without a fault, size is at most len(p).
func readHead(p []byte) (head, fault) {
	if len(p) == 0 {
		return head{}, faultTruncated
	}
	c := p[0]
	switch {
	case c <= 0x7f || c >= 0xe0: // small integers
		return head{header: 1, size: 1}, faultNone
	case c <= 0x8f:
		return head{kind: kindMap, header: 1, size: 1, children: 2 * uint64(c&0x0f)}, faultNone
	case c <= 0x9f:
		return head{kind: kindArray, header: 1, size: 1, children: uint64(c & 0x0f)}, faultNone
	case c <= 0xbf:
		return body(p, kindString, 1, uint64(c&0x1f))
	}
	switch c {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return head{header: 1, size: 1}, faultNone
	case 0xcc, 0xd0:
		return body(p, kindScalar, 1, 1)
	case 0xcd, 0xd1:
		return body(p, kindScalar, 1, 2)
	case 0xca, 0xce, 0xd2:
		return body(p, kindScalar, 1, 4)
	case 0xcb, 0xcf, 0xd3:
		return body(p, kindScalar, 1, 8)
	case 0xc4, 0xc5, 0xc6: // binary with a length of 1, 2, 4 bytes
		return sized(p, kindBinary, 1<<(c-0xc4))
	case 0xd9, 0xda, 0xdb: // string
		return sized(p, kindString, 1<<(c-0xd9))
	case 0xdc, 0xdd: // array with a count of 2, 4 bytes
		return counted(p, kindArray, 2<<(c-0xdc), 1)
	case 0xde, 0xdf: // map
		return counted(p, kindMap, 2<<(c-0xde), 2)
	case 0xc1:
		return head{}, faultReserved
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // extension of 1, 2, 4, 8, 16 bytes
		return extension(p, 2, 1<<(c-0xd4))
	default: // 0xc7, 0xc8, 0xc9: extension with a length of 1, 2, 4 bytes
		width := 1 << (c - 0xc7)
		if len(p) < 1+width {
			return head{}, faultTruncated
		}
		return extension(p, 2+width, bigEndian(p[1:1+width]))
	}
}

func body(p []byte, k kind, header int, n uint64) (head, fault) {
	if n > uint64(len(p)-header) {
		return head{}, faultLength
	}
	return head{kind: k, header: header, size: header + int(n)}, faultNone
}

func sized(p []byte, k kind, width int) (head, fault) {
	if len(p) < 1+width {
		return head{}, faultTruncated
	}
	return body(p, k, 1+width, bigEndian(p[1:1+width]))
}

func counted(p []byte, k kind, width int, perEntry uint64) (head, fault) {
	if len(p) < 1+width {
		return head{}, faultTruncated
	}
	return head{kind: k, header: 1 + width, size: 1 + width, children: perEntry * bigEndian(p[1:1+width])}, faultNone
}

// extension accepts timestamps (type -1) only: the library lets other types rewrite strings, and would run whatever
// decoder some other package registered.
func extension(p []byte, header int, n uint64) (head, fault) {
	if len(p) < header {
		return head{}, faultTruncated
	}
	if p[header-1] != 0xff {
		return head{}, faultExtension
	}
	if n != 4 && n != 8 && n != 12 {
		return head{}, faultTimestamp
	}
	return body(p, kindTime, header, n)
}

func bigEndian(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	default:
		return uint64(binary.BigEndian.Uint32(b))
	}
}
