package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

// TestReadersAtEqualPace has four readers take in turns: all is made once, small batches and large ones.
func TestReadersAtEqualPace(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]rowsParams{"small": {N: 300}, "large": {N: 60, Size: 40_000}} {
		t.Run(name, func(t *testing.T) {
			r := newReaders(t, p)
			var all []*follower
			for i := range 4 {
				all = append(all, r.open(fmt.Sprint("r", i)))
			}
			for range batchesOf(all[0].ref) {
				for _, f := range all {
					f.steps(1)
				}
			}
			for _, f := range all {
				f.rest()
			}
			s := all[0].status()
			t.Logf("%d batches were made of %d", r.made.Load(), p.N)
			if made := r.made.Load(); made > int64(p.N)+int64(p.N)/50 || s.Detached != 0 || s.Restarts != 0 {
				t.Errorf("%d batches were made of %d; %+v", made, p.N, s)
			}
		})
	}
}

// TestReadersAtAnyPace has readers take twice as fast as others, or now and then: all of them see all of it.
func TestReadersAtAnyPace(t *testing.T) {
	r := newReaders(t, rowsParams{N: 300})
	fast, slow, odd := r.open("fast"), r.open("slow"), r.open("odd")
	for range 130 {
		fast.steps(2)
		slow.steps(1)
		if rand.IntN(8) == 0 && odd.taken < 240 {
			odd.steps(1 + rand.IntN(20))
		}
	}
	fast.rest()
	slow.rest()
	odd.rest()
}

// TestReadersByTurns has four readers take by chance, within Lag of one another: all is made once.
func TestReadersByTurns(t *testing.T) {
	r := newReaders(t, rowsParams{N: 200})
	var all []*follower
	for i := range 4 {
		all = append(all, r.open(fmt.Sprint("r", i)))
		all[i].steps(1)
	}
	for slowest := 1; slowest < 181; {
		if f := all[rand.IntN(len(all))]; f.taken < slowest+15 && f.taken < 181 {
			f.steps(1)
		}
		slowest = min(all[0].taken, all[1].taken, all[2].taken, all[3].taken)
	}
	s, made := all[0].status(), r.made.Load()
	t.Logf("%d batches were made of 200", made)
	if made > 200+200/20 || s.Detached != 0 {
		t.Errorf("%d batches were made of 200: %+v", made, s)
	}
	for _, f := range all {
		f.rest()
	}
}

// TestReadersRun lets readers run, each as it likes.
func TestReadersRun(t *testing.T) {
	r := newReaders(t, rowsParams{N: 200})
	var running sync.WaitGroup
	var all []*follower
	for i := range 4 {
		all = append(all, r.open(fmt.Sprint("r", i)))
	}
	for _, f := range all {
		f.steps(1)
	}
	for _, f := range all {
		running.Go(func() {
			var err error
			for err == nil {
				if rand.IntN(40) == 0 {
					_, _ = f.Status(t.Context()) // takes a moment
				}
				err = f.step()
			}
			if want := batchesOf(f.ref); err != io.EOF || f.taken != want {
				t.Errorf("%s ended after %d of %d batches: %v", f.name, f.taken, want, err)
			}
		})
	}
	running.Wait()
	t.Logf("%d batches were made of %d, with %d detachments", r.made.Load(), r.p.N, r.statusOf("train").Detached)
}

// TestReaderFallsOutAndComesBack has a reader stand still. The other one is not held up; the first goes on alone from
// where it was, skips nothing, catches up, and goes on with the other.
func TestReaderFallsOutAndComesBack(t *testing.T) {
	r := newReaders(t, rowsParams{N: 300})
	train, monitor := r.open("train"), r.open("monitor")
	monitor.steps(3)
	train.steps(150)
	natstest.Eventually(t, "the reader that stands still is detached", func() bool { return train.status().Detached == 1 })
	if made := r.made.Load(); made > 150+11+24 {
		t.Errorf("%d batches were made for 150, though the readers were to share them", made)
	}
	monitor.steps(20)
	if s := r.statusOf("train__monitor"); s.Phase != schema.PhaseRunning {
		t.Fatalf("it goes on in %+v", s)
	}
	for s := train.status(); len(s.Members) == 2 && !attached(s, "monitor"); s = train.status() {
		if monitor.taken > 160 {
			t.Fatalf("it has caught up, and goes on alone: %+v", s)
		}
		monitor.steps(1)
	}
	natstest.Eventually(t, "its own run is ended", func() bool {
		return r.statusOf("train__monitor").Phase != schema.PhaseRunning
	})
	made := r.made.Load()
	for range 60 {
		train.steps(1)
		for monitor.taken < train.taken {
			monitor.steps(1)
		}
	}
	if again := r.made.Load() - made; again > 60+20 {
		t.Errorf("%d batches were made for 60 that both took", again)
	}
	train.rest()
	monitor.rest()
}

func attached(s schema.Status, name string) bool {
	for _, m := range s.Members {
		if m.Name == name {
			return m.Attached
		}
	}
	return false
}

// TestReaderAsksForAFarState has the second reader begin elsewhere: it goes on alone, and the first one's run stays.
func TestReaderAsksForAFarState(t *testing.T) {
	r := newReaders(t, rowsParams{N: 200})
	first, second := r.open("first"), r.open("second")
	first.steps(5)
	gen := first.status().Gen
	for range 120 {
		step, err := second.ref.Take(t.Context(), second.state)
		if err != nil {
			t.Fatal(err)
		}
		second.state = step.Next
		second.taken++
	}
	second.steps(20)
	first.steps(20)
	if s := first.status(); s.Gen != gen || s.Restarts != 0 {
		t.Errorf("the first one's run was begun again: %+v", s)
	}
	// Back within what the first one holds it is a look-up.
	second.state, second.taken = first.state, first.taken
	second.rest()
	first.rest()
}

// TestReaderMoves moves a reader back and forth within what is held: the others are not moved.
func TestReaderMoves(t *testing.T) {
	r := newReaders(t, rowsParams{N: 100})
	a, b := r.open("a"), r.open("b")
	b.steps(10)
	a.steps(10)
	at, taken := a.state, a.taken
	a.steps(6)
	a.state, a.taken = at, taken
	made := r.made.Load()
	a.steps(6)
	if r.made.Load()-made > 8 {
		t.Errorf("what is held was made again")
	}
	b.rest()
	a.rest()
}

// TestReadersAreToldApart refuses what does not go together.
func TestReadersAreToldApart(t *testing.T) {
	r := newReaders(t, rowsParams{N: 100})
	a := r.open("a")
	a.steps(1)
	for name, c := range map[string]struct {
		change func(*client.Config)
		want   error
	}{
		"other parameters": {func(c *client.Config) { c.Params = rowsParams{N: 7} }, client.ErrSpecMismatch},
		"the same name":    {func(c *client.Config) { c.Reader = "a" }, client.ErrInUse},
		"no name":          {func(c *client.Config) { c.Reader, c.Lag = "", 0 }, client.ErrInUse},
		"a reserved name":  {func(c *client.Config) { c.Reader = "a__b" }, client.ErrBadConfig},
		"a reserved batcher": {func(c *client.Config) {
			c.Name, c.Reader, c.Lag = "train__a", "", 0
		}, client.ErrBadConfig},
		"lag of nobody": {func(c *client.Config) { c.Reader = "" }, client.ErrBadConfig},
		"a world":       {func(c *client.Config) { c.World = &client.World{ID: "w", Size: 1} }, client.ErrBadConfig},
		"a long name":   {func(c *client.Config) { c.Name = strings.Repeat("n", 62) }, client.ErrBadConfig},
	} {
		b, err := client.Open[schema.Batch](t.Context(), r.nc, r.config("b", c.change))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = b.Close()
		}
	}
	a.rest()
}

// TestReaderStops has one reader stop, and start again: the other one goes on all the while. The last one ends the run.
func TestReaderStops(t *testing.T) {
	r := newReaders(t, rowsParams{N: 200})
	a, b := r.open("a"), r.open("b")
	a.steps(5)
	b.steps(5)
	gen := b.status().Gen
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.step(); !errors.Is(err, client.ErrStopped) {
		t.Fatal(err)
	}
	b.steps(10)
	if err := a.Start(t.Context(), a.state); err != nil {
		t.Fatal(err)
	}
	a.steps(10)
	if s := b.status(); s.Gen != gen || s.Phase != schema.PhaseRunning {
		t.Errorf("the run of the other is another: %+v", s)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b.steps(10)
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := r.statusOf("train"); s.Phase != schema.PhaseClosed {
		t.Errorf("the last one has stopped, and the run is %s", s.Phase)
	}
}

// TestReaderIsSuperseded has another process take a reader's name, while it goes with the others and while it is alone.
func TestReaderIsSuperseded(t *testing.T) {
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprint("alone ", alone), func(t *testing.T) {
			r := newReaders(t, rowsParams{N: 200})
			other, old := r.open("other"), r.open("b")
			old.steps(2)
			if alone {
				other.steps(100)
				natstest.Eventually(t, "it is detached", func() bool { return other.status().Detached == 1 })
				old.steps(2)
			}
			young := r.open("b", func(c *client.Config) { c.TakeOver = true })
			young.state, young.taken = old.state, old.taken
			var err error
			for i := 0; err == nil && i < 50; i++ {
				err = old.step()
			}
			if !errors.Is(err, client.ErrSuperseded) {
				t.Fatalf("the old one: %v", err)
			}
			young.rest()
			other.rest()
		})
	}
}

// TestReadersWait has the others wait for the slowest, as they were configured to: not longer than it is there.
func TestReadersWait(t *testing.T) {
	r := newReaders(t, rowsParams{N: 200})
	wait := func(c *client.Config) { c.OnLag = client.LagWait }
	fast, slow := r.open("fast", wait), r.open("slow", wait)
	slow.steps(2)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var err error
	for err == nil {
		var step schema.Step[schema.Batch]
		if step, err = fast.Take(ctx, fast.state); err == nil {
			fast.state = step.Next
			fast.taken++
		}
	}
	named := err != nil && strings.Contains(err.Error(), "reader slow is at batch 3")
	if !errors.Is(err, client.ErrUnavailable) || !named || fast.taken > 27 {
		t.Fatalf("after %d batches: %v", fast.taken, err)
	}
	if s := fast.status(); s.Detached != 0 || s.Spread == 0 || s.Members[s.Slowest].Name != "slow" {
		t.Errorf("%+v", s)
	}
	slow.steps(20)
	fast.steps(10)
	if err := slow.Close(); err != nil {
		t.Fatal(err)
	}
	fast.rest()
}

// TestReadersMeetAnError has a job fail: each of them takes all that is before it, and meets it.
func TestReadersMeetAnError(t *testing.T) {
	r := newReaders(t, rowsParams{N: 60, FailAt: 30})
	inOrder := func(c *client.Config) { c.OnError = client.InOrder }
	a, b := r.open("a", inOrder), r.open("b", inOrder)
	a.steps(1)
	b.steps(1)
	for _, f := range []*follower{a, b} {
		var err error
		for err == nil {
			err = f.step()
		}
		if !errors.Is(err, client.ErrMaterialize) || f.taken != 27 {
			t.Fatalf("%s, after %d batches: %v", f.name, f.taken, err)
		}
	}
	natstest.Eventually(t, "the run has failed for all", func() bool {
		return r.statusOf("train").Phase == schema.PhaseFailed
	})
	if err := a.Start(t.Context(), a.state); err != nil {
		t.Fatal(err)
	}
	if err := a.step(); !errors.Is(err, client.ErrMaterialize) {
		t.Fatalf("started again where it fails: %v", err)
	}
}

// TestReaderThatIsAlone has one reader with a name, and no other: it is a reader as any.
func TestReaderThatIsAlone(t *testing.T) {
	r := newReaders(t, rowsParams{N: 100})
	a := r.open("a")
	a.steps(5)
	at := a.state
	a.steps(60)
	a.state, a.taken = at, 5
	a.rest()
	a.state, a.taken = schema.State{}, 0
	a.rest()
	if s := a.status(); s.Detached != 0 {
		t.Errorf("%+v", s)
	}
	if s := r.statusOf("train__a"); s.Batcher != "" {
		t.Errorf("it went on alone: %+v", s)
	}
}
