package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// maxIdle is how many opened data sets of one kind are kept open without a user.
const maxIdle = 4

// Causes of an opening that was given up.
var (
	errDiscarded = errors.New("nobody waits for this data set any more")
	errNoReturn  = errors.New("open ended its goroutine instead of returning")
)

// pool opens each parameter set of a Kind once per process and shares it.
type pool struct {
	mu      sync.Mutex
	entries map[string]*entry
	idle    []*entry // without users, least recently used first
}

// entry is one parameter set from its opening to its closing. It is in the map until it is discarded or its opening
// fails, and in the idle list while it is in the map and has no users.
type entry struct {
	key       string
	users     int
	discarded bool                    // out of the map; the later of discard and open closes it
	cancel    context.CancelCauseFunc // of the context that it was opened with
	opened    chan struct{}           // closed when inst or err is set
	inst      Instance
	err       error
}

// Acquire returns the instance for params, opening it when no one has; release must be called when it is no longer
// used, and may be called again. Concurrent callers share one opening, which outlives the context of any one of them;
// it is cancelled when the pool has no room for it and no caller waits. An opening that failed is tried again by the
// next Acquire. Parameters that differ in white space only are the same.
func (k *Kind) Acquire(ctx context.Context, params json.RawMessage) (inst Instance, release func(), err error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	p := &k.pool
	key := paramsKey(params)
	p.mu.Lock()
	e := p.entries[key]
	if e == nil {
		// The caller may reuse params, or give up, while the data set is opened for others.
		opening, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		e = &entry{key: key, cancel: cancel, opened: make(chan struct{})}
		if p.entries == nil {
			p.entries = make(map[string]*entry)
		}
		p.entries[key] = e
		go k.open(opening, e, bytes.Clone(params))
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

func paramsKey(params json.RawMessage) string {
	var compact bytes.Buffer
	if json.Compact(&compact, params) != nil {
		return string(params) // open refuses it
	}
	return compact.String()
}

// open runs the author's function and settles e.
func (k *Kind) open(ctx context.Context, e *entry, params json.RawMessage) {
	inst, err := Instance(nil), fmt.Errorf("open data set %s: %w", k.Name, errNoReturn)
	defer func() { // also when the author's function ends the goroutine
		p := &k.pool
		p.mu.Lock()
		e.inst, e.err = inst, err
		if err != nil && !e.discarded {
			// Forgotten before its waiters hear of it, so that the next Acquire tries again.
			p.remove(e)
		}
		unwanted := err == nil && e.discarded
		close(e.opened)
		p.mu.Unlock()
		if err != nil {
			e.cancel(err)
		}
		if unwanted {
			e.close()
		}
	}()
	inst, err = k.callOpen(ctx, params)
}

func (k *Kind) callOpen(ctx context.Context, params json.RawMessage) (inst Instance, err error) {
	defer Recover(&err)
	inst, err = k.OpenFunc(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("open data set %s: %w", k.Name, err)
	}
	return inst, nil
}

// release gives up one use and closes what there is no room for any more.
func (p *pool) release(e *entry) {
	p.mu.Lock()
	e.users--
	if e.users == 0 && p.entries[e.key] == e {
		p.idle = append(p.idle, e)
	}
	var closing []*entry
	for len(p.idle) > maxIdle {
		closing = p.discard(closing, p.idle[0])
	}
	p.mu.Unlock()
	closeAll(closing)
}

// CloseIdle closes every opened data set without a user. Openings without a waiter are cancelled and not waited for:
// what they open is closed at once.
func (k *Kind) CloseIdle() {
	p := &k.pool
	p.mu.Lock()
	var closing []*entry
	for len(p.idle) > 0 {
		closing = p.discard(closing, p.idle[0])
	}
	p.mu.Unlock()
	closeAll(closing)
}

// remove takes e out of the pool; the next Acquire opens another.
func (p *pool) remove(e *entry) {
	delete(p.entries, e.key)
	p.idle = slices.DeleteFunc(p.idle, func(i *entry) bool { return i == e })
}

// discard removes an idle entry and appends it to closing if its opening is over; otherwise the opening closes it.
func (p *pool) discard(closing []*entry, e *entry) []*entry {
	p.remove(e)
	e.discarded = true
	select {
	case <-e.opened:
		return append(closing, e)
	default:
		e.cancel(errDiscarded)
		return closing
	}
}

func closeAll(entries []*entry) {
	for _, e := range entries {
		e.close()
	}
}

// close closes the instance. Nobody is left to hear of an error.
func (e *entry) close() {
	_ = e.inst.Close()
	e.cancel(errDiscarded)
}
