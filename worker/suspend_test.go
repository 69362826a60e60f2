package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// mounted is a data set that is opened from a folder.
func mounted(name, folder string, opened *atomic.Int64) dataset.Definition {
	return dataset.Define(name, func(context.Context, struct{}) (dataset.Funcs[int, input, schema.Batch], error) {
		opened.Add(1)
		if _, err := os.ReadDir(folder); err != nil {
			return dataset.Funcs[int, input, schema.Batch]{}, err
		}
		return dataset.Funcs[int, input, schema.Batch]{
			NextFunc:        func(s int) (input, int, error) { return input{s}, s + 1, nil },
			MaterializeFunc: func(_ context.Context, in input) (schema.Batch, error) { return values(in.N, 1) },
		}, nil
	})
}

// A worker that cannot open a data set gives its jobs to others, says what is missing where, and comes back by itself.
// No job is judged by it.
func TestMachineFaultIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "ecg")
	folder := filepath.Join(t.TempDir(), "data")
	var openings atomic.Int64
	gate := make(chan struct{})
	w, _ := start(t, s, Config{Name: "w1", Slots: 2}, func(w *Worker) {
		w.away.sleep = func(ctx context.Context, _ time.Duration) error {
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, mounted("ecg", folder, &openings))
	beats, err := o.nc.SubscribeSync(wire.WorkerPrefix + ".w1")
	if err != nil {
		t.Fatal(err)
	}
	o.feed(1, 6)
	want := "cannot open ecg: no such folder " + folder
	for said := false; !said; {
		msg, err := beats.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatalf("the worker does not say what is missing: %v", err)
		}
		var st schema.WorkerStatus
		if err := json.Unmarshal(msg.Data, &st); err != nil {
			t.Fatal(err)
		}
		if said = st.LastError == want; said && len(st.Kinds) != 0 {
			t.Errorf("the worker says that it serves %v", st.Kinds)
		}
	}
	natstest.Eventually(t, "the jobs are handed back", func() bool { n, _ := w.held.counts(); return n == 0 })
	natstest.Eventually(t, "the lane pulls nothing", func() bool { return w.lanes.all()[0].subscription() == nil })
	gate <- struct{}{} // opened in vain
	gate <- struct{}{}
	if n := openings.Load(); n > 4 {
		t.Errorf("the data set was opened %d times", n)
	}
	if o.queued() != 6 || w.Status().Failed != 0 {
		t.Fatalf("%d jobs are queued; status %+v", o.queued(), w.Status())
	}
	_, stopOther := start(t, s, Config{Name: "w2", Slots: 1}, nil, define("ecg", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	o.waitEmpty()
	for seq := uint64(1); seq <= 6; seq++ {
		if r, _ := o.result(seq); r.Kind != wire.KindBatch || r.Worker != "w2" {
			t.Fatalf("result %+v, %v", r, r.Fault)
		}
	}
	if err := stopOther(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	close(gate)
	o.feed(7, 9)
	o.waitEmpty()
	if r, _ := o.result(9); r.Worker != "w1" {
		t.Fatalf("result %+v", r)
	}
	if st := w.Status(); st.LastError != "" || len(st.Kinds) != 1 {
		t.Errorf("status %+v", st)
	}
}

// A suspended lane goes like any other when its generation is over, or the worker leaves.
func TestSuspendedLaneEnds(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "ecg")
	w, stop := start(t, s, Config{Slots: 1}, nil, mounted("ecg", filepath.Join(t.TempDir(), "data"), new(atomic.Int64)))
	o.feed(1, 1)
	suspends := func(want bool) {
		t.Helper()
		natstest.Eventually(t, fmt.Sprint("a lane is suspended: ", want), func() bool {
			return strings.HasPrefix(w.Status().LastError, "cannot open ecg") == want
		})
	}
	suspends(true)
	if s := w.Status().Suspended; len(s) != 1 || !slices.Equal(s[0].Batchers, []string{"train"}) {
		t.Errorf("suspended: %+v", s)
	}
	o.silence()
	o.record(schema.PhaseClosed)
	o.over()
	suspends(false)
	o.record(schema.PhaseRunning)
	o.mu.Lock()
	o.quiet = false
	o.mu.Unlock()
	suspends(true)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestOfMachine(t *testing.T) {
	t.Parallel()
	empty, full := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "b.lpcm"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for err, want := range map[error]bool{
		&fs.PathError{Op: "open", Path: "/no-mount/rec/a.lpcm", Err: syscall.ENOENT}:         true,
		&fs.PathError{Op: "open", Path: "/no-mount/a.lpcm", Err: syscall.EACCES}:             true,
		&fs.PathError{Op: "open", Path: filepath.Join(empty, "a.lpcm"), Err: syscall.ENOENT}: true,
		&fs.PathError{Op: "open", Path: filepath.Join(full, "a.lpcm"), Err: syscall.ENOENT}:  false,
		&fs.PathError{Op: "open", Path: filepath.Join(full, "a.lpcm"), Err: syscall.EACCES}:  false,
		fmt.Errorf("open data set ecg: %w", syscall.EMFILE):                                  true,
		syscall.ENOSPC: true,
		syscall.EIO:    false, // a bad sector is a bad file
		fs.ErrNotExist: false, // of what?
		&fs.PathError{Op: "open", Path: "rec/a.lpcm", Err: syscall.ENOENT}: false,
		fmt.Errorf("bad numbers"): false,
		context.Canceled:          false,
	} {
		if got := ofMachine(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// reasonOf is why a worker does not serve a kind.
func reasonOf(w *Worker, kind string) string {
	for _, s := range w.Status().Suspended {
		if s.Kind == kind {
			return s.Reason
		}
	}
	return ""
}

func TestLacks(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(folder, "data", "rec", "a.lpcm"): "no such folder " + filepath.Join(folder, "data"),
		filepath.Join(folder, "data"):                  "no such folder " + filepath.Join(folder, "data"),
		filepath.Join(folder, "a.lpcm"):                "no such file " + filepath.Join(folder, "a.lpcm"),
		"rec/a.lpcm":                                   "no such file rec/a.lpcm",
	} {
		if got := lacks(fmt.Errorf("data: %w", &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT})); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := lacks(&fs.PathError{Op: "write", Path: "/cache/x", Err: syscall.ENOSPC}); got != "/cache/x: no space left on device" {
		t.Errorf("%q", got)
	}
}

// A disk that is full, or a mount that goes away, while jobs run is no verdict on them: they go to another worker, and
// the machine comes back by itself, after waits that grow until a job has succeeded.
func TestMachineFaultWhileJobsRun(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	for name, fault := range map[string]error{
		"full disk":   &fs.PathError{Op: "write", Path: "/cache/x", Err: syscall.ENOSPC},
		"descriptors": fmt.Errorf("open 7: %w", syscall.EMFILE),
		"mount":       &fs.PathError{Op: "open", Path: filepath.Join(mount, "a.lpcm"), Err: syscall.ENOENT},
		"permission":  &fs.PathError{Op: "open", Path: "/no-mount/a.lpcm", Err: syscall.EACCES},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Run(t)
			o := newOwner(t, s, "train", "ecg")
			var bad atomic.Bool
			bad.Store(true)
			waits, gate := make(chan time.Duration, 100), make(chan struct{})
			w, _ := start(t, s, Config{Name: "w1", Slots: 1}, func(w *Worker) {
				w.away.sleep = func(ctx context.Context, d time.Duration) error {
					waits <- d
					select {
					case <-gate:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}, define("ecg", func(_ context.Context, n int) (schema.Batch, error) {
				if bad.Load() {
					return nil, fault
				}
				return values(n, 1)
			}))
			o.feed(1, 3)
			for n := time.Second; n <= 4*time.Second; n *= 2 {
				if got := <-waits; got != n {
					t.Fatalf("it waits for %v, want %v", got, n)
				}
				if text := reasonOf(w, o.kind()); !strings.HasPrefix(text, "cannot open ecg: ") || w.Status().LastError != text {
					t.Errorf("status %+v", w.Status())
				}
				if n < 4*time.Second {
					gate <- struct{}{}
				}
			}
			natstest.Eventually(t, "the jobs are handed back", func() bool { n, _ := w.held.counts(); return n == 0 })
			if st := w.Status(); o.queued() != 3 || st.Failed != 0 || st.Retried != 0 || len(st.Kinds) != 0 {
				t.Fatalf("%d jobs are queued; status %+v", o.queued(), st)
			}
			bad.Store(false)
			close(gate)
			o.waitEmpty()
			if r, _ := o.result(3); r.Kind != wire.KindBatch || r.Worker != "w1" {
				t.Fatalf("result %+v", r)
			}
			if st := w.Status(); len(st.Suspended) != 0 || len(st.Kinds) != 1 {
				t.Errorf("status %+v", st)
			}
			if n := w.lanes.all()[0].faults.Load(); n != 0 {
				t.Errorf("%d faults in a row are remembered", n)
			}
		})
	}
}
