package cli

import (
	"context"
	"sync"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

// gate holds jobs on their workers while it is shut, so that the demo can kill a worker that surely has one. The zero
// gate is open.
type gate struct {
	mu     sync.Mutex
	shut   bool
	opened chan struct{} // closed when the gate opens again
	held   int           // jobs held now
	ended  int           // jobs whose context ended while they were held
	moved  chan struct{} // closed and replaced whenever held or ended changes
}

// pass returns at once while the gate is open, else when it opens or ctx ends.
func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	if !g.shut {
		g.mu.Unlock()
		return nil
	}
	opened := g.opened
	g.change(func() { g.held++ })
	g.mu.Unlock()
	var err error
	select {
	case <-opened:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.change(func() {
		g.held--
		if err != nil {
			g.ended++
		}
	})
	return err
}

// change must be called with the lock.
func (g *gate) change(f func()) {
	f()
	if g.moved != nil {
		close(g.moved)
		g.moved = nil
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut {
		g.shut, g.opened = true, make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.shut = false
		close(g.opened)
	}
}

// wait returns true when condition holds, false when ctx ends first.
func (g *gate) wait(ctx context.Context, condition func(held, ended int) bool) bool {
	for {
		g.mu.Lock()
		if condition(g.held, g.ended) {
			g.mu.Unlock()
			return true
		}
		if g.moved == nil {
			g.moved = make(chan struct{})
		}
		moved := g.moved
		g.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// gated is the onda data set behind a gate.
type gated struct {
	*onda.Dataset
	gate *gate
}

// Materialize waits for the gate first.
func (d *gated) Materialize(ctx context.Context, job onda.Job) (schema.Batch, error) {
	if err := d.gate.pass(ctx); err != nil {
		return nil, err
	}
	return d.Dataset.Materialize(ctx, job)
}

func gatedOnda(g *gate) dataset.Definition {
	return dataset.Define(onda.Name, func(ctx context.Context, p onda.Params) (*gated, error) {
		ds, err := onda.New(ctx, p, onda.Config{})
		if err != nil {
			return nil, err
		}
		return &gated{ds, g}, nil
	})
}
