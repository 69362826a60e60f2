package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

// TestMain lets tests run this test binary as the trainer.
func TestMain(m *testing.M) {
	if os.Getenv("TRAINER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// service starts one over made-up data, and returns its address and the data's folder.
func service(t *testing.T) (s *embedded.Service, dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{}); err != nil {
		t.Fatal(err)
	}
	s, err := embedded.Start(t.Context(), embedded.Config{Workers: 2, Listen: "127.0.0.1:0"}, onda.Definition())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, dir
}

// trainer is the program as a process in a folder of its own.
func trainer(t *testing.T, s *embedded.Service, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], dir)
	cmd.Env = append(os.Environ(), "TRAINER=1", "NATS_URL="+s.URL())
	cmd.Dir = t.TempDir()
	return cmd
}

// Each of the two signals ends it with the very last step saved.
func TestSignals(t *testing.T) {
	t.Parallel()
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s, dir := service(t)
			cmd := trainer(t, s, dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			lines.Scan()
			if first := lines.Text(); !strings.HasPrefix(first, "step 100: ") {
				t.Errorf("it says %q", first)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			last := ""
			for lines.Scan() {
				last = lines.Text()
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
				t.Errorf("it ended with %v, not 130", err)
			}
			var at Checkpoint
			if err := at.load(filepath.Join(cmd.Dir, "checkpoint.json")); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("saved after step %d", at.Steps); last != want || at.Steps < 100 || at.Steps == 1000 {
				t.Errorf("the checkpoint is of step %d, and the last line %q", at.Steps, last)
			}
		})
	}
}

// A batcher that another process has is an error that the shell sees.
func TestInUse(t *testing.T) {
	t.Parallel()
	s, dir := service(t)
	params, err := onda.Guess(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := client.Open[schema.Batch](t.Context(), s.Conn(), client.Config{
		Name: "example", Dataset: onda.Name, Params: params,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if out, err := trainer(t, s, dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "in use") {
		t.Errorf("it ended with %v:\n%s", err, out)
	}
}

// The content is on the disk before it has its name, and the name before save returns; what cannot be brought there
// leaves the checkpoint before it.
func TestSaveIsDurable(t *testing.T) { //nolint:paralleltest // it replaces syncFile
	defer func() { syncFile = (*os.File).Sync }()
	path := filepath.Join(t.TempDir(), "checkpoint.json")
	steps := func() int {
		var c Checkpoint
		if err := c.load(path); err != nil {
			t.Fatal(err)
		}
		return c.Steps
	}
	var seen []string
	syncFile = func(f *os.File) error {
		seen = append(seen, fmt.Sprintf("%s at %d", filepath.Base(f.Name()), steps()))
		return nil
	}
	if err := (&Checkpoint{Steps: 7}).save(path); err != nil {
		t.Fatal(err)
	}
	want := []string{"checkpoint.json.new at 0", filepath.Base(filepath.Dir(path)) + " at 7"}
	if !slices.Equal(seen, want) {
		t.Errorf("synced %q, want %q", seen, want)
	}
	full := errors.New("no space")
	syncFile = func(*os.File) error { return full }
	if err := (&Checkpoint{Steps: 8}).save(path); !errors.Is(err, full) || steps() != 7 {
		t.Errorf("%v, and the checkpoint is of step %d", err, steps())
	}
}

// A run that is stopped and resumed ends as one that is not.
func TestResume(t *testing.T) {
	t.Parallel()
	s, dir := service(t)
	params, err := onda.Guess(dir)
	if err != nil {
		t.Fatal(err)
	}
	run := func(path string, upto ...int) (c Checkpoint) {
		t.Helper()
		for _, steps := range upto {
			if err := train(t.Context(), s.Conn(), params, path, steps, io.Discard); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.load(path); err != nil {
			t.Fatal(err)
		}
		return c
	}
	whole := run(filepath.Join(t.TempDir(), "whole"), 30)
	parts := run(filepath.Join(t.TempDir(), "parts"), 7, 8, 30)
	if whole.Steps != 30 || whole.Mean != parts.Mean || !whole.Data.Equal(parts.Data) {
		t.Errorf("resumed run ended with %+v, the other with %+v", parts, whole)
	}
}
