//go:build linux

package bridge

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair returns two connected ends by TCP, the first of them quick.
func pair(t *testing.T) (own, other net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if own, err = new(Dialer).Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if other, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = own.Close(), other.Close() })
	return own, other
}

// More than a socket holds goes both ways at once, and comes whole.
func TestQuickMovesAll(t *testing.T) {
	t.Parallel()
	own, other := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	write := func(c net.Conn) {
		if n, err := c.Write(sent); n != len(sent) || err != nil {
			t.Errorf("%d of %d bytes written: %v", n, len(sent), err)
		}
	}
	go write(own)
	go write(other)
	for _, c := range []net.Conn{own, other} {
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("other bytes came, or %v", err)
		}
	}
	_ = other.Close()
	if n, err := own.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("at the end: %d, %v", n, err)
	}
}

// A deadline and Close end a wait, with the errors of package net.
func TestQuickWaitsEnd(t *testing.T) {
	t.Parallel()
	own, other := pair(t)
	if err := own.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := own.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after the deadline: %d, %v", n, err)
	}
	_ = own.SetReadDeadline(time.Time{})
	ended := make(chan error, 1)
	go func() {
		_, err := own.Read(make([]byte, 1))
		ended <- err
	}()
	_ = own.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("closed: %v", err)
	}
	_ = other.Close()
	if n, err := own.Write([]byte("x")); n != 0 || err == nil {
		t.Fatalf("written after the end: %d, %v", n, err)
	}
}

// Why a connection was not made is there to be told.
func TestDialerFails(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	d := new(Dialer)
	if _, err := d.Dial("tcp", listener.Addr().String()); err == nil || d.Failed() == nil {
		t.Fatalf("%v, and %v is told", err, d.Failed())
	}
}
