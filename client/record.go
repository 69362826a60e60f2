package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// record is the batcher's, which the owner writes. It is read through the bucket's leader.
type record struct {
	cfg *Config
	nc  *nats.Conn
	js  jetstream.JetStream
	run *run
}

// agrees reports whether the record has the verdict that a result claims. It asks until that is known.
func (r *record) agrees(ctx context.Context, gen string, res *wire.Result) (bool, error) {
	run := r.run.context()
	n := newNag(r.cfg.Logger)
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		attempt, stop := context.WithTimeout(ctx, requestTimeout)
		rec, err := r.read(attempt)
		stop()
		switch {
		case err == nil:
			v := rec.Verdict
			return rec.Gen == gen && v != nil && v.Seq == res.Seq && (v.Fault == nil) == (res.Kind == wire.KindEnd), nil
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return false, nil
		case errors.Is(err, nats.ErrConnectionClosed):
			return false, r.cfg.errDisconnected(err)
		}
		what := fmt.Sprintf("the record of the batcher cannot be read (%v)", err)
		if denied := topology.Denied(r.nc, topology.Needs{Publish: []string{"$JS.API."}}.In(r.cfg.Domain)); denied != nil {
			return false, fmt.Errorf("batcher %s: %w", r.cfg.Name, denied)
		}
		n.say(what)
		pause(ctx, run, backoff, nil, nil)
		switch {
		case run.Err() != nil:
			return false, context.Cause(run)
		case ctx.Err() != nil:
			return false, r.cfg.waitError(ctx, n.began, what)
		}
	}
}

// look begins to look for the bucket, and yields true once it is found; false may mean that it is not there yet.
func (r *record) look(ctx context.Context) (found <-chan bool) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	done := make(chan bool, 1)
	go func() {
		defer cancel()
		_, err := r.js.Stream(ctx, topology.BucketStream)
		done <- err == nil
	}()
	return done
}

// here returns ErrJetStream if the JetStream of this connection is another one than that of the coordinator which has
// just given a seat: that one has the bucket, where the seat was recorded. domain is what the coordinator says of its
// own. It returns nil if a look from before the seat has found the bucket, and where the server does not say.
func (r *record) here(ctx context.Context, found <-chan bool, domain string) error {
	if <-found {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := r.js.Stream(ctx, topology.BucketStream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if wire.CheckName("JetStream domain", domain) != nil {
		domain = ""
	}
	return fmt.Errorf("batcher %s: %w: %s", r.cfg.Name, ErrJetStream, topology.OtherJetStream(r.cfg.Domain, domain))
}

func (r *record) read(ctx context.Context) (*wire.Record, error) {
	stream, err := r.js.Stream(ctx, topology.BucketStream)
	if err != nil {
		return nil, err
	}
	value, _, err := topology.Get(ctx, stream, topology.BatcherKey(r.cfg.Name))
	if err != nil {
		return nil, err
	}
	rec, err := wire.ParseRecord(r.cfg.Name, value)
	if err != nil {
		return nil, fmt.Errorf("record of batcher %s: %w", r.cfg.Name, err)
	}
	return &rec, nil
}
