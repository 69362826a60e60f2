package importer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/recordings"
	"github.com/jetbatch/jetbatch/onda"
)

// Recordings of several subjects have the same name in folders of their own, and sometimes the same header. A copy is
// refused.
func TestFoldersOfSubjects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(subject string, sample byte) string {
		return write(t, filepath.Join(dir, subject, "psg.wav"), wave(1, 1, 16, slices.Repeat([]byte{sample, 0}, 2000)))
	}
	files := []string{file("s1", 1), file("s2", 2), file("s3", 3)}
	out := filepath.Join(dir, "out")
	summary, err := Import(t.Context(), Config{Files: files, Out: out})
	if err != nil || len(summary.Recordings) != 3 {
		t.Fatalf("%+v, %v", summary, err)
	}
	seen := map[string]bool{}
	for i, r := range summary.Recordings {
		s := r.Signals[0]
		if seen[r.ID.String()] || seen[s.Path] {
			t.Errorf("%s: %v in %s is taken", r.File, r.ID, s.Path)
		}
		seen[r.ID.String()], seen[s.Path] = true, true
		if data := read(t, filepath.Join(out, s.Path)); data[0] != byte(i+1) {
			t.Errorf("%s has the samples of another: %d", r.File, data[0])
		}
	}
	again, err := Import(t.Context(), Config{Files: files, Out: filepath.Join(dir, "again")})
	if err != nil || again.Recordings[2].ID != summary.Recordings[2].ID {
		t.Errorf("importing again: %+v, %v", again, err)
	}
	_, err = Import(t.Context(), Config{Files: append(files, file("s4", 2)), Out: filepath.Join(dir, "copied")})
	if !errors.Is(err, ErrImport) {
		t.Errorf("a copy: %v", err)
	}
}

// A folder that a link leads to is looked into once, also where links lead round in it. Files have the names that lead
// to them.
func TestFindFollowsLinks(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, "sub", "a.edf"), nil)
	write(t, filepath.Join(dir, "top", "b.edf"), nil)
	for link, to := range map[string]string{
		"link": "top", "top/in": elsewhere, "top/round": "../top", "top/twice": elsewhere,
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	got, err := Find([]string{link})
	want := []string{filepath.Join(link, "b.edf"), filepath.Join(link, "in", "sub", "a.edf")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

// Annotations in a file of their own belong to the recording beside them.
func TestPartners(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 22, 0, 0, 0, time.UTC)
	file := func(name string, start time.Time) *recording {
		return &recording{Recording: Recording{File: name}, material: &material{start: start}}
	}
	plans := []*recording{
		file("s1/psg.edf", at), file("s2/psg.edf", at), file("all/night1.edf", at), file("all/night2.edf", at),
		file("two/record a.edf", at), file("two/record b.edf", at.Add(72*time.Hour)),
	}
	for name, want := range map[string]string{
		"s2/hypnogram.edf": "s2/psg.edf", "all/night2-stages.edf": "all/night2.edf",
		"labels/night1.edf": "all/night1.edf", "two/record.edf": "two/record a.edf",
		"all/stages.edf": "", "all/night.edf": "", "labels/psg-1.edf": "",
	} {
		got, err := partner(file(name, at), plans)
		if (err == nil) != (want != "") || err == nil && got.File != want {
			t.Errorf("%s: %v, %v; want %q", name, got, err, want)
		}
	}
	// What stands in the way is said: which recordings fit, or what another file has given.
	plans = append(plans, file("one/night.edf", at), file("one/night.bdf", at))
	plans[0].Labels = "s1/a.edf"
	for name, want := range map[string]string{
		"one/night-stages.edf": "2 recordings fit it: night.edf, night.bdf",
		"s1/psg-stages.edf":    "psg.edf has the annotations of a.edf",
		"none/x.edf":           "no recording is in a file that is named like it",
	} {
		if _, err := partner(file(name, at), plans); !errors.Is(err, ErrImport) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Recordings without labels get one over all of them, where that is asked for; others keep theirs.
func TestLabelAll(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(recordings.Dir(t, "foreign"), "edf")
	out := filepath.Join(t.TempDir(), "out")
	// Records of 1 s at 100 Hz, with a gap.
	gap := write(t, filepath.Join(t.TempDir(), "gap.edf"),
		made("EDF+D", "+0\x14\x14\x00", "+1\x14\x14\x00", "+9\x14\x14\x00"))
	summary, err := Import(t.Context(), Config{
		Files: []string{filepath.Join(dir, "edfio_short_psg.edf"), gap}, Out: out, Label: "any",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range summary.Recordings {
		var stretches []onda.Span
		for _, s := range r.Signals {
			if !slices.Contains(stretches, s.Span) {
				stretches = append(stretches, s.Span)
			}
		}
		if len(r.Spans) != len(stretches) {
			t.Fatalf("%s: %+v for %v", r.File, r.Spans, stretches)
		}
		for i, a := range r.Spans {
			if a.Label != "any" || a.Span != stretches[i] {
				t.Errorf("%s: %+v for %v", r.File, a, stretches[i])
			}
		}
	}
	wfdb := filepath.Join(recordings.Dir(t, "foreign"), "wfdb", "100.hea")
	summary, err = Import(t.Context(), Config{Files: []string{wfdb}, DryRun: true, Label: "any"})
	if err != nil || len(summary.Recordings[0].Spans) != 1 || summary.Recordings[0].Spans[0].Label != "N" {
		t.Errorf("%+v, %v", summary, err)
	}
}
