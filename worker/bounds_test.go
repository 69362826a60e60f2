package worker

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// Each bound admits what is just within it, and nothing more: connections of readers, and their requests to store.
func TestAtTheBounds(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	w, _ := start(t, s, Config{Name: "w1", Slots: 1}, nil, define("large", largeBatches()))
	o.feed(1, 1)
	o.waitEmpty()
	res, _ := o.result(1)

	w.readers.mu.Lock()
	for len(w.readers.conns) < maxReaders-1 {
		a, _ := net.Pipe()
		w.readers.conns[a] = true
	}
	w.readers.mu.Unlock()
	last := newReader(t, res.Direct)
	if last.fetch(res.Attempt) == nil {
		t.Error("the last connection that there is room for gets no batch")
	}
	more, err := direct.Dial(t.Context(), res.Direct.Address, res.Direct.Pin, false)
	if err == nil { // without TLS it is closed after it was made
		_ = more.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err = more.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Errorf("one connection more: %v, want it closed", err)
		}
		_ = more.Close()
	} else if !errors.Is(err, io.EOF) {
		t.Logf("one connection more: %v", err)
	}

	ask := func() error {
		_, err := o.nc.Request(wire.UploadSubject("w1"), []byte(`{"attempt":"none"}`), 200*time.Millisecond)
		return err
	}
	limit := func(n int) {
		w.uploads.mu.Lock()
		defer w.uploads.mu.Unlock()
		w.uploads.requests = n
	}
	limit(maxUploads)
	if err := ask(); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("one request more: %v, want none answered", err)
	}
	limit(maxUploads - 1)
	if err := ask(); err != nil {
		t.Errorf("the last request that there is room for: %v", err)
	}
	limit(0)
}
