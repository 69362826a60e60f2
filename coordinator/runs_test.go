package coordinator

import (
	"bytes"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

func TestRunLength(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mean          time.Duration
		window, slots int
		want          int
	}{
		"nothing known":           {0, 1024, 4, 1},
		"no worker":               {time.Microsecond, 1024, 0, 1},
		"quick jobs":              {time.Microsecond, 1024, 4, wire.MaxRun},
		"a quarter millisecond":   {250 * time.Microsecond, 1024, 4, 4},
		"slow jobs":               {20 * time.Millisecond, 1024, 4, 1},
		"many slots":              {time.Microsecond, 1024, 64, 8},
		"the default window":      {time.Microsecond, 9, 4, 1},
		"a window for two rounds": {time.Microsecond, 32, 4, 4},
	} {
		if got := (&runs{mean: test.mean}).length(test.window, test.slots); got != test.want {
			t.Errorf("%s: %d jobs in a message, want %d", name, got, test.want)
		}
	}
}

func TestRunsObserve(t *testing.T) {
	t.Parallel()
	var r runs
	for _, step := range []struct {
		taken       uint64
		spent, want time.Duration
	}{
		{10, 10 * time.Millisecond, 0}, // what came before is not known
		{20, 11 * time.Millisecond, 100 * time.Microsecond},
		{20, 11 * time.Millisecond, 100 * time.Microsecond},
		{30, 31 * time.Millisecond, 2 * time.Millisecond}, // longer jobs count at once
		{40, 31 * time.Millisecond, time.Millisecond},     // shorter ones when they stay short
		{50, 31 * time.Millisecond, 500 * time.Microsecond},
		{5, 31 * time.Millisecond, 500 * time.Microsecond},  // moved back
		{15, 20 * time.Millisecond, 500 * time.Microsecond}, // another reader
	} {
		r.observe(step.taken, step.spent)
		if r.mean != step.want {
			t.Fatalf("after %d and %v: %v, want %v", step.taken, step.spent, r.mean, step.want)
		}
	}
}

func TestRunAdd(t *testing.T) {
	t.Parallel()
	var r run
	small, large := []byte("job"), bytes.Repeat([]byte("j"), runBytes)
	for i, step := range []struct {
		seq  uint64
		job  []byte
		want bool
	}{
		{7, small, true},
		{9, small, false}, // does not follow
		{8, small, true},
		{9, large, false}, // does not fit
		{9, small, true},
		{10, small, false}, // is one too many
	} {
		if got := r.add(step.seq, step.job, 3); got != step.want {
			t.Fatalf("step %d: %v", i, got)
		}
	}
	if r.first != 7 || r.n != 3 || string(r.data) != "jobjobjob" {
		t.Fatalf("%+v", r)
	}
	if alone := (run{}); !alone.add(1, large, 3) {
		t.Fatal("a job that fits into no run goes by itself")
	}
}
