package client

import (
	"errors"
	"io"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

// TestALostConnectionIsNoEnd has the server end a connection that is not made anew: what the client library says of it
// is io.EOF, and it must not pass for the end of the data.
func TestALostConnectionIsNoEnd(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	o := newOwnerOn(t, srv)
	b, err := Open[[]byte](deadline(t), srv.Connect(nats.NoReconnect()), Config{Name: o.name, Dataset: "count"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.r.cfg.errDisconnected(io.EOF); errors.Is(err, io.EOF) || !errors.Is(err, ErrDisconnected) {
		t.Errorf("%v", err)
	}
	state := take(t, b, schema.State{}, 1)
	srv.Stop()
	defer srv.Start()
	var last error
	for _, err := range b.All(deadline(t), state) {
		last = err
	}
	if last == nil || errors.Is(last, io.EOF) || !errors.Is(last, ErrDisconnected) {
		t.Errorf("the loop ended with %v", last)
	}
}
