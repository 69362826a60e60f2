package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/schema"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("any"), 1},
		{&client.JobError{Code: schema.CodeMaterialize}, 1},
		{fmt.Errorf("x: %w", client.ErrBadParams), 2},
		{errDiffers, 3},
		{nats.ErrNoServers, 4},
		{&client.WaitError{Cause: context.DeadlineExceeded}, 4},
		{client.ErrSuperseded, 5},
		{errors.Join(errInterrupted, &client.WaitError{Cause: context.Canceled}), 130},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("%v: exit code %d, want %d", test.err, got, test.want)
		}
	}
}

func TestStateFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	if state, err := loadState(path); err != nil || !state.IsZero() {
		t.Errorf("no file: %v, %v", state, err)
	}
	for _, want := range []schema.State{{Dataset: "a", Version: 1, Data: []byte("one")}, {Dataset: "b", Version: 2, Data: []byte("two")}} {
		if err := saveState(path, want); err != nil {
			t.Fatal(err)
		}
		if got, err := loadState(path); err != nil || !got.Equal(want) {
			t.Errorf("loaded %v, %v; saved %v", got, err, want)
		}
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("saving left %v", files)
	}
	if err := saveState(filepath.Join(path, "below"), schema.State{}); err == nil {
		t.Error("saved below a file")
	}
}

// A state file that is a link stays one, a mode stays as it is, and what cannot be saved later is said at once.
func TestStateFileKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link := filepath.Join(dir, "real", "state"), filepath.Join(dir, "link")
	if err := checkStateFile(file); !errors.Is(err, errUsage) || !strings.HasSuffix(err.Error(), "/real: no such file or directory") {
		t.Errorf("no folder: %v", err)
	}
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("real", "state"), link); err != nil {
		t.Fatal(err)
	}
	want := schema.State{Dataset: "a", Version: 1, Data: []byte("one")}
	for _, mode := range []os.FileMode{0o600, 0o640} { // the first time the link leads nowhere yet
		if err := errors.Join(checkStateFile(link), saveState(link, want)); err != nil {
			t.Fatal(err)
		}
		if got, err := loadState(file); err != nil || !got.Equal(want) {
			t.Errorf("loaded %v, %v", got, err)
		}
		if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("the link became %v, %v", info.Mode(), err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode %v, %v; want %v", info.Mode(), err, mode)
		}
		if err := os.Chmod(file, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if files, _ := os.ReadDir(filepath.Dir(file)); len(files) != 1 {
		t.Errorf("left: %v", files)
	}
	if err := os.Symlink("circle", filepath.Join(dir, "circle")); err != nil {
		t.Fatal(err)
	}
	if err := checkStateFile(filepath.Join(dir, "circle")); err == nil {
		t.Error("a circle of links is a file")
	}

	// As where the file alone is mounted: somebody made it, and it has to say where to begin.
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(file); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), `write "start" into it`) {
		t.Errorf("an empty file: %v", err)
	}
	if err := os.WriteFile(file, []byte("start\n"), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := loadState(file); err != nil || !got.IsZero() {
		t.Errorf("start: %v, %v", got, err)
	}
	if _, err := loadState(dir); !errors.Is(err, errUsage) {
		t.Errorf("a folder: %v", err)
	}
	if err := overwrite(file, []byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "x\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestDiffer(t *testing.T) {
	t.Parallel()
	s := []byte("state")
	if err := differ(1, []byte("same"), []byte("same"), s, s); err != nil {
		t.Error(err)
	}
	err := differ(7, []byte("sane"), []byte("same"), s, s)
	if !errors.Is(err, errDiffers) || !strings.Contains(err.Error(), "batch 7") || !strings.Contains(err.Error(), "at byte 2") {
		t.Error(err)
	}
	if err := differ(7, nil, nil, s, s[:2]); !errors.Is(err, errDiffers) || !strings.Contains(err.Error(), "state after batch 7") {
		t.Error(err)
	}
}

// Counts of what went wrong have a column only when there are any.
func TestStatusTable(t *testing.T) {
	t.Parallel()
	s := fleet.Status{Coordinators: []fleet.Coordinator{{Coordinator: "c"}}, Batchers: []schema.Status{{
		Batcher: "t", Phase: schema.PhaseRunning, Reader: "r", IdleFor: 3 * time.Second,
		Timing: schema.Timing{Wait: 3 * time.Second, Trainer: time.Second},
	}}}
	table := func() string {
		var b bytes.Buffer
		if err := writeTable(&b, s); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := table(); !strings.Contains(got, " 75 ") || !strings.Contains(got, "a trainer, silent for 3s") || strings.Contains(got, "RESTARTS") {
		t.Error(got)
	}
	s.Batchers[0].Restarts, s.Batchers[0].Reissued = 2, 31
	if got := table(); !strings.Contains(got, "RESTARTS  REISSUED  WAITING FOR") || !strings.Contains(got, " 31 ") {
		t.Error(got)
	}
}

// Ranks have a column only where there are some, and a table only when it is asked for.
func TestStatusRanks(t *testing.T) {
	t.Parallel()
	s := fleet.Status{Batchers: []schema.Status{
		{Batcher: "alone", Phase: schema.PhaseRunning, Reader: "r"},
		{
			Batcher: "train", Phase: schema.PhaseRunning, Reader: "run-1", World: "run-1", Heard: 1, Spread: 12, Slowest: 1,
			Members: []schema.MemberStatus{
				{Rank: 0, Reader: "a", Taken: 115, Silent: 400 * time.Millisecond, Waiting: "batch 116"},
				{Rank: 1, Reader: "b", Taken: 103, Silent: 14 * time.Second},
			},
		},
	}}
	var table, ranks bytes.Buffer
	if err := errors.Join(writeTable(&table, s), writeRanks(&ranks, s.Batchers)); err != nil {
		t.Fatal(err)
	}
	if got := table.String(); !strings.Contains(got, "1/2, 12 apart, slowest 1 silent for 14s") {
		t.Error(got)
	}
	want := `
RANKS OF train, WORLD run-1
RANK  TAKEN  BEHIND  HEARD      TRAINER  WAITING FOR
1     103    12      14.0s ago  b        -
0     115    0       0.4s ago   a        batch 116
`
	if got := ranks.String(); got != want {
		t.Error(got)
	}
	s.Batchers = s.Batchers[:1]
	table.Reset()
	if err := writeTable(&table, s); err != nil || strings.Contains(table.String(), "RANKS") {
		t.Error(table.String(), err)
	}
}

// Why a run failed is there to its end, with the worker's name.
func TestStatusFailure(t *testing.T) {
	t.Parallel()
	message := strings.Repeat("while reading a recording, ", 20) + "/data/night7.edf"
	var b bytes.Buffer
	if err := writeTable(&b, fleet.Status{Batchers: []schema.Status{{
		Batcher: "train", Phase: schema.PhaseFailed, Error: &schema.Fault{Code: schema.CodeMaterialize, Seq: 3, Worker: "w7", Message: message},
	}}}); err != nil {
		t.Fatal(err)
	}
	if want := "train failed: batch 3 on w7: materialize: " + message + "\n"; !strings.Contains(b.String(), want) {
		t.Errorf("%s\nlacks %s", b.String(), want)
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := new(gate)
		if err := g.pass(t.Context()); err != nil {
			t.Fatal("an open gate:", err)
		}
		g.close()
		killed, kill := context.WithCancel(t.Context())
		results := make(chan error, 2)
		go func() { results <- g.pass(killed) }()
		go func() { results <- g.pass(t.Context()) }()
		if !g.wait(t.Context(), func(held, _ int) bool { return held == 2 }) {
			t.Fatal("not held")
		}
		kill()
		if !g.wait(t.Context(), func(_, ended int) bool { return ended == 1 }) {
			t.Fatal("not ended")
		}
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		g.open()
		if err := <-results; err != nil {
			t.Error(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if g.wait(short, func(held, _ int) bool { return held > 0 }) {
			t.Error("still held")
		}
	})
}

// Where nobody watches a meter writes a line now and then.
func TestMeterLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		m := newConsole(&b).meter("train", 4)
		for range 4 {
			time.Sleep(2 * time.Second) // of the bubble's clock
			m.add(1e6)
		}
		m.end()
		want := "train 3/4 batches, 0.5 batches/s, 0.5 MB/s\ntrain 4/4 batches, 0.5 batches/s, 0.5 MB/s\n"
		if b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	})
}

// Where the data set says how far it is, a meter without end shows the way to the end of the data, or of the epoch.
func TestMeterPlace(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	m := newConsole(&b).meter("train", 0)
	m.set(nil)
	m.add(1)
	m.set(&schema.Progress{Epoch: 2, Epochs: 3, Batch: 10, Batches: 100})
	for range 7 {
		m.add(1)
	}
	m.end()
	if !strings.Contains(b.String(), "train 8 batches, ") || !strings.HasSuffix(b.String(), ", epoch 2 of 3, 10 %\n") {
		t.Errorf("%q", &b)
	}
	if p := m.place.Load(); p.at(m.taken.Load()) != 117 || p.at(0) != 110 || p.at(1000) != p.all || p.all != 300 {
		t.Errorf("%+v", p)
	}
}

func TestASCII(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := &asciiWriter{Writer: &b}
	text := "▸ train ▁█ 12 µs … 41 % ü 日 x"
	for i := range len(text) { // byte by byte, so that every character is split
		if n, err := w.Write([]byte{text[i]}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got, want := b.String(), "> train _# 12 us ~ 41 % ? ? x"; got != want || got != toASCII(text) {
		t.Errorf("%q, want %q", got, want)
	}
	if forMachines(w) != &b || forMachines(&b) != &b {
		t.Error("the writer behind is another")
	}
}

func TestTimingReport(t *testing.T) {
	t.Parallel()
	var ta tally
	for range 2 {
		ta.add(10, 2, schema.Timing{Materialize: 4 * time.Millisecond, Wait: time.Millisecond, Trainer: 3 * time.Millisecond})
	}
	r := ta.timingReport()
	if r.Materialize != 4 || r.WaitShare != 0.25 || ta.redelivered != 2 || ta.bytes != 20 {
		t.Errorf("%+v of %+v", r, ta)
	}
	if s := r.String(); !strings.Contains(s, "25% of its time") || !strings.Contains(s, strings.Repeat("▇", barWidth)+"  on a worker") {
		t.Error(s)
	}
	if (&tally{}).timingReport() != (timingReport{}) {
		t.Error("a report of nothing is not nothing")
	}
}

// TestAloneIsHelp has the command be run without any argument.
func TestAloneIsHelp(t *testing.T) {
	t.Parallel()
	var out, asked bytes.Buffer
	if code := run(t.Context(), nil, &out, io.Discard, nil); code != 0 || !strings.Contains(out.String(), "Usage: jetbatch") {
		t.Errorf("exit code %d:\n%s", code, &out)
	}
	run(t.Context(), []string{"--help"}, &asked, io.Discard, nil)
	if out.String() != asked.String() {
		t.Error("it is not what --help says")
	}
}

// What is written beside a state goes by the same way: a new file has the mode that is asked for, what could not be
// written leaves the one before, and a pipe is written into.
func TestReplaceFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "picture.png")
	for _, text := range []string{"first", "second"} {
		if err := replaceFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if got, _ := os.ReadFile(file); string(got) != text || err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%q, %v, %v", got, info, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := replaceFile(fmt.Sprintf("/dev/fd/%d", w.Fd()), []byte("piped"), 0o644); err != nil {
		t.Error(err)
	}
	w.Close()
	if got, err := io.ReadAll(r); string(got) != "piped" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := replaceFile(dir, nil, 0o644); err == nil {
		t.Error("a folder was replaced")
	}
}
