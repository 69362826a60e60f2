// Package edf reads recordings in EDF, EDF+ and BDF.
//
// Samples are read as the integers that they are, never by way of physical values. Whatever a file says of itself,
// no more is allocated than it has bytes, but for its annotations, up to 4 million, and 8 bytes for each record.
// Sources: https://www.edfplus.info/specs/edf.html, edfplus.html and https://www.biosemi.com/faq/file_format.htm.
package edf

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// ErrFormat is returned for a file that is no EDF or BDF, or contradicts itself or its length.
var ErrFormat = errors.New("edf: bad file")

// Signal is one signal of a file.
type Signal struct {
	Label, Transducer, Unit, Prefilter string
	// A digital value d is PhysicalMin + (d-DigitalMin) * (PhysicalMax-PhysicalMin) / (DigitalMax-DigitalMin) units.
	PhysicalMin, PhysicalMax float64
	DigitalMin, DigitalMax   int
	// PerRecord is the number of samples in a data record.
	PerRecord int
	// Annotations says that the samples are text: see [File.Annotations].
	Annotations bool

	at int64 // of its samples in a record, in bytes
}

// File is an open file. Its methods are safe for concurrent use as far as its reader is.
type File struct {
	Patient, Recording string
	// Date and Time are as the file has them, dd.mm.yy and hh.mm.ss.
	Date, Time string
	// Records are the data records, of RecordSeconds each.
	Records       int
	RecordSeconds float64
	// Discontinuous says that there may be time between records (EDF+D, BDF+D).
	Discontinuous bool
	Signals       []Signal
	// Width is the bytes of a sample: 2 in EDF, 3 in BDF.
	Width int

	header []byte
	src    io.ReaderAt
	record int64 // bytes of a data record
}

const (
	headBytes = 256
	// maxSignals is the largest number of four digits.
	maxSignals = 9999
)

// Read reads the header of a file of size bytes.
func Read(src io.ReaderAt, size int64) (*File, error) {
	head, err := readAt(src, 0, headBytes, size)
	if err != nil {
		return nil, err
	}
	f := &File{src: src, Width: 2}
	switch {
	case string(head[:8]) == "0       ":
	case string(head[:8]) == "\xffBIOSEMI":
		f.Width = 3
	default:
		return nil, fmt.Errorf("%w: it begins with neither the version of EDF nor that of BDF", ErrFormat)
	}
	p := fields{rest: head[8:]}
	f.Patient, f.Recording, f.Date, f.Time = p.text(80), p.text(80), p.text(8), p.text(8)
	headerBytes := p.number("bytes of the header", 8)
	reserved := p.text(44)
	f.Records = p.number("data records", 8)
	f.RecordSeconds = p.float("duration of a data record", 8)
	n := p.number("signals", 4)
	if p.err != nil {
		return nil, p.err
	}
	f.Discontinuous = strings.HasPrefix(reserved, "EDF+D") || strings.HasPrefix(reserved, "BDF+D")
	if n < 1 || n > maxSignals || headerBytes != headBytes*(n+1) {
		return nil, fmt.Errorf("%w: a header of %d bytes for %d signals", ErrFormat, headerBytes, n)
	}
	if f.header, err = readAt(src, 0, int64(headerBytes), size); err != nil {
		return nil, err
	}
	if err := f.signals(n); err != nil {
		return nil, err
	}
	return f, f.fits(size)
}

// signals reads the second part of the header, in which every field comes for all signals.
func (f *File) signals(n int) error {
	f.Signals = make([]Signal, n)
	p := fields{rest: f.header[headBytes:]}
	for i := range f.Signals {
		s := &f.Signals[i]
		s.Label = p.text(16)
		s.Annotations = s.Label == "EDF Annotations" || s.Label == "BDF Annotations"
	}
	for i := range f.Signals {
		f.Signals[i].Transducer = p.text(80)
	}
	for i := range f.Signals {
		f.Signals[i].Unit = p.text(8)
	}
	for i := range f.Signals {
		f.Signals[i].PhysicalMin = p.float("physical minimum", 8)
	}
	for i := range f.Signals {
		f.Signals[i].PhysicalMax = p.float("physical maximum", 8)
	}
	for i := range f.Signals {
		f.Signals[i].DigitalMin = p.number("digital minimum", 8)
	}
	for i := range f.Signals {
		f.Signals[i].DigitalMax = p.number("digital maximum", 8)
	}
	for i := range f.Signals {
		f.Signals[i].Prefilter = p.text(80)
	}
	for i := range f.Signals {
		s := &f.Signals[i]
		s.PerRecord = p.number("samples in a data record", 8)
		s.at = f.record
		if s.PerRecord < 1 {
			return fmt.Errorf("%w: signal %q has %d samples in a data record", ErrFormat, s.Label, s.PerRecord)
		}
		f.record += int64(s.PerRecord) * int64(f.Width)
		if !s.Annotations && (s.DigitalMin == s.DigitalMax || s.PhysicalMin == s.PhysicalMax) {
			return fmt.Errorf("%w: signal %q has no range: digital %d to %d, physical %v to %v",
				ErrFormat, s.Label, s.DigitalMin, s.DigitalMax, s.PhysicalMin, s.PhysicalMax)
		}
		if !s.Annotations && !(f.RecordSeconds > 0) {
			return fmt.Errorf("%w: data records of %v s", ErrFormat, f.RecordSeconds)
		}
	}
	return p.err
}

// fits holds the number of records against the file's length. A file whose writer did not say it, with -1, has those
// that are whole.
func (f *File) fits(size int64) error {
	whole := (size - int64(len(f.header))) / f.record
	switch {
	case f.Records == -1:
		f.Records = int(min(whole, math.MaxInt32))
	case f.Records < 0 || int64(f.Records) > whole:
		return fmt.Errorf("%w: %d data records, and the file holds %d", ErrFormat, f.Records, whole)
	}
	return nil
}

// Header is the bytes of the header. Do not change them.
func (f *File) Header() []byte { return f.header }

// Rate is the samples of a signal per second.
func (f *File) Rate(signal int) float64 {
	return float64(f.Signals[signal].PerRecord) / f.RecordSeconds
}

// ReadRecord reads the bytes of a data record into buf, which is grown where it has to be.
func (f *File) ReadRecord(record int, buf []byte) ([]byte, error) {
	if record < 0 || record >= f.Records {
		return buf, fmt.Errorf("%w: data record %d of %d", ErrFormat, record, f.Records)
	}
	if int64(cap(buf)) < f.record {
		buf = make([]byte, f.record)
	}
	buf = buf[:f.record]
	if n, err := f.src.ReadAt(buf, int64(len(f.header))+int64(record)*f.record); n < len(buf) {
		return buf, fmt.Errorf("edf: data record %d: %w", record, notEOF(err))
	}
	return buf, nil
}

// Raw is the part of a data record that a signal has.
func (f *File) Raw(record []byte, signal int) []byte {
	s := &f.Signals[signal]
	return record[s.at : s.at+int64(s.PerRecord*f.Width)]
}

// Sample decodes the digital value that b begins with.
func (f *File) Sample(b []byte) int32 {
	if f.Width == 2 {
		return int32(int16(uint16(b[0]) | uint16(b[1])<<8))
	}
	return int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24) >> 8
}

func readAt(src io.ReaderAt, at, n, size int64) ([]byte, error) {
	if at+n > size {
		return nil, fmt.Errorf("%w: %d bytes, and the header takes %d", ErrFormat, size, at+n)
	}
	buf := make([]byte, n)
	if read, err := src.ReadAt(buf, at); int64(read) < n {
		return nil, fmt.Errorf("edf: header: %w", notEOF(err))
	}
	return buf, nil
}

// notEOF is err, or the end within the file, which must not look like the end of data.
func notEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fields takes the fields of a header one by one and keeps the first error.
type fields struct {
	rest []byte
	err  error
}

func (p *fields) text(n int) string {
	text := p.rest[:n]
	p.rest = p.rest[n:]
	return strings.TrimRight(string(text), " \x00")
}

func (p *fields) number(what string, n int) int {
	text := strings.TrimSpace(p.text(n))
	v, err := strconv.ParseInt(text, 10, 32)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%w: %s: %q is no number", ErrFormat, what, text)
	}
	return int(v)
}

func (p *fields) float(what string, n int) float64 {
	text := strings.TrimSpace(p.text(n))
	v, err := strconv.ParseFloat(text, 64)
	if (err != nil || math.IsNaN(v) || math.IsInf(v, 0)) && p.err == nil {
		p.err = fmt.Errorf("%w: %s: %q is no number", ErrFormat, what, text)
	}
	return v
}
