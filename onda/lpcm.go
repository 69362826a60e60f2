package onda

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// float is what samples can be asked for as.
type float interface{ float32 | float64 }

// sampleTypes gives the width in bytes and the little-endian decoding of every
// sample type of the Onda format.
var sampleTypes = map[string]struct {
	width int
	at    func([]byte) float64
}{
	"int8":    {1, func(b []byte) float64 { return float64(int8(b[0])) }},
	"int16":   {2, func(b []byte) float64 { return float64(int16(binary.LittleEndian.Uint16(b))) }},
	"int32":   {4, func(b []byte) float64 { return float64(int32(binary.LittleEndian.Uint32(b))) }},
	"int64":   {8, func(b []byte) float64 { return float64(int64(binary.LittleEndian.Uint64(b))) }},
	"uint8":   {1, func(b []byte) float64 { return float64(b[0]) }},
	"uint16":  {2, func(b []byte) float64 { return float64(binary.LittleEndian.Uint16(b)) }},
	"uint32":  {4, func(b []byte) float64 { return float64(binary.LittleEndian.Uint32(b)) }},
	"uint64":  {8, func(b []byte) float64 { return float64(binary.LittleEndian.Uint64(b)) }},
	"float32": {4, func(b []byte) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))) }},
	"float64": {8, func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) }},
}

func sampleWidth(sampleType string) (int, bool) {
	t, ok := sampleTypes[sampleType]
	return t.width, ok
}

// decode turns interleaved stored samples into the signal's unit, one row of
// count samples per wanted channel: into[c*count+t]. The arithmetic is float64
// whatever T is, so that a float32 value is the rounded float64 one.
func decode[T float](into []T, s *Signal, raw []byte, channels []int) {
	typ := sampleTypes[s.SampleType]
	frame := typ.width * len(s.Channels)
	count := len(raw) / frame
	for row, c := range channels {
		out := into[row*count : (row+1)*count]
		at := c * typ.width
		if s.SampleType == "int16" { // nearly all recordings: without a call for each sample, in half the time
			for t := range out {
				out[t] = inUnit[T](float64(int16(binary.LittleEndian.Uint16(raw[at:]))), s)
				at += frame
			}
			continue
		}
		for t := range out {
			out[t] = inUnit[T](typ.at(raw[at:]), s)
			at += frame
		}
	}
}

// inUnit turns a stored sample into the signal's unit. The conversion of the
// product keeps compilers for machines with a fused multiply-add from using it:
// workers of every kind must give the same bits.
func inUnit[T float](stored float64, s *Signal) T { return T(float64(stored*s.Resolution) + s.Offset) }

// reader reads stored samples by range. It is safe for concurrent use.
type reader struct {
	source  Source
	kept    *kept         // of source
	own     string        // what no other reader has
	quick   *zstd.Decoder // of frames that are decompressed whole, many at once
	scratch sync.Pool     // of *[]byte, their content
	memory  *cache
	folder  *folder // in place of memory, if there is one

	near int64 // how far apart ranges of a file may be to be read as one

	mu         sync.Mutex
	indices    map[string]*frames
	indexBytes int64
}

// newReader makes a reader that keeps up to so many bytes: in the folder dir,
// or in memory if that is empty. files is about how many there are.
func newReader(source Source, dir string, limit, files int64) (*reader, error) {
	quick, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, fmt.Errorf("onda: zstd: %w", err)
	}
	r := &reader{
		source: source, kept: &kept{source: source, files: map[string]*keptFile{}}, own: rand.Text(),
		near: near(source), quick: quick, indices: map[string]*frames{},
	}
	// In so many draws nearly every file has come up.
	patience := 8 * files
	if dir != "" {
		r.folder = newFolder(dir, limit, patience)
	} else {
		r.memory = newCache(limit, patience)
	}
	return r, nil
}

// raw returns count stored samples of every channel, interleaved, beginning
// with sample first of the signal. The bytes may be shared: do not write them.
func (r *reader) raw(ctx context.Context, s *Signal, first, count int64) ([]byte, error) {
	from, length := first*s.frame(), count*s.frame()
	var raw []byte
	var err error
	if s.Format == formatZstd {
		raw, err = r.compressed(ctx, s, from, length)
	} else {
		raw, err = r.plain(ctx, s, from, length)
	}
	if err != nil {
		return nil, fmt.Errorf("onda: samples %d to %d of recording %s (%s): %w", first, first+count, s.Recording, s.Path, err)
	}
	return raw, nil
}

// plain reads only the bytes of the range.
func (r *reader) plain(ctx context.Context, s *Signal, from, length int64) ([]byte, error) {
	obj, err := r.kept.open(ctx, s.Path)
	if err != nil {
		return nil, err
	}
	defer obj.Close()
	// Checked before allocating: the range comes from a table, which may
	// promise more than there is.
	if from+length > obj.Size() {
		return nil, fmt.Errorf("%w: want bytes %d to %d of %d", ErrTruncated, from, from+length, obj.Size())
	}
	buf := make([]byte, length)
	if n, err := r.copied(ctx, obj, s.Path).ReadAt(buf, from); n < len(buf) {
		return nil, notEOF(err, fmt.Errorf("%w: %d of %d bytes at %d", ErrTruncated, n, length, from))
	}
	return buf, nil
}

// copied reads a file that is far from its copy in the folder, which is made of
// all of it, if there is room for one.
func (r *reader) copied(ctx context.Context, obj Object, path string) Object {
	if r.folder == nil || !isFar(obj) {
		return obj
	}
	return &copiedObject{Object: obj, ctx: ctx, folder: r.folder, key: r.identity(obj) + ":" + path}
}

// identity tells a file from all others whose copies a folder may have. A file that only its size and time tell apart
// is the reader's own: another source may have one of that path, size and time.
func (r *reader) identity(obj Object) string {
	if use, ok := obj.(*keptUse); ok {
		obj = use.Object
	}
	if o, ok := obj.(interface{ Identity() string }); ok {
		return o.Identity()
	}
	return r.own + fileVersion(obj)
}

type copiedObject struct {
	Object
	ctx    context.Context
	folder *folder
	key    string
}

func (o *copiedObject) ReadAt(p []byte, off int64) (int, error) {
	data, ok, err := o.folder.read(o.ctx, o.key, o.Size(), off, int64(len(p)), func(w io.Writer) error {
		in := streamOf(o.ctx, o.Object)
		defer in.Close()
		_, err := io.CopyBuffer(onlyWriter{w}, in, make([]byte, 1<<20))
		return err
	})
	if err != nil || !ok {
		if err != nil {
			return 0, err
		}
		return o.Object.ReadAt(p, off)
	}
	return copy(p, data), nil
}

// atReader reads an Object from its start and stops when ctx ends.
type atReader struct {
	ctx context.Context
	obj Object
	off int64
}

func (a *atReader) Read(p []byte) (int, error) {
	if err := a.ctx.Err(); err != nil {
		return 0, err
	}
	if a.off >= a.obj.Size() {
		return 0, io.EOF
	}
	n, err := a.obj.ReadAt(p[:min(int64(len(p)), a.obj.Size()-a.off)], a.off)
	a.off += int64(n)
	if n > 0 {
		return n, nil
	}
	return n, &sourceError{notEOF(err, errors.New("object is shorter than its size"))}
}
