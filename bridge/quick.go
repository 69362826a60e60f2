//go:build linux

package bridge

import (
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// brief is the most bytes of one system call. Nothing else runs on the processor meanwhile, the garbage collector's
// pauses included.
const brief = 256 << 10

// quick is a stream socket of a process that mostly waits. Go's runtime wakes its monitor thread at the first system
// call after every wait, and that thread looks after the process several times: a fifth of the CPU that small batches
// take. Calls on a socket that does not block return at once, so quick makes them without the runtime's knowledge.
type quick struct {
	net.Conn
	in, out half
}

// half is one direction. Its fields are of the call that is under way.
type half struct {
	mu    sync.Mutex
	wait  func(func(fd uintptr) bool) error // calls once the socket is ready
	trap  uintptr                           // of the system call
	call  func(fd uintptr) bool             // try, which is made a function once
	p     []byte
	n     int
	errno syscall.Errno
}

// Quick returns conn with reads and writes of small messages that cost less, or conn itself where that cannot be.
func Quick(conn net.Conn) net.Conn {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return conn
	}
	q := &quick{Conn: conn}
	q.in.wait, q.in.trap, q.in.call = raw.Read, unix.SYS_READ, q.in.try
	q.out.wait, q.out.trap, q.out.call = raw.Write, unix.SYS_WRITE, q.out.try
	return q
}

// Dialer dials connections for Quick. It is safe for concurrent use.
type Dialer struct {
	net.Dialer
	mu     sync.Mutex
	failed error // the last one
}

// Dial connects to an address, as net.Dialer does.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.Dialer.Dial(network, address)
	d.mu.Lock()
	d.failed = err
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return Quick(conn), nil
}

// Failed returns why the last connection was not made, or nil.
func (d *Dialer) Failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Read waits until something is here, and reads it.
func (q *quick) Read(p []byte) (int, error) {
	n, err := q.in.do(p)
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

// Write writes all of p.
func (q *quick) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		var n int
		n, err = q.out.do(p[written:])
		written += n
	}
	return written, err
}

// do moves some bytes of p.
func (h *half) do(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.p = p[:min(len(p), brief)]
	err := h.wait(h.call)
	h.p = nil
	switch {
	case err != nil:
		return 0, err
	case h.errno != 0:
		return 0, h.errno
	}
	return h.n, nil
}

// try makes the system call, and reports whether it was made: the socket was ready for it.
func (h *half) try(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(h.trap, fd, uintptr(unsafe.Pointer(&h.p[0])), uintptr(len(h.p)))
		if errno != unix.EINTR {
			h.n, h.errno = int(n), errno
			return errno != unix.EAGAIN
		}
	}
}
