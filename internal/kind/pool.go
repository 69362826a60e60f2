package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// maxIdle is how many opened data sets of one kind are kept open while nobody uses them.
const maxIdle = 4

// pool opens each parameter set of a Kind once per process and shares it.
type pool struct {
	mu      sync.Mutex
	entries map[string]*entry
	idle    []*entry // least recently used first
}

type entry struct {
	key    string
	users  int
	opened chan struct{} // closed when instance or err is set
	inst   Instance
	err    error
}

// Acquire returns the instance for params, opening it when no one has; release must be called once when it
// is no longer used. Concurrent callers share one opening, which outlives the context of any one of them.
func (k *Kind) Acquire(ctx context.Context, params json.RawMessage) (inst Instance, release func(), err error) {
	p := &k.pool
	key := string(params)
	p.mu.Lock()
	e := p.entries[key]
	if e == nil {
		e = &entry{key: key, opened: make(chan struct{})}
		if p.entries == nil {
			p.entries = make(map[string]*entry)
		}
		p.entries[key] = e
		go func() {
			e.inst, e.err = k.open(context.WithoutCancel(ctx), params)
			close(e.opened)
		}()
	}
	e.users++
	p.idle = slices.DeleteFunc(p.idle, func(i *entry) bool { return i == e })
	p.mu.Unlock()

	release = sync.OnceFunc(func() { p.release(e) })
	select {
	case <-e.opened:
	case <-ctx.Done():
		release()
		return nil, nil, context.Cause(ctx)
	}
	if e.err != nil {
		release()
		return nil, nil, e.err
	}
	return e.inst, release, nil
}

func (k *Kind) open(ctx context.Context, params json.RawMessage) (inst Instance, err error) {
	defer Recover(&err)
	inst, err = k.OpenFunc(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("open data set %s: %w", k.Name, err)
	}
	return inst, nil
}

// release gives up one use. A failed opening is forgotten at once, so that the next Acquire tries again.
func (p *pool) release(e *entry) {
	p.mu.Lock()
	e.users--
	var closing []*entry
	select {
	case <-e.opened:
		if e.err != nil {
			if p.entries[e.key] == e {
				delete(p.entries, e.key)
			}
		} else if e.users == 0 {
			p.idle = append(p.idle, e)
		}
	default: // still opening and its caller gave up: whoever acquires it next uses it
		if e.users == 0 {
			p.idle = append(p.idle, e)
		}
	}
	for len(p.idle) > maxIdle {
		closing = append(closing, p.idle[0])
		delete(p.entries, p.idle[0].key)
		p.idle = p.idle[1:]
	}
	p.mu.Unlock()
	for _, c := range closing {
		c.close()
	}
}

// CloseIdle closes every opened data set that nobody uses.
func (k *Kind) CloseIdle() {
	p := &k.pool
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	for _, e := range idle {
		delete(p.entries, e.key)
	}
	p.mu.Unlock()
	for _, e := range idle {
		e.close()
	}
}

// close closes the instance once it is open. Nobody is left to hear of an error.
func (e *entry) close() {
	<-e.opened
	if e.inst != nil {
		_ = e.inst.Close()
	}
}
