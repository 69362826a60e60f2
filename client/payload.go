package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	fetchers       = 3 // payloads fetched at a time, so that the connection is busy between small ones, too
	chunksInFlight = 8 // requests for chunks, of all payloads together; 4 MiB on the wire
	chunkTries     = 3
)

// payload is the bytes of a batch. Its buffer, if it came from the pool, goes back there once.
type payload struct {
	bytes []byte
	lent  *lent
}

type lent struct {
	pool *pool
	buf  []byte
	back atomic.Bool
}

// release hands the buffer back. It is safe to call more than once and from any goroutine.
func (p payload) release() {
	if p.lent != nil && p.lent.back.CompareAndSwap(false, true) {
		p.lent.pool.put(p.lent.buf)
	}
}

// pool keeps released buffers. Batches of one run are of about one size, so the last released that is large enough, and
// not much larger, will do: it is the likeliest to be in the processor's cache still. Where none will, one goes for the
// new one, so that there are never more than were in use at once; letting more of them go would only have others made
// before the garbage collector comes.
type pool struct {
	mu   sync.Mutex
	free [][]byte
}

func (p *pool) get(n int) payload {
	p.mu.Lock()
	var buf []byte
	for i, b := range slices.Backward(p.free) {
		if cap(b) >= n && cap(b)/2 <= n {
			buf, p.free = b[:n], slices.Delete(p.free, i, i+1)
			break
		}
	}
	if buf == nil && len(p.free) > 0 {
		p.free = slices.Delete(p.free, 0, 1) // the oldest: sizes have changed since
	}
	p.mu.Unlock()
	if buf == nil {
		buf = schema.AlignedBuffer(n)
	}
	return payload{bytes: buf, lent: &lent{pool: p, buf: buf}}
}

func (p *pool) put(buf []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, buf)
}

// inline checks a payload that came with its record, and moves it to where tensors may lie.
func (r *reader) inline(res *wire.Result, data []byte) (payload, error) {
	if got := wire.Sum(data); got != res.Digest {
		return payload{}, fmt.Errorf("batch %d: digest %v, announced %v", res.Seq, got, res.Digest)
	}
	if !r.align || len(data) == 0 || aligned(data) {
		return payload{bytes: data}, nil
	}
	p := r.buffers.get(len(data))
	copy(p.bytes, data)
	return p, nil
}

// fetches gets the payloads that are stored apart from their records, lowest first, as long as they fit. A few
// goroutines do so at a time.
func (s *session) fetches() {
	for {
		s.r.mu.Lock()
		var entry reorder.Entry[arrival]
		ok := false
		if s.r.sess == s {
			entry, ok = s.r.buf.Claim(s.r.cfg.WindowBytes)
		}
		s.r.mu.Unlock()
		if ok {
			s.fetchSoon() // there may be work for the next fetcher
			s.fetch(entry)
			continue
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.fetchNow:
		}
	}
}

// fetch completes one record, or drops it, so that it is looked for again.
func (s *session) fetch(entry reorder.Entry[arrival]) {
	res := entry.Result
	p := s.r.buffers.get(int(res.Size))
	direct, err := s.obtain(res, p.bytes)
	if s.ctx.Err() != nil {
		p.release()
		return
	}
	if err != nil {
		p.release()
		s.unusable(res, err)
		return
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	value := entry.Value
	value.payload, value.direct, value.arrived = p, direct, time.Now()
	if s.r.sess != s || !s.r.buf.Fill(res, value) {
		p.release()
		return
	}
	s.r.signal()
}

// obtain fills buf with a payload, directly from its worker or from the store.
func (s *session) obtain(res *wire.Result, buf []byte) (direct bool, err error) {
	var kept error // why the worker's memory did not do
	if res.Direct != nil {
		if kept = s.direct(res, buf); kept == nil {
			s.count(func(c *counters) { c.direct++ })
			return true, nil
		}
	}
	if err := s.download(res, buf); err != nil {
		return false, errors.Join(err, kept)
	}
	s.count(func(c *counters) { c.stored++ })
	if got := wire.Sum(buf); got != res.Digest {
		return false, fmt.Errorf("batch %d: digest %v, announced %v", res.Seq, got, res.Digest)
	}
	return false, nil
}

// unusable drops a record whose payload cannot be had. It may have been removed in favour of another
// attempt's, in which case that one's record is found. If not, and it is nowhere, it is made again; what else
// contradicts itself Take must know when it comes there.
func (s *session) unusable(res *wire.Result, err error) {
	s.r.mu.Lock()
	if s.r.sess != s {
		s.r.mu.Unlock()
		return
	}
	s.r.buf.Forget(res)
	s.r.mu.Unlock()
	again, getErr := s.commit(s.ctx, res.Seq)
	if getErr == nil && again.result.Attempt != res.Attempt {
		s.arrive(again)
		return
	}
	if getErr == nil && errors.Is(err, errNotStored) {
		s.lose(res)
		return
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.r.sess == s && s.r.buf.Head() == res.Seq && !errors.Is(getErr, errNotStored) {
		s.r.suspect(err.Error(), true)
	}
}

// download fills buf with the chunks of a payload.
func (s *session) download(res *wire.Result, buf []byte) error {
	group, ctx := errgroup.WithContext(s.ctx)
	for k := range int(res.Chunks) {
		select {
		case s.chunks <- struct{}{}:
		case <-ctx.Done():
			return group.Wait()
		}
		group.Go(func() error {
			defer func() { <-s.chunks }()
			part := buf[k*wire.ChunkSize : min((k+1)*wire.ChunkSize, len(buf))]
			return s.chunk(ctx, res, k, part)
		})
	}
	return group.Wait()
}

func (s *session) chunk(ctx context.Context, res *wire.Result, k int, part []byte) error {
	subject := wire.ChunkSubject(s.r.cfg.Name, s.gen, res.Seq, res.Attempt, k)
	for try := 1; ; try++ {
		msg, err := s.get(ctx, subject)
		switch {
		case err == nil && len(msg.Data) == len(part):
			copy(part, msg.Data)
			return nil
		case err == nil:
			return fmt.Errorf("batch %d: chunk %d has %d bytes, not %d", res.Seq, k, len(msg.Data), len(part))
		case errors.Is(err, errNotStored), try == chunkTries, ctx.Err() != nil:
			return fmt.Errorf("batch %d: chunk %d of %d: %w", res.Seq, k, res.Chunks, err)
		}
	}
}
