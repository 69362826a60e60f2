package jetbatch_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// dataFile makes a file of data with so many recordings.
func dataFile(t *testing.T, recordings string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	rewrite(t, path, recordings)
	return path
}

func rewrite(t *testing.T, path, recordings string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(recordings), 0o644); err != nil {
		t.Fatal(err)
	}
}

// refuses checks that a state is refused before a batch is taken, with what differs.
func refuses(t *testing.T, b *client.Batcher[schema.Batch], state schema.State, differences ...string) {
	t.Helper()
	_, err := b.Take(within(t), state)
	var origin *client.OriginError
	if !errors.As(err, &origin) || !errors.Is(err, client.ErrWrongData) {
		t.Fatalf("Take: %v, want an OriginError", err)
	}
	if !slices.Equal(origin.Differences, differences) || !origin.State.Equal(state) {
		t.Errorf("%q, want %q", origin.Differences, differences)
	}
	if s, err := b.Status(within(t)); err != nil || s.Gen != "" {
		t.Errorf("status %+v, %v", s, err)
	}
}

// P9: a state is refused where parameters or data are other than its own, by name, unless the trainer accepts the
// change.
func TestP9StateOfOtherData(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{N: 40, Data: dataFile(t, "93")}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 5)
	state := o.State
	if state.Origin == "" {
		t.Fatal("a state that was handed out has no origin")
	}
	o.one(b) // as that of the reference

	t.Run("another folder", func(t *testing.T) {
		t.Parallel()
		elsewhere := p
		elsewhere.Data = dataFile(t, "12")
		refuses(t, c.open("folder", elsewhere), state, "recordings was 93 and is 12")
	})
	t.Run("the same data in another folder", func(t *testing.T) {
		t.Parallel()
		elsewhere := p
		elsewhere.Data = dataFile(t, "93")
		o := newOracle(t, elsewhere, state)
		o.take(c.open("copy", elsewhere), 5)
	})
	t.Run("other parameters", func(t *testing.T) {
		t.Parallel()
		other := p
		other.N, other.Salt, other.Delay = 41, 7, 1
		refuses(t, c.open("params", other), state, "parameter n was 40 and is 41", "parameter salt was not set and is 7")
	})
	t.Run("train and validation share a state file", func(t *testing.T) {
		t.Parallel()
		train, validation := c.open("split-train", testset.Params{Salt: 1}), c.open("split-validation", testset.Params{Salt: 2})
		step, err := train.Take(within(t), schema.State{})
		if err != nil {
			t.Fatal(err)
		}
		first, err := validation.Take(within(t), schema.State{})
		if err != nil || !first.Next.Equal(step.Next) {
			t.Fatalf("%v, %v: the states are to be the same position", first.Next, err)
		}
		_, err = validation.Take(within(t), step.Next) // what the reader is at, but for the origin
		var origin *client.OriginError
		if !errors.As(err, &origin) || !slices.Equal(origin.Differences, []string{"parameter salt was 1 and is 2"}) {
			t.Fatalf("%v", err)
		}
		if _, err := validation.Take(within(t), first.Next); err != nil {
			t.Errorf("after the refusal: %v", err)
		}
	})
	t.Run("accepted", func(t *testing.T) {
		t.Parallel()
		other := p
		other.Data = dataFile(t, "96")
		b := c.open("accepted", other, func(cfg *client.Config) { cfg.AcceptChange = true })
		from := state
		from.Origin = "" // to the reference
		o := newOracle(t, other, from)
		want, err := o.Want()
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.Take(within(t), state)
		if err != nil || !got.Next.Equal(want.Next) || got.Next.Origin != want.Next.Origin || got.Next.Origin == state.Origin {
			t.Fatalf("%+v, %v; want %+v", got, err, want)
		}
		if s, err := b.Status(within(t)); err != nil || s.Accepted != "recordings was 93 and is 96" {
			t.Errorf("status %+v, %v", s, err)
		}
		o.State = got.Next
		o.take(b, 5)
	})
	t.Run("a state of the form before", func(t *testing.T) {
		t.Parallel()
		from := state
		from.Origin = ""
		o := newOracle(t, p, from)
		o.take(c.open("before", p), 5)
	})
}

// P9: data that grew while a trainer was away are found out by the next, whether the batcher lives or not.
func TestP9DataGrew(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{N: 40, Data: dataFile(t, "93")}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 5)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again := c.open("train", p)
	o.take(again, 5)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, p.Data, "96")
	grown := c.open("train", p)
	refuses(t, grown, o.State, "recordings was 93 and is 96")
	grownOracle := newOracle(t, p, schema.State{})
	grownOracle.take(grown, 10)
}

// P9: data that are rewritten at the same path are read anew by a new batcher, also by a coordinator and a worker that
// have opened them before, and batches do not depend on the worker.
func TestP9DataRewritten(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{Data: dataFile(t, "93"), Delay: 1e6}
	before := c.open("before", p)
	old := newOracle(t, p, schema.State{})
	old.take(before, 20)
	rewrite(t, p.Data, "94")
	c.start("worker")
	after := c.open("after", p)
	o := newOracle(t, p, schema.State{})
	o.take(after, 60)
	eventually(t, "the new worker says that it has other data than the run before", func() bool {
		old.take(before, 4) // which goes on with what it was begun on; the new worker looks when it is given a job of it
		reply, err := c.connect().Request("jetbatch.coordinator.overview", nil, 5e9)
		return err == nil && strings.Contains(string(reply.Data), "has other data of numbers than the run: recordings was 93 and is 94")
	})
}

// P9: a coordinator with other data does not feed a run that it takes over.
func TestP9TakeoverWithOtherData(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{Data: dataFile(t, "93")}
	b := c.open("train", p, func(cfg *client.Config) { cfg.Window = 4 })
	o := newOracle(t, p, schema.State{})
	o.take(b, 10)
	rewrite(t, p.Data, "96")
	first := c.coordinators[0]
	c.start("coordinator")
	first.Kill()
	eventually(t, "the coordinator says that its data are others", func() bool {
		s, err := b.Status(within(t))
		return err == nil && strings.Contains(s.Waiting, "has other data than the run: recordings was 93 and is 96")
	})
	rewrite(t, p.Data, "93")
	o.take(b, 50)
}
