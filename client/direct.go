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

// fetcher fetches payloads from the workers that keep them, or parts of them. It is safe for concurrent use.
type fetcher struct {
	secure  func() (is, known bool) // whether the connection to NATS is encrypted now
	buffers *pool
	part    wire.Part // that is wanted of each payload
	conns   conns
	avoided avoided
	off     bool // no worker is tried: Config.NoDirect
}

func newFetcher(nc *nats.Conn, cfg *Config, buffers *pool) *fetcher {
	return &fetcher{off: cfg.NoDirect, part: cfg.part, buffers: buffers, secure: func() (is, known bool) {
		_, err := nc.TLSConnectionState()
		plain := errors.Is(err, nats.ErrConnectionNotTLS)
		return !plain, err == nil || plain
	}}
}

// fetch fetches payloads from the worker that keeps them, one behind the other on one connection, and hands each to got
// that is as its record says. It ends at the first that cannot be had. A payload of which a part is wanted may come
// whole.
func (f *fetcher) fetch(ctx context.Context, run []*wire.Result, got func(i int, p payload)) error {
	for part := f.part; ; {
		to, conn, used, err := f.dial(ctx, run[0].Direct)
		if err != nil {
			return err
		}
		x := &exchange{Conn: conn, buffers: f.buffers, part: part}
		n, err := x.fetch(ctx, run, got)
		if err == nil || n == len(run)-1 && errors.Is(err, errNotKept) { // nothing more comes on it
			f.conns.put(to, conn, time.Now())
			return err
		}
		_ = conn.Close() // it is of no use any more
		switch {
		case x.begun || ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case used: // the worker closed it while it was idle
		case part.Count > 1: // the worker closed it because it knows no parts
			part = wire.Part{}
		default:
			return err
		}
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

// exchange asks a worker for payloads on one connection, and reads the worker's answers.
type exchange struct {
	net.Conn
	buffers *pool
	part    wire.Part
	begun   bool // there was an answer, or some of one
}

// fetch asks for payloads and reads them; n is how many came.
func (x *exchange) fetch(ctx context.Context, run []*wire.Result, got func(int, payload)) (n int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = x.SetDeadline(time.Unix(1, 0)) }) // a closed connection ends, too
	defer stop()
	if err := x.extend(ctx); err != nil {
		return 0, err
	}
	fetch := wire.Fetch{}
	if x.part.Count > 1 {
		fetch.Part = x.part
	}
	var request []byte
	for _, res := range run {
		fetch.Attempt = res.Attempt
		request = wire.AppendFetch(request, &fetch)
	}
	if _, err := x.Write(request); err != nil {
		return 0, err
	}
	for i, res := range run {
		p, err := x.answer(ctx, res)
		if err != nil {
			return i, err
		}
		got(i, p)
	}
	return len(run), nil
}

// answer reads one answer.
func (x *exchange) answer(ctx context.Context, res *wire.Result) (payload, error) {
	if x.part.Count > 1 {
		// Only with the hashes of blocks it is known how much follows.
		some := make([]byte, wire.AnswerHead+min(wire.BlocksSize(int(res.Size)), int(res.Size)))
		has, size, read, err := x.head(some, res)
		if err != nil {
			return payload{}, err
		}
		if has == wire.HasPart {
			return x.readPart(ctx, res, size, some, read)
		}
		p := x.buffers.get(int(res.Size))
		copy(p.bytes, some[wire.AnswerHead:read])
		return x.readWhole(ctx, res, p, read)
	}
	p := x.buffers.get(int(res.Size)) // the head and the payload are read at once
	buf := p.answer()
	has, _, read, err := x.head(buf[:min(wire.AnswerHead+pieceSize, len(buf))], res)
	if err == nil && has != wire.HasWhole {
		err = fmt.Errorf("batch %d: the worker sends a part that was not asked for", res.Seq)
	}
	if err != nil {
		p.release()
		return payload{}, err
	}
	return x.readWhole(ctx, res, p, read)
}

// head reads the head of an answer, and at once as much of what follows as fits into buf; read is how much came.
// Without an error the worker has the payload.
func (x *exchange) head(buf []byte, res *wire.Result) (has wire.Has, size, read int, err error) {
	read, err = io.ReadAtLeast(x, buf, wire.AnswerHead)
	x.begun = x.begun || read > 0
	if err != nil {
		return 0, 0, 0, err
	}
	has, size, err = wire.ParseAnswer([wire.AnswerHead]byte(buf))
	switch {
	case err != nil: // another program has that port, or stands before it
		err = fmt.Errorf("%w: what listens there is no worker: %w", errUnreachable, err)
	case has == wire.HasNothing:
		err = errNotKept
	case has == wire.HasWhole && size != int(res.Size):
		err = fmt.Errorf("batch %d: the worker has %d bytes, its record says %d", res.Seq, size, res.Size)
	}
	return has, size, read, err
}

// readWhole reads a payload into p, and checks it. So much of the answer was read before, the head among it.
func (x *exchange) readWhole(ctx context.Context, res *wire.Result, p payload, read int) (payload, error) {
	var sum wire.Summer
	sum.Expect(len(p.bytes))
	buf := p.answer()
	for summed := wire.AnswerHead; ; {
		if read == len(buf) || read-summed >= pieceSize {
			_, _ = sum.Write(buf[summed:read]) // never fails
			summed = read
		}
		if summed == len(buf) {
			break
		}
		n, err := x.more(ctx, buf[read:min(summed+pieceSize, len(buf))])
		if read += n; err != nil && read < len(buf) {
			p.release()
			return payload{}, fmt.Errorf("batch %d: %d of %d bytes came: %w", res.Seq, read-wire.AnswerHead, res.Size, err)
		}
	}
	if got := sum.Sum(); got != res.Digest {
		p.release()
		return payload{}, fmt.Errorf("batch %d: digest %v, announced %v", res.Seq, got, res.Digest)
	}
	return p, nil
}

// readPart reads the part of a payload, and checks it. So much of the answer of so many bytes was read into some
// before.
func (x *exchange) readPart(
	ctx context.Context, res *wire.Result, size int, some []byte, read int,
) (payload, error) {
	blocks := wire.Blocks(some[wire.AnswerHead:])
	if size >= int(res.Size) || size < len(blocks)+wire.DigestBlock {
		return payload{}, fmt.Errorf("batch %d: a part of %d bytes, of %d", res.Seq, size, res.Size)
	}
	if err := x.full(ctx, some[read:]); err != nil {
		return payload{}, fmt.Errorf("batch %d: hashes of its blocks: %w", res.Seq, err)
	}
	if got := blocks.Sum(); got != res.Digest {
		return payload{}, fmt.Errorf("batch %d: its blocks have the digest %v, announced %v", res.Seq, got, res.Digest)
	}
	p := x.buffers.get(size - len(blocks))
	if err := x.readExtents(ctx, res, blocks, p.bytes); err != nil {
		p.release()
		return payload{}, fmt.Errorf("batch %d: %w", res.Seq, err)
	}
	return p, nil
}

// readExtents fills buf with the extents of the part, the first block of which says where the others are.
func (x *exchange) readExtents(ctx context.Context, res *wire.Result, blocks wire.Blocks, buf []byte) error {
	first := buf[:wire.DigestBlock]
	if err := x.block(ctx, blocks, 0, first); err != nil {
		return err
	}
	extents, ok := x.part.Extents(first, int(res.Size))
	if !ok || extents.Size() != len(buf) {
		return fmt.Errorf("a part of %d bytes, not %d", len(buf), extents.Size())
	}
	extents[0].From, buf = wire.DigestBlock, buf[wire.DigestBlock:]
	for _, e := range extents {
		for n := 0; e.From < e.To; e.From, buf = e.From+n, buf[n:] {
			n = min(pieceSize, e.To-e.From)
			if err := x.block(ctx, blocks, e.From, buf[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// block reads whole blocks of a payload, and checks them.
func (x *exchange) block(ctx context.Context, blocks wire.Blocks, offset int, buf []byte) error {
	if err := x.full(ctx, buf); err != nil {
		return fmt.Errorf("%d bytes at %d: %w", len(buf), offset, err)
	}
	if !blocks.Match(offset, buf) {
		return fmt.Errorf("%d bytes at %d are damaged", len(buf), offset)
	}
	return nil
}

// full fills buf.
func (x *exchange) full(ctx context.Context, buf []byte) error {
	for len(buf) > 0 {
		n, err := x.more(ctx, buf)
		if buf = buf[n:]; err != nil && len(buf) > 0 {
			return err
		}
	}
	return nil
}

// more reads something.
func (x *exchange) more(ctx context.Context, buf []byte) (int, error) {
	if err := x.extend(ctx); err != nil {
		return 0, err
	}
	return x.Read(buf)
}

// extend gives the worker time for another piece, unless ctx has ended.
func (x *exchange) extend(ctx context.Context) error {
	if err := x.SetDeadline(time.Now().Add(pieceTimeout)); err != nil {
		return err
	}
	return context.Cause(ctx) // it may have ended before the deadline was set
}
