package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// maxIdle is how many opened data sets of one kind are kept open without a user.
const maxIdle = 4

// errDiscarded is the cause of an opening that was given up.
var errDiscarded = errors.New("nobody waits for this data set any more")

// pool opens each parameter set of a Kind once per process and shares it.
type pool struct {
	mu      sync.Mutex
	entries map[string]*entry
	idle    []*entry // without users, least recently used first
}

// entry is one parameter set from its opening to its closing. It is in the map until it is discarded or replaced, or
// its opening fails, and in the idle list while it is in the map and has no users.
type entry struct {
	key       string
	users     int
	discarded bool                    // out of the map, without users; the later of discard and open closes it
	cancel    context.CancelCauseFunc // of the context that it was opened with
	opened    chan struct{}           // closed when inst or err is set
	inst      *Opened
	err       error
	since     time.Time     // when the last opening began that found the data so
	check     chan struct{} // held by the Reopen that opens the data set anew
}

// Acquire returns the instance for params, opening it when no one has; release must be called when it is no longer
// used, and may be called again. Concurrent callers share one opening, which outlives the context of any one of them;
// it is cancelled when the pool has no room for it and no caller waits. An opening that failed is tried again by the
// next Acquire. Parameters that differ in white space only are the same.
func (k *Kind) Acquire(ctx context.Context, params json.RawMessage) (inst *Opened, release func(), err error) {
	e, release, err := k.acquire(ctx, params)
	if err != nil {
		return nil, nil, err
	}
	return e.inst, release, nil
}

func (k *Kind) acquire(ctx context.Context, params json.RawMessage) (e *entry, release func(), err error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	p := &k.pool
	key := paramsKey(params)
	p.mu.Lock()
	e = p.entries[key]
	if e == nil {
		e = k.begin(ctx, key, params)
		if p.entries == nil {
			p.entries = make(map[string]*entry)
		}
		p.entries[key] = e
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
	return e, release, nil
}

// begin begins to open an entry that is in no table yet.
func (k *Kind) begin(ctx context.Context, key string, params json.RawMessage) *entry {
	// The caller may reuse params, or give up, while the data set is opened for others.
	opening, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	e := &entry{key: key, cancel: cancel, opened: make(chan struct{}), since: time.Now(), check: make(chan struct{}, 1)}
	go k.open(opening, e, bytes.Clone(params))
	return e
}

// Reopen is Acquire that makes sure that the data are still what the instance was opened on: one that was opened before
// the call is held against a new opening, and replaced where that has another origin. Those who use the old one keep
// it. Concurrent callers share one new opening. A data set without a fingerprint says nothing of its data, so that its
// instance is returned as it is.
func (k *Kind) Reopen(ctx context.Context, params json.RawMessage) (inst *Opened, release func(), err error) {
	asked := time.Now()
	for {
		e, release, err := k.acquire(ctx, params)
		if err != nil {
			return nil, nil, err
		}
		if e.inst.Origin.Data == "" {
			return e.inst, release, nil
		}
		select {
		case e.check <- struct{}{}:
		case <-ctx.Done():
			release()
			return nil, nil, context.Cause(ctx)
		}
		kept, err := k.compare(ctx, e, params, asked)
		<-e.check
		if kept && err == nil {
			return e.inst, release, nil
		}
		release()
		if err != nil {
			return nil, nil, err
		}
	}
}

// compare reports whether e is in the pool and opened on the data as they were at asked or later; else another entry
// is, or none.
func (k *Kind) compare(ctx context.Context, e *entry, params json.RawMessage, asked time.Time) (kept bool, err error) {
	p := &k.pool
	p.mu.Lock()
	current := p.entries[e.key] == e
	fresh := !e.since.Before(asked)
	p.mu.Unlock()
	if !current || fresh {
		return current, nil
	}
	other := k.begin(ctx, e.key, params)
	select {
	case <-other.opened:
	case <-ctx.Done():
		p.mu.Lock()
		closing := p.discard(nil, other)
		p.mu.Unlock()
		closeAll(closing)
		return false, context.Cause(ctx)
	}
	if other.err != nil {
		return false, other.err
	}
	p.mu.Lock()
	if other.inst.Origin.Digest == e.inst.Origin.Digest {
		e.since = other.since
		closing := p.discard(nil, other)
		p.mu.Unlock()
		closeAll(closing)
		return true, nil
	}
	defer p.mu.Unlock()
	p.entries[e.key] = other
	p.idle = append(p.idle, other)
	return false, nil
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
	inst, err := (*Opened)(nil), fmt.Errorf("open data set %s: %w", k.Name, ErrNoReturn)
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

func (k *Kind) callOpen(ctx context.Context, params json.RawMessage) (*Opened, error) {
	inst, err := k.callAuthor(ctx, params)
	if err != nil {
		return nil, err
	}
	origin, err := k.OriginOf(ctx, inst, params)
	if err != nil {
		_ = inst.Close() // the error that matters is the one before
		return nil, fmt.Errorf("open data set %s: %w", k.Name, err)
	}
	return &Opened{inst, origin}, nil
}

func (k *Kind) callAuthor(ctx context.Context, params json.RawMessage) (inst Instance, err error) {
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
	var closing []*entry
	switch {
	case e.users > 0:
	case p.entries[e.key] == e:
		p.idle = append(p.idle, e)
	case e.err == nil: // it was replaced
		closing = p.discard(closing, e)
	}
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
	if p.entries[e.key] == e {
		delete(p.entries, e.key)
	}
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
