package direct

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen says hello to everybody.
func listen(t *testing.T, address string, secure bool) *Listener {
	t.Helper()
	l, err := Listen(address, secure)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello")) // an impostor's reader hangs up
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l
}

func TestDial(t *testing.T) {
	t.Parallel()
	plain, secured, other, pipe := listen(t, "127.0.0.1:0", false), listen(t, "127.0.0.1:0", true), listen(t, "127.0.0.1:0", true), listen(t, InProcess, true)
	if plain.Pin != nil || len(secured.Pin) != 32 || pipe.Pin != nil {
		t.Fatalf("pins %x, %x, %x", plain.Pin, secured.Pin, pipe.Pin)
	}
	named := listen(t, InProcess+":named", false)
	if _, err := Listen(named.Addr().String(), false); !errors.Is(err, ErrTaken) {
		t.Fatalf("a second listener of one name: %v", err)
	}
	closed := listen(t, InProcess, false)
	_ = closed.Close()
	for name, test := range map[string]struct {
		to     net.Addr
		pin    []byte
		secure bool
		want   error
	}{
		"plain":               {plain.Addr(), nil, false, nil},
		"TLS":                 {secured.Addr(), secured.Pin, true, nil},
		"TLS beyond duty":     {secured.Addr(), secured.Pin, false, nil},
		"in process":          {pipe.Addr(), nil, true, nil},
		"in process, by name": {named.Addr(), nil, false, nil},
		"none, and needed":    {plain.Addr(), nil, true, ErrUnprotected},
		"another certificate": {other.Addr(), secured.Pin, true, ErrImpostor},
		"another process":     {closed.Addr(), nil, false, ErrElsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := Dial(t.Context(), test.to.String(), test.pin, test.secure)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, not %v", err, test.want)
			}
			if err != nil {
				return
			}
			said, err := io.ReadAll(conn)
			if string(said) != "hello" || err != nil {
				t.Fatalf("%q, %v", said, err)
			}
			_ = conn.Close()
		})
	}
}

func TestDialEnds(t *testing.T) {
	t.Parallel()
	l, err := Listen(InProcess, false) // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, l.Addr().String(), nil, false); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// A reader on the worker's machine is spared TCP; without the local listener, or with TLS, it dials as any other.
func TestLocal(t *testing.T) {
	t.Parallel()
	plain, secured := listen(t, "127.0.0.1:0", false), listen(t, "127.0.0.1:0", true)
	over := func(l *Listener, secure bool) string {
		t.Helper()
		conn, err := Dial(t.Context(), l.Addr().String(), l.Pin, secure)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.RemoteAddr().Network()
	}
	if got := over(plain, false); got != "tcp" {
		t.Fatalf("without a local listener: %s", got)
	}
	for _, l := range []*Listener{plain, secured} {
		local, err := ListenLocal(l.Addr().String())
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip("this system has no local listeners")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = local.Close() })
	}
	if got := over(plain, false); got != "unix" {
		t.Errorf("with a local listener: %s", got)
	}
	if got := over(secured, true); got != "tcp" {
		t.Errorf("with TLS: %s", got)
	}
	if _, err := ListenLocal(plain.Addr().String()); err == nil {
		t.Error("a name that is taken is given away")
	}
}

func TestLocalAddress(t *testing.T) {
	t.Parallel()
	if host, err := LocalAddress("127.0.0.1:4222"); host != "127.0.0.1" || err != nil {
		t.Fatalf("%q, %v", host, err)
	}
	if host, err := LocalAddress("nowhere"); err == nil {
		t.Fatalf("%q", host)
	}
}
