package wire

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/zeebo/xxh3"
)

// ErrBadDigest is returned by [ParseDigest] for text that is not 32 hexadecimal digits.
var ErrBadDigest = errors.New("not a digest")

// Digest identifies a payload: the 128-bit xxh3 hash of its canonical, uncompressed bytes or, of more than 64 KiB, that
// of the hashes of its blocks of 64 KiB, one after the other. It finds accidents, a worker that is not deterministic or
// a damaged transfer; it does not withstand an adversary.
type Digest [16]byte

// digestBlock is hashed at once and in place; a stream is copied on its way, which takes twice as long.
const digestBlock = 64 << 10

// Sum returns the digest of payload.
func Sum(payload []byte) Digest {
	if len(payload) <= digestBlock {
		return xxh3.Hash128(payload).Bytes()
	}
	var s Summer
	_, _ = s.Write(payload) // never fails
	return s.Sum()
}

// Summer computes a [Sum] piece by piece, while the pieces are in the processor's cache: fastest when they begin and
// end where blocks do. The zero value is ready.
type Summer struct {
	block  xxh3.Hasher // of the bytes after the last whole block
	n      int         // how many these are
	blocks xxh3.Hasher // of the hashes of whole blocks
	whole  int         // how many these are
	last   Digest      // of them
}

// Write adds the next piece; it never fails.
func (s *Summer) Write(piece []byte) (int, error) {
	size := len(piece)
	for len(piece) > 0 {
		n := min(digestBlock-s.n, len(piece))
		if n == digestBlock {
			s.add(xxh3.Hash128(piece[:n]))
		} else {
			_, _ = s.block.Write(piece[:n]) // never fails
			if s.n += n; s.n == digestBlock {
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
	s.whole++
	s.last = block.Bytes()
	_, _ = s.blocks.Write(s.last[:]) // never fails
}

// Sum returns the digest of all pieces.
func (s *Summer) Sum() Digest {
	switch {
	case s.whole == 0:
		return s.block.Sum128().Bytes()
	case s.whole == 1 && s.n == 0:
		return s.last
	}
	blocks := s.blocks
	if s.n > 0 {
		rest := s.block.Sum128().Bytes()
		_, _ = blocks.Write(rest[:]) // never fails
	}
	return blocks.Sum128().Bytes()
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
