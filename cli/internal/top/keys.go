package top

import "bytes"

// Key is a key that means something.
type Key int

// The keys.
const (
	KeyQuit  Key = iota + 1 // q, Ctrl-C, Ctrl-D
	KeyPause                // p, space
	KeyUp                   // arrows, or as in vi
	KeyDown
	KeyLeft
	KeyRight
	KeyPageUp
	KeyPageDown
)

var keys = []struct {
	bytes string
	key   Key
}{
	{"\x1b[A", KeyUp}, {"\x1b[B", KeyDown}, {"\x1b[C", KeyRight}, {"\x1b[D", KeyLeft},
	{"\x1bOA", KeyUp}, {"\x1bOB", KeyDown}, {"\x1bOC", KeyRight}, {"\x1bOD", KeyLeft},
	{"\x1b[5~", KeyPageUp}, {"\x1b[6~", KeyPageDown},
	{"q", KeyQuit}, {"Q", KeyQuit}, {"\x03", KeyQuit}, {"\x04", KeyQuit},
	{"p", KeyPause}, {"P", KeyPause}, {" ", KeyPause},
	{"k", KeyUp}, {"j", KeyDown}, {"h", KeyLeft}, {"l", KeyRight},
}

// Keys reads keys out of what a terminal in raw mode sends. Sequences may be cut anywhere between two reads.
type Keys struct{ rest []byte }

// Read returns the keys in data and in what was left before; all else is ignored.
func (k *Keys) Read(data []byte) (found []Key) {
	k.rest = append(k.rest, data...)
next:
	for len(k.rest) > 0 {
		for _, known := range keys {
			if bytes.HasPrefix(k.rest, []byte(known.bytes)) {
				found = append(found, known.key)
				k.rest = k.rest[len(known.bytes):]
				continue next
			}
		}
		for _, known := range keys {
			if bytes.HasPrefix([]byte(known.bytes), k.rest) {
				return found // the rest of it is to come
			}
		}
		n := unknown(k.rest)
		if n == 0 {
			return found // likewise
		}
		k.rest = k.rest[n:]
	}
	return found
}

// maxSequence is the longest escape sequence that is waited for.
const maxSequence = 32

// unknown is the length of what begins data and is not known: an escape sequence up to its final byte, or one byte; 0
// while the final byte is to come.
func unknown(data []byte) int {
	if len(data) < 2 || data[0] != '\x1b' || data[1] != '[' {
		return 1
	}
	for i, c := range data[2:min(len(data), maxSequence)] {
		if '@' <= c && c <= '~' {
			return i + 3
		}
	}
	if len(data) >= maxSequence {
		return 1
	}
	return 0
}
