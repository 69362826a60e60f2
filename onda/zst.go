package onda

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
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

// quickFrame is the length up to which a frame is decompressed anew for every
// window: it takes less than reading and converting the window does.
const quickFrame = 256 << 10

// quickRead bounds what one read of many quick frames takes.
const quickRead = 8 << 20

// compressed reads a range of an lpcm.zst file: of its frames only those that
// hold the range are decompressed. Of one that is not quick the content is
// kept, in the folder or in memory, since windows at random would otherwise
// decompress it again each. Where there is no room, decompression stops where
// the range ends, and only the range is held.
func (r *reader) compressed(ctx context.Context, s *Signal, from, length int64) ([]byte, error) {
	obj, err := r.kept.open(ctx, s.Path)
	if err != nil {
		return nil, err
	}
	defer obj.Close()
	// A file that took the place of another is another; and so is one that two
	// rows see differently.
	key := fmt.Sprintf("%d:%s:%s", s.samples()*s.frame(), r.identity(obj), s.Path)
	f, err := r.frames(ctx, key, s, obj)
	if err != nil {
		return nil, compressedError(ctx, err)
	}
	if err := f.checkContent(s); err != nil {
		return nil, err
	}
	to := from + length
	if !f.open && to > f.content() {
		return nil, fmt.Errorf("%w: want bytes %d to %d of %d", ErrTruncated, from, to, f.content())
	}
	// Grown as bytes come, where a frame's length is what a table says of it.
	out := make([]byte, 0, min(length, 4<<20))
	for i := f.find(from); from < to; {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if last := i == len(f.starts)-2; f.quick(i) && !(last && f.open) {
			if out, i, err = r.quickFrames(f, r.copied(ctx, obj, s.Path), i, from, to, out); err != nil {
				return nil, compressedError(ctx, err)
			}
			from = f.starts[i]
			continue
		}
		end := to
		if last := i == len(f.starts)-2; !last || !f.open {
			end = min(to, f.starts[i+1])
		}
		part, err := r.slowFrame(ctx, f, obj, key, s, i, from-f.starts[i], end-from)
		if err != nil {
			return nil, err
		}
		if int64(len(part)) == length {
			return part, nil
		}
		out, from, i = append(out, part...), end, min(i+1, len(f.starts)-2)
	}
	return out, nil
}

// frames gives the frames of a file, which are looked for once.
func (r *reader) frames(ctx context.Context, key string, s *Signal, obj Object) (*frames, error) {
	r.mu.Lock()
	f := r.indices[key]
	r.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := readFrames(ctx, obj, s.samples()*s.frame())
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.indexBytes += f.bytes(); r.indexBytes > maxIndexBytes {
		// All are found again as fast as they were found; which are dropped does
		// not matter.
		clear(r.indices)
		r.indexBytes = f.bytes()
	}
	r.indices[key] = f
	return f, nil
}

// maxIndexBytes bounds what the indices of files take: those of 200 GB in frames
// of 64 KiB.
const maxIndexBytes = 64 << 20

func (f *frames) quick(i int) bool {
	return f.starts[i+1]-f.starts[i] <= quickFrame && f.begins[i+1]-f.begins[i] <= 2*quickFrame
}

// quickFrames appends what the quick frames from i on hold of a range, and says
// which frame is the next.
func (r *reader) quickFrames(f *frames, obj Object, i int, from, to int64, out []byte) ([]byte, int, error) {
	n := i + 1
	for n < len(f.starts)-1 && f.starts[n] < to && f.quick(n) && f.begins[n+1]-f.begins[i] <= quickRead {
		n++
	}
	packed := make([]byte, f.begins[n]-f.begins[i])
	if got, err := obj.ReadAt(packed, f.begins[i]); got < len(packed) {
		return nil, 0, &sourceError{notEOF(err, fmt.Errorf("%w: it is shorter than its index says", ErrTruncated))}
	}
	scratch, _ := r.scratch.Get().(*[]byte)
	if scratch == nil {
		room := make([]byte, 0, quickFrame) // DecodeAll writes no further
		scratch = &room
	}
	defer r.scratch.Put(scratch)
	for ; i < n; i++ {
		content, err := r.quick.DecodeAll(packed[:f.begins[i+1]-f.begins[i]], (*scratch)[:0])
		if err != nil {
			return nil, 0, err
		}
		*scratch, packed = content, packed[f.begins[i+1]-f.begins[i]:]
		if int64(len(content)) != f.starts[i+1]-f.starts[i] {
			return nil, 0, fmt.Errorf("frame %d has %d bytes, and %d in the index", i, len(content),
				f.starts[i+1]-f.starts[i])
		}
		if f.sums != nil && uint32(xxhash.Sum64(content)) != f.sums[i] {
			return nil, 0, fmt.Errorf("frame %d is not what the seek table's checksum says", i)
		}
		out = append(out, content[max(0, from-f.starts[i]):min(int64(len(content)), to-f.starts[i])]...)
	}
	return out, n, nil
}

// slowFrame reads a range of one frame, or, if that is open, of all that
// follows.
func (r *reader) slowFrame(ctx context.Context, f *frames, obj Object, key string, s *Signal, i int,
	from, length int64) ([]byte, error) {
	in := f.section(obj, i, i+1)
	size := f.starts[i+1] - f.starts[i]
	spare := int64(0)
	if f.open {
		// The row's length, which is a sample short where its span is cut.
		spare = s.frame()
	}
	if from+length > size {
		return decompress(ctx, in, from, length)
	}
	key = fmt.Sprintf("%s:%d", key, i)
	var data []byte
	var ok bool
	var err error
	if r.folder != nil {
		data, ok, err = r.folder.read(ctx, key, size, from, length, func(w io.Writer) error {
			return decompressTo(ctx, w, io.Discard, in, size, spare)
		})
	} else {
		data, ok, err = r.memory.read(ctx, key, size, from, length, func() (held, error) {
			whole := &inMemory{size: size}
			return whole, decompressTo(ctx, whole, io.Discard, in, size, spare)
		})
	}
	if ok || err != nil {
		return data, err
	}
	return decompress(ctx, in, from, length)
}

// decompressTo writes a whole file of size bytes. After them spare bytes may follow, which go to rest.
func decompressTo(ctx context.Context, w, rest io.Writer, obj Object, size, spare int64) error {
	dec, err := newDecoder(ctx, obj)
	if err != nil {
		return compressedError(ctx, err)
	}
	defer dec.Close()
	var read sourceReader
	read.Reader = dec
	n, err := io.CopyBuffer(onlyWriter{w}, io.LimitReader(&read, size), make([]byte, 1<<20))
	if err != nil && read.err == nil {
		return fmt.Errorf("onda: cache_dir: %w", err)
	}
	if n < size {
		if read.err == nil {
			read.err = io.EOF
		}
		return compressedError(ctx, read.err)
	}
	return noMore(ctx, dec, rest, size, spare)
}

// sourceReader keeps its error apart from a writer's.
type sourceReader struct {
	io.Reader
	err error
}

func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.err = err
	return n, err
}

// onlyWriter hides ReadFrom, which would allocate a buffer of its own.
type onlyWriter struct{ io.Writer }

// decoder decompresses a file from its start.
type decoder struct {
	*zstd.Decoder
	in io.Closer
}

func (d *decoder) Close() {
	d.Decoder.Close()
	_ = d.in.Close() // it only waits
}

func newDecoder(ctx context.Context, obj Object) (*decoder, error) {
	in := streamOf(ctx, obj)
	dec, err := zstd.NewReader(in,
		zstd.WithDecoderConcurrency(1), // no goroutines: the caller runs many of these
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return &decoder{dec, in}, nil
}

// noMore checks that nothing or spare bytes follow, which go to rest.
func noMore(ctx context.Context, dec io.Reader, rest io.Writer, size, spare int64) error {
	n, err := io.CopyN(rest, dec, spare+1)
	if err != nil && !errors.Is(err, io.EOF) {
		return compressedError(ctx, err)
	}
	if n != 0 && n != spare {
		return fmt.Errorf("%w: it holds more than %d bytes", ErrFile, size)
	}
	return nil
}

// decompress returns length bytes from offset from of the decompressed file.
// What is held is bounded by length and the decoder's window, however much the
// file would decompress to.
func decompress(ctx context.Context, obj Object, from, length int64) ([]byte, error) {
	dec, err := newDecoder(ctx, obj)
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
