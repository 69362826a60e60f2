package coordinator_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A data set whose opening hangs takes its own batcher's requests with it, and nobody else's.
func TestOpeningThatHangs(t *testing.T) {
	c := setup(t)
	free := make(chan struct{})
	p := c.coordinate(coordinator.Config{}, &hooks{open: func(p params) error {
		if p.Shift == 9 {
			<-free
		}
		return nil
	}})
	t.Cleanup(func() { close(free) })
	hung := c.reader("hung")
	hung.params = json.RawMessage(`{"shift":9}`)
	for range 300 { // as its client would in ten minutes
		if err := c.nc.PublishRequest(wire.CoordinatorPrefix+".seat", c.nc.NewInbox(), mustJSON(t, hung.request(wire.ModeOpen, schema.State{}))); err != nil {
			t.Fatal(err)
		}
	}
	c.reader("fine").run(1)
	m, err := c.nc.Request(wire.CoordinatorPrefix+".seat", mustJSON(t, hung.request(wire.ModeOpen, schema.State{})), 5*time.Second)
	if err != nil {
		t.Fatalf("the request is not answered: %v", err)
	}
	var reply wire.SeatReply
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		t.Fatal(err)
	}
	expectFault(t, reply.Fault, schema.CodeUnavailable)
	hung.wait("status says that the data set is being opened", func(s schema.Status) bool {
		return strings.Contains(s.Waiting, "is being opened since")
	})
	if err := p.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
}

// Parameters that were refused hold no name: corrected ones get it at once.
func TestRefusedOpenLeavesTheName(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, &hooks{open: func(p params) error {
		if p.Shift == 7 {
			return errors.New("7 is no shift")
		}
		return nil
	}})
	first, second := c.reader("train"), c.reader("train")
	first.params = json.RawMessage(`{"shift":7}`)
	expectFault(t, first.try(first.request(wire.ModeOpen, schema.State{})).Fault, schema.CodeBadParams)
	second.params = json.RawMessage(`{"shift":1}`)
	second.must(wire.ModeOpen, schema.State{})

	third := c.reader("other")
	third.params = json.RawMessage(`{"shift":7}`)
	expectFault(t, third.try(third.request(wire.ModeOpen, schema.State{})).Fault, schema.CodeBadParams)
	natstest.Eventually(t, "the record of the refused one is gone", func() bool { _, ok := third.record(); return !ok })
}

// Parameters are the same when they mean the same: neither the order of keys shows, nor a zero that was left out.
func TestParametersAreComparedByMeaning(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.params = json.RawMessage(`{"n":100,"shift":0}`)
	r.run(1)
	for _, same := range []string{`{"shift":0,"n":100}`, `{"n":100}`, ` { "n" : 100 } `} {
		other := c.reader("train")
		other.params = json.RawMessage(same)
		expectFault(t, other.try(other.request(wire.ModeOpen, schema.State{})).Fault, schema.CodeInUse)
	}
	other := c.reader("train")
	other.params = json.RawMessage(`{"n":101}`)
	expectFault(t, other.try(other.request(wire.ModeOpen, schema.State{})).Fault, schema.CodeSpecMismatch)
}

// Workers hear at once that nothing of a generation is wanted any more.
func TestEndIsAnnounced(t *testing.T) {
	for name, end := range map[string]func(r *reader){
		"stop":  func(r *reader) { r.stop(false) },
		"start": func(r *reader) { r.must(wire.ModeStart, at(0)) },
		"failure": func(r *reader) {
			r.credit(1, func(c *wire.Credit) {
				c.Failed = &schema.Fault{Code: schema.CodeMaterialize, Message: "no such file"}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			c.coordinate(coordinator.Config{}, new(hooks))
			r := c.reader("train")
			r.run(1)
			over := make(chan string, 16)
			sub, err := c.nc.Subscribe(wire.LanePrefix+".train", func(m *nats.Msg) {
				var lane wire.Lane
				if json.Unmarshal(m.Data, &lane) == nil && lane.Over {
					over <- lane.Gen
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = sub.Unsubscribe() })
			if err := c.nc.Flush(); err != nil {
				t.Fatal(err)
			}
			gen := r.reply.Gen
			end(r)
			select {
			case got := <-over:
				if got != gen {
					t.Errorf("generation %s is said to be over, not %s", got, gen)
				}
			case <-time.After(5 * time.Second):
				t.Error("no word of it")
			}
		})
	}
}
