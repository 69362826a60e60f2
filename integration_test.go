package jetbatch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// P1: the sequence equals what a single process yields, for any number of workers.
func TestP1OrderAndIdentity(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	p := testset.Params{N: 300, HoleEvery: 17}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	for i := 0; ; i++ {
		if _, err := o.Want(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		o.one(b)
	}
	o.eof(b)
	if s, err := b.Status(within(t)); err != nil || s.Phase != schema.PhaseDone {
		t.Fatalf("status %+v, %v, want phase done", s, err)
	}
	o.eof(b)
	// The end is checked, too: from another state it goes on there.
	again := newOracle(t, p, schema.State{})
	again.take(b, 5)
}

// P1 under the death of every role.
func TestP1SurvivesDeaths(t *testing.T) {
	t.Parallel()
	p := testset.Params{Delay: 2 * time.Millisecond}
	t.Run("worker", func(t *testing.T) {
		t.Parallel()
		c := startCluster(t, 1)
		victim := c.start("worker")
		b := c.open("train", p)
		o := newOracle(t, p, schema.State{})
		o.take(b, 40)
		victim.Kill()
		o.take(b, 100)
		c.start("worker")
		o.take(b, 100)
	})
	t.Run("coordinator", func(t *testing.T) {
		t.Parallel()
		c := startCluster(t, 2)
		second := c.start("coordinator")
		b := c.open("train", p)
		o := newOracle(t, p, schema.State{})
		o.take(b, 40)
		second.Kill() // one of the two is the owner
		o.take(b, 60)
		third := c.start("coordinator")
		o.take(b, 20)
		c.killCoordinators(third)
		o.take(b, 100)
	})
	t.Run("broker", func(t *testing.T) {
		t.Parallel()
		c := startCluster(t, 2)
		b := c.open("train", p)
		o := newOracle(t, p, schema.State{})
		o.take(b, 40)
		c.server.Kill()
		c.startServer()
		o.take(b, 100)
	})
}

// P2: from any state ever handed out the sequence goes on identically, with any number of workers.
func TestP2Resume(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	const n = 24
	p := testset.Params{N: n}
	b := c.open("first", p)
	o := newOracle(t, p, schema.State{})
	states := []schema.State{{}}
	for range n {
		states = append(states, o.one(b).Next)
	}
	o.eof(b)
	if err := b.Stop(within(t)); err != nil {
		t.Fatal(err)
	}
	for workers := 1; workers <= 8; workers++ {
		if workers > 1 {
			c.start("worker")
		}
		for from := workers - 1; from <= n; from += 8 { // every state once over all numbers of workers
			resumed := c.open(fmt.Sprintf("resumed-%d-%d", workers, from), p)
			text, err := states[from].MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			var state schema.State
			if err := state.UnmarshalText(text); err != nil {
				t.Fatal(err)
			}
			o := newOracle(t, p, state)
			o.take(resumed, n-from)
			o.eof(resumed)
			if err := resumed.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// P2: what is held is looked up, what is not is iterated again.
func TestP2Reseat(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	p := testset.Params{}
	b := c.open("train", p, func(cfg *client.Config) { cfg.Window, cfg.Retain = 16, 16 })
	o := newOracle(t, p, schema.State{})
	states := []schema.State{{}}
	for range 200 {
		states = append(states, o.one(b).Next)
	}
	gen := c.generation(t, b)
	for _, at := range []int{195, 190, 200} { // earlier, and later again
		o := newOracle(t, p, states[at])
		o.take(b, 3)
		if now := c.generation(t, b); now != gen {
			t.Fatalf("back to a held state %d: generation %s became %s", at, gen, now)
		}
	}
	newOracle(t, p, states[2]).take(b, 70) // dropped long ago
	if now := c.generation(t, b); now == gen {
		t.Fatal("back to a state that is not held: the generation is the same")
	}
	unknown, err := schema.NewState(testset.Position{I: 1000, Seed: 99}) // never handed out
	if err != nil {
		t.Fatal(err)
	}
	newOracle(t, p, unknown).take(b, 10)
}

func (c *cluster) generation(t *testing.T, b *client.Batcher[schema.Batch]) string {
	t.Helper()
	s, err := b.Status(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return s.Gen
}

// P2: stopped today, resumed tomorrow; stopping twice is fine.
func TestP2StopTodayResumeTomorrow(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	p := testset.Params{}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 30)
	for range 2 {
		if err := b.Stop(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Take(within(t), o.State); !errors.Is(err, client.ErrStopped) {
		t.Fatalf("Take after Stop: %v, want ErrStopped", err)
	}
	if err := b.Start(within(t), o.State); err != nil {
		t.Fatal(err)
	}
	o.take(b, 10)
	if err := b.Stop(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	o.take(c.open("train", p), 30)
}

// P3: an error on a worker or in the iterator reaches Take with its cause, place and stack.
func TestP3ErrorsReachTake(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	c.start("worker")
	for _, tt := range []struct {
		name   string
		params testset.Params
		at     int // batches before it
		is     error
		text   string
		stack  string
	}{
		{name: "iterator", params: testset.Params{IterFailAt: 6}, at: 5, text: "shard 6 is not listed"},
		{name: "iterator-stalled", params: testset.Params{StallAt: 4}, at: 3, is: client.ErrIteratorStalled},
		{name: "worker", params: testset.Params{FailAt: 8}, at: 7, text: "shard 8 is corrupt"},
		{name: "panic", params: testset.Params{PanicAt: 3}, at: 2, text: "bad index at 3", stack: "integration"},
		{name: "eof-is-not-the-end", params: testset.Params{EOFAt: 4}, at: 3, text: "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := &cluster{t: t, addr: c.addr}
			b := c.open(tt.name, tt.params, func(cfg *client.Config) { cfg.OnError = client.InOrder })
			o := newOracle(t, testset.Params{}, schema.State{})
			o.take(b, tt.at)
			_, err := b.Take(within(t), o.State)
			var job *client.JobError
			if !errors.As(err, &job) {
				t.Fatalf("Take: %v, want a JobError", err)
			}
			if errors.Is(err, io.EOF) || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("Take: %v, want %v and %q", err, tt.is, tt.text)
			}
			if job.Seq != uint64(tt.at+1) || job.Batcher != tt.name || job.Dataset != "numbers" {
				t.Fatalf("error of %s/%s seq %d, want seq %d", job.Dataset, job.Batcher, job.Seq, tt.at+1)
			}
			if tt.name == "panic" && !strings.Contains(job.Stack, "Materialize") {
				t.Fatalf("no stack of Materialize: %q", job.Stack)
			}
			if _, again := b.Take(within(t), o.State); !errors.As(again, &job) {
				t.Fatalf("Take again: %v, want the same error", again)
			}
			eventually(t, "the batcher is failed", func() bool {
				s, err := b.Status(within(t))
				return err == nil && s.Phase == schema.PhaseFailed && s.Error != nil
			})
			if err := b.Start(within(t), schema.State{}); err != nil {
				t.Fatal(err)
			}
			newOracle(t, testset.Params{}, schema.State{}).take(b, tt.at)
		})
	}
}

// P3: a job that kills every worker that runs it is an error, not a crash loop, and convicts nobody else.
func TestP3PoisonJob(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 0)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for range 2 { // what restart: always does in a deployment
		w := c.start("worker")
		go func() {
			for {
				<-w.Ended()
				select {
				case <-stop:
					return
				default:
					w = c.start("worker")
				}
			}
		}()
	}
	p := testset.Params{ExitAt: 5}
	b := c.open("poison", p, func(cfg *client.Config) { cfg.OnError = client.InOrder })
	o := newOracle(t, testset.Params{}, schema.State{})
	o.take(b, 4)
	_, err := b.Take(within(t), o.State)
	if !errors.Is(err, client.ErrPoisonJob) {
		t.Fatalf("Take: %v, want ErrPoisonJob", err)
	}
}

// P3: a wait that ends says what it waited for.
func TestP3WaitsAreNamed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 0)
	p := testset.Params{N: 10}
	b := c.open("train", p)
	ctx, cancel := context.WithTimeout(t.Context(), waitBeforeWorkers)
	defer cancel()
	_, err := b.Take(ctx, schema.State{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no worker") {
		t.Fatalf("Take without a worker: %v, want a deadline that names the missing worker", err)
	}
	s, err := b.Status(within(t))
	if err != nil || s.Workers != 0 || !strings.Contains(s.Waiting, "no worker") {
		t.Fatalf("status %+v, %v, want it to wait for a worker", s, err)
	}
	c.start("worker")
	o := newOracle(t, p, schema.State{})
	o.take(b, 10)
	o.eof(b)
}

// Bad input is a typed error that loses nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{N: 20}
	b := c.open("good", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 5)
	for _, name := range []string{"", "a.b", "a*", "a>", "a b", strings.Repeat("x", 65)} {
		if _, err := c.tryOpen(name, p); !errors.Is(err, client.ErrBadConfig) {
			t.Errorf("name %q: %v, want ErrBadConfig", name, err)
		}
	}
	_, err := c.tryOpen("other", p, func(cfg *client.Config) { cfg.Dataset = "letters" })
	if !errors.Is(err, client.ErrUnknownDataset) {
		t.Errorf("unknown data set: %v", err)
	}
	_, err = c.tryOpen("other", p, func(cfg *client.Config) { cfg.Params = map[string]any{"n": 3, "colour": "red"} })
	if !errors.Is(err, client.ErrBadParams) || !strings.Contains(err.Error(), "colour") {
		t.Errorf("unknown parameter: %v", err)
	}
	for _, state := range []schema.State{
		{Dataset: "letters", Version: 1, Data: o.State.Data},
		{Dataset: "numbers", Version: 2, Data: o.State.Data},
		{Dataset: "numbers", Version: 1, Data: []byte{0xc1, 0xff}},
	} {
		other := c.open(fmt.Sprintf("state-%s-%d-%d", state.Dataset, state.Version, len(state.Data)), p)
		if _, err := other.Take(within(t), state); !errors.Is(err, client.ErrWrongState) {
			t.Errorf("state %v: %v, want ErrWrongState", state, err)
		}
	}
	other := c.open("large", p)
	if _, err := other.Take(within(t), schema.State{Data: make([]byte, schema.MaxState+1)}); !errors.Is(err, client.ErrStateTooLarge) {
		t.Errorf("large state: %v, want ErrStateTooLarge", err)
	}
	for range 50 { // nobody understands these, nobody falls over them
		for _, subject := range []string{"jetbatch.coordinator.seat", "jetbatch.reader.good", "jetbatch.report.good", "jetbatch.worker.x", "jetbatch.lane.good", "jetbatch.notice.good"} {
			if err := c.connect().Publish(subject, []byte("\xff{")); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.take(b, 15)
	o.eof(b)
}
