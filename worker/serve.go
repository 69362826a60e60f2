package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	maxReaders  = 1024             // connections at once
	readerIdle  = 5 * time.Minute  // after which a connection that asks for nothing is closed
	firstFetch  = 10 * time.Second // for a reader that has connected to ask for the first payload
	partTimeout = 10 * time.Second // for a reader to take one part of a payload
	partSize    = 4 << 20
)

// readers serves the payloads of the shelf to readers that connect. Its lock guards the listener and the table of
// connections.
type readers struct {
	*life
	listen, advertise string // as configured
	shelf             *keeper
	tasks             sync.WaitGroup

	mu        sync.Mutex
	listeners []*direct.Listener // none until readers can reach this worker
	conns     map[net.Conn]bool
	closed    bool
}

// start opens the listener for readers, unless it is open already, not wanted, or its address not known yet. Until then
// payloads are stored. nc is the connection to NATS. Only the worker's loop calls start.
func (r *readers) start(nc *nats.Conn) {
	if r.shelf.at().Address != "" {
		return
	}
	l, address, err := r.open(nc)
	if err != nil {
		r.log.Warn("large batches go through NATS", "error", err)
		return
	}
	if l == nil {
		return
	}
	listeners := []*direct.Listener{l}
	if l.Pin == nil && !direct.IsInProcess(address) && r.advertise == "" { // else it is another process that is dialled
		if local, err := direct.ListenLocal(address); err == nil {
			listeners = append(listeners, local)
		}
	}
	r.mu.Lock()
	r.listeners, r.conns = listeners, make(map[net.Conn]bool)
	r.mu.Unlock()
	for _, l := range listeners {
		r.tasks.Go(func() { r.accept(l) })
	}
	r.shelf.open(wire.Direct{Address: address, Pin: l.Pin})
	r.log.Info("large batches are fetched from here", "address", address, "tls", l.Pin != nil)
}

func (r *readers) open(nc *nats.Conn) (l *direct.Listener, address string, err error) {
	listen := r.listen
	switch remote := nc.ConnectedAddr(); {
	case listen == DirectOff:
		return nil, "", nil
	case listen != "":
	case nc.Opts.InProcessServer != nil:
		listen = direct.InProcess
	case remote == "":
		return nil, "", nil // not connected yet
	default:
		host, err := direct.LocalAddress(remote)
		if err != nil {
			return nil, "", fmt.Errorf("no address for readers: %w", err)
		}
		listen = net.JoinHostPort(host, "0")
	}
	_, err = nc.TLSConnectionState()
	if l, err = direct.Listen(listen, err == nil); err != nil {
		return nil, "", fmt.Errorf("listen for readers: %w", err)
	}
	address = l.Addr().String()
	switch host, port, err := net.SplitHostPort(address); {
	case r.advertise != "":
		address = r.advertise
	case err == nil && net.ParseIP(host).IsUnspecified():
		if host, err = direct.LocalAddress(nc.ConnectedAddr()); err != nil {
			return nil, "", errors.Join(fmt.Errorf("no address for readers; say what they dial: %w", err), l.Close())
		}
		address = net.JoinHostPort(host, port)
	}
	return l, address, nil
}

func (r *readers) accept(l *direct.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors, for one: those that are served go on, and end
			time.Sleep(50 * time.Millisecond)
			continue
		}
		r.mu.Lock()
		welcome := !r.closed && len(r.conns) < maxReaders
		if welcome {
			r.conns[conn] = true
			r.tasks.Go(func() { r.serve(conn) })
		}
		r.mu.Unlock()
		if !welcome {
			_ = conn.Close() // nothing was said on it
		}
	}
}

// serve answers one reader until it leaves, or stops making sense.
func (r *readers) serve(conn net.Conn) {
	defer func() {
		r.mu.Lock()
		delete(r.conns, conn)
		r.mu.Unlock()
		_ = conn.Close() // what went out is checked by the reader
	}()
	in := bufio.NewReader(conn) // a reader may ask for several at once
	for patience := firstFetch; ; patience = readerIdle {
		fetch, err := readFetch(conn, in, patience)
		if err != nil {
			return
		}
		it, ok := r.shelf.get(fetch.Attempt)
		if !ok {
			if send(conn, wire.AppendAnswer(nil, wire.HasNothing, 0), nil) != nil {
				return
			}
			continue
		}
		has, payload := it.Value.part(&fetch.Part)
		size := payload.Size()
		err = send(conn, wire.AppendAnswer(nil, has, size), payload)
		r.shelf.done(it, err == nil, size)
		if err != nil {
			return
		}
	}
}

// close ends what is being fetched.
func (r *readers) close() {
	r.mu.Lock()
	r.closed = true
	listeners := r.listeners
	conns := make([]net.Conn, 0, len(r.conns))
	for conn := range r.conns {
		conns = append(conns, conn)
	}
	r.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // no reader waits for what it still has
	}
	for _, conn := range conns {
		_ = conn.Close() // the reader finds the payload elsewhere
	}
	r.tasks.Wait()
}

// readFetch reads what is wanted next.
func readFetch(conn net.Conn, in io.Reader, patience time.Duration) (*wire.Fetch, error) {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return wire.ReadFetch(in)
}

// send writes head and payload in parts, each of which the reader must take in time.
func send(conn net.Conn, head []byte, payload wire.Pieces) error {
	size := payload.Size()
	for sent := 0; ; sent += partSize {
		part := net.Buffers(payload.Range(sent, min(sent+partSize, size)))
		if sent == 0 {
			part = append(net.Buffers{head}, part...)
		}
		if err := conn.SetWriteDeadline(time.Now().Add(partTimeout)); err != nil {
			return err
		}
		if _, err := part.WriteTo(conn); err != nil {
			return err
		}
		if sent+partSize >= size {
			return nil
		}
	}
}
