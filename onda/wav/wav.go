// Package wav reads WAVE files: PCM of 8 to 32 bits and float samples, of any number of channels, also those over 4 GiB
// (RF64, BW64), and the marks in them.
//
// Samples are read as they are. Whatever a file says of itself, no more is allocated than it has bytes. Sources:
// Microsoft's Multimedia Programming Interface 1.0 (RIFF, cue, adtl), WAVEFORMATEXTENSIBLE, EBU Tech 3306.
package wav

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrFormat is returned for a file that is no WAVE file of samples, or contradicts itself or its length.
var ErrFormat = errors.New("wav: bad file")

// File is an open file.
type File struct {
	Channels int
	// Rate is samples per second.
	Rate int
	// Bits of a sample in the file: 8, which is unsigned, 16, 24, 32 or 64.
	Bits int
	// Float says that samples are float32 or float64.
	Float bool
	// Samples of each channel.
	Samples int64
	// At is where they begin in the file, interleaved and little-endian.
	At    int64
	Marks []Mark
}

// Mark is a cue point.
type Mark struct {
	Sample int64
	// Length in samples, 0 for an instant.
	Length int64
	Text   string
}

const (
	maxChannels = 4096
	maxRate     = 1_000_000_000
	// maxChunk bounds the chunks that are read as a whole: marks and their texts.
	maxChunk   = 64 << 20
	formatPCM  = 1
	formatReal = 3
	formatExt  = 0xfffe
	unknown    = 0xffffffff
)

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Read reads everything but the samples of a file of size bytes.
func Read(src io.ReaderAt, size int64) (*File, error) {
	p := &parser{src: src, size: size, texts: map[uint32]string{}, lengths: map[uint32]int64{}}
	head, err := p.bytes(0, 12)
	if err != nil {
		return nil, err
	}
	long := string(head[:4]) == "RF64" || string(head[:4]) == "BW64"
	// A writer that died, or wrote to a pipe, did not know lengths.
	stated := binary.LittleEndian.Uint32(head[4:])
	died := stated == 0 || stated == unknown
	if !long && string(head[:4]) != "RIFF" || string(head[8:]) != "WAVE" {
		return nil, bad("it begins with neither RIFF nor RF64, or is no WAVE")
	}
	for at := int64(12); at+8 <= size; {
		head, err := p.bytes(at, 8)
		if err != nil {
			return nil, err
		}
		length := int64(binary.LittleEndian.Uint32(head[4:]))
		name := string(head[:4])
		if name == "data" && long && length == unknown {
			length = p.long
		}
		switch {
		case name == "data" && (length == unknown || length == 0 && died):
			length = size - at - 8
		case name == "data" && at+8+length > size:
			return nil, bad("samples of %d bytes, and the file holds %d", length, size-at-8)
		}
		if at+8+length > size {
			return nil, bad("chunk %q of %d bytes at %d of %d", name, length, at, size)
		}
		if err := p.chunk(name, at+8, length); err != nil {
			return nil, err
		}
		at += 8 + length + length%2
	}
	return p.done()
}

type parser struct {
	src     io.ReaderAt
	size    int64
	long    int64 // of the samples, by ds64
	file    File
	data    int64 // bytes of samples
	hasData bool
	cues    []cue
	texts   map[uint32]string
	lengths map[uint32]int64
}

type cue struct {
	id uint32
	at int64
}

func (p *parser) bytes(at, n int64) ([]byte, error) {
	if n < 0 || at+n > p.size {
		return nil, bad("%d bytes, and the header takes %d", p.size, at+n)
	}
	buf := make([]byte, n)
	if read, err := p.src.ReadAt(buf, at); int64(read) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("wav: header: %w", err)
	}
	return buf, nil
}

func (p *parser) chunk(name string, at, length int64) error {
	switch name {
	case "data":
		if p.hasData {
			return bad("two chunks of samples")
		}
		p.hasData, p.file.At, p.data = true, at, length
		return nil
	case "fmt ", "ds64", "cue ", "LIST":
	default:
		return nil
	}
	if length > maxChunk {
		return bad("chunk %q of %d bytes", name, length)
	}
	b, err := p.bytes(at, length)
	if err != nil {
		return err
	}
	switch name {
	case "fmt ":
		return p.format(b)
	case "ds64":
		if len(b) < 16 {
			return bad("chunk ds64 of %d bytes", len(b))
		}
		p.long = int64(binary.LittleEndian.Uint64(b[8:]) & (1<<62 - 1))
	case "cue ":
		for b = b[min(4, len(b)):]; len(b) >= 24; b = b[24:] {
			p.cues = append(p.cues, cue{binary.LittleEndian.Uint32(b), int64(binary.LittleEndian.Uint32(b[20:]))})
		}
	case "LIST":
		p.list(b)
	}
	return nil
}

func (p *parser) format(b []byte) error {
	if len(b) < 16 {
		return bad("chunk fmt of %d bytes", len(b))
	}
	tag := int(binary.LittleEndian.Uint16(b))
	if tag == formatExt {
		if len(b) < 26 {
			return bad("chunk fmt of %d bytes", len(b))
		}
		tag = int(binary.LittleEndian.Uint16(b[24:]))
	}
	f := &p.file
	f.Channels, f.Rate = int(binary.LittleEndian.Uint16(b[2:])), int(binary.LittleEndian.Uint32(b[4:]))
	f.Bits, f.Float = int(binary.LittleEndian.Uint16(b[14:])), tag == formatReal
	frame := int(binary.LittleEndian.Uint16(b[12:]))
	switch {
	case tag != formatPCM && tag != formatReal:
		return bad("samples in format %#x, and those that are read are PCM and float", tag)
	case f.Channels < 1 || f.Channels > maxChannels || f.Rate < 1 || f.Rate > maxRate:
		return bad("%d channels at %d Hz", f.Channels, f.Rate)
	case !f.Float && !slices.Contains([]int{8, 16, 24, 32}, f.Bits) || f.Float && f.Bits != 32 && f.Bits != 64:
		return bad("samples of %d bits", f.Bits)
	case frame != f.Channels*f.Bits/8:
		return bad("%d channels of %d bits in %d bytes", f.Channels, f.Bits, frame)
	}
	return nil
}

// list takes the texts of marks and their lengths. What is no such list is none of ours.
func (p *parser) list(b []byte) {
	if len(b) < 4 || string(b[:4]) != "adtl" {
		return
	}
	for b = b[4:]; len(b) >= 8; {
		name, length := string(b[:4]), int(min(binary.LittleEndian.Uint32(b[4:]), uint32(len(b)-8)))
		body := b[8 : 8+length]
		b = b[min(len(b), 8+length+length%2):]
		if len(body) < 4 {
			continue
		}
		id := binary.LittleEndian.Uint32(body)
		switch name {
		case "labl":
			p.texts[id] = text(body[4:])
		case "note":
			if p.texts[id] == "" {
				p.texts[id] = text(body[4:])
			}
		case "ltxt":
			if len(body) >= 20 {
				p.lengths[id] = int64(binary.LittleEndian.Uint32(body[4:]))
				if s := text(body[20:]); s != "" && p.texts[id] == "" {
					p.texts[id] = s
				}
			}
		}
	}
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimSpace(s)
}

func (p *parser) done() (*File, error) {
	f := &p.file
	if f.Channels == 0 || !p.hasData {
		return nil, bad("no format, or no samples")
	}
	f.Samples = p.data / int64(f.Frame())
	for _, c := range p.cues {
		if s := p.texts[c.id]; s != "" && c.at < f.Samples {
			f.Marks = append(f.Marks, Mark{c.at, min(p.lengths[c.id], f.Samples-c.at), s})
		}
	}
	slices.SortStableFunc(f.Marks, func(a, b Mark) int { return int(a.Sample - b.Sample) })
	return f, nil
}

// Frame is the bytes of one sample of every channel.
func (f *File) Frame() int { return f.Channels * f.Bits / 8 }
