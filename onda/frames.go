package onda

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// frames says where the frames of a zstd file are, and what of the content is
// in each. The seek table is that of the zstd seekable format,
// https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md.
type frames struct {
	// begins and starts are where each frame begins in the file and in the
	// content, and the ends of the last.
	begins, starts []int64
	// sums are of each frame's content, if the seek table has them.
	sums []uint32
	// open says that the content's end is not known: the last frame goes on as
	// long as it does, perhaps with further frames.
	open bool
}

const (
	seekTableMagic  = 0x184D2A5E // of the skippable frame
	seekFooterMagic = 0x8F92EAB1
	seekFooterBytes = 9
	skipHeaderBytes = 8
	// maxFrames bounds the memory of an index: 128 GB in frames of 64 KiB.
	maxFrames = 2 << 20
)

// bytes is about what f takes.
func (f *frames) bytes() int64 { return 256 + int64(len(f.begins))*(8+8+4) }

// content is the length of all that is known.
func (f *frames) content() int64 { return f.starts[len(f.starts)-1] }

// find is the frame that holds the byte of the content, or the last.
func (f *frames) find(at int64) int {
	last := len(f.starts) - 2
	return min(sort.Search(last+1, func(i int) bool { return f.starts[i+1] > at }), last)
}

// readFrames finds the frames of a file whose content is to be whole bytes
// long: by its first header where one frame is all, by its seek table, or, if
// the file is near, by walking from frame to frame.
func readFrames(ctx context.Context, obj Object, whole int64) (*frames, error) {
	stream := &frames{begins: []int64{0, obj.Size()}, starts: []int64{0, whole}, open: true}
	head := make([]byte, min(obj.Size(), zstd.HeaderMaxSize))
	if n, err := obj.ReadAt(head, 0); n < len(head) {
		return nil, &sourceError{notEOF(err, errShorter)}
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return stream, nil // whose decoder says what is wrong
	}
	if h.HasFCS && !h.Skippable && h.FrameContentSize >= uint64(whole) {
		if h.FrameContentSize < 1<<62 {
			stream.starts[1], stream.open = int64(h.FrameContentSize), false
		}
		return stream, nil
	}
	table, err := readSeekTable(ctx, obj)
	if table != nil || err != nil {
		return table, err
	}
	if isFar(obj) {
		return stream, nil
	}
	return walkFrames(ctx, obj, whole)
}

var errShorter = errors.New("it is shorter than its size")

// readSeekTable returns nil if the file has no seek table, or one that is not
// about it.
func readSeekTable(ctx context.Context, obj Object) (*frames, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	const guess = 16 << 10 // one read is enough for most
	tail := make([]byte, min(obj.Size(), guess))
	if n, err := obj.ReadAt(tail, obj.Size()-int64(len(tail))); n < len(tail) {
		return nil, &sourceError{notEOF(err, errShorter)}
	}
	if len(tail) < seekFooterBytes+skipHeaderBytes {
		return nil, nil
	}
	footer := tail[len(tail)-seekFooterBytes:]
	count, descriptor := int64(binary.LittleEndian.Uint32(footer)), footer[4]
	const checksums, reserved = 0x80, 0x7c
	if binary.LittleEndian.Uint32(footer[5:]) != seekFooterMagic || descriptor&reserved != 0 || count > maxFrames {
		return nil, nil
	}
	entry := int64(8)
	if descriptor&checksums != 0 {
		entry = 12
	}
	size := skipHeaderBytes + count*entry + seekFooterBytes
	if size > obj.Size() {
		return nil, nil
	}
	if size > int64(len(tail)) {
		tail = make([]byte, size)
		if n, err := obj.ReadAt(tail, obj.Size()-size); n < len(tail) {
			return nil, &sourceError{notEOF(err, errShorter)}
		}
	}
	table := tail[int64(len(tail))-size:]
	if binary.LittleEndian.Uint32(table) != seekTableMagic ||
		int64(binary.LittleEndian.Uint32(table[4:])) != size-skipHeaderBytes {
		return nil, nil
	}
	f := &frames{begins: make([]int64, 1, count+1), starts: make([]int64, 1, count+1)}
	for i := range count {
		e := table[skipHeaderBytes+i*entry:]
		begin, start := f.begins[i], f.starts[i]
		f.begins = append(f.begins, begin+int64(binary.LittleEndian.Uint32(e)))
		f.starts = append(f.starts, start+int64(binary.LittleEndian.Uint32(e[4:])))
		if entry == 12 {
			f.sums = append(f.sums, binary.LittleEndian.Uint32(e[8:]))
		}
	}
	if f.begins[count] != obj.Size()-size {
		return nil, nil
	}
	return f, nil
}

// walkFrames goes from frame to frame, by the headers of their blocks.
func walkFrames(ctx context.Context, obj Object, whole int64) (*frames, error) {
	f := &frames{begins: []int64{0}, starts: []int64{0}}
	for at, content := int64(0), int64(0); at < obj.Size(); {
		head := make([]byte, min(obj.Size()-at, zstd.HeaderMaxSize))
		if n, err := obj.ReadAt(head, at); n < len(head) {
			return nil, &sourceError{notEOF(err, errShorter)}
		}
		var h zstd.Header
		end := int64(-1)
		if err := h.Decode(head); err == nil && h.Skippable {
			end = at + int64(h.HeaderSize) + int64(h.SkippableSize)
		} else if err == nil && h.HasFCS && h.FrameContentSize < 1<<62-uint64(content) {
			end, _ = frameEnd(ctx, obj, at, &h)
			content += int64(h.FrameContentSize)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if end < 0 || end > obj.Size() || len(f.begins) > maxFrames {
			// What is left is read as one stream, and its decoder says what is wrong.
			f.open = true
			end, content = obj.Size(), max(whole, f.content())
		}
		at = end
		f.begins, f.starts = append(f.begins, at), append(f.starts, content)
	}
	return f, nil
}

// frameEnd walks the blocks of the frame at a place and gives the place after
// it.
func frameEnd(ctx context.Context, obj Object, at int64, h *zstd.Header) (int64, error) {
	at += int64(h.HeaderSize)
	var head [3]byte
	for {
		if err := ctx.Err(); err != nil {
			return -1, err
		}
		if n, _ := obj.ReadAt(head[:], at); n < len(head) {
			return -1, errors.New("the zstd frame ends early")
		}
		block := int64(head[0]) | int64(head[1])<<8 | int64(head[2])<<16
		const runLength = 1
		size := block >> 3
		if block>>1&3 == runLength {
			size = 1
		}
		at += int64(len(head)) + size
		if block&1 == 1 {
			if h.HasCheckSum {
				at += 4
			}
			return at, nil
		}
	}
}

// section is a part of an Object.
type section struct {
	Object
	from, to int64
}

func (s *section) Size() int64 { return s.to - s.from }

// Far is the Object's.
func (s *section) Far() bool { return isFar(s.Object) }

func (s *section) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.Size() {
		return 0, io.EOF
	}
	if rest := s.Size() - off; int64(len(p)) > rest {
		n, err := s.Object.ReadAt(p[:rest], s.from+off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return s.Object.ReadAt(p, s.from+off)
}

func (f *frames) section(obj Object, from, to int) *section {
	return &section{Object: obj, from: f.begins[from], to: f.begins[to]}
}

// checkContent holds what is known of the content against a row.
func (f *frames) checkContent(s *Signal) error {
	if !f.open && f.content() > s.samples()*s.frame()+s.frame() {
		return fmt.Errorf("%w: it holds %d bytes, and its row says %d", ErrFile, f.content(), s.samples()*s.frame())
	}
	return nil
}
