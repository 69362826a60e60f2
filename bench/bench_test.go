package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if slices.Contains(os.Args[1:], roleArg) {
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
		if err := serveRole(context.Background(), os.Stdin, os.Stdout, log); err != nil {
			log.Error("role", "error", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func quickly(t *testing.T, cases ...string) options {
	return options{
		cases: cases, rounds: 1, quick: true, tempDir: t.TempDir(), roleArgs: []string{roleArg},
		stderr: t.Output(), log: slog.New(slog.DiscardHandler),
	}
}

func runs(t *testing.T, opts options) *Report {
	t.Helper()
	var reports []*Report
	err := run(t.Context(), opts, func(r *Report) error {
		reports = append(reports, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) != 1 {
		t.Fatalf("%d reports", len(reports))
	}
	return reports[0]
}

// Every case runs, with a few batches, and has a figure for all that it compares. Figures of a test machine say
// nothing, so none is judged.
func TestEveryCase(t *testing.T) {
	t.Parallel()
	rows := map[string]int{
		"small": 1, "sizes": 4, "valley": 2, "peers": 1, "scale": 2, "workers": 10, "cluster": 3, "latency": 6, "fanout": 1,
		"ranks": 12, "onda": 4, "zst": 9, "labels": 4,
		"store": 2, "recovery": 4, "soak": 12,
	}
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			opts := quickly(t, c.name)
			opts.tiny = true
			r := runs(t, opts)
			if r.Case != c.name || r.What != c.what || !r.Quick {
				t.Errorf("report of %q, %q, quick %v", r.Case, r.What, r.Quick)
			}
			if len(r.Rows) == 0 && len(r.Notes) > 0 {
				t.Skip(r.Notes[0])
			}
			if len(r.Rows) != rows[c.name] {
				t.Errorf("%d rows, want %d", len(r.Rows), rows[c.name])
			}
			judged := 0
			for _, row := range r.Rows {
				if row.Ours <= 0 || row.Floor <= 0 || row.Ratio <= 0 {
					t.Errorf("%s, %s: %+v", row.Name, row.Against, row.Pair)
				}
				judged += len(row.Limits)
			}
			// The targets of workers are of shapes too large for a test; a cluster has none.
			if judged == 0 && c.name != "workers" && c.name != "cluster" {
				t.Error("no row has a limit")
			}
		})
	}
}

// What is said of costs: of all processes of a side, and a profile of each.
func TestCosts(t *testing.T) {
	t.Parallel()
	opts := quickly(t, "small")
	opts.profileDir, opts.tiny = t.TempDir(), true
	r := runs(t, opts)
	row := r.Rows[0]
	for what, p := range map[string]Pair{"CPU per batch": row.CPUPerBatch, "CPU per MB": row.CPUPerMB, "allocations": row.Allocs} {
		if p.Ours <= 0 || p.Floor <= 0 || p.Ratio <= 0 {
			t.Errorf("%s: %+v", what, p)
		}
	}
	for side, roles := range map[string][]string{
		"service": {"broker", "coordinator", "trainer", "worker"},
		"floor":   {"broker", "consumer", "feeder", "worker"},
	} {
		for _, role := range roles {
			if r.Peaks[side][role] <= 0 {
				t.Errorf("no peak memory of %s %s: %v", side, role, r.Peaks)
			}
			path := opts.profileDir + "/small-" + side + "-" + role + ".pprof"
			if info, err := os.Stat(path); err != nil || info.Size() == 0 {
				t.Errorf("profile %s: %v", path, err)
			}
		}
	}
}

func TestACaseThatIsNotThere(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), quickly(t, "small", "smal"), func(*Report) error { return errors.New("ran") })
	if !errors.Is(err, errNoCase) || !strings.Contains(err.Error(), `"smal"; there are small`) {
		t.Errorf("got %v", err)
	}
}

// A role's error names it; an unknown role or request is an error and not the end.
func TestErrorsOfRoles(t *testing.T) {
	t.Parallel()
	b := &bench{opts: quickly(t), current: "none"}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	s := b.side("service")
	_, err := s.start(t.Context(), "dancer", nil, nil)
	if err == nil || !strings.Contains(err.Error(), `service dancer: start: there is no role "dancer"`) {
		t.Errorf("got %v", err)
	}
	p, err := s.start(t.Context(), "broker", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.call(t.Context(), "dance", nil, nil); err == nil || !strings.Contains(err.Error(), `no such request: "dance"`) {
		t.Errorf("got %v", err)
	}
	if usage, err := s.usage(t.Context()); err != nil || usage["broker"].CPU <= 0 {
		t.Errorf("got %v, %v", usage, err)
	}
}

// A context that ends takes the process along that does not answer.
func TestCallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := &bench{opts: quickly(t), current: "none"}
	_, consumer, err := b.floorSmall(t.Context(), "floor", floorArg{Window: 64, Bytes: 8})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	went := make(chan error)
	go func() { went <- consumer.call(ctx, opTake, takeArg{Timed: 1 << 40}, nil) }()
	cancel()
	if err := <-went; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := b.close(); err == nil || !strings.Contains(err.Error(), "floor consumer: signal: killed") {
		t.Errorf("got %v", err)
	}
}

// The command line: what is wrong with it is errUsage, and a list says which cases there are.
func TestCommand(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for _, args := range [][]string{{"-rounds", "0"}, {"-nosuch"}, {"small"}} {
		if err := command(t.Context(), args, io.Discard, io.Discard, log); !errors.Is(err, errUsage) {
			t.Errorf("%q: got %v", args, err)
		}
	}
	if err := command(t.Context(), []string{"-case", "smal"}, io.Discard, io.Discard, log); !errors.Is(err, errNoCase) {
		t.Errorf("got %v", err)
	}
	var out strings.Builder
	if err := command(t.Context(), []string{"-case", "list"}, &out, io.Discard, log); err != nil || !strings.Contains(out.String(), "\nsoak ") {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
