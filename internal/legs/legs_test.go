package legs

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

func TestMain(m *testing.M) {
	// The server's coarse clock has a goroutine of its own, which must not be born in a bubble of fake time.
	ats.Register()
	os.Exit(m.Run())
}

// world is a server with its roles, in a bubble.
type world struct {
	t     *testing.T
	srv   *server.Server
	conns []*nats.Conn
}

func (w *world) connect() *nats.Conn {
	w.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(dialer{w.srv}), nats.MaxReconnects(-1))
	if err != nil {
		w.t.Fatal(err)
	}
	w.conns = append(w.conns, nc)
	return nc
}

// takes fails the test where something takes more legs than it may.
func (w *world) takes(most int, what string, f func()) {
	w.t.Helper()
	began := time.Now()
	f()
	legs := int(time.Since(began) / leg)
	w.t.Logf("%s: %d legs, %.1f requests to another process", what, legs, float64(legs)/4)
	if legs > most {
		w.t.Errorf("%s: %d legs, at most %d", what, legs, most)
	}
}

// rest lets what was begun come to its end.
func rest() { time.Sleep(5*time.Second + 123*time.Millisecond) }

// TestLegs counts the messages that a trainer waits for, one after another, until it has its first batch, and until it
// has one from elsewhere: alone, and as one of two ranks.
func TestLegs(t *testing.T) {
	// nats.go shares its timers between all connections of a process: one bubble is all that this one may have.
	synctest.Test(t, func(t *testing.T) {
		srv, err := server.NewServer(&server.Options{
			ServerName: "legs", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		if !srv.ReadyForConnections(20 * time.Second) {
			t.Fatal("the server is not ready")
		}
		w := &world{t: t, srv: srv}
		ctx, cancel := context.WithCancel(t.Context())
		var roles sync.WaitGroup
		log := slog.New(slog.DiscardHandler)
		def := testset.Define("toy", nil)
		c, err := coordinator.New(w.connect(), coordinator.Config{Logger: log}, def)
		if err != nil {
			t.Fatal(err)
		}
		roles.Go(func() { _ = c.Run(ctx) })
		made, err := worker.New(w.connect(), worker.Config{Slots: 2, Logger: log}, def)
		if err != nil {
			t.Fatal(err)
		}
		roles.Go(func() { _ = made.Run(ctx) })
		rest()

		nc := w.connect()
		var p testset.Params
		var handles []*client.Batcher[schema.Batch]
		openWith := func(cfg client.Config) *client.Batcher[schema.Batch] {
			cfg.Dataset, cfg.Params, cfg.Logger = "toy", p, log
			b, err := client.Open[schema.Batch](ctx, nc, cfg)
			if err != nil {
				t.Fatal(err)
			}
			handles = append(handles, b)
			return b
		}
		open := func(name string) *client.Batcher[schema.Batch] { return openWith(client.Config{Name: name}) }
		take := func(b *client.Batcher[schema.Batch], at schema.State) schema.State {
			step, err := b.Take(ctx, at)
			if err != nil {
				t.Fatal(err)
			}
			step.Release()
			return step.Next
		}
		first := open("first") // which has the data set opened
		take(first, schema.State{})
		rest()

		var b *client.Batcher[schema.Batch]
		w.takes(8, "open", func() { b = open("train") })
		rest()
		var at schema.State
		w.takes(14, "first batch", func() { at = take(b, schema.State{}) })
		rest()
		w.takes(22, "open to first batch", func() { take(open("other"), schema.State{}) })
		rest()
		held := at
		for range 4 {
			at = take(b, at)
		}
		rest()
		w.takes(8, "back to a batch that is held", func() { at = take(b, held) })
		rest()
		w.takes(12, "far away", func() { take(b, far(t, at)) })
		rest()

		rank := func(world string, place int) *client.Batcher[schema.Batch] {
			return openWith(client.Config{
				Name: "ranks", TakeOver: true, World: &client.World{ID: world, Rank: place, Size: 2, Parts: 1},
			})
		}
		ranks := []*client.Batcher[schema.Batch]{rank("w1", 0), rank("w1", 1)}
		at = schema.State{}
		all := func(to schema.State) (next schema.State) {
			for _, b := range ranks {
				next = take(b, to)
			}
			return next
		}
		begun := all(at)
		held = begun
		at = begun
		for range 4 {
			at = all(at)
		}
		rest()
		// agreed is how long the ranks wait for a batch elsewhere after the last one asked. The first was told to wait, and
		// asks again when it hears that all have.
		agreed := func(most int, what string, to schema.State) (next schema.State) {
			var first sync.WaitGroup
			first.Go(func() { take(ranks[0], to) })
			rest()
			w.takes(most, what, func() {
				next = take(ranks[1], to)
				first.Wait()
			})
			rest()
			return next
		}
		at = agreed(12, "two ranks move to what is held", held)
		at = agreed(16, "two ranks move far away", far(t, at))
		heir := rank("w1", 0)
		w.takes(8, "successor of a rank", func() { take(heir, at) })
		ranks[0] = heir
		at = take(ranks[1], at)
		rest()
		ranks = []*client.Batcher[schema.Batch]{rank("w2", 0), rank("w2", 1)}
		rest()
		w.takes(8, "first rank of another world", func() { take(ranks[0], at) })
		rest()

		for _, b := range handles {
			_ = b.Close()
		}
		cancel()
		roles.Wait()
		for _, nc := range w.conns {
			nc.Close()
		}
		srv.Shutdown()
		srv.WaitForShutdown()
	})
}

// far is a state that is far ahead of another.
func far(t *testing.T, from schema.State) schema.State {
	t.Helper()
	var at testset.Position
	if err := from.Decode(&at); err != nil {
		t.Fatal(err)
	}
	at.I += 1_000_000
	to, err := schema.NewState(at)
	if err != nil {
		t.Fatal(err)
	}
	from.Data = to.Data
	return from
}
