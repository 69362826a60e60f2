package doctor

import (
	"net"
	"sync"
	"testing"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// listen has whoever dials be answered once, and returns the address and the pin of the certificate.
func listen(t *testing.T, secure bool, answer []byte) (address string, pin []byte) {
	t.Helper()
	l, err := direct.Listen("127.0.0.1:0", secure)
	must(t, err)
	var answers sync.WaitGroup
	answers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			answers.Go(func() {
				defer func() { _ = conn.Close() }()
				if _, err := conn.Read(make([]byte, 64)); err == nil {
					_, _ = conn.Write(answer)
				}
			})
		}
	})
	t.Cleanup(func() {
		must(t, l.Close())
		answers.Wait()
	})
	return l.Addr().String(), l.Pin
}

// Workers that a trainer here could not fetch from are named, all others are counted.
func TestDirect(t *testing.T) {
	t.Parallel()
	shut, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, shut.Close())
	look := func(secure bool, workers ...schema.WorkerStatus) []Finding {
		e := &examination{state: fleet.Status{Workers: workers}}
		e.direct(t.Context(), secure)
		return e.findings
	}
	worker := func(name string, secure bool, answer []byte) schema.WorkerStatus {
		address, pin := listen(t, secure, answer)
		return schema.WorkerStatus{Worker: name, Direct: address, DirectPin: pin}
	}
	none := wire.AppendAnswer(nil, wire.HasNothing, 0)
	plain, private := worker("plain", false, none), worker("private", true, none)
	impostor := schema.WorkerStatus{Worker: "impostor", Direct: private.Direct, DirectPin: make([]byte, 32)}
	nowhere := schema.WorkerStatus{Worker: "nowhere", Direct: shut.Addr().String()}

	if f := look(false, schema.WorkerStatus{Worker: "storing"}); len(f) != 0 {
		t.Errorf("a worker that stores everything: %s", list(f))
	}
	expect(t, look(false, plain, private), OK, "direct: the ports of 2 workers can be reached")
	expect(t, look(false, plain, nowhere), Warning, "direct: 1 of 2 workers cannot be reached from here: nowhere (dial tcp "+nowhere.Direct)
	expect(t, look(true, plain, private), Warning, "direct: 1 of 2 workers cannot be reached from here: plain (the worker offers no TLS")
	expect(t, look(true, impostor), Warning, "impostor (whoever listens there is not the worker")
	expect(t, look(false, worker("proxy", false, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))), Warning, "proxy (whoever listens at 127.0.0.1:")
	expect(t, look(false, worker("silent", false, nil)), Warning, "silent (127.0.0.1:")
}
