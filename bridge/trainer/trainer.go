//go:build linux

// Package trainer serves one trainer process over the local protocol: it is a client of the service on behalf of a
// process in another language. The next batches it lays ready in shared memory, and does not take them: how far the
// service believes the trainer to be is what the trainer's own takes returned.
package trainer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// lastWords is how long the trainer may take to read why the bridge ends.
const lastWords = time.Second

// DefaultMemory bounds the batches that a trainer keeps views of: that of a client's window, 1 GiB.
const DefaultMemory = 1 << 30

// LargeBatch is the size above which a batch is work for several processors: fetching, hashing and copying it.
const LargeBatch = 256 << 10

// Config of Serve.
type Config struct {
	// Connect connects to the service. Serve calls it once, with a context that ends with the trainer, and closes what it
	// returns. The trainer hears the lines that Connect, and the connection, write to log until Serve returns.
	Connect func(ctx context.Context, log *slog.Logger) (*nats.Conn, error)

	// Domain is client.Config.Domain of every batcher. Defaults to none.
	Domain string

	// Memory bounds the bytes of batches that the trainer keeps views of, beyond two of the largest, and of those that lie
	// in shared memory before the trainer has them. Defaults to DefaultMemory.
	Memory int64

	// Large is called once, when a batch above LargeBatch comes. Defaults to nothing.
	Large func()

	// Level is the least level of what is logged to the trainer. Defaults to info.
	Level slog.Leveler
}

// Serve answers the trainer at the other end of conn until it ends, or closes its side, which is no error, or ctx ends.
// It leaves every batcher that the trainer has open, but not as a rank of a world, and closes conn.
func Serve(ctx context.Context, conn *bridge.Conn, cfg Config) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if cfg.Memory == 0 {
		cfg.Memory = DefaultMemory
	}
	s := &server{
		conn: conn, domain: cfg.Domain, ctx: ctx, cancel: cancel, greeted: make(chan struct{}), batchers: make(map[uint64]*batcher),
		calls: make(map[uint64]context.CancelCauseFunc), lent: make(map[uint64]int64), dec: msgpack.NewDecoder(nil),
		queued: make(map[string]<-chan struct{}),
	}
	if cfg.Large != nil {
		s.large = sync.OnceFunc(cfg.Large)
	}
	s.log = newLog(conn, cfg.Level)
	if s.memory, err = bridge.NewMemory(cfg.Memory, s.announce); err != nil {
		return err
	}
	reading := make(chan error, 1)
	go func() { reading <- s.read() }() // from the beginning, so that a trainer that dies ends the connecting
	err = s.serve(cfg, reading)
	return errors.Join(err, s.memory.Close())
}

var (
	errEnded     = errors.New("the trainer has ended")
	errCancelled = fmt.Errorf("the trainer gave the call up: %w", context.Canceled)
)

// server is a trainer being served.
type server struct {
	conn   *bridge.Conn
	domain string // Config.Domain
	log    *logger
	memory *bridge.Memory
	nc     *nats.Conn
	// greeted is closed when nc is there.
	greeted chan struct{}
	ctx     context.Context // ends with the trainer
	cancel  context.CancelCauseFunc
	tasks   sync.WaitGroup
	large   func()       // Config.Large, once; or nil
	frame   bytes.Reader // the request that is being read
	dec     *msgpack.Decoder

	handles  uint64
	mu       sync.Mutex
	batchers map[uint64]*batcher
	calls    map[uint64]context.CancelCauseFunc // that are under way, by the id of their request
	queued   map[string]<-chan struct{}         // closed when the last open of that name is over
	numbers  uint64                             // of batches, so far
	lent     map[uint64]int64                   // the slots of batches that the trainer has, by their numbers
}

// read begins to answer one request after another until there are no more.
func (s *server) read() error {
	defer s.cancel(errEnded)
	for {
		frame, err := s.conn.Read()
		switch {
		case errors.Is(err, bridge.ErrFrame):
			return err
		case err != nil:
			return nil // it has ended, or was killed: how does not matter
		}
		select {
		case <-s.greeted:
		case <-s.ctx.Done():
			return nil
		}
		if err := s.request(frame); err != nil {
			return err
		}
	}
}

func (s *server) serve(cfg Config, reading <-chan error) error {
	nc, err := cfg.Connect(s.ctx, s.log.logger)
	if err == nil {
		defer nc.Close()
		s.nc = nc
		_ = s.hello(cfg.Memory) // where it fails, reading does
		close(s.greeted)
		<-s.ctx.Done()
	} else if context.Cause(s.ctx) != nil {
		err = nil // the trainer ended it
	}
	s.cancel(errEnded)
	if err != nil {
		s.bye(err)
	}
	_ = s.conn.End(lastWords) // of a socket that works, or is closed already
	read := <-reading
	if read != nil {
		s.bye(read)
	}
	_ = s.conn.Close()
	s.tasks.Wait()
	return errors.Join(err, read, s.leave())
}

// leave closes every batcher that is open. A trainer that did not close that of a rank may have been killed, and the
// other ranks would go on without its rows if the bridge left for it. So the coordinators hear nothing more of this
// rank, as of any that was killed.
func (s *server) leave() error {
	var errs []error
	for _, b := range s.batchers { // no request is under way that would change it
		if !b.ranked {
			errs = append(errs, b.close())
		}
	}
	if s.nc != nil {
		s.nc.Close()
	}
	for _, b := range s.batchers {
		if b.ranked {
			_ = b.close() // says that no coordinator heard of it
		}
	}
	return errors.Join(errs...)
}

func (s *server) hello(limit int64) error {
	return s.conn.WriteWithFile(s.memory.File(), func(enc *msgpack.Encoder) error {
		return encode(enc, uint64(0), "hello", bridge.Protocol, wire.Release, limit)
	})
}

// bye says why the bridge ends; the trainer may be gone already.
func (s *server) bye(err error) {
	_ = s.conn.Write(func(enc *msgpack.Encoder) error { return encode(enc, uint64(0), "bye", faultOf(err)) })
}

func (s *server) announce(offset int64, size int, gone bool) error {
	what := "segment"
	if gone {
		what = "gone"
	}
	return s.conn.Write(func(enc *msgpack.Encoder) error { return encode(enc, uint64(0), what, offset, size) })
}

// encode writes an array of values.
func encode(enc *msgpack.Encoder, values ...any) error {
	if err := enc.EncodeArrayLen(len(values)); err != nil {
		return err
	}
	for _, v := range values {
		if err := enc.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

// answer sends the reply to a call, or its error.
func (s *server) answer(id uint64, err error, values ...any) {
	switch {
	case errors.Is(err, io.EOF):
		s.send(id, "end")
	case err != nil:
		s.send(id, "error", faultOf(err))
	default:
		s.send(append([]any{id, "ok"}, values...)...)
	}
}

// send sends a frame. A trainer that cannot be reached has ended.
func (s *server) send(values ...any) {
	if s.conn.Write(func(enc *msgpack.Encoder) error { return encode(enc, values...) }) != nil {
		s.cancel(errEnded)
	}
}

// post sends a frame that is encoded.
func (s *server) post(frame []byte) {
	if err := s.conn.Send(frame); err != nil {
		s.cancel(errEnded)
	}
}
