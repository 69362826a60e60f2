package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
)

// The floor of all that moves a batch from one process to another: one TCP connection, a request of eight bytes, the
// batch's bytes as they lie in memory, a buffer that is used again. Nothing is stored, and there is one batch at a
// time.

type tcpArg struct {
	Bytes int    `json:"bytes"`
	Addr  string `json:"addr,omitempty"` // of the server, for the client
}

func (b *bench) floorTCP(ctx context.Context, name string, arg tcpArg) (s *side, client *process, err error) {
	s = b.side(name)
	if _, err = s.start(ctx, "tcp server", arg, &arg.Addr); err != nil {
		return nil, nil, err
	}
	client, err = s.start(ctx, "tcp client", arg, nil)
	return s, client, err
}

func startTCPServer(_ context.Context, log *slog.Logger, arg tcpArg) (*role, any, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	body := filled(arg.Bytes)
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return // closed before anybody came
		}
		closing(log, errors.Join(serveBytes(conn, body), conn.Close()))
	})
	return &role{close: func() {
		closing(log, l.Close())
		serving.Wait()
	}}, l.Addr().String(), nil
}

func serveBytes(conn net.Conn, body []byte) error {
	request := make([]byte, 8)
	for {
		if _, err := io.ReadFull(conn, request); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if _, err := conn.Write(body); err != nil {
			return err
		}
	}
}

func startTCPClient(ctx context.Context, log *slog.Logger, arg tcpArg) (*role, any, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", arg.Addr)
	if err != nil {
		return nil, nil, err
	}
	var n uint64
	request, buf := make([]byte, 8), make([]byte, arg.Bytes)
	take := func(context.Context) (int, error) {
		n++
		binary.BigEndian.PutUint64(request, n)
		if _, err := conn.Write(request); err != nil {
			return 0, err
		}
		return io.ReadFull(conn, buf)
	}
	return &role{close: func() { closing(log, conn.Close()) }, ops: map[string]op{
		opTake: handle(func(ctx context.Context, arg takeArg) (takeAnswer, error) { return timed(ctx, arg, take) }),
	}}, nil, nil
}
