package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	dialTimeout   = time.Second
	pieceTimeout  = 2 * time.Second // without a single byte
	pieceSize     = 256 << 10       // fits into a processor's cache, where its digest is computed
	idlePerWorker = fetchers
	uploadTries   = 3

	// How long a worker may take to store a payload: so long, and what it takes at so many bytes a second.
	uploadTimeout = time.Second
	uploadRate    = 32 << 20

	// How long a worker that could not be reached is not tried again: the first time, and at most.
	firstAvoid = 30 * time.Second
	mostAvoid  = 10 * time.Minute
	stallAvoid = 5 * time.Second // one that was reached and stopped in the middle
)

// Errors of fetching from a worker.
var (
	errUnreachable = errors.New("worker not reached")
	errNotKept     = errors.New("the worker does not have the payload any more")
	errStored      = errors.New("the worker has stored the payload instead")
)

// fetcher fetches payloads from the workers that keep them. It is safe for concurrent use.
type fetcher struct {
	secure bool // the connection to NATS is
	off    bool // no worker is tried: Config.NoDirect

	mu     sync.Mutex
	idle   map[string][]net.Conn // by address
	avoid  map[string]avoidance  // by worker
	closed bool
}

// avoidance is of a worker that could not be reached.
type avoidance struct {
	until time.Time
	pause time.Duration
}

func newFetcher(nc *nats.Conn, off bool) *fetcher {
	_, err := nc.TLSConnectionState()
	return &fetcher{secure: err == nil, off: off, idle: make(map[string][]net.Conn), avoid: make(map[string]avoidance)}
}

// avoids reports whether a worker is not to be tried now.
func (f *fetcher) avoids(worker string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Before(f.avoid[worker].until)
}

// avoidLater notes that a worker could not be reached, and returns for how long it is not tried.
func (f *fetcher) avoidLater(worker string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	pause := min(max(2*f.avoid[worker].pause, firstAvoid), mostAvoid)
	f.avoid[worker] = avoidance{time.Now().Add(pause), pause}
	return pause
}

// avoidFor puts off the next try without saying more of the worker.
func (f *fetcher) avoidFor(worker string, pause time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.avoid[worker] = avoidance{time.Now().Add(pause), f.avoid[worker].pause}
}

// fetch fills buf with the payload of a result, and returns its digest.
func (f *fetcher) fetch(ctx context.Context, res *wire.Result, buf []byte) (wire.Digest, error) {
	for {
		conn, used, err := f.dial(ctx, res.Direct)
		if err != nil {
			return wire.Digest{}, fmt.Errorf("%w: %w", errUnreachable, err)
		}
		digest, begun, err := fetchFrom(ctx, conn, res, buf)
		if err == nil || errors.Is(err, errNotKept) {
			f.put(res.Direct.Address, conn)
			return digest, err
		}
		_ = conn.Close() // it is of no use any more
		if used && !begun && ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			continue // the worker closed it while it was idle
		}
		return wire.Digest{}, err
	}
}

// dial returns a connection, and whether it was used before.
func (f *fetcher) dial(ctx context.Context, d *wire.Direct) (conn net.Conn, used bool, err error) {
	f.mu.Lock()
	if idle := f.idle[d.Address]; len(idle) > 0 {
		conn = idle[len(idle)-1]
		f.idle[d.Address] = idle[:len(idle)-1]
	}
	f.mu.Unlock()
	if conn != nil {
		return conn, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err = direct.Dial(ctx, d.Address, d.Pin, f.secure)
	return conn, false, err
}

func (f *fetcher) put(address string, conn net.Conn) {
	f.mu.Lock()
	keep := !f.closed && len(f.idle[address]) < idlePerWorker
	if keep {
		f.idle[address] = append(f.idle[address], conn)
	}
	f.mu.Unlock()
	if !keep {
		_ = conn.Close() // all that was asked for has come
	}
}

func (f *fetcher) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, idle := range f.idle {
		for _, conn := range idle {
			_ = conn.Close() // nobody waits for anything on it
		}
	}
	clear(f.idle)
}

// fetchFrom asks for one payload on a connection and reads it. begun says that there was an answer.
func fetchFrom(ctx context.Context, conn net.Conn, res *wire.Result, buf []byte) (digest wire.Digest, begun bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed connection ends, too
	defer stop()
	if err := extend(ctx, conn); err != nil {
		return digest, false, err
	}
	if _, err := conn.Write(wire.AppendFetch(nil, res.Attempt)); err != nil {
		return digest, false, err
	}
	var head [wire.AnswerHead]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return digest, false, err
	}
	here, size, err := wire.ParseAnswer(head)
	switch {
	case err != nil: // somebody else has that port, or stands before it
		return digest, true, fmt.Errorf("%w: whoever listens there is no worker: %w", errUnreachable, err)
	case !here:
		return digest, true, errNotKept
	case size != res.Size:
		return digest, true, fmt.Errorf("batch %d: the worker has %d bytes, its record says %d", res.Seq, size, res.Size)
	}
	var sum wire.Summer
	for read, summed := 0, 0; summed < len(buf); {
		if err := extend(ctx, conn); err != nil {
			return digest, true, err
		}
		n, err := conn.Read(buf[read:min(summed+pieceSize, len(buf))])
		if read += n; read == len(buf) || read-summed == pieceSize {
			_, _ = sum.Write(buf[summed:read]) // never fails
			summed = read
		}
		if err != nil && read < len(buf) {
			return digest, true, fmt.Errorf("batch %d: %d of %d bytes came: %w", res.Seq, read, size, err)
		}
	}
	return sum.Sum(), true, nil
}

// extend gives the worker time for another piece, unless ctx has ended.
func extend(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(pieceTimeout)); err != nil {
		return err
	}
	return context.Cause(ctx) // it may have ended before the deadline was set
}

// direct fetches a payload from the worker that keeps it. Where that does not work and the worker lives, it has the
// worker store the payload; whatever the error, the caller looks there next.
func (s *session) direct(res *wire.Result, buf []byte) error {
	f := s.r.fetcher
	var avoid time.Duration
	if f.off {
		avoid = mostAvoid
	} else if !f.avoids(res.Worker) {
		digest, err := f.fetch(s.ctx, res, buf)
		if err == nil && digest != res.Digest {
			err = fmt.Errorf("batch %d: digest %v, announced %v", res.Seq, digest, res.Digest)
		}
		switch {
		case err == nil || s.ctx.Err() != nil:
			return err
		case errors.Is(err, errNotKept):
			return err // it has stored it, or dropped it
		case errors.Is(err, errUnreachable):
			avoid = f.avoidLater(res.Worker)
			s.r.cfg.Logger.Warn("large batches of a worker come through NATS", "worker", res.Worker, "address", res.Direct.Address, "for", avoid, "error", err)
		default:
			f.avoidFor(res.Worker, stallAvoid)
			s.r.cfg.Logger.Warn("payload not fetched from its worker", "worker", res.Worker, "seq", res.Seq, "error", err)
		}
	}
	return cmp.Or(s.askUpload(res, avoid), errStored)
}

// askUpload has a worker store a payload, and returns when it has, or why it has not.
func (s *session) askUpload(res *wire.Result, avoid time.Duration) error {
	subject := wire.UploadSubject(res.Worker)
	body, err := json.Marshal(wire.Upload{Attempt: res.Attempt, Avoid: int64(avoid)})
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(s.ctx, uploadTimeout+time.Duration(res.Size)*time.Second/uploadRate)
		msg, err := s.r.nc.RequestWithContext(ctx, subject, body)
		cancel()
		var reply wire.UploadReply
		if err == nil {
			err = json.Unmarshal(msg.Data, &reply)
		}
		switch {
		case err != nil:
			if denied := refusal(s.r.nc, subject); denied != nil && s.ctx.Err() == nil && !errors.Is(err, nats.ErrNoResponders) {
				s.r.fail(fmt.Errorf("batcher %s: %w", s.r.cfg.Name, denied))
			}
			return err
		case reply.Fault == nil:
			return nil
		case reply.Fault.Code == wire.CodeNotKept:
			return errNotKept
		case try == uploadTries:
			return reply.Fault
		}
	}
}

// lose notes that the payload of a result cannot be had anywhere, and tells the owner, who has it made again.
func (s *session) lose(res *wire.Result) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.r.sess != s {
		return
	}
	s.lost[res.Seq] = res.Attempt
	s.r.count.lost++
	s.r.beatSoon()
}

// isLost reports whether this very attempt is known to be lost. Called with mu held.
func (s *session) isLost(res *wire.Result) bool {
	attempt, ok := s.lost[res.Seq]
	return ok && attempt == res.Attempt
}

// lostResults are those that the owner is told of. Called with mu held.
func (s *session) lostResults() []wire.Lost {
	var lost []wire.Lost
	for seq, attempt := range s.lost {
		if seq < s.r.buf.Head() {
			delete(s.lost, seq)
		} else if len(lost) < wire.MaxLost {
			lost = append(lost, wire.Lost{Seq: seq, Attempt: attempt})
		}
	}
	return lost
}
