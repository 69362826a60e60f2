package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/onda"
)

// TestMain lets the scripts of testdata run this test binary as jetbatch, in processes of its own.
func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){
		"jetbatch": func() { Main(onda.Definition(), counting, flaky, impure, moved) },
		"another":  func() { Main(onda.Definition(), lossy) }, // with other data sets
	})
}

type leakless struct{ *testing.M }

func (m leakless) Run() int {
	code := m.M.Run()
	if code == 0 {
		if err := goleak.Find(natstest.ServerLeftovers()...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// TestScripts runs testdata/*.txtar, each in a folder of its own, in which $URL is a free address.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Setenv("ADDR", l.Addr().String())
			env.Setenv("URL", "nats://"+l.Addr().String())
			env.Setenv("TMPDIR", env.WorkDir)
			return l.Close()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"retry":   retry,
			"appears": appears,
		},
	})
}

// patience bounds every wait of a script.
const patience = 20 * time.Second

// exits runs a command, which must exit with the given code: exits CODE COMMAND ARGS…
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if got := exitOf(ts, args); neg == (got == args[0]) {
		ts.Fatalf("exit code %s", got)
	}
}

// retry runs a command again and again until it exits with the given code: retry CODE COMMAND ARGS…
func retry(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, args, func() bool { return exitOf(ts, args) == args[0] })
}

// appears waits for a file.
func appears(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, args, func() bool {
		_, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil
	})
}

func eventually(ts *testscript.TestScript, args []string, condition func() bool) {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			ts.Fatalf("gave up on %v", args)
		}
		<-tick.C
	}
}

func exitOf(ts *testscript.TestScript, args []string) string {
	if len(args) < 2 {
		ts.Fatalf("CODE COMMAND ARGS…, not %v", args)
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "0"
	case errors.As(err, &exit):
		return strconv.Itoa(exit.ExitCode())
	}
	ts.Fatalf("%v", err)
	return ""
}

// lossy is a data set whose jobs would lose what is in them.
var lossy = dataset.Define("lossy", func(context.Context, struct{}) (dataset.Funcs[int, struct{ at int }, int], error) {
	return dataset.Funcs[int, struct{ at int }, int]{
		NextFunc:        func(i int) (struct{ at int }, int, error) { return struct{ at int }{i}, i + 1, nil },
		MaterializeFunc: func(_ context.Context, job struct{ at int }) (int, error) { return job.at, nil },
	}, nil
})

// moved is a data set whose positions lie elsewhere under other parameters.
var moved = dataset.Define("moved", func(_ context.Context, p struct{ By int }) (moving, error) {
	return moving{dataset.Funcs[int, int, int]{
		NextFunc:        func(i int) (int, int, error) { return i, i + 1, nil },
		MaterializeFunc: func(_ context.Context, i int) (int, error) { return i, nil },
	}, p.By}, nil
})

type moving struct {
	dataset.Funcs[int, int, int]
	by int
}

func (moving) Start() (int, error) { return 0, nil }

func (m moving) Rebase(i int, _ dataset.Origin) (int, error) { return i + m.by, nil }

// The data sets of the scripts: two names for what testset gives, and one whose iterator never says the same twice.
var (
	counting = testset.Define("counting", nil)
	flaky    = testset.Define("flaky", nil)
	impure   = testset.Define("impure", &testset.Hooks{Next: func(_ testset.Position, _ *testset.Job, next *testset.Position) error {
		next.Seed = rand.Uint64()
		return nil
	}})
)
