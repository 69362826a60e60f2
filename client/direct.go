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
	errSilent      = errors.New("the worker does not answer")
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

// wanted is a payload that a worker keeps, and where it goes.
type wanted struct {
	res *wire.Result
	payload
}

// fetch fetches payloads from the worker that keeps them, one behind the other on one connection, and hands the digest
// of each to got. It ends at the first that cannot be had.
func (f *fetcher) fetch(ctx context.Context, run []wanted, got func(i int, digest wire.Digest)) error {
	for {
		to, conn, used, err := f.dial(ctx, run[0].res.Direct)
		if err != nil {
			return err
		}
		n, begun, err := fetchFrom(ctx, conn, run, got)
		if err == nil || n == len(run)-1 && errors.Is(err, errNotKept) { // nothing more comes on it
			f.conns.put(to, conn, time.Now())
			return err
		}
		_ = conn.Close() // it is of no use any more
		if used && !begun && ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			continue // the worker closed it while it was idle
		}
		return err
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

// fetchFrom asks for payloads on a connection and reads them. begun says that there was an answer.
func fetchFrom(
	ctx context.Context, conn net.Conn, run []wanted, got func(int, wire.Digest),
) (n int, begun bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed connection ends, too
	defer stop()
	if err := extend(ctx, conn); err != nil {
		return 0, false, err
	}
	var request []byte
	for _, w := range run {
		request = wire.AppendFetch(request, w.res.Attempt)
	}
	if _, err := conn.Write(request); err != nil {
		return 0, false, err
	}
	for i, w := range run {
		digest, some, err := readPayload(ctx, conn, w)
		begun = begun || some
		if err != nil {
			return i, begun, err
		}
		got(i, digest)
	}
	return len(run), true, nil
}

// readPayload reads one answer. begun says that something of it came.
func readPayload(ctx context.Context, conn net.Conn, w wanted) (digest wire.Digest, begun bool, err error) {
	buf := w.answer()
	read, err := io.ReadAtLeast(conn, buf[:min(wire.AnswerHead+pieceSize, len(buf))], wire.AnswerHead)
	if err != nil {
		return digest, read > 0, err
	}
	here, size, err := wire.ParseAnswer([wire.AnswerHead]byte(buf))
	switch {
	case err != nil: // another program has that port, or stands before it
		return digest, true, fmt.Errorf("%w: what listens there is no worker: %w", errUnreachable, err)
	case !here:
		return digest, true, errNotKept
	case size != w.res.Size:
		return digest, true, fmt.Errorf("batch %d: the worker has %d bytes, its record says %d", w.res.Seq, size, w.res.Size)
	}
	var sum wire.Summer
	for summed := wire.AnswerHead; ; {
		if read == len(buf) || read-summed >= pieceSize {
			_, _ = sum.Write(buf[summed:read]) // never fails
			summed = read
		}
		if summed == len(buf) {
			return sum.Sum(), true, nil
		}
		if err := extend(ctx, conn); err != nil {
			return digest, true, err
		}
		n, err := conn.Read(buf[read:min(summed+pieceSize, len(buf))])
		if read += n; err != nil && read < len(buf) {
			return digest, true, fmt.Errorf("batch %d: %d of %d bytes came: %w", w.res.Seq, read-wire.AnswerHead, size, err)
		}
	}
}

// extend gives the worker time for another piece, unless ctx has ended.
func extend(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(pieceTimeout)); err != nil {
		return err
	}
	return context.Cause(ctx) // it may have ended before the deadline was set
}
