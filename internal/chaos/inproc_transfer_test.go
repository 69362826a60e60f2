package chaos

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/internal/direct"
)

// transfers is the network between a worker and whoever fetches payloads from it. It stops and ends with the worker,
// and while a storm lasts some of what goes through it does not come to its end.
type transfers struct {
	w        *world
	name     string
	listener *direct.Listener

	mu     sync.Mutex
	conns  map[*transfer]bool
	held   chan struct{} // closed when what is held goes on; nil while nothing is
	closed bool
}

// What happens to a transfer after some of its bytes.
type tear string

const (
	tornOff tear = "transfer cut midway"
	stuck   tear = "transfer stalled midway" // until the reader gives up: a firewall forgot the connection
	damaged tear = "transfer damaged"
	fatal   tear = "worker killed midway of a transfer"
)

// workerAddress is where the worker of that name listens. Readers dial another address, from where they are passed on.
func workerAddress(name string) string { return direct.InProcess + ":" + name }

func newTransfers(w *world, name string) (*transfers, error) {
	l, err := direct.Listen(direct.InProcess, false)
	if err != nil {
		return nil, err
	}
	t := &transfers{w: w, name: name, listener: l, conns: make(map[*transfer]bool)}
	w.tasks.Go(t.accept)
	return t, nil
}

// address is what readers dial.
func (t *transfers) address() string { return t.listener.Addr().String() }

func (t *transfers) accept() {
	for {
		reader, err := t.listener.Accept()
		if err != nil {
			return // closed
		}
		t.w.tasks.Go(func() { t.serve(reader) })
	}
}

func (t *transfers) serve(reader net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	worker, err := direct.Dial(ctx, workerAddress(t.name), nil, false)
	if err != nil {
		_ = reader.Close()
		return
	}
	c := &transfer{t: t, reader: reader, worker: worker, gone: make(chan struct{})}
	defer c.close()
	t.mu.Lock()
	welcome := !t.closed
	if welcome {
		t.conns[c] = true
		t.w.tasks.Go(c.ask)
	}
	t.mu.Unlock()
	if welcome {
		c.answer()
	}
}

// hold stops everything, as it is when the worker is, or lets it go on.
func (t *transfers) hold(held bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case held && t.held == nil:
		t.held = make(chan struct{})
	case !held && t.held != nil:
		close(t.held)
		t.held = nil
	}
}

// cut breaks what is under way.
func (t *transfers) cut() {
	t.mu.Lock()
	conns := t.conns
	t.conns = make(map[*transfer]bool)
	t.mu.Unlock()
	for c := range conns {
		c.close()
	}
}

func (t *transfers) close() {
	_ = t.listener.Close() // a pipe in memory
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cut()
}

// transfer is one connection of a reader.
type transfer struct {
	t              *transfers
	reader, worker net.Conn
	gone           chan struct{}
	once           sync.Once

	mu    sync.Mutex
	fate  tear // of the payload that was asked for last; empty for none
	after int  // bytes of the answer
}

func (c *transfer) close() {
	c.once.Do(func() {
		close(c.gone)
		_, _ = c.reader.Close(), c.worker.Close() // pipes in memory
		c.t.mu.Lock()
		delete(c.t.conns, c)
		c.t.mu.Unlock()
	})
}

// pass waits while everything is held; false when the connection is gone.
func (c *transfer) pass() bool {
	c.t.mu.Lock()
	held := c.t.held
	c.t.mu.Unlock()
	if held == nil {
		return true
	}
	select {
	case <-held:
		return true
	case <-c.gone:
		return false
	}
}

// ask passes on what a reader asks for, each of which is written at once.
func (c *transfer) ask() {
	defer c.close()
	buf := make([]byte, 1<<10)
	for {
		n, err := c.reader.Read(buf)
		if err != nil || !c.pass() {
			return
		}
		c.mu.Lock()
		c.fate, c.after = c.t.w.tear()
		c.mu.Unlock()
		if _, err := c.worker.Write(buf[:n]); err != nil {
			return
		}
	}
}

// answer passes on what the worker answers, to where its fate has it.
func (c *transfer) answer() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.worker.Read(buf)
		if err != nil || !c.pass() {
			return
		}
		c.mu.Lock()
		fate, at := c.fate, c.after
		if c.after -= n; at < n {
			c.fate = ""
		}
		c.mu.Unlock()
		part := buf[:n]
		if fate != "" && at < n {
			c.t.w.count(string(fate))
			c.t.w.note("%s: %s", fate, c.t.name)
			if fate == damaged {
				part[at] ^= 1
			} else {
				part = part[:at]
			}
		} else {
			fate = ""
		}
		_, err = c.reader.Write(part)
		switch {
		case err != nil || fate == tornOff:
			return
		case fate == stuck:
			<-c.gone
			return
		case fate == fatal:
			c.t.w.tasks.Go(func() { c.t.w.replaceWorker(c.t.name) })
			return
		}
	}
}
