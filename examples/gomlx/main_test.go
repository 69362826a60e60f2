package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"

	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
)

// TestMain lets tests run this test binary as the program.
func TestMain(m *testing.M) {
	if os.Getenv("GOMLX_EXAMPLE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// recordings are the real ones where they are, and made-up ones elsewhere.
func recordings(t *testing.T) string {
	t.Helper()
	if dir := filepath.Join(os.Getenv("JETBATCH_TESTDATA"), "mitbih12"); os.Getenv("JETBATCH_TESTDATA") != "" {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	t.Log("no recordings in JETBATCH_TESTDATA: made-up ones are trained on")
	dir := t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// process is the program, as a user starts it.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
	said  []string
	err   bytes.Buffer
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), "GOMLX_EXAMPLE=1")
	p.cmd.Stderr = &p.err
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	return p
}

// until reads lines up to one that begins so.
func (p *process) until(prefix string) string {
	p.t.Helper()
	for p.lines.Scan() {
		line := p.lines.Text()
		p.said = append(p.said, line)
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	p.t.Fatalf("it never said %q: %q, %v\n%s", prefix, p.said, p.cmd.Wait(), &p.err)
	return ""
}

// end reads what is left.
func (p *process) end() error {
	for p.lines.Scan() {
		p.said = append(p.said, p.lines.Text())
	}
	return p.cmd.Wait()
}

// done runs to the end, and returns what was said.
func (p *process) done() string {
	p.t.Helper()
	if err := p.end(); err != nil {
		p.t.Fatalf("%v: %q\n%s", err, p.said, &p.err)
	}
	return strings.Join(p.said, "\n")
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestKilledTwice kills a run outright, with the service in it, and starts it again: its last checkpoint is that of an
// undisturbed one to the last bit, weights, optimizer, curve and state of the data.
func TestKilledTwice(t *testing.T) {
	t.Parallel()
	data, whole, killed := recordings(t), t.TempDir(), t.TempDir()
	args := func(out string) []string { return []string{"-data", data, "-out", out, "-steps", "40", "-every", "10"} }
	said := start(t, args(whole)...).done()
	t.Log(said)
	for _, step := range []string{"10", "20"} {
		p := start(t, args(killed)...)
		p.until("step " + step + ":")
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.end(); err == nil {
			t.Fatal("it was done before it was killed")
		}
	}
	again := start(t, args(killed)...)
	again.until("goes on after step")
	again.done()
	if !bytes.Equal(read(t, killed, checkpointFile), read(t, whole, checkpointFile)) {
		t.Errorf("the killed run is another:\n%s\nnot\n%s", strings.Join(again.said, "\n"), said)
	}
	if !bytes.HasPrefix(read(t, whole, pictureFile), []byte("\x89PNG")) {
		t.Error("the picture is no PNG")
	}
	if last := start(t, args(killed)...).done(); last != "done at step 40" {
		t.Errorf("started once more it says %s", last)
	}
}

// TestRanks trains with four ranks, of which one is killed. Resumed with four the run is the undisturbed one to the
// last bit; resumed with three, or all of it done by one, it is the same but for the order in which sums are added.
func TestRanks(t *testing.T) {
	t.Parallel()
	data := recordings(t)
	cfg := embedded.Config{Workers: 2, Listen: "127.0.0.1:0"}
	service, err := embedded.Start(context.WithoutCancel(t.Context()), cfg, onda.Definition())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	train := func(out string, ranks int) *process {
		return start(t, "-data", data, "-out", out, "-steps", "40", "-every", "10", "-ranks", fmt.Sprint(ranks),
			"-server", service.URL())
	}
	whole := t.TempDir()
	agree(t, train(whole, 4), 4)

	killed := t.TempDir()
	p := train(killed, 4)
	var pid int
	if _, err := fmt.Sscanf(p.until("rank 2 is process"), "rank 2 is process %d", &pid); err != nil {
		t.Fatal(err)
	}
	p.until("step 10:")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.end(); !errors.As(err, &exit) || !strings.Contains(p.err.String(), "rank 2: signal: killed") {
		t.Fatalf("%v: %q\n%s", err, p.said, &p.err)
	}
	three := t.TempDir()
	if err := os.WriteFile(filepath.Join(three, checkpointFile), read(t, killed, checkpointFile), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, resumed := range []struct {
		out   string
		ranks int
	}{{killed, 4}, {three, 3}} {
		p := train(resumed.out, resumed.ranks)
		p.until("goes on after step")
		agree(t, p, resumed.ranks)
	}
	if !bytes.Equal(read(t, killed, checkpointFile), read(t, whole, checkpointFile)) {
		t.Error("four ranks resumed are not the four that were undisturbed")
	}
	one := t.TempDir()
	train(one, 1).done()
	for name, dir := range map[string]string{"four ranks, then three": three, "one rank": one} {
		d := distance(t, whole, dir)
		t.Logf("%s: weights are off by %.2g of their size", name, d)
		if d > tolerance {
			t.Errorf("%s: that is more than %g", name, tolerance)
		}
	}
}

// tolerance is what sums in another order may come to over the steps of a test; see README.md.
const tolerance = 1e-5

// agree waits for the end of all ranks, which have to have the same weights.
func agree(t *testing.T, p *process, ranks int) {
	t.Helper()
	digests := map[string]int{}
	for line := range strings.Lines(p.done()) {
		if _, digest, ok := strings.Cut(line, ": weights "); ok {
			digests[strings.TrimSpace(digest)]++
		}
	}
	if len(digests) != 1 || !slices.Contains(slices.Collect(maps.Values(digests)), ranks) {
		t.Fatalf("%d ranks end with %v", ranks, digests)
	}
}

// distance of the weights in two checkpoints, relative to their size.
func distance(t *testing.T, a, b string) float64 {
	t.Helper()
	var all [2]Checkpoint
	for i, dir := range []string{a, b} {
		if err := all[i].Load(filepath.Join(dir, checkpointFile)); err != nil {
			t.Fatal(err)
		}
	}
	if all[0].Steps != all[1].Steps || !all[0].Data.Equal(all[1].Data) || !slices.Equal(all[0].Paths, all[1].Paths) {
		t.Fatalf("step %d and %v, step %d and %v", all[0].Steps, all[0].Paths, all[1].Steps, all[1].Paths)
	}
	var off, size float64
	for _, path := range all[0].Paths {
		if !strings.HasPrefix(path, model.JoinPath("/", weights)) {
			continue
		}
		x := tensors.MustCopyFlatData[float32](all[0].variables[path])
		for i, y := range tensors.MustCopyFlatData[float32](all[1].variables[path]) {
			off, size = off+math.Pow(float64(x[i]-y), 2), size+math.Pow(float64(x[i]), 2)
		}
	}
	if size == 0 {
		t.Fatal("there are no weights")
	}
	return math.Sqrt(off / size)
}

// TestLauncherKilled has the ranks end with the process that started them.
func TestLauncherKilled(t *testing.T) {
	t.Parallel()
	p := start(t, "-data", recordings(t), "-out", t.TempDir(), "-steps", "100000", "-ranks", "2")
	var pid int
	if _, err := fmt.Sscanf(p.until("rank 1 is process"), "rank 1 is process %d", &pid); err != nil {
		t.Fatal(err)
	}
	p.until("step 20:")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for p.lines.Scan() { // to the end of the output, which the ranks share
	}
	_ = p.cmd.Wait()
}
