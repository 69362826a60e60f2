package worker

import (
	"context"
	"log/slog"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// BenchmarkJobs compares a worker of 4 slots with the least that any worker must do, written with the
// jetstream package: Consume, PublishAsync, ack on the answer. Jobs and results have 1 KB; all jobs are
// queued before the clock starts; time is until the last ack.
func BenchmarkJobs(b *testing.B) {
	body := make([]byte, 1024)
	def := dataset.Define("bench", func(context.Context, struct{}) (dataset.Funcs[int, []byte, []byte], error) {
		return dataset.Funcs[int, []byte, []byte]{
			NextFunc:        func(s int) ([]byte, int, error) { return body, s + 1, nil },
			MaterializeFunc: func(_ context.Context, in []byte) ([]byte, error) { return in, nil },
		}, nil
	})
	queue := func(b *testing.B) (*natstest.Server, *owner) {
		s := natstest.Run(b)
		o := newOwner(b, s, "bench", "bench")
		for seq := range uint64(b.N) {
			state, err := msgp.Marshal(int(seq))
			if err != nil {
				b.Fatal(err)
			}
			job, err := msgp.Marshal(body)
			if err != nil {
				b.Fatal(err)
			}
			data := wire.AppendJob(nil, &wire.Job{Seq: seq + 1, Prev: state, Next: state, Body: job})
			if _, err := o.js.PublishMsgAsync(&nats.Msg{Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, seq+1, 0), Data: data}); err != nil {
				b.Fatal(err)
			}
		}
		<-o.js.PublishAsyncComplete()
		return s, o
	}
	b.Run("worker", func(b *testing.B) {
		s, o := queue(b)
		b.ResetTimer()
		w, err := New(s.Connect(), Config{Slots: 4, Logger: slog.New(slog.DiscardHandler)}, def)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		natstest.Eventually(b, "all jobs are done", func() bool { return w.Status().Done == uint64(b.N) })
		b.StopTimer()
		o.waitEmpty()
		cancel()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	})
	b.Run("plain", func(b *testing.B) {
		s, o := queue(b)
		_, js := s.JetStream()
		b.ResetTimer()
		consumer, err := js.Consumer(b.Context(), topology.JobsStream, topology.Consumer(o.batcher, o.gen))
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan struct{}, b.N)
		type pending struct {
			msg jetstream.Msg
			ack jetstream.PubAckFuture
		}
		acks := make(chan pending, 256)
		go func() {
			for p := range acks {
				<-p.ack.Ok()
				if p.msg.Ack() == nil {
					done <- struct{}{}
				}
			}
		}()
		n := 0
		consume, err := consumer.Consume(func(msg jetstream.Msg) {
			n++
			ack, err := js.PublishMsgAsync(&nats.Msg{Subject: wire.ResultPrefix + "." + o.batcher + "." + o.gen + ".0." + strconv.Itoa(n), Data: msg.Data()})
			if err == nil {
				acks <- pending{msg, ack}
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		for range b.N {
			<-done
		}
		b.StopTimer()
		consume.Stop()
		<-consume.Closed()
		close(acks)
	})
}
