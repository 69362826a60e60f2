package onda

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// framed is content in frames, with a seek table or without.
func framed(t testing.TB, content []byte, size int, table bool) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := newFrameWriter(&out, size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !table {
		return out.Bytes()[:out.Len()-skipHeaderBytes-len(w.table)-seekFooterBytes]
	}
	return out.Bytes()
}

// streamed is content as one frame that does not say its length.
func streamed(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	// Two writes with a flush between them, so that the first block is out
	// before the end is known.
	half := len(content) / 2
	_, first := enc.Write(content[:half])
	flush := enc.Flush()
	_, second := enc.Write(content[half:])
	if err := errors.Join(first, flush, second, enc.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// tabled is content in frames that do not say their lengths, with a table that does.
func tabled(t testing.TB, content []byte, size int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := newFrameWriter(&out, size)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(content, size) {
		frame := streamed(t, part)
		w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(frame)))
		w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(part)))
		w.table = binary.LittleEndian.AppendUint32(w.table, uint32(xxhash.Sum64(part)))
		w.count++
		err = errors.Join(err, w.put(frame))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// farObject says that its reads take long.
type farObject struct{ Object }

func (farObject) Far() bool { return true }

// Whatever frames a file is in, with a table or without, near or far, cached in
// memory, in a folder or not: a range is cut out of the whole.
func TestRangesOfFrames(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	whole := make([]byte, size)
	for i := range whole {
		whole[i] = byte(i * i / 7)
	}
	s := testSignal(1)
	s.Format, s.SampleRate = formatZstd, size/400.
	third := size / 3 &^ 3
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	one, err := compress(whole)
	if err != nil {
		t.Fatal(err)
	}
	src := files{
		"one":      one,
		"streamed": streamed(t, whole),
		"small":    framed(t, whole, 4096, true), "small, no table": framed(t, whole, 4096, false),
		"large": framed(t, whole, 300<<10, true), "large, no table": framed(t, whole, 300<<10, false),
		"of streams": tabled(t, whole, quickFrame), // each asks for a window of megabytes
		"mixed":      slices.Concat(framed(t, whole[:third], 5000, false), skippable, framed(t, whole[third:], size, false)),
		"stream in":  slices.Concat(framed(t, whole[:third], 5000, false), streamed(t, whole[third:]), skippable),
	}
	bad := bytes.Clone(src["small"])
	bad[len(bad)-seekFooterBytes-9]++ // a length in the table: it is not about this file
	src["wrong table"] = bad
	dir := t.TempDir()
	readers := map[string]*reader{
		"uncached": testReader(t, src, 0), "in memory": testReader(t, src, 10<<20),
		"far": testReader(t, SourceFunc(func(ctx context.Context, path string) (Object, error) {
			obj, err := src.Open(ctx, path)
			return farObject{obj}, err
		}), 0),
	}
	if readers["in a folder"], err = newReader(src, filepath.Join(dir, "cache"), 10<<20, 1); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		first := rapid.Int64Range(0, s.samples()).Draw(rt, "first")
		count := rapid.Int64Range(0, s.samples()-first).Draw(rt, "count")
		want := whole[first*4 : (first+count)*4]
		for file := range src {
			for kind, r := range readers {
				s := s
				s.Path = file
				if raw, err := r.raw(t.Context(), &s, first, count); err != nil || !bytes.Equal(raw, want) {
					rt.Fatalf("%s, %s: %d bytes, %v", file, kind, len(raw), err)
				}
			}
		}
	})
	// Nothing that is longer or shorter than its row says is opened, if that can
	// be seen.
	for file := range src {
		for samples, ok := range map[int64]bool{size / 4: true, size/4 - 1: true, size / 8: false, size / 2: false} {
			s := s
			s.Path, s.SampleRate = file, float64(samples)/100
			err := checkFile(t.Context(), src, &s)
			if unknown := strings.HasPrefix(file, "stream"); ok != (err == nil) && !unknown {
				t.Errorf("%s as %d samples: %v", file, samples, err)
			}
		}
	}
}

// slowObject takes a second for each read.
type slowObject struct{ farObject }

func (o slowObject) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(time.Second)
	return o.farObject.ReadAt(p, off)
}

// Several reads of a frame of a far file are under way at once.
func TestFarFramesAreReadAhead(t *testing.T) {
	t.Parallel()
	s, d := testSignal(1), seeded(1).dice()
	noise := make([]byte, 4<<20)
	for i := range noise {
		noise[i] = byte(d.pcg.Uint64())
	}
	packed, err := compress(noise)
	if err != nil {
		t.Fatal(err)
	}
	s.Format, s.SampleRate = formatZstd, float64(len(noise))/400
	synctest.Test(t, func(t *testing.T) {
		r := testReader(t, SourceFunc(func(ctx context.Context, path string) (Object, error) {
			obj, err := files{s.Path: packed}.Open(ctx, path)
			return slowObject{farObject{obj}}, err
		}), 0)
		began := time.Now()
		if _, err := r.raw(t.Context(), &s, s.samples()-10, 10); err != nil {
			t.Fatal(err)
		}
		// The head, four parts of a megabyte, and the rest.
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("the reads took %v one after another", took)
		}
	})
}

// A window at the end reads little of the file, whatever lies before it.
func TestOnlyTheFramesAreRead(t *testing.T) {
	t.Parallel()
	s := testSignal(1)
	s.Path, s.Format, s.SampleRate = "z", formatZstd, 1<<20/400.
	d := seeded(1).dice()
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(d.pcg.Uint64())
	}
	for name, table := range map[string]bool{"by the table": true, "from frame to frame": false} {
		src := &counting{Source: files{"z": framed(t, noise, 8<<10, table)}}
		r := testReader(t, src, 0)
		for i := range 2 {
			src.bytes.Store(0)
			if _, err := r.raw(t.Context(), &s, s.samples()-10, 10); err != nil {
				t.Fatal(err)
			}
			if n := src.bytes.Load(); i == 0 && n > 40<<10 || i == 1 && n > 9<<10 {
				t.Errorf("%s: read %d, %d bytes", name, i, n)
			}
		}
	}
}

// Damage within a frame is found by its checksum or the table's.
func TestDamagedFrames(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 500)
	s := testSignal(1)
	s.Format, s.Path = formatZstd, "z"
	sound := framed(t, content, 1000, true)
	damaged := 0
	for i := range sound {
		broken := bytes.Clone(sound)
		broken[i] ^= 0x10
		raw, err := testReader(t, files{"z": broken}, 0).raw(t.Context(), &s, 0, 1000)
		switch {
		case err == nil && !bytes.Equal(raw, content):
			t.Fatalf("byte %d: other samples", i)
		case err != nil:
			damaged++
			if !errors.Is(err, ErrCompressed) && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrFile) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	if damaged == 0 {
		t.Error("nothing was found")
	}
	// A table that promises frames without end costs nothing.
	footer := binary.LittleEndian.AppendUint32(nil, 1<<27-1)
	footer = binary.LittleEndian.AppendUint32(append(footer, 0), seekFooterMagic)
	src := files{"z": append(bytes.Clone(sound), footer...)}
	if raw, err := testReader(t, src, 0).raw(t.Context(), &s, 0, 1000); err != nil || !bytes.Equal(raw, content) {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

// Copies in a folder outlive the process, go by the file that they are of, and
// make room when they rest.
func TestFolder(t *testing.T) {
	t.Parallel()
	dir, data := filepath.Join(t.TempDir(), "cache"), t.TempDir()
	write := func(name string, b byte) {
		content := make([]byte, 400_000)
		d := seeded(1).dice()
		for i := range content {
			content[i] = byte(d.pcg.Uint64())
		}
		content[360_000] = b
		packed, err := compress(content)
		if err == nil {
			err = os.WriteFile(filepath.Join(data, name), packed, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := testSignal(1)
	s.Format, s.SampleRate = formatZstd, 1000
	src := &counting{Source: Dir(data)}
	// get says how many bytes of the file were read.
	get := func(r *reader, name string, want byte) int64 {
		t.Helper()
		s := s
		s.Path = name
		before := src.bytes.Load()
		raw, err := r.raw(t.Context(), &s, 90_000, 10)
		if err != nil || raw[0] != want {
			t.Fatalf("%v, %v, want %d", raw, err, want)
		}
		return src.bytes.Load() - before
	}
	anew := func() *reader {
		r, err := newReader(src, dir, 900_000, 2)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	copies := func() (n int) {
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range names {
			if !strings.HasSuffix(e.Name(), copyEnding) {
				t.Errorf("%s is left", e.Name())
			}
			n++
		}
		return n
	}
	for i := range byte(4) {
		write(fmt.Sprint(i), i)
	}
	r := anew()
	for range 2 {
		for i := range byte(4) {
			get(r, fmt.Sprint(i), i)
		}
	}
	if n := copies(); n != 2 {
		t.Errorf("%d copies in room for two", n)
	}
	const header = 64
	if n := get(r, "0", 0); n > header {
		t.Errorf("read %d bytes of a file with a copy", n)
	}
	// Another process finds the copies, and does not take their place while they
	// are in use.
	other := anew()
	if n := get(other, "0", 0); n > header {
		t.Errorf("another process read %d bytes of a file with a copy", n)
	}
	for range 30 {
		get(other, "3", 3)
	}
	if n := get(other, "1", 1); n > header || copies() != 2 {
		t.Errorf("read %d bytes, %d copies", n, copies())
	}
	// Copies that rest make room, and those that are gone are made again.
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		at := time.Now().Add(-time.Hour)
		if err := os.Chtimes(filepath.Join(dir, e.Name()), at, at); err != nil {
			t.Fatal(err)
		}
	}
	third := anew()
	get(third, "2", 2)
	get(third, "3", 3)
	if n := get(third, "3", 3); n > header || copies() != 2 {
		t.Errorf("read %d bytes, %d copies", n, copies())
	}
	get(r, "0", 0)
	// A file that takes another's place.
	write("new", 9)
	if err := os.Rename(filepath.Join(data, "new"), filepath.Join(data, "2")); err != nil {
		t.Fatal(err)
	}
	get(third, "2", 9)
	// Files that are no copies are left alone.
	if err := os.WriteFile(filepath.Join(dir, "mine"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	get(anew(), "3", 3)
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil {
		t.Error(err)
	}
	// A folder that cannot be made is an error of the machine.
	nowhere, err := newReader(src, filepath.Join(dir, "a", "b"), 900_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.Path = "3"
	if _, err := nowhere.raw(t.Context(), &s, 0, 1); !errors.Is(err, os.ErrNotExist) ||
		!strings.Contains(err.Error(), "cache_dir") {
		t.Errorf("got %v", err)
	}
}

// A repacked data set gives the same batches.
func TestRepack(t *testing.T) {
	t.Parallel()
	from := synth(t, SynthConfig{Recordings: 4})
	to := filepath.Join(t.TempDir(), "sub", "packed")
	done := 0
	out, err := Repack(t.Context(), RepackConfig{From: from, To: to, FrameBytes: 3001,
		Progress: func(i, total int) { done = 100 * i / total }})
	if err != nil || out.Files != 4 || out.Packed != 2 || out.Before <= 0 || out.After <= 0 || done != 100 {
		t.Fatalf("%+v, %v, %d %%", out, err, done)
	}
	a, b := open(t, Params{Dir: from}, Config{}), open(t, Params{Dir: to}, Config{CacheBytes: -1})
	state := a.start
	for range 5 {
		job, next, err := a.Next(state)
		if err != nil {
			t.Fatal(err)
		}
		want, err1 := a.Materialize(t.Context(), job)
		got, err2 := b.Materialize(t.Context(), job)
		if err1 != nil || err2 != nil || !bytes.Equal(want[0].Tensor.Data, got[0].Tensor.Data) {
			t.Fatalf("other batches: %v, %v", err1, err2)
		}
		state = next
	}
	// Nothing is left behind on an error, and nothing is written over.
	if _, err := Repack(t.Context(), RepackConfig{From: from, To: to}); !errors.Is(err, ErrParams) {
		t.Errorf("got %v", err)
	}
	if err := os.Truncate(filepath.Join(from, "samples", "001.lpcm.zst"), 100); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	_, err = Repack(t.Context(), RepackConfig{From: from, To: filepath.Join(parent, "x")})
	if left, _ := os.ReadDir(parent); !errors.Is(err, ErrTruncated) || len(left) > 0 {
		t.Errorf("%v, %v left", err, left)
	}
}

// Stored labels come along, and so does the sample that a span cut to a nanosecond hides. What is no table is copied.
func TestRepackLeavesNothingOut(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, func(s *Signal) {
		s.SampleRate, s.Format, s.Path = 360, formatZstd, "./a.lpcm.zst"
		s.Span = Span{0, TimeOf(360, 5760) - 1}
	})
	content := bytes.Repeat([]byte{1, 2, 3, 4}, 5760)
	if got := m.signals[0].samples(); got != 5759 {
		t.Fatalf("the row has %d samples", got)
	}
	for name, packed := range map[string][]byte{
		"one frame": streamed(t, content), "frames": framed(t, content, 4000, true),
	} {
		from, to := t.TempDir(), filepath.Join(t.TempDir(), "packed")
		m.files["./a.lpcm.zst"] = packed
		m.notes = []Annotation{note(1, 0, 15, "x")}
		m.source()
		for path, data := range m.files {
			write(t, from, path, string(data))
		}
		write(t, from, "other.arrow", "what is this?")
		stored, err := StoreLabels(from, open(t, Params{Dir: from}, Config{}).Signals())
		if err != nil {
			t.Fatal(err)
		}
		var rows bytes.Buffer
		if err := WriteSignals(&rows, TableFormat{}, []Signal{*stored[0].Stored}); err != nil {
			t.Fatal(err)
		}
		write(t, from, "labels.onda.signals.arrow", rows.String())
		out, err := Repack(t.Context(), RepackConfig{From: from, To: to})
		if err != nil || out.Files != 2 || out.Packed != 1 {
			t.Errorf("%s: %+v, %v", name, out, err)
			continue
		}
		open(t, Params{Dir: to, LabelSignals: "labels.onda.signals.arrow"}, Config{})
		got, err := testReader(t, Dir(to), 0).raw(t.Context(), &Signal{
			Path: "a.lpcm.zst", Format: formatZstd, Channels: []string{"a", "b"}, SampleType: "int16", SampleRate: 360,
			Span: Span{0, TimeOf(360, 5760)},
		}, 0, 5760)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(content), err)
		}
		if data, err := os.ReadFile(filepath.Join(to, "other.arrow")); err != nil || string(data) != "what is this?" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}
