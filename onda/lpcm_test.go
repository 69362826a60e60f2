package onda

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

func TestSampleTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ    string
		stored any
		want   []float64
	}{
		{"int8", []int8{-128, 127, -1}, []float64{-128, 127, -1}},
		{"int16", []int16{math.MinInt16, math.MaxInt16, -2}, []float64{-32768, 32767, -2}},
		{"int32", []int32{math.MinInt32, math.MaxInt32, -3}, []float64{-2147483648, 2147483647, -3}},
		{"int64", []int64{math.MinInt64, 1 << 53, -4}, []float64{-(1 << 63), 1 << 53, -4}},
		{"uint8", []uint8{0, 255, 1}, []float64{0, 255, 1}},
		{"uint16", []uint16{0, 65535, 1}, []float64{0, 65535, 1}},
		{"uint32", []uint32{0, math.MaxUint32, 1}, []float64{0, math.MaxUint32, 1}},
		{"uint64", []uint64{0, 1 << 63, 1}, []float64{0, 1 << 63, 1}},
		{"float32", []float32{0.5, -1e30, 3}, []float64{0.5, float64(float32(-1e30)), 3}},
		{"float64", []float64{0.1, -1e300, 3}, []float64{0.1, -1e300, 3}},
	} {
		var raw bytes.Buffer
		if err := binary.Write(&raw, binary.LittleEndian, c.stored); err != nil {
			t.Fatal(err)
		}
		s := Signal{Channels: []string{"a"}, SampleType: c.typ, Resolution: 1}
		got := make([]float64, len(c.want))
		decode(got, &s, raw.Bytes(), []int{0})
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.typ, got, c.want)
		}
		s.Resolution, s.Offset = 0.3, -0.7
		scaled := make([]float32, len(c.want))
		decode(scaled, &s, raw.Bytes(), []int{0})
		for i := range c.want {
			product := c.want[i] * 0.3
			if want := float32(product + -0.7); scaled[i] != want {
				t.Errorf("%s: got %v, want %v", c.typ, scaled[i], want)
			}
		}
	}
}

// The range of a window: always as many samples, the start rounded down, and
// never beyond the signal.
func TestSampleRange(t *testing.T) {
	t.Parallel()
	s := testSignal(1)
	s.SampleRate, s.Span = 360, Span{0, 1805555555555}
	if got := s.samples(); got != 650000 {
		t.Errorf("650,000 samples at 360 Hz are %d", got)
	}
	for _, c := range []struct {
		span  Span
		first int64
		count int64
	}{
		{Span{0, 1}, 0, 0},
		{seconds(1, 11), 360, 3600},
		{Span{1027777777, 1030555555}, 370, 1}, // sample 370, to the nanosecond
		{Span{1027777776, 1030555554}, 369, 1},
		{Span{1e9 - 2, 11e9 - 2}, 359, 3600},
		{Span{0, 1805555555555}, 0, 650000},
	} {
		first, count, err := s.sampleRange(c.span)
		if err != nil || first != c.first || count != c.count {
			t.Errorf("%v: got %d, %d, %v, want %d, %d", c.span, first, count, err, c.first, c.count)
		}
	}
	_, _, err := s.sampleRange(Span{0, 1805555555556})
	wantErr(t, err, ErrOutsideSignal)
	s.SampleRate = 1.0 / 30 // less than a thirtieth, as a float64
	if first, count, _ := s.sampleRange(seconds(60, 90)); first != 2 || count != 1 {
		t.Errorf("got %d, %d", first, count)
	}
}

func TestSampleRangeProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := testSignal(1)
		s.SampleRate = rapid.OneOf(rapid.Float64Range(0.01, 50000),
			rapid.Map(rapid.IntRange(1, 2000), func(n int) float64 { return float64(n) })).Draw(t, "rate")
		s.Span.Start = time.Duration(rapid.Int64Range(0, 1e13).Draw(t, "start"))
		s.Span.Stop = s.Span.Start + time.Duration(rapid.Int64Range(1e9, 1e14).Draw(t, "length"))
		d := time.Duration(rapid.Int64Range(0, int64(s.Span.Duration())).Draw(t, "duration"))
		want := int64(-1)
		for _, offset := range []time.Duration{0, (s.Span.Duration() - d) / 3, s.Span.Duration() - d} {
			from := s.Span.Start + offset
			first, count, err := s.sampleRange(Span{from, from + d})
			if err != nil {
				t.Fatal(err)
			}
			if want >= 0 && count != want {
				t.Fatalf("%v long: %d and %d samples", d, want, count)
			}
			want = count
			if first < 0 || first+count > s.samples() {
				t.Fatalf("samples %d to %d of %d", first, first+count, s.samples())
			}
			// Rounded down: the sample is at or before the window's start, less
			// the nanosecond that a table cannot write.
			if at := float64(first) / s.SampleRate * 1e9; at > float64(offset)+1.01+at*1e-14 {
				t.Fatalf("sample at %f ns for a window at %d", at, offset)
			}
		}
	})
}

// Reading a range is cutting it out of the whole, compressed or not, through
// the cache or not.
func TestRangesAgree(t *testing.T) {
	t.Parallel()
	s := testSignal(1)
	whole := make([]byte, s.samples()*s.frame())
	for i := range whole {
		whole[i] = byte(i * i / 7)
	}
	packed, err := compress(whole)
	if err != nil {
		t.Fatal(err)
	}
	src := files{"a.lpcm": whole, "a.lpcm.zst": packed}
	z := s
	z.Path, z.Format = "a.lpcm.zst", formatZstd
	rapid.Check(t, func(rt *rapid.T) {
		first := rapid.Int64Range(0, s.samples()).Draw(rt, "first")
		count := rapid.Int64Range(0, s.samples()-first).Draw(rt, "count")
		want := whole[first*s.frame() : (first+count)*s.frame()]
		for name, got := range map[string]func() ([]byte, error){
			"plain":    func() ([]byte, error) { return testReader(t, src, 0).raw(t.Context(), &s, first, count) },
			"cached":   func() ([]byte, error) { return testReader(t, src, 1<<20).raw(t.Context(), &z, first, count) },
			"uncached": func() ([]byte, error) { return testReader(t, src, 0).raw(t.Context(), &z, first, count) },
		} {
			if raw, err := got(); err != nil || !bytes.Equal(raw, want) {
				rt.Fatalf("%s: %d bytes, %v", name, len(raw), err)
			}
		}
	})
}

// counting counts what is read from a Source.
type counting struct {
	Source
	opened, bytes atomic.Int64
}

type countingObject struct {
	Object
	bytes *atomic.Int64
}

func (c *counting) Open(ctx context.Context, path string) (Object, error) {
	c.opened.Add(1)
	obj, err := c.Source.Open(ctx, path)
	return countingObject{obj, &c.bytes}, err
}

func (c countingObject) ReadAt(p []byte, off int64) (int, error) {
	c.bytes.Add(int64(len(p)))
	return c.Object.ReadAt(p, off)
}

func (c countingObject) Identity() string {
	if o, ok := c.Object.(interface{ Identity() string }); ok {
		return o.Identity()
	}
	return fileVersion(c.Object)
}

func TestOnlyTheRangeIsRead(t *testing.T) {
	t.Parallel()
	s := testSignal(1)
	src := &counting{Source: files{"a.lpcm": make([]byte, 4000)}}
	if _, err := testReader(t, src, 0).raw(t.Context(), &s, 100, 10); err != nil {
		t.Fatal(err)
	}
	if n := src.bytes.Load(); n != 40 {
		t.Errorf("read %d bytes for 10 samples of 4", n)
	}

	// A stream that never ends as far as it is needed: of a recording too
	// large for the cache only the beginning is read.
	noise := make([]byte, 8<<20)
	d := seeded(1).dice()
	for i := range noise {
		noise[i] = byte(d.pcg.Uint64())
	}
	packed, err := compress(noise)
	if err != nil {
		t.Fatal(err)
	}
	s.Path, s.Format, s.SampleRate = "z", formatZstd, float64(len(noise))/400
	src = &counting{Source: files{"z": packed}}
	if _, err := testReader(t, src, 0).raw(t.Context(), &s, 10, 10); err != nil {
		t.Fatal(err)
	}
	if n := src.bytes.Load(); n > 2<<20 {
		t.Errorf("read %d bytes of a compressed file for its beginning", n)
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	s := testSignal(1)
	short := make([]byte, 990*4) // of 1000 samples
	packed, err := compress(short)
	if err != nil {
		t.Fatal(err)
	}
	src := files{"short": short, "packed": packed, "cut": packed[:len(packed)-3], "empty": nil}
	for _, c := range []struct {
		path, format string
	}{{"short", formatLPCM}, {"packed", formatZstd}, {"cut", formatZstd}, {"empty", formatLPCM}, {"empty", formatZstd}} {
		for _, cache := range []int64{0, 1 << 20} {
			s.Path, s.Format = c.path, c.format
			r := testReader(t, src, cache)
			_, err := r.raw(t.Context(), &s, 985, 10)
			if !errors.Is(err, ErrTruncated) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%+v: got %v", c, err)
			}
			if c.path == "short" || c.path == "packed" {
				if _, err := r.raw(t.Context(), &s, 980, 10); err != nil {
					t.Errorf("%+v: what is there: %v", c, err)
				}
			}
		}
	}
	s.Path, s.Format = "short", formatZstd
	_, err = testReader(t, files{"short": bytes.Repeat([]byte("no zstd"), 100)}, 0).raw(t.Context(), &s, 0, 1)
	wantErr(t, err, ErrCompressed)
}

func TestZstdBomb(t *testing.T) { //nolint:paralleltest // it counts what the process allocates
	// A frame header that asks for a window of 2 GiB: magic, no checksum, and
	// a window descriptor with exponent 21.
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00}
	var bomb bytes.Buffer
	enc, err := zstd.NewWriter(&bomb, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 256 {
		if _, err := enc.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	s := testSignal(1)
	s.Format = formatZstd
	src := files{"window": window, "bomb": bomb.Bytes()}
	s.Path = "window"
	_, err = testReader(t, src, 0).raw(t.Context(), &s, 0, 10)
	wantErr(t, err, ErrCompressed)
	// 256 MiB of zeros in a few kilobytes: only what the span promises is
	// ever decompressed.
	s.Path = "bomb"
	r := testReader(t, src, 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = r.raw(t.Context(), &s, 0, 10)
	wantErr(t, err, ErrFile) // longer than its row says
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 { // the frame's own window, and the decoder's tables
		t.Errorf("%d bytes allocated for a span of 4000", got)
	}
	t.Logf("%d bytes allocated", after.TotalAlloc-before.TotalAlloc)
	if r.memory.held != 0 {
		t.Errorf("%d bytes held of a file that is refused", r.memory.held)
	}
	// The other way round: a table that promises more than there is must not
	// make anyone allocate it.
	s.Path, s.SampleRate = "window", 1e9
	src["window"], _ = compress([]byte("little"))
	_, err = testReader(t, src, 0).raw(t.Context(), &s, 0, 1e11)
	wantErr(t, err, ErrTruncated)
	s.Format = formatLPCM
	_, err = testReader(t, src, 0).raw(t.Context(), &s, 0, 1e11)
	wantErr(t, err, ErrTruncated)
}

// Whatever the bytes are: as many as asked for, or a typed error that is not
// the end of the data; and the cache changes nothing but what it refuses.
func FuzzCompressed(f *testing.F) {
	for _, size := range []int{0, 10, 4000} {
		packed, err := compress(bytes.Repeat([]byte("abc\x00"), size))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, uint16(size), uint16(7))
	}
	f.Add(framed(f, bytes.Repeat([]byte("abc\x00"), 4000), 1000, true), uint16(900), uint16(7))
	f.Add(framed(f, bytes.Repeat([]byte("abc\x00"), 4000), 1000, false), uint16(900), uint16(7))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00}, uint16(0), uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, first, count uint16) {
		s := testSignal(1)
		s.Path, s.Format, s.SampleRate = "z", formatZstd, 2000
		var got [2][]byte
		var errs [2]error
		for i, cache := range []int64{0, 1 << 20} {
			got[i], errs[i] = testReader(t, files{"z": data}, cache).raw(t.Context(), &s, int64(first), int64(count))
			if err := errs[i]; err != nil {
				if !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrCompressed) && !errors.Is(err, ErrFile) || errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			} else if len(got[i]) != int(count)*4 {
				t.Fatalf("%d bytes for %d samples", len(got[i]), count)
			}
		}
		if errs[0] == nil && errs[1] == nil && !bytes.Equal(got[0], got[1]) {
			t.Fatal("the cache changes the samples")
		}
	})
}
