package client

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
)

func plainNATS() (is, known bool) { return false, true }

// serveOne serves one payload and closes the connection after it, as a worker that goes, once leave is closed.
func serveOne(t *testing.T, l *direct.Listener, payload string, leave <-chan struct{}) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { <-leave; _ = conn.Close() }()
		_, err = wire.ReadFetch(conn)
		if err == nil {
			_, err = conn.Write(append(wire.AppendAnswer(nil, wire.HasWhole, len(payload)), payload...))
		}
		if err != nil {
			t.Error(err)
		}
	}()
	return done
}

// TestConnectionsOfWorkersThatWent has 200 workers come, serve one payload each, and go: no descriptor of theirs is
// left. It counts the descriptors of the process, so no other test may run meanwhile.
func TestConnectionsOfWorkersThatWent(t *testing.T) {
	f := &fetcher{secure: plainNATS, buffers: new(pool)}
	ctx := t.Context()
	tended := make(chan struct{})
	go func() { defer close(tended); f.conns.tend(ctx) }()
	t.Cleanup(func() { f.conns.close(); <-tended })
	before := openFiles(t)
	gone := make(chan struct{})
	close(gone)
	for range 200 {
		l, err := direct.Listen("127.0.0.1:0", false)
		if err != nil {
			t.Fatal(err)
		}
		done := serveOne(t, l, "abcd", gone)
		res := &wire.Result{Seq: 1, Attempt: rand.Text(), Size: 4, Digest: wire.Sum([]byte("abcd")), Direct: &wire.Direct{Address: l.Addr().String()}}
		if err := fetchOne(ctx, f, res); err != nil {
			t.Fatal(err)
		}
		<-done
		_ = l.Close()
		if n := len(f.conns.idle); n > idleAtMost {
			t.Fatalf("%d connections wait", n)
		}
	}
	natstest.Eventually(t, "what the workers closed is closed here", func() bool {
		f.conns.mu.Lock()
		defer f.conns.mu.Unlock()
		return len(f.conns.idle) == 0 && openFiles(t) <= before+2
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("descriptors are counted where Linux lists them: %v", err)
	}
	return len(entries)
}

// TestConns has connections kept for their peer, checked, aged and bounded.
func TestConns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c conns
		a, b := peer{"a", ""}, peer{"a", "pinned"}
		put := func(to peer) (mine, theirs net.Conn) {
			mine, theirs = net.Pipe()
			c.put(to, mine, time.Now())
			return mine, theirs
		}
		closed := func(theirs net.Conn) bool {
			_ = theirs.SetReadDeadline(time.Now().Add(time.Millisecond)) // a closed pipe says so in Read
			_, err := theirs.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		}
		first, _ := put(a)
		second, _ := put(a)
		if c.get(b) != nil {
			t.Error("a connection to another peer at the same address")
		}
		if c.get(a) != second || c.get(a) != first || c.get(a) != nil {
			t.Error("not the one that was used last first")
		}
		_, stays := put(a)
		_, goes := put(a)
		_ = goes.Close()
		time.Sleep(checkEvery) // of the bubble's clock, here and below
		c.check(time.Now())
		if c.len("a") != 1 || closed(stays) {
			t.Errorf("%d left of one that was closed and one that was not", c.len("a"))
		}
		_, speaks := put(b)
		go func() { _, _ = speaks.Write([]byte("x")) }() // until it is closed
		time.Sleep(checkEvery)
		c.check(time.Now())
		if c.get(b) != nil {
			t.Error("it was spoken on while nobody had asked")
		}
		time.Sleep(idleFor)
		c.check(time.Now())
		if c.len("a") != 0 || !closed(stays) {
			t.Error("kept for ever")
		}
		var ends []net.Conn
		for i := range idleAtMost + 1 {
			_, theirs := put(peer{string(rune('A' + i)), ""})
			ends = append(ends, theirs)
		}
		if len(c.idle) != idleAtMost || !closed(ends[0]) || closed(ends[1]) {
			t.Errorf("%d are kept", len(c.idle))
		}
		for range idlePerWorker + 1 {
			put(a)
		}
		if c.len("a") != idlePerWorker {
			t.Errorf("%d of one peer", c.len("a"))
		}
		c.close()
		if _, theirs := put(a); !closed(theirs) || !closed(ends[2]) {
			t.Error("kept after close")
		}
	})
}

func TestUploadLimit(t *testing.T) {
	t.Parallel()
	for size, want := range map[uint64]time.Duration{
		0: time.Second, 32 << 20: 2 * time.Second, 48 << 20: 2500 * time.Millisecond, 9 << 30: 289 * time.Second,
		16 << 30: 513 * time.Second,
	} {
		if got := uploadLimit(size); got != want {
			t.Errorf("%d bytes: %v, want %v", size, got, want)
		}
	}
	if got := uploadLimit(1 << 63); got < time.Second {
		t.Errorf("more than there can be: %v", got)
	}
}

// TestSecurityIsDecidedAtEachFetch has NATS gain, lose and hide its TLS between fetches from a worker that has none.
func TestSecurityIsDecidedAtEachFetch(t *testing.T) {
	t.Parallel()
	l, err := direct.Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var secure, known bool
	asked := make(chan struct{}, 1)
	f := &fetcher{buffers: new(pool), secure: func() (bool, bool) {
		select {
		case asked <- struct{}{}:
		default:
		}
		return secure, known
	}}
	defer f.conns.close()
	res := &wire.Result{Seq: 1, Attempt: rand.Text(), Size: 4, Digest: wire.Sum([]byte("abcd")), Direct: &wire.Direct{Address: l.Addr().String()}}
	fetch := func(is, isKnown bool) error {
		secure, known = is, isKnown
		err := fetchOne(t.Context(), f, res)
		return err
	}
	leave := make(chan struct{})
	done := serveOne(t, l, "abcd", leave)
	defer func() { close(leave); <-done }()
	if err := fetch(false, true); err != nil {
		t.Fatal(err)
	}
	if f.conns.len(l.Addr().String()) != 1 {
		t.Fatal("no connection that could be used again")
	}
	if err := fetch(true, true); !errors.Is(err, direct.ErrUnprotected) || !errors.Is(err, errUnreachable) {
		t.Errorf("NATS has TLS: %v", err)
	}
	secure, known = true, false
	ctx, cancel := context.WithCancel(t.Context())
	<-asked
	go func() { <-asked; cancel() }()
	if err := fetchOne(ctx, f, res); !errors.Is(err, context.Canceled) {
		t.Errorf("no connection to NATS that says: %v", err)
	}
}

// TestUnknownSecurityIsSecure has the connection to NATS be down when a payload is fetched.
func TestUnknownSecurityIsSecure(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect()
	f := newFetcher(nc, new(Config), new(pool))
	if is, known := f.secure(); is || !known {
		t.Errorf("without TLS: %v, %v", is, known)
	}
	nc.Close()
	if is, known := f.secure(); !is || known {
		t.Errorf("without a connection: %v, %v", is, known)
	}
}

// TestAConnectionIsOfUseAfterItsCheck has a payload be fetched by TLS, the connection be checked, and another payload
// be fetched on it: there is no other to be had.
func TestAConnectionIsOfUseAfterItsCheck(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]string{"TLS": "127.0.0.1:0", "pipe": direct.InProcess} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := direct.Listen(address, true)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{})
			go func() {
				defer close(served)
				conn, err := l.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = conn.Close() }()
				for {
					if _, err := wire.ReadFetch(conn); err == io.EOF {
						return // the reader is done
					}
					if err == nil {
						_, err = conn.Write(append(wire.AppendAnswer(nil, wire.HasWhole, 4), "abcd"...))
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			}()
			f := &fetcher{secure: func() (bool, bool) { return true, true }, buffers: new(pool)}
			res := &wire.Result{Seq: 1, Attempt: rand.Text(), Size: 4, Digest: wire.Sum([]byte("abcd")), Direct: &wire.Direct{Address: l.Addr().String(),
				Pin: l.Pin}}
			for range 3 {
				if err := fetchOne(t.Context(), f, res); err != nil {
					t.Fatal(err)
				}
				_ = l.Close()
				f.conns.check(time.Now().Add(checkEvery))
			}
			f.conns.close()
			<-served
		})
	}
}

// fetchOne fetches one small payload.
func fetchOne(ctx context.Context, f *fetcher, res *wire.Result) error {
	return f.fetch(ctx, []*wire.Result{res}, func(int, payload) {})
}
