// Package direct is the connection on which a reader fetches payloads from a worker: TCP, with TLS where NATS has it; a
// local socket where both are on one machine without TLS; or a pipe where both are in one process. It knows nothing of
// what is said on it.
package direct

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"
)

// InProcess is the address to listen on for readers of this process alone; it opens no port. With a colon and a name
// behind it, that is where readers dial; else they dial a name that is made up.
const InProcess = "process"

const processPrefix = InProcess + ":"

// IsInProcess reports whether an address means something in one process only.
func IsInProcess(address string) bool { return strings.HasPrefix(address, processPrefix) }

// ErrTaken is of Listen: another listener of this process has the name.
var ErrTaken = errors.New("address already in use")

// Errors of Dial.
var (
	// ErrElsewhere is of an address that means something in another process only.
	ErrElsewhere = errors.New("the worker is in another process and listens in that one only")
	// ErrUnprotected is of a worker that offers no TLS where the reader insists on it.
	ErrUnprotected = errors.New("the worker offers no TLS, and the connection to NATS has it")
	// ErrImpostor is of a peer that shows another certificate than the announced one.
	ErrImpostor = errors.New("whoever listens there is not the worker: its certificate is another")
)

// Listener accepts readers.
type Listener struct {
	net.Listener
	// Pin is what Dial must be told: the SHA-256 of a certificate made for this listener. Empty without TLS.
	Pin []byte
}

// Listen listens on a host:port, whose port may be 0, or InProcess. secure demands TLS, but of a pipe.
func Listen(address string, secure bool) (*Listener, error) {
	if address == InProcess {
		address = processPrefix + rand.Text()
	}
	if IsInProcess(address) {
		l, err := listenPipe(address)
		if err != nil {
			return nil, err
		}
		return &Listener{Listener: l}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil || !secure {
		return &Listener{Listener: l}, err
	}
	cert, err := certificate()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	pin := sha256.Sum256(cert.Certificate[0])
	return &Listener{tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}), pin[:]}, nil
}

// Dial connects to where a Listener's Addr is. With secure it insists on TLS; a pin is checked in any case.
func Dial(ctx context.Context, address string, pin []byte, secure bool) (net.Conn, error) {
	if IsInProcess(address) {
		return dialPipe(ctx, address)
	}
	if len(pin) == 0 {
		if secure {
			return nil, ErrUnprotected
		}
		if conn, err := dialLocal(ctx, address); err == nil {
			return conn, nil
		}
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The certificate is nobody's but this listener's: its digest came with the record, by way of NATS.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			shown := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(shown[:], pin) != 1 {
				return ErrImpostor
			}
			return nil
		},
	}}
	return dialer.DialContext(ctx, "tcp", address)
}

// certificate makes a key and a certificate of it that nobody has signed.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// LocalAddress returns the address, without a port, from which this machine reaches a remote host:port.
func LocalAddress(remote string) (string, error) {
	conn, err := net.Dial("udp", remote) // sends nothing
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // nothing was sent that could be lost
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}

// pipes are the listeners of this process, by address.
var pipes sync.Map

// pipeListener hands the other ends of pipes out.
type pipeListener struct {
	address string
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func listenPipe(address string) (*pipeListener, error) {
	l := &pipeListener{address: address, dialled: make(chan net.Conn), closed: make(chan struct{})}
	if _, taken := pipes.LoadOrStore(address, l); taken {
		return nil, fmt.Errorf("listen %s: %w", address, ErrTaken)
	}
	return l, nil
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.dialled:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		pipes.Delete(l.address)
		close(l.closed)
	})
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.address) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

func dialPipe(ctx context.Context, address string) (net.Conn, error) {
	found, ok := pipes.Load(address)
	if !ok {
		return nil, ErrElsewhere
	}
	l := found.(*pipeListener)
	mine, theirs := net.Pipe()
	select {
	case l.dialled <- theirs:
		return mine, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: %w", address, net.ErrClosed)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
