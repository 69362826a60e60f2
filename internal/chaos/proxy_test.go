package chaos

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/proctest"
)

// proxy is a TCP link between one role and a broker, or between a trainer and a worker that it fetches from, that can
// be made bad.
type proxy struct {
	listener net.Listener
	target   string
	tasks    sync.WaitGroup

	mu      sync.Mutex
	network network
	changed chan struct{} // closed at every change, and replaced
	conns   map[*proxied]struct{}
	torn    int // connections that came to the end of network.most
	closed  bool
}

// network is how a proxy treats what goes through it; the zero value is a good network.
type network struct {
	up, down bool          // held in the direction to the broker, or from it: nothing is lost, and nothing arrives
	refuse   bool          // new connections are closed at once
	latency  time.Duration // in each direction
	most     int           // bytes that a connection brings from the broker from now on before it breaks; 0 for no limit
	stall    bool          // it does not break then, but stalls for good
}

// blackHole is a network that takes everything and says nothing.
var blackHole = network{up: true, down: true}

// proxied is one connection through a proxy.
type proxied struct {
	client, broker *net.TCPConn
	closed         chan struct{}
	once           sync.Once
	stranded       bool // held for good, whatever the network does; under proxy.mu
	brought        int  // bytes from the broker since the network changed; under proxy.mu
}

// newProxy listens on a port of its own until the test ends.
func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", proctest.Loopback()+":0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target, changed: make(chan struct{}), conns: make(map[*proxied]struct{})}
	p.tasks.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		refuse := p.network.refuse || p.closed
		p.mu.Unlock()
		if refuse {
			_ = client.Close()
			continue
		}
		p.tasks.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

func (p *proxy) serve(client *net.TCPConn) {
	broker, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	c := &proxied{client: client, broker: broker.(*net.TCPConn), closed: make(chan struct{})}
	defer c.close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pipe(c, c.broker, c.client, up) })
	both.Go(func() { p.pipe(c, c.client, c.broker, down) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// segment is what was read at once, or, without data, the end of the stream.
type segment struct {
	data []byte
	read time.Time
}

// pipe copies from src to dst. The end of the stream takes the same way as its data: behind a black hole nobody learns
// of it.
func (p *proxy) pipe(c *proxied, dst, src *net.TCPConn, dir int) {
	queue := make(chan segment, 64)
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			s := segment{buf[:n], time.Now()}
			if n > 0 || err != nil {
				if n == 0 {
					s.data = nil
				}
				select {
				case queue <- s:
				case <-c.closed:
					return
				}
			}
			if err != nil {
				if n > 0 {
					select {
					case queue <- segment{nil, time.Now()}:
					case <-c.closed:
					}
				}
				return
			}
		}
	})
	defer reader.Wait()
	defer c.close()
	for {
		select {
		case <-c.closed:
			return
		case s := <-queue:
			if !p.pass(c, s, dir) || s.data == nil {
				return
			}
			data, most := s.data, false
			if dir == down {
				data, most = p.bring(c, s.data)
			}
			if _, err := dst.Write(data); err != nil || most && !p.stalls(c) {
				return
			}
		}
	}
}

// pass waits until the link lets a segment through; false when the connection is closed before.
func (p *proxy) pass(c *proxied, s segment, dir int) bool {
	for {
		p.mu.Lock()
		hold, changed, latency := [2]bool{up: p.network.up, down: p.network.down}[dir] || c.stranded, p.changed, p.network.latency
		p.mu.Unlock()
		var due <-chan time.Time
		if !hold {
			wait := time.Until(s.read.Add(latency))
			if latency == 0 || wait <= 0 {
				return true
			}
			due = time.After(wait)
		}
		select {
		case <-changed:
		case <-due:
			return true
		case <-c.closed:
			return false
		}
	}
}

// bring counts what comes from the broker, and says how much of it may pass and whether that was all.
func (p *proxy) bring(c *proxied, data []byte) (pass []byte, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := c.brought
	c.brought += len(data)
	if p.network.most == 0 || c.brought < p.network.most {
		return data, false
	}
	p.torn++
	return data[:max(0, p.network.most-before)], true
}

// stalls strands a connection if that is what the network does with those that brought all they may; else it is to be
// broken.
func (p *proxy) stalls(c *proxied) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.stranded = p.network.stall
	if !c.stranded {
		_ = c.client.SetLinger(0) // fails only on a closed connection
	}
	return c.stranded
}

// tornOff is how many connections brought all they might.
func (p *proxy) tornOff() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.torn
}

func (c *proxied) close() {
	c.once.Do(func() {
		close(c.closed)
		_ = c.client.Close()
		_ = c.broker.Close()
	})
}

// set changes the link.
func (p *proxy) set(n network) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network = n
	for c := range p.conns {
		c.brought = 0
	}
	p.poke()
}

// strand holds what goes through the present connections, for good: a firewall has forgotten them.
func (p *proxy) strand() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.stranded = true
	}
	p.poke()
}

func (p *proxy) poke() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// reset breaks the present connections, towards both sides.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.client.SetLinger(0) // fails only on a closed connection
		_ = c.broker.SetLinger(0)
		c.close()
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.reset()
	p.tasks.Wait()
}

func TestProxy(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var echoes sync.WaitGroup
	echoes.Go(func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			echoes.Go(func() { _, _ = io.Copy(c, c); _ = c.Close() })
		}
	})
	p := newProxy(t, echo.Addr().String())
	t.Cleanup(func() {
		_ = echo.Close()
		p.reset()
		echoes.Wait()
	})
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	// says reports whether an echo comes back within d.
	says := func(c net.Conn, text string, d time.Duration) error {
		if text != "" {
			if _, err := c.Write([]byte(text)); err != nil {
				return err
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
			t.Fatal(err)
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	const long, short = 10 * time.Second, 50 * time.Millisecond
	c := dial()
	if err := says(c, "hello", long); err != nil {
		t.Fatal(err)
	}
	for _, l := range []network{blackHole, {up: true}, {down: true}} {
		p.set(l)
		if err := says(c, "hello", short); err == nil {
			t.Fatalf("through %+v: an echo", l)
		}
		p.set(network{})
		if err := says(c, "", long); err != nil {
			t.Fatalf("after %+v: %v", l, err)
		}
	}
	p.set(network{latency: short})
	began := time.Now()
	if err := says(c, "hello", long); err != nil || time.Since(began) < 2*short {
		t.Fatalf("with latency: %v after %v", err, time.Since(began))
	}
	p.set(network{})
	p.strand()
	if err := says(c, "hello", short); err == nil {
		t.Fatal("stranded: an echo")
	}
	d := dial()
	if err := says(d, "hello", long); err != nil {
		t.Fatal(err)
	}
	p.reset()
	if err := says(d, "", long); err == nil {
		t.Fatal("after a reset: data")
	}
	p.set(network{refuse: true})
	if err := says(dial(), "hello", long); err == nil {
		t.Fatal("refused: an echo")
	}
	for _, stall := range []bool{false, true} {
		p.set(network{most: 8, stall: stall})
		c := dial()
		if err := says(c, "hello", long); err != nil {
			t.Fatal(err)
		}
		limit := long
		if stall {
			limit = short
		}
		err := says(c, "hello", limit)
		if late := errors.Is(err, os.ErrDeadlineExceeded); err == nil || late != stall {
			t.Fatalf("eight bytes, stall %v: %v", stall, err)
		}
	}
	if n := p.tornOff(); n != 2 {
		t.Fatalf("%d connections torn off, want 2", n)
	}
}
