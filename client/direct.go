package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	dialTimeout  = time.Second
	securityPoll = 50 * time.Millisecond // how often it is looked whether there is a connection to NATS
	pieceTimeout = 2 * time.Second       // without a single byte
	pieceSize    = 256 << 10             // fits into a processor's cache, where its digest is computed
)

// Errors of fetching from a worker.
var (
	errUnreachable = errors.New("worker not reached")
	errNotKept     = errors.New("the worker does not have the payload any more")
	errStored      = errors.New("the worker has stored the payload instead")
)

// fetcher fetches payloads from the workers that keep them. It is safe for concurrent use.
type fetcher struct {
	secure  func() (is, known bool) // whether the connection to NATS is encrypted now
	conns   conns
	avoided avoided
	off     bool // no worker is tried: Config.NoDirect
}

func newFetcher(nc *nats.Conn, off bool) *fetcher {
	return &fetcher{off: off, secure: func() (is, known bool) {
		_, err := nc.TLSConnectionState()
		plain := errors.Is(err, nats.ErrConnectionNotTLS)
		return !plain, err == nil || plain
	}}
}

// fetch fills buf with the payload of a result, and returns its digest.
func (f *fetcher) fetch(ctx context.Context, res *wire.Result, buf []byte) (wire.Digest, error) {
	for {
		to, conn, used, err := f.dial(ctx, res.Direct)
		if err != nil {
			return wire.Digest{}, err
		}
		digest, begun, err := fetchFrom(ctx, conn, res, buf)
		if err == nil || errors.Is(err, errNotKept) {
			f.conns.put(to, conn, time.Now())
			return digest, err
		}
		_ = conn.Close() // it is of no use any more
		if used && !begun && ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			continue // the worker closed it while it was idle
		}
		return wire.Digest{}, err
	}
}

// dial returns a connection, and whether it was used before. The connection to NATS decides as it is now: if it has
// TLS, no payload is fetched in plain text, not even on a connection that was made before. While there is none, a
// worker without TLS is not spoken to.
func (f *fetcher) dial(ctx context.Context, d *wire.Direct) (to peer, conn net.Conn, used bool, err error) {
	to = peer{d.Address, string(d.Pin)}
	plain := len(d.Pin) == 0 && !direct.IsInProcess(d.Address)
	secure, known := f.secure()
	for ; plain && !known; secure, known = f.secure() {
		if pause(ctx, ctx, securityPoll, nil, nil); ctx.Err() != nil {
			return to, nil, false, context.Cause(ctx)
		}
	}
	if !secure || !plain {
		if conn := f.conns.get(to); conn != nil {
			return to, conn, true, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if conn, err = direct.Dial(ctx, d.Address, d.Pin, secure); err != nil {
		return to, nil, false, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	return to, conn, false, nil
}

// fetchFrom asks for one payload on a connection and reads it. begun says that there was an answer.
func fetchFrom(
	ctx context.Context, conn net.Conn, res *wire.Result, buf []byte,
) (digest wire.Digest, begun bool, err error) {
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
	case err != nil: // another program has that port, or stands before it
		return digest, true, fmt.Errorf("%w: what listens there is no worker: %w", errUnreachable, err)
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
