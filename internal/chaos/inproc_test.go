package chaos

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jetbatch/jetbatch/internal/testset"
)

var (
	schedulesFlag = flag.Int("chaos.schedules", 0, "in-process schedules to run; 0 for the usual number")
	batchesFlag   = flag.Int("chaos.batches", 0, "batches to take in each; 0 for the usual number")
)

// TestInProcess runs schedules of faults in fake time and in one process. What each takes must equal the reference, no
// invariant may be broken by any message, at rest or at the end, and after each storm the run must go on within
// recovery.
func TestInProcess(t *testing.T) {
	t.Parallel()
	schedules, batches := 20, 100
	if *fullFlag {
		schedules, batches = 1000, 1000
	}
	schedules, batches = cmp.Or(*schedulesFlag, schedules), cmp.Or(*batchesFlag, batches)
	first := *firstFlag
	if *seedFlag > 0 {
		first, schedules = *seedFlag, 1
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	found := newTally()
	for o := range runSchedules(t.Context(), exe, first, schedules, batches) {
		found.add(&o)
		if o.Class != "" {
			t.Errorf("schedule %d: %s: %s\n%s\nreplay with -chaos.seed=%d -chaos.batches=%d", o.Seed, o.Class, o.Error, o.Journal, o.Seed, batches)
		}
	}
	took := time.Since(began)
	figures := struct {
		Tier string `json:"tier"`
		*tally
		Seconds   float64 `json:"seconds"`
		PerMinute float64 `json:"schedules_per_minute"`
	}{"in-process", found, took.Seconds(), float64(schedules) / took.Minutes()}
	data, err := json.Marshal(figures)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("chaos: %s\n", data)
}

// outcome is how a schedule went.
type outcome struct {
	Seed     uint64         `json:"seed"`
	Ranks    int            `json:"ranks"`
	Taken    int            `json:"taken"`
	Together int            `json:"together"` // batches whose rows, taken by several ranks, were put together
	Faults   map[string]int `json:"faults"`
	Seconds  float64        `json:"seconds"`           // of fake time
	Class    string         `json:"class,omitempty"`   // what is wrong; empty when nothing is
	Error    string         `json:"error,omitempty"`   // in words
	Journal  string         `json:"journal,omitempty"` // what happened, when something is wrong
}

// Classes of what can be wrong beside the violations of the oracle.
const (
	classInvariant = "invariant" // a message or a store breaks an invariant, whether or not a trainer noticed
	classHang      = "hang"
	classLeak      = "leak"
	classFailure   = "failure" // an error that no fault explains
	classCrash     = "crash"   // the process that ran the schedule did not live to its end
)

func classify(err error) string {
	var wrong *testset.Violation
	var stuck *hang
	var left *leak
	switch {
	case err == nil:
		return ""
	case errors.As(err, &wrong):
		return wrong.Class
	case errors.As(err, &stuck):
		return classHang
	case errors.As(err, &left):
		return classLeak
	}
	return classFailure
}

// The schedules of one process run one after another in one bubble, since nats.go shares its timers between all
// connections of a process; so the test starts itself once for every processor, and gives out seeds on stdin.
const (
	scheduleEnv    = "JETBATCH_CHAOS_SCHEDULES" // how many batches each takes
	outcomePrefix  = "CHAOS "
	scheduleWithin = 5 * time.Minute // of real time; one takes seconds
)

// runSchedules runs schedules in processes of the test binary exe and yields their outcomes, until ctx ends or the
// caller has seen enough.
func runSchedules(ctx context.Context, exe string, first uint64, schedules, batches int) iter.Seq[outcome] {
	return func(yield func(outcome) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		seeds, outcomes := make(chan uint64), make(chan outcome)
		var runners sync.WaitGroup
		defer runners.Wait()
		runners.Go(func() {
			defer close(seeds)
			for seed := first; seed < first+uint64(schedules); seed++ {
				select {
				case seeds <- seed:
				case <-ctx.Done():
					return
				}
			}
		})
		var workers sync.WaitGroup
		for range min(runtime.GOMAXPROCS(0), schedules) {
			workers.Go(func() {
				for seed := range seeds {
					runProcess(ctx, exe, batches, seed, seeds, outcomes)
				}
			})
		}
		runners.Go(func() {
			workers.Wait()
			close(outcomes)
		})
		for o := range outcomes {
			if !yield(o) {
				break
			}
		}
		cancel()
		for range outcomes { // what was under way
		}
	}
}

// runProcess runs one process on seed and then on seeds, until they end or it dies.
func runProcess(ctx context.Context, exe string, batches int, seed uint64, seeds <-chan uint64, outcomes chan<- outcome) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "-test.run=^TestScheduleProcess$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), scheduleEnv+"="+strconv.Itoa(batches))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		outcomes <- outcome{Seed: seed, Class: classCrash, Error: err.Error()}
		return
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	var other []string
	next := func() (o outcome, ok bool) {
		late := time.AfterFunc(scheduleWithin, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) }) // and print all stacks
		defer late.Stop()
		for lines.Scan() {
			if data, found := strings.CutPrefix(lines.Text(), outcomePrefix); found && json.Unmarshal([]byte(data), &o) == nil {
				return o, true
			}
			other = append(other, lines.Text())
		}
		return o, false
	}
	for more := true; more; seed, more = <-seeds {
		if _, err := fmt.Fprintln(in, seed); err != nil {
			break
		}
		o, ok := next()
		if !ok {
			break
		}
		outcomes <- o
		seed = 0
	}
	_ = in.Close() // fails when the process is gone
	_, _ = next()  // what it says at its end
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		outcomes <- outcome{Seed: seed, Class: classCrash, Error: err.Error(), Journal: strings.Join(other, "\n") + stderr.String()}
	}
}

// TestScheduleProcess is the process of runSchedules and not a test.
func TestScheduleProcess(t *testing.T) {
	batches, err := strconv.Atoi(os.Getenv(scheduleEnv))
	if err != nil {
		t.Skip("run by TestInProcess")
	}
	dir := t.TempDir()
	synctest.Test(t, func(*testing.T) {
		var seed uint64
		for {
			if _, err := fmt.Scanln(&seed); err != nil {
				return
			}
			synctest.Wait()
			before, _ := inBubble()
			o := runSchedule(newPlan(seed, batches), filepath.Join(dir, strconv.FormatUint(seed, 10)))
			time.Sleep(time.Second) // of fake time: nats.go looks every 100 ms whether a drained subscription is empty
			synctest.Wait()
			if after, stacks := inBubble(); after > before && o.Class == "" {
				o.Class, o.Error, o.Journal = classLeak, fmt.Sprintf("%d goroutines left", after-before), stacks
			}
			data, err := json.Marshal(o)
			if err != nil {
				panic(err)
			}
			fmt.Printf("%s%s\n", outcomePrefix, data)
		}
	})
}

// inBubble counts the goroutines of the bubble.
func inBubble() (n int, stacks string) {
	buf := make([]byte, 4<<20)
	stacks = string(buf[:runtime.Stack(buf, true)])
	return strings.Count(stacks, ", synctest bubble "), stacks
}

// add counts one schedule.
func (t *tally) add(o *outcome) {
	t.Schedules++
	t.Ranks[strconv.Itoa(o.Ranks)]++
	t.Batches += o.Taken
	t.Together += o.Together
	for what, n := range o.Faults {
		t.Faults[what] += n
	}
	switch o.Class {
	case "":
	case classHang:
		t.Hangs++
	case classLeak:
		t.Leaks++
	case classFailure, classCrash:
		t.Failures++
	default:
		t.Violations[o.Class]++
	}
}

// leak is what a batcher that was stopped left behind.
type leak struct{ what []string }

func (l *leak) Error() string { return fmt.Sprintf("left behind: %q", l.what) }

// runSchedule runs one schedule, inside a bubble, with what it stores in dir.
func runSchedule(p plan, dir string) outcome {
	log := &journal{most: 4000}
	o := outcome{Seed: p.Seed, Ranks: p.Ranks}
	w, err := newWorld(p, dir, log)
	if err == nil {
		t := newTaker(w)
		err = w.schedule(t)
		w.note("schedule ends: %v", err)
		o.Taken, o.Seconds = t.count(), time.Since(w.began).Seconds()
		w.close()
		o.Faults, o.Together = w.faults, w.whole
	}
	if o.Class = classify(err); o.Class != "" {
		o.Error, o.Journal = err.Error(), fmt.Sprintf("plan %s\n%s", p, log)
	}
	if err := os.RemoveAll(dir); err != nil && o.Class == "" {
		o.Class, o.Error = classFailure, err.Error()
	}
	return o
}

// storms is how many times faults begin and end in a schedule.
const storms = 3

// schedule takes the plan's batches through storms with calm after each, stops the batcher, and looks for what is left.
func (w *world) schedule(t taker) error {
	for range w.plan.Coordinators {
		w.spawn("coordinator")
	}
	for range w.plan.Workers {
		w.spawn("worker")
	}
	t.quiet(true)
	if err := t.open(false); err != nil {
		return err
	}
	defer t.close()
	rng, ailing, parting := w.plan.rand(1), w.plan.rand(7), w.plan.rand(8)
	parted := parting.IntN(2 * storms) // the storm of one fault: in half of the schedules there is none
	for i := range storms {
		s, batches := &storm{w: w, t: t, rng: rng, ailing: ailing}, w.plan.Batches*9/10/storms
		var err error
		if i == parted {
			err = w.part(t, parting, batches)
		} else {
			err = s.pass(batches)
		}
		if err == nil {
			s.heal()
			t.quiet(true)
			err = t.run(w.plan.Batches*(i+1)/storms - t.count())
		}
		if err == nil {
			err = w.rest(t)
		}
		if err != nil {
			return err
		}
	}
	return w.finish(t)
}

// widest is the widest window that a plan has by default: of four workers with three slots.
const widest = 2*4*3 + 1

// rest lets everything come to rest and looks at the stores.
func (w *world) rest(t taker) error {
	deadline := time.Now().Add(recovery)
	for {
		time.Sleep(3 * time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), recovery)
		status, err := t.status(ctx)
		if err == nil {
			err = w.atRest(ctx, status)
		}
		cancel()
		if broken := w.checks.breaches(); broken != nil {
			return broken
		}
		var never *testset.Violation
		if err == nil || errors.As(err, &never) {
			return err
		}
		if time.Now().After(deadline) {
			return &testset.Violation{Class: classInvariant, What: err.Error()}
		}
		// What is damaged and not needed yet is found out when the trainer comes there, behind all that is buffered.
		w.note("not at rest yet: %v", err)
		if err := t.run(1 + max(w.plan.Window, widest)/8); err != nil {
			return err
		}
	}
}

// finish stops the batcher; then nothing may be left of it, within the time between two collections.
func (w *world) finish(t taker) error {
	if err := t.stop(); err != nil {
		return err
	}
	for deadline := time.Now().Add(recovery); ; time.Sleep(time.Second) {
		left, err := w.leftovers(context.Background())
		switch {
		case err != nil:
			return err
		case len(left) == 0:
			return w.checks.breaches()
		case time.Now().After(deadline):
			return &leak{left}
		}
	}
}
