package onda

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
)

var _ dataset.Fingerprinter = (*Dataset)(nil)

// differing names the parts in which two fingerprints differ.
func differing(a, b dataset.Fingerprint) []string {
	var names []string
	for _, p := range a.Parts {
		if !slices.Contains(b.Parts, p) {
			names = append(names, p.Name)
		}
	}
	return names
}

// What a batch depends on changes the fingerprint, and nothing else does.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"stat", "content"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			dir := synth(t, SynthConfig{Recordings: 3, Duration: 20 * time.Second})
			p := Params{Dir: dir, Fingerprint: by}
			print := func() dataset.Fingerprint {
				t.Helper()
				f, err := open(t, p, Config{}).Fingerprint(t.Context())
				if err != nil || f.Digest == "" || len(f.Parts) != 8 && p.OnBad == "" {
					t.Fatalf("%+v, %v", f, err)
				}
				return f
			}
			first := print()
			if second := print(); !slices.Equal(first.Parts, second.Parts) || first.Digest != second.Digest {
				t.Errorf("%+v and %+v", first, second)
			}
			expect := func(what string, want ...string) {
				t.Helper()
				now := print()
				if got := differing(first, now); !slices.Equal(got, want) ||
					(now.Digest == first.Digest) != (len(want) == 0) {
					t.Errorf("%s: %v differ, want %v", what, got, want)
				}
				first = now
			}
			file := filepath.Join(dir, "samples", "000.lpcm")
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Unix(1e9, 0)
			if err := os.Chtimes(file, at, at); err != nil {
				t.Fatal(err)
			}
			if by == "stat" {
				expect("time", "files", "file samples/000.lpcm")
			} else {
				expect("time")
			}
			data[0]++
			if err := errors.Join(os.WriteFile(file, data, 0o644), os.Chtimes(file, at, at)); err != nil {
				t.Fatal(err)
			}
			if by == "content" {
				expect("content", "files", "file samples/000.lpcm")
			} else {
				expect("content behind the same time and size")
			}
			// Another table, with the same labels.
			rows, err := ReadAnnotations(t.Context(), Dir(dir), "onda.annotations.arrow", "label", "")
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(filepath.Join(dir, "onda.annotations.arrow"))
			if err != nil {
				t.Fatal(err)
			}
			rows[0].ID = id(77)
			if err := errors.Join(WriteAnnotations(f, TableFormat{}, "label", rows), f.Close()); err != nil {
				t.Fatal(err)
			}
			expect("annotations", "annotations")
			p.OnBad = OnBadDrop
			if err := os.Truncate(file, 10); err != nil {
				t.Fatal(err)
			}
			expect("dropped", "recordings", "kept", "files", "file samples/000.lpcm")
		})
	}
	dir := synth(t, SynthConfig{Recordings: 2, Duration: 20 * time.Second})
	d := open(t, Params{Dir: dir}, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Fingerprint(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "samples", "000.lpcm")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Fingerprint(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// A compressed file that takes the place of another of its size is read anew, also by a process that finds the copy
// which another has made.
func TestCacheKnowsTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const size = quickFrame + 4016 // quick ones are not kept
	write := func(b byte, at time.Time) {
		t.Helper()
		data := make([]byte, size)
		data[0], data[size-1] = b, b
		packed, err := compress(data)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "a.lpcm.zst")
		if err := errors.Join(os.WriteFile(file, packed, 0o644), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	s := testSignal(1)
	s.Path, s.Format, s.Span = "a.lpcm.zst", formatZstd, seconds(0, size/40)
	memory, copies := testReader(t, Dir(dir), 1<<20), filepath.Join(t.TempDir(), "copies")
	for i := range byte(3) {
		write(i+1, time.Unix(1e9, 0)) // of one size and time
		for range 2 {
			other, err := newReader(Dir(dir), copies, 1<<20, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []*reader{memory, other} {
				raw, err := r.raw(t.Context(), &s, 0, 1)
				if err != nil || raw[0] != i+1 {
					t.Fatalf("got %v, %v, want %d", raw, err, i+1)
				}
			}
		}
	}
	if kept, err := os.ReadDir(copies); err != nil || len(kept) != 3 {
		t.Errorf("%d copies, %v: nothing was kept", len(kept), err)
	}
	if len(memory.memory.entries) == 0 {
		t.Error("nothing was kept in memory")
	}
}

// Two programs' own sources share a folder of copies. Their files are told by their sizes alone, and each has its own.
func TestCopiesOfTwoSources(t *testing.T) {
	t.Parallel()
	s, dir := testSignal(1), filepath.Join(t.TempDir(), "copies")
	s.Format = formatZstd
	data := make([]byte, quickFrame+4016) // quick ones are not kept
	s.Span = seconds(0, float64(len(data))/40)
	for i := byte(1); i <= 2; i++ { // compressed to one length
		data[0] = i
		packed, err := compress(data)
		if err != nil {
			t.Fatal(err)
		}
		r, err := newReader(files{s.Path: packed}, dir, 1<<20, 1)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := r.raw(t.Context(), &s, 0, 1); err != nil || raw[0] != i {
			t.Errorf("got %v, %v, want %d", raw, err, i)
		}
	}
}

// A folder in which most is in order is opened without the rest.
func TestGuessOfImperfectData(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 5, Duration: 20 * time.Second})
	if err := os.Truncate(filepath.Join(dir, "samples", "002.lpcm"), 100); err != nil {
		t.Fatal(err)
	}
	p, err := Guess(dir)
	if err != nil || p.OnBad != OnBadDrop || time.Duration(p.BatchDuration) != 10*time.Second {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := open(t, p, Config{}).Report().Kept; got != 4 {
		t.Errorf("kept %d", got)
	}
	// Of two kinds of sensors, the commonest.
	signals, err := ReadSignals(t.Context(), Dir(dir), "onda.signals.arrow", "")
	if err != nil {
		t.Fatal(err)
	}
	signals[2].SensorType = "eeg"
	f, err := os.Create(filepath.Join(dir, "onda.signals.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(WriteSignals(f, TableFormat{}, signals), f.Close()); err != nil {
		t.Fatal(err)
	}
	if p, err = Guess(dir); err != nil || p.OnBad != "" || !slices.Equal(p.SensorType, Names{"ecg"}) {
		t.Errorf("%+v, %v", p, err)
	}
}
