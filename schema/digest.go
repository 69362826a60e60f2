package schema

import (
	"encoding/hex"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/zeebo/xxh3"
)

// Digest identifies a payload: the 128-bit xxh3 hash of its canonical, uncompressed bytes. It finds accidents, a
// worker that is not deterministic or a damaged transfer; it does not withstand an adversary.
type Digest [16]byte

// Sum returns the digest of payload.
func Sum(payload []byte) Digest { return xxh3.Hash128(payload).Bytes() }

// Summer computes a [Sum] piece by piece, while the pieces are in the processor's cache. The zero value is ready.
type Summer struct{ hash xxh3.Hasher }

// Write adds the next piece; it never fails.
func (s *Summer) Write(piece []byte) (int, error) { return s.hash.Write(piece) }

// Sum returns the digest of all pieces.
func (s *Summer) Sum() Digest { return s.hash.Sum128().Bytes() }

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
