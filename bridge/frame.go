//go:build linux

package bridge

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"golang.org/x/sys/unix"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// MaxFrame is the most bytes that a frame may have after its length: a job, the largest thing that travels in one, and
// some room.
const MaxFrame = 4 << 20

// ErrFrame is returned for bytes that are not a frame of the protocol. The stream cannot be read any further.
var ErrFrame = errors.New("not a frame of the local protocol")

// Conn reads and writes frames: a length of 32 bits, little-endian, and a msgpack array of that many bytes. One
// goroutine reads; any number may write.
type Conn struct {
	c *net.UnixConn
	q net.Conn // c, for reads and writes
	r *bufio.Reader

	mu  sync.Mutex
	out bytes.Buffer
	enc *msgpack.Encoder
}

// NewConn makes a Conn of a connected Unix socket, which it takes over.
func NewConn(socket *os.File) (*Conn, error) {
	c, err := net.FileConn(socket) // a duplicate
	if err != nil {
		return nil, fmt.Errorf("bridge: descriptor %d: %w", socket.Fd(), err)
	}
	_ = socket.Close() // the duplicate is what counts
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("bridge: a %s socket, not a Unix one", c.LocalAddr().Network())
	}
	conn := &Conn{c: u, q: Quick(u)}
	conn.r = bufio.NewReaderSize(conn.q, 64<<10)
	conn.enc = msgpack.NewEncoder(&conn.out)
	conn.enc.UseCompactInts(true)
	return conn, nil
}

// Pair returns the two ends of a new stream: one for this process, one to be inherited by another.
func Pair() (own *Conn, other *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("bridge: socket pair: %w", err)
	}
	other = os.NewFile(uintptr(fds[1]), "peer")
	if own, err = NewConn(os.NewFile(uintptr(fds[0]), "own")); err != nil {
		_ = other.Close()
		return nil, nil, err
	}
	return own, other, nil
}

// End ends reading at once, and lets what is to be said last be written for a while.
func (c *Conn) End(grace time.Duration) error {
	now := time.Now()
	return errors.Join(c.c.SetReadDeadline(now), c.c.SetWriteDeadline(now.Add(grace)))
}

// Close ends both directions; the other side reads its end of file.
func (c *Conn) Close() error { return c.c.Close() }

// Read returns the next frame's bytes, which are the caller's: one sound msgpack value. The error is io.EOF between
// frames when the other side has ended, and ErrFrame for what is no frame.
func (c *Conn) Read() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, n, MaxFrame)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(c.r, frame); err != nil {
		return nil, fmt.Errorf("%w: cut off: %w", ErrFrame, err)
	}
	if err := msgp.Check(frame); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return frame, nil
}

// Write sends one frame, whose values encode writes.
func (c *Conn) Write(encode func(*msgpack.Encoder) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.add(encode); err != nil {
		return err
	}
	return c.flush(nil)
}

// WriteWithFile sends one frame and a descriptor of f with it.
func (c *Conn) WriteWithFile(f *os.File, encode func(*msgpack.Encoder) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.add(encode); err != nil {
		return err
	}
	return c.flush(unix.UnixRights(int(f.Fd())))
}

// Send sends a frame of which the bytes after its length are here.
func (c *Conn) Send(frame []byte) error {
	return c.Write(func(*msgpack.Encoder) error {
		c.out.Write(frame)
		return nil
	})
}

// add puts a frame behind those that are not sent. Called with mu held.
func (c *Conn) add(encode func(*msgpack.Encoder) error) error {
	start := c.out.Len()
	c.out.Write([]byte{0, 0, 0, 0})
	err := encode(c.enc)
	size := c.out.Len() - start - 4
	switch {
	case err != nil:
		err = fmt.Errorf("bridge: encode a frame: %w", err)
	case size > MaxFrame:
		err = fmt.Errorf("%w: %d bytes, at most %d", ErrFrame, size, MaxFrame)
	}
	if err != nil {
		c.out.Truncate(start)
		return err
	}
	binary.LittleEndian.PutUint32(c.out.Bytes()[start:], uint32(size))
	return nil
}

// flush sends all frames, and rights with their first byte. Called with mu held.
func (c *Conn) flush(rights []byte) error {
	frames := c.out.Bytes()
	defer c.out.Reset()
	if rights != nil {
		n, _, err := c.c.WriteMsgUnix(frames, rights, nil)
		if err != nil {
			return err
		}
		frames = frames[n:]
	}
	if len(frames) == 0 {
		return nil
	}
	_, err := c.q.Write(frames)
	return err
}

// Array reads the head of a frame's array, which has at least n elements.
func Array(dec *msgpack.Decoder, n int) (elements int, err error) {
	elements, err = dec.DecodeArrayLen()
	if err == nil && elements < n {
		err = fmt.Errorf("%w: %d elements, at least %d are needed", ErrFrame, elements, n)
	}
	return elements, err
}
