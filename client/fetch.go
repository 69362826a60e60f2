package client

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/life"
	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	// Runs of payloads are fetched three at a time, so that the connections are busy between them, too.
	fetchers = 3
	// So many bytes of small payloads of one worker are asked for at once: a round trip each would be most of the time.
	runBytes = 1 << 20
)

// payloads gets those payloads of one generation that are stored apart from their records.
type payloads struct {
	in *intake
	s  *session

	claimNow hint          // received by claims
	places   chan struct{} // holds one token for every run that is being fetched
}

// claims has payloads fetched, lowest first, as long as they fit.
func (p *payloads) claims() {
	for {
		select {
		case <-p.s.ctx.Done():
			return
		case p.places <- struct{}{}: // first, or a lower one could come meanwhile
		}
		run := p.claim()
		for len(run) == 0 {
			select {
			case <-p.s.ctx.Done():
				return
			case <-p.claimNow:
			}
			run = p.claim()
		}
		p.in.tasks.Go(func() {
			defer func() { <-p.places }()
			for _, entry := range p.together(run) {
				p.complete(entry)
			}
		})
	}
}

func (p *payloads) claim() (run []reorder.Entry[arrival]) {
	p.in.line.within(p.s, func() { run = p.in.line.buf.Claim(p.in.cfg.WindowBytes, runBytes) })
	return run
}

// together fetches payloads that one worker keeps in one go, as far as that goes, and returns the records that are
// left.
func (p *payloads) together(run []reorder.Entry[arrival]) (left []reorder.Entry[arrival]) {
	f := p.in.fetcher
	if len(run) == 1 || f.off || f.avoided.has(run[0].Result.Worker, time.Now()) {
		return run
	}
	results := make([]*wire.Result, len(run))
	for i := range run {
		results[i] = run[i].Result
	}
	whole := 0 // so many of the first are as they should be
	err := f.fetch(p.s.ctx, results, func(i int, got payload) {
		whole++
		p.fill(run[i], got, true)
	})
	if errors.Is(err, os.ErrDeadlineExceeded) && p.s.ctx.Err() == nil {
		p.stalled(run[whole].Result, err) // or the next would wait for as long
	}
	return run[whole:] // each is tried alone, which tells why
}

// stalled has a worker that was reached, and did not send all, left alone for a while.
func (p *payloads) stalled(res *wire.Result, err error) {
	p.in.fetcher.avoided.add(res.Worker, stallAvoid, time.Now())
	p.in.cfg.Logger.Warn("payload not fetched from its worker", "worker", res.Worker, "seq", res.Seq, "error", err)
}

// complete fetches the payload of one record, or drops it, so that it is looked for again.
func (p *payloads) complete(entry reorder.Entry[arrival]) {
	res := entry.Result
	got, direct, err := p.obtain(res)
	if err == nil && p.s.ctx.Err() == nil {
		p.fill(entry, got, direct)
		return
	}
	got.release()
	if p.s.ctx.Err() == nil {
		p.replace(res, err)
	}
}

// fill puts a payload into its place.
func (p *payloads) fill(entry reorder.Entry[arrival], got payload, direct bool) {
	l, kept := p.in.line, false
	value := entry.Value
	value.payload, value.direct, value.arrived = got, direct, time.Now()
	l.within(p.s, func() {
		if direct {
			l.tally.direct++
		} else {
			l.tally.stored++
		}
		kept = l.buf.Fill(entry.Result, value)
	})
	if !kept {
		got.release()
		return
	}
	l.changed.tell()
}

// obtain gets a payload, directly from its worker or from the store.
func (p *payloads) obtain(res *wire.Result) (got payload, direct bool, err error) {
	var missed error // why the worker's memory did not do
	if res.Direct != nil {
		if got, missed = p.direct(res); missed == nil {
			return got, true, nil
		}
	}
	got = p.in.buffers.get(int(res.Size))
	if err := p.s.store.download(p.s.ctx, res, got.bytes); err != nil {
		return got, false, errors.Join(err, missed)
	}
	if sum := wire.Sum(got.bytes); sum != res.Digest {
		return got, false, fmt.Errorf("batch %d: digest %v, announced %v", res.Seq, sum, res.Digest)
	}
	return got, false, nil
}

// direct fetches a payload from the worker that keeps it. If that fails and the worker lives, the worker is asked to
// store the payload; after any error the caller looks in the store next.
func (p *payloads) direct(res *wire.Result) (got payload, err error) {
	f, log := p.in.fetcher, p.in.cfg.Logger
	var avoid time.Duration
	if f.off {
		avoid = mostAvoid
	} else if !f.avoided.has(res.Worker, time.Now()) {
		err := f.fetch(p.s.ctx, []*wire.Result{res}, func(_ int, p payload) { got = p })
		switch {
		case err == nil || p.s.ctx.Err() != nil:
			return got, err
		case errors.Is(err, errNotKept):
			return got, err // the worker has stored it, or dropped it
		case errors.Is(err, errUnreachable):
			avoid = f.avoided.double(res.Worker, time.Now())
			log.Warn("large batches of a worker come through NATS", "worker", res.Worker, "address", res.Direct.Address, "for",
				avoid, "error", err)
		default:
			p.stalled(res, err)
		}
	}
	return got, cmp.Or(p.in.uploads.ask(p.s.ctx, res, avoid), errStored)
}

// replace drops a record whose payload cannot be had. If another attempt's record has taken its place, that one is
// taken in. If the record is still there and the payload nowhere, the batch is made again. Any other contradiction is a
// doubt once it is the head's.
func (p *payloads) replace(res *wire.Result, err error) {
	l := p.in.line
	if !l.within(p.s, func() { l.buf.Forget(res) }) {
		return
	}
	stored, readErr := p.s.store.record(p.s.ctx, res.Seq)
	switch {
	case readErr == nil && stored.result.Attempt != res.Attempt:
		p.s.arrive(stored)
	case readErr == nil && errors.Is(err, errNotStored):
		if l.within(p.s, func() { l.lost.add(res); l.tally.lost++ }) {
			p.in.credits.due.give() // the owner has it made again
		}
	case !errors.Is(readErr, errNotStored):
		l.within(p.s, func() {
			if l.buf.Head() == res.Seq {
				l.run.suspect(err.Error(), life.Stored)
			}
		})
	}
}
