package client

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestMetrics(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		r, payload := o.batch(seq)
		switch seq {
		case 2:
			r.Kind, r.Size, payload = wire.KindHole, 0, nil
		case 3:
			r.Deliveries = 2
		}
		return r, payload
	}
	reg := prometheus.NewPedanticRegistry()
	b, _ := setup(t, o, func(c *Config) { c.Registerer = reg })
	state := schema.State{}
	for range 3 {
		step, err := b.Take(deadline(t), state)
		if err != nil {
			t.Fatal(err)
		}
		state = step.Next
	}
	want := strings.NewReader(`
# HELP jetbatch_client_batches_total Batches taken.
# TYPE jetbatch_client_batches_total counter
jetbatch_client_batches_total{batcher="train",dataset="count"} 3
# HELP jetbatch_client_holes_total Positions without a batch that were passed over.
# TYPE jetbatch_client_holes_total counter
jetbatch_client_holes_total{batcher="train",dataset="count"} 1
# HELP jetbatch_client_redelivered_batches_total Batches taken whose job was handed out more than once.
# TYPE jetbatch_client_redelivered_batches_total counter
jetbatch_client_redelivered_batches_total{batcher="train",dataset="count"} 1
`)
	if err := testutil.GatherAndCompare(reg, want, "jetbatch_client_batches_total", "jetbatch_client_holes_total",
		"jetbatch_client_redelivered_batches_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); len(problems) > 0 || err != nil {
		t.Error(problems, err)
	}
	if _, err := Open[[]byte](deadline(t), o.nc, Config{Name: o.name, Dataset: "count", TakeOver: true,
		Registerer: reg}); !errors.Is(err, ErrBadConfig) {
		t.Errorf("a second handle with the same registry: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(reg); n != 0 || err != nil {
		t.Errorf("%d metrics of a closed handle, %v", n, err)
	}
}

type spanKey struct{}

func TestTraceTravels(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.manual = true
	b, _ := setup(t, o, func(c *Config) {
		c.Trace = func(ctx context.Context) string { s, _ := ctx.Value(spanKey{}).(string); return s }
	})
	if err := b.Start(context.WithValue(deadline(t), spanKey{}, trace), schema.State{}); err != nil {
		t.Fatal(err)
	}
	for seq, header := range []string{trace, trace + "\r\nmore: 1"} {
		res, payload := o.batch(uint64(seq + 1))
		body, err := wire.AppendResult(nil, res, payload)
		if err != nil {
			t.Fatal(err)
		}
		msg := &nats.Msg{Subject: wire.ResultSubject(o.name, o.rec.Gen, res.Seq), Data: body,
			Header: nats.Header{wire.TraceHeader: []string{header}}}
		if _, err := o.js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.WithValue(deadline(t), spanKey{}, "no trace")
	first, err := b.Take(ctx, schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Take(ctx, first.Next)
	if err != nil {
		t.Fatal(err)
	}
	if first.Trace != trace || second.Trace != "" {
		t.Errorf("traces of the steps: %q, %q", first.Trace, second.Trace)
	}
	o.locked(func() {
		if got := o.requests[len(o.requests)-1].Trace; got != trace {
			t.Errorf("trace of the request: %q", got)
		}
		for _, c := range o.credits {
			if c.Taken > 0 && c.Trace != "" {
				t.Errorf("trace of a credit: %q", c.Trace)
			}
		}
	})
}
