package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/zeebo/xxh3"
)

// ErrBadDigest is returned by [ParseDigest] for text that is not 32 hexadecimal digits.
var ErrBadDigest = errors.New("not a digest")

// Digest identifies a payload: the 128-bit xxh3 hash of its canonical, uncompressed bytes or, of more than 64 KiB, that
// of the hashes of its blocks of 64 KiB, one after the other. It finds accidents, a worker that is not deterministic or
// a damaged transfer; it does not withstand an adversary.
type Digest [16]byte

// DigestBlock is the size in bytes of the blocks of a payload. One is hashed at once and in place; a stream is copied
// on its way, which takes twice as long.
const DigestBlock = 64 << 10

// Sum returns the digest of payload.
func Sum(payload []byte) Digest {
	if len(payload) <= DigestBlock {
		return xxh3.Hash128(payload).Bytes()
	}
	var s Summer
	s.Expect(len(payload))
	_, _ = s.Write(payload) // never fails
	return s.Sum()
}

// Blocks are the hashes of the blocks of a payload, one after the other. With them and the digest a part of the payload
// can be checked.
type Blocks []byte

// hashSize is the length in bytes of the hash of a block.
const hashSize = len(Digest{})

// BlocksSize returns the length in bytes of the hashes for a payload of size bytes.
func BlocksSize(size int) int { return (size + DigestBlock - 1) / DigestBlock * hashSize }

// Sum returns the digest of the payload whose blocks have these hashes.
func (b Blocks) Sum() Digest {
	if len(b) == hashSize {
		return Digest(b)
	}
	return xxh3.Hash128(b).Bytes()
}

// Match reports whether the payload has these bytes at an offset where a block begins; they end where a block does, or
// the payload. It reports false for bytes that the payload is too short for.
func (b Blocks) Match(offset int, piece []byte) bool {
	for k := offset / DigestBlock * hashSize; len(piece) > 0; k += hashSize {
		n := min(DigestBlock, len(piece))
		if hash := xxh3.Hash128(piece[:n]).Bytes(); k+hashSize > len(b) || Digest(b[k:k+hashSize]) != hash {
			return false
		}
		piece = piece[n:]
	}
	return true
}

// Summer computes a [Sum] piece by piece, while the pieces are in the processor's cache: fastest when they begin and
// end where blocks do. The zero value is ready.
type Summer struct {
	block  xxh3.Hasher // of the bytes after the last whole block
	n      int         // how many these are
	blocks Blocks      // of whole blocks
}

// Expect makes room for the hashes of a payload of size bytes.
func (s *Summer) Expect(size int) { s.blocks = slices.Grow(s.blocks, BlocksSize(size)) }

// Write adds the next piece; it never fails.
func (s *Summer) Write(piece []byte) (int, error) {
	size := len(piece)
	for len(piece) > 0 {
		n := min(DigestBlock-s.n, len(piece))
		if n == DigestBlock {
			s.add(xxh3.Hash128(piece[:n]))
		} else {
			_, _ = s.block.Write(piece[:n]) // never fails
			if s.n += n; s.n == DigestBlock {
				s.add(s.block.Sum128())
				s.block.Reset()
				s.n = 0
			}
		}
		piece = piece[n:]
	}
	return size, nil
}

func (s *Summer) add(block xxh3.Uint128) {
	hash := block.Bytes()
	s.blocks = append(s.blocks, hash[:]...)
}

// Sum returns the digest of all pieces, after the last.
func (s *Summer) Sum() Digest { return s.Blocks().Sum() }

// Blocks returns the hashes of all blocks, after the last piece.
func (s *Summer) Blocks() Blocks {
	if s.n > 0 || len(s.blocks) == 0 {
		s.add(s.block.Sum128())
		s.n = 0
	}
	return s.blocks
}

// String returns 32 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads what [Digest.String] wrote. Its errors wrap [ErrBadDigest].
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return Digest{}, fmt.Errorf("%w: %d characters, not %d", ErrBadDigest, len(s), hex.EncodedLen(len(d)))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("%w: %w", ErrBadDigest, err)
	}
	return d, nil
}

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDigest(string(text))
	return err
}

// EncodeMsgpack writes d as 16 bytes of binary.
func (d Digest) EncodeMsgpack(enc *msgpack.Encoder) error { return enc.EncodeBytes(d[:]) }

// DecodeMsgpack refuses any other length than 16, where the library would fill what it gets.
func (d *Digest) DecodeMsgpack(dec *msgpack.Decoder) error {
	n, err := dec.DecodeBytesLen()
	if err != nil {
		return err
	}
	if n != len(d) {
		return fmt.Errorf("%w: %d bytes, not %d", ErrBadDigest, n, len(d))
	}
	return dec.ReadFull(d[:])
}
