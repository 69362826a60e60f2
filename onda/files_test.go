package onda

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// A table's paths count from its own folder, and links are followed when asked
// for: what cannot be served is said at opening.
func TestPathsAndLinks(t *testing.T) {
	t.Parallel()
	root, store := t.TempDir(), t.TempDir()
	folder := filepath.Join(root, "sub")
	if err := Synthesize(folder, SynthConfig{Recordings: 2, Duration: 20e9, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	if err := Synthesize(root, SynthConfig{Recordings: 2, Duration: 20e9, Seed: 2}); err != nil {
		t.Fatal(err)
	}
	p := Params{Dir: root, Signals: "sub/onda.signals.arrow", Annotations: "sub/onda.annotations.arrow"}
	_, beside, _ := take(t, open(t, p, Config{}), StartState(ModeRandom, 1))
	_, alone, _ := take(t, open(t, Params{Dir: folder}, Config{}), StartState(ModeRandom, 1))
	if !slices.Equal(view[float32](t, beside, "x", 16, 2, 1280), view[float32](t, alone, "x", 16, 2, 1280)) {
		t.Error("the other file of the same name was read")
	}

	for _, name := range []string{"000.lpcm", "001.lpcm.zst"} {
		file := filepath.Join(folder, "samples", name)
		if err := errors.Join(os.Rename(file, filepath.Join(store, name)),
			os.Symlink(filepath.Join(store, name), file)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := New(t.Context(), p, Config{})
	mention(t, err, ErrPath, "allow_links", "2 with a file")
	p.AllowLinks = true
	_, linked, _ := take(t, open(t, p, Config{}), StartState(ModeRandom, 1))
	if !slices.Equal(view[float32](t, linked, "x", 16, 2, 1280), view[float32](t, alone, "x", 16, 2, 1280)) {
		t.Error("links lead elsewhere")
	}
	// A link whose target was not fetched, as git-annex has them.
	if err := os.Remove(filepath.Join(store, "000.lpcm")); err != nil {
		t.Fatal(err)
	}
	d := open(t, Params{Dir: folder, AllowLinks: true, OnBad: "drop"}, Config{})
	if got := d.Report().String(); got != "kept 1 of 2 recordings: 1 with a file that is not what its row says" {
		t.Error(got)
	}
	_, err = New(t.Context(), Params{Dir: folder}, Config{})
	mention(t, err, ErrPath, "allow_links")
	_, err = New(t.Context(), Params{AllowLinks: true}, Config{Source: Dir(folder)})
	wantErr(t, err, ErrParams)
	// A pipe has no end to wait for.
	if err := syscall.Mkfifo(filepath.Join(folder, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = New(t.Context(), Params{Dir: folder, Signals: "pipe"}, Config{})
	mention(t, err, ErrPath, "not a regular file")
}

// Files that are not what their rows say.
func TestFilesAreWhatTheySay(t *testing.T) {
	t.Parallel()
	for _, zst := range []bool{false, true} {
		for bytesInFile, ok := range map[int]bool{4000: true, 4004: true, 4008: false, 3996: false, 6000: false,
			4001: false, 0: false} {
			m := newMade(t).add(1, nil).add(2, nil).labelled()
			data := make([]byte, bytesInFile)
			if zst {
				var err error
				if data, err = compress(data); err != nil {
					t.Fatal(err)
				}
				m.signals[1].Format = formatZstd
			}
			m.files["1.lpcm"] = data
			_, err := m.open(Params{})
			if ok && err != nil {
				t.Errorf("%d bytes, compressed %v: %v", bytesInFile, zst, err)
			}
			if !ok {
				mention(t, err, ErrFile, id(2).String(), "1.lpcm")
			}
			if _, err := m.open(Params{Files: "trust"}); err != nil {
				t.Errorf("trusted: %v", err)
			}
		}
	}
	m := newMade(t).add(1, func(s *Signal) { s.Format = formatZstd }).labelled()
	// Two frames hold what is promised, of which the first has half.
	half, err := compress(make([]byte, 2000))
	if err != nil {
		t.Fatal(err)
	}
	m.files["0.lpcm"] = append(slices.Clone(half), half...)
	m.must(Params{})
	m.files["0.lpcm"] = half
	_, err = m.open(Params{})
	mention(t, err, ErrFile, "2000 bytes")
	m.files["0.lpcm"] = []byte("no zstd at all")
	_, err = m.open(Params{})
	wantErr(t, err, ErrFile)
	delete(m.files, "0.lpcm")
	_, err = m.open(Params{})
	wantErr(t, err, os.ErrNotExist)
}

// A process that dropped other signals than the one that iterates does not take
// one sensor of a recording for another.
func TestOtherSignalsDropped(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, func(s *Signal) { s.SensorLabel = "left" }).add(1, func(s *Signal) { s.SensorLabel = "right" })
	m.labelled()
	p := Params{OnBad: OnBadDrop, Mode: ModeEpochs, BatchSize: 1}
	iterates := m.must(p)
	m.files["0.lpcm"] = nil
	makes := m.must(p)
	if len(iterates.Signals()) != 2 || len(makes.Signals()) != 1 {
		t.Fatalf("%v, %v", iterates.Report(), makes.Report())
	}
	state := iterates.start
	for range 20 {
		job, next, err := iterates.Next(state)
		if err != nil {
			t.Fatal(err)
		}
		_, err = makes.Materialize(t.Context(), job)
		wantErr(t, err, ErrJob)
		state = next
	}
}
