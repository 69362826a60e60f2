package embedded_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

// roles are readers on a server with a worker and coordinators of which the test kills some.
type roles struct {
	readers
	srv          *natstest.Server
	running      sync.WaitGroup
	coordinators map[string]*nats.Conn // connections of theirs
}

func newRoles(t *testing.T, p rowsParams, options ...natstest.Option) *roles {
	t.Helper()
	t.Parallel()
	r := &roles{
		readers: readers{t: t, p: p}, srv: natstest.RunInProcess(t, options...), coordinators: make(map[string]*nats.Conn),
	}
	r.nc = r.srv.Connect()
	t.Cleanup(r.running.Wait)
	r.coordinate("c1")
	w, err := worker.New(r.srv.Connect(), worker.Config{Slots: 2, Logger: slog.New(slog.DiscardHandler)},
		countedDefinition(&r.made))
	if err != nil {
		t.Fatal(err)
	}
	r.run(w.Run)
	return r
}

// run runs a role until the test ends.
func (r *roles) run(role func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	r.running.Go(func() { _ = role(ctx) }) // it fails when its connection is cut, as the test wants
}

// coordinate runs a coordinator.
func (r *roles) coordinate(name string) {
	r.t.Helper()
	nc := r.srv.Connect()
	c, err := coordinator.New(nc, coordinator.Config{Name: name, Logger: slog.New(slog.DiscardHandler)},
		countedDefinition(&r.made))
	if err != nil {
		r.t.Fatal(err)
	}
	r.run(c.Run)
	r.coordinators[name] = nc
}

// killOwner cuts off the coordinator that has the batcher, and runs another.
func (r *roles) killOwner(successor string) {
	r.t.Helper()
	r.coordinate(successor)
	owner := r.statusOf("train").Owner
	r.coordinators[owner].Close()
}

// TestReadersAndTheirCoordinator kills the coordinator while a reader falls out, and while it comes back.
func TestReadersAndTheirCoordinator(t *testing.T) {
	r := newRoles(t, rowsParams{N: 240})
	a, b := r.open("a"), r.open("b")
	b.steps(2)
	a.steps(20)
	var running sync.WaitGroup
	var errs [2]error
	running.Go(func() { errs[0] = a.try(60) }) // b falls out somewhere on the way
	r.killOwner("c2")
	running.Wait()
	b.steps(30)
	running.Go(func() { errs[1] = b.try(80) }) // and comes back, or asks to
	r.killOwner("c3")
	running.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for a.taken < 200 || b.taken < 200 {
		if a.taken <= b.taken {
			a.steps(1)
		} else {
			b.steps(1)
		}
	}
	a.rest()
	b.rest()
}

// TestReadersAndALostStore deletes what is prepared while readers are apart.
func TestReadersAndALostStore(t *testing.T) {
	r := newRoles(t, rowsParams{N: 120})
	a, b := r.open("a"), r.open("b")
	a.steps(16)
	b.steps(2)
	_, js := r.srv.JetStream()
	if err := js.DeleteStream(t.Context(), topology.ResultsStream("train", a.status().Gen)); err != nil {
		t.Fatal(err)
	}
	a.steps(10)
	b.rest()
	a.rest()
}

// TestReadersAndAFullStore has a server with little memory and a large lag: the one that stands still is let go before
// the other one is held up.
func TestReadersAndAFullStore(t *testing.T) {
	r := newRoles(t, rowsParams{N: 90, Size: 40_000}, func(o *server.Options) { o.JetStreamMaxMemory = 24 << 20 })
	far := func(c *client.Config) { c.Lag, c.NoDirect = 1000, true }
	a, b := r.open("a", far), r.open("b", far)
	b.steps(2)
	a.rest()
	if s := a.status(); s.Detached == 0 {
		t.Errorf("the store was not full: %+v", s)
	}
	b.rest()
}

// TestReaderIsCutOff cuts a reader's connection for good: the other goes on, and so does who takes its place.
func TestReaderIsCutOff(t *testing.T) {
	r := newRoles(t, rowsParams{N: 100})
	a := r.open("a")
	nc := r.srv.Connect()
	b, err := client.Open[schema.Batch](t.Context(), nc, r.config("b"))
	if err != nil {
		t.Fatal(err)
	}
	a.steps(5)
	step, err := b.Take(t.Context(), schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	_ = b.Close()
	a.steps(10)
	natstest.Eventually(t, "the lease is over", func() bool {
		b, err := client.Open[schema.Batch](t.Context(), r.nc, r.config("b"))
		if err != nil {
			return false
		}
		_ = b.Close()
		return true
	})
	young := r.open("b")
	young.state, young.taken = step.Next, 1
	young.rest()
	a.rest()
}
