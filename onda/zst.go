package onda

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxZstdWindow bounds the memory that a frame may ask of the decoder;
	// it is what the zstd tool itself accepts without being told otherwise.
	maxZstdWindow = 128 << 20
	// zstdReadBuffer is the size of one read from the source, which may be a
	// request to object storage.
	zstdReadBuffer = 256 << 10
)

// compressed reads a range of an lpcm.zst file, which has to be decompressed
// from its start. A recording that fits the cache is decompressed whole and
// kept, since windows at random would otherwise do that again each; a file that
// then turns out to hold less or more than its row says is ErrTruncated or
// ErrFile for every range of it. Of a larger recording, decompression stops
// where the range ends, and only the range is held.
func (r *reader) compressed(ctx context.Context, s *Signal, from, length int64) ([]byte, error) {
	obj, err := r.source.Open(ctx, s.Path)
	if err != nil {
		return nil, err
	}
	defer obj.Close()
	whole := s.samples() * s.frame()
	if from+length > whole || !r.cache.fits(whole) {
		return decompress(ctx, obj, from, length, -1)
	}
	// A file that took the place of another is another; and so is one that two
	// rows see differently.
	data, err := r.cache.get(ctx, fmt.Sprintf("%d:%s:%s", whole, fileVersion(obj), s.Path), func() ([]byte, error) {
		return decompress(ctx, obj, 0, whole, s.frame())
	})
	if err != nil {
		return nil, err
	}
	return data[from : from+length : from+length], nil
}

// decompress returns length bytes from offset from of the decompressed file.
// If spare is not negative, not more than so many bytes may follow these. What
// is held is bounded by length and the decoder's window, however much the file
// would decompress to.
func decompress(ctx context.Context, obj Object, from, length, spare int64) ([]byte, error) {
	in := bufio.NewReaderSize(&atReader{ctx: ctx, obj: obj}, zstdReadBuffer)
	dec, err := zstd.NewReader(in,
		zstd.WithDecoderConcurrency(1), // no goroutines: the caller runs many of these
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, compressedError(ctx, err)
	}
	defer dec.Close()
	if n, err := io.CopyN(io.Discard, dec, from); n < from {
		return nil, compressedError(ctx, err)
	}
	// Grown as bytes come, rather than allocated for a length that a table
	// states and the file may not have.
	buf := make([]byte, 0, min(length, 4<<20))
	for int64(len(buf)) < length {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(length, 2*int64(cap(buf))))
			copy(grown, buf)
			buf = grown
		}
		n, err := dec.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil && int64(len(buf)) < length {
			return nil, compressedError(ctx, err)
		}
	}
	if spare >= 0 {
		n, err := io.CopyN(io.Discard, dec, spare+1)
		if n > spare {
			return nil, fmt.Errorf("%w: it holds more than %d bytes", ErrFile, from+length)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, compressedError(ctx, err)
		}
	}
	return buf, nil
}

// compressedError sorts what a decoder can fail with: the end of the file,
// the source's own errors, and damage.
func compressedError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the zstd stream ends early", ErrTruncated)
	}
	var source *sourceError
	if errors.As(err, &source) {
		return source.err
	}
	return fmt.Errorf("%w: %w", ErrCompressed, err)
}

// sourceError marks an error of reading, among those of decoding.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }
