package coordinator_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Who reads a record knows the name of the reader, its seat and its generation. Without the reader's secret its word is
// nobody's.
func TestWordInAnothersName(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(2)
	for name, secret := range map[string]string{"none": "", "another's": wire.NewSecret()} {
		forged := &reader{
			cluster: c, secret: secret, id: r.id, name: r.name, settings: wire.Settings{Window: 1}, reply: r.reply,
		}
		credit := wire.Credit{
			Gen: r.reply.Gen, Seat: r.reply.Seat, Reader: r.id, Secret: secret, Taken: 7, BatchBytes: 1 << 40,
			Failed: &schema.Fault{Code: schema.CodeMaterialize, Message: "forged"},
		}
		answers, err := c.nc.SubscribeSync(c.nc.NewInbox())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.nc.PublishRequest(wire.ReaderPrefix+".train", answers.Subject, mustJSON(t, credit)); err != nil {
			t.Fatal(err)
		}
		for what, request := range map[string]wire.SeatRequest{
			"open": forged.request(wire.ModeOpen, schema.State{}), "start": forged.request(wire.ModeStart, at(5)),
			"seek": forged.request(wire.ModeSeek, at(1)),
		} {
			reply := ask[wire.SeatReply](c, "seat", request)
			expectFault(t, reply.Fault, schema.CodeBadRequest)
			if !strings.Contains(reply.Fault.Message, "does not prove") {
				t.Errorf("%s with the secret %s: %v", what, name, reply.Fault)
			}
		}
		for _, leave := range []bool{false, true} {
			stop := forged.stopRequest(leave)
			stop.Last = &credit
			expectFault(t, ask[wire.StopReply](c, "stop", stop).Fault, schema.CodeBadRequest)
		}
		if m, err := answers.NextMsg(10 * time.Millisecond); err == nil {
			t.Errorf("a credit with the secret %s is answered: %s", name, m.Data)
		}
	}
	// Another reader's stop with a last word in the holder's name.
	other := c.reader("train")
	stop := other.stopRequest(false)
	stop.Request = ulid.Make().String()
	stop.Last = &wire.Credit{Gen: r.reply.Gen, Seat: r.reply.Seat, Reader: r.id, Taken: 7}
	expectFault(t, ask[wire.StopReply](c, "stop", stop).Fault, schema.CodeSuperseded)

	if s := r.status(); s.Phase != schema.PhaseRunning || s.Taken != 2 || s.Window != 8 || s.Seat != r.reply.Seat {
		t.Errorf("the run is moved by a word that is not its reader's: %+v", s)
	}
	r.work(1)
	if got := r.credit(3); got.Phase != schema.PhaseRunning || got.Reader != r.id || got.Window != 8 {
		t.Errorf("the reader's own word: %+v", got)
	}
	if rec, _ := r.record(); strings.Contains(string(mustJSON(t, rec)), r.secret) {
		t.Error("the record has the reader's secret")
	}
	if s := r.status(); strings.Contains(string(mustJSON(t, s)), r.secret) {
		t.Error("the status has the reader's secret")
	}
}

// A record that the server was made to store in the owner's place is the owner's no more than noise is: it is written
// anew, whatever it says.
func TestForgedRecordOfTheServer(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(2)
	rec, _ := r.record()
	forged := rec
	forged.Spec.Params, forged.Taken, forged.Owner = []byte(`{"other":1}`), 1<<19, "nobody"
	_, err := c.js.PublishMsg(t.Context(), &nats.Msg{
		Subject: "$KV.jetbatch." + topology.BatcherKey("train"), Data: mustJSON(t, forged),
		Header: nats.Header{"Nats-Stream": {"jetbatch-results-train-x"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the owner writes its record anew", func() bool {
		now, ok := r.record()
		return ok && now.Owner == rec.Owner && string(now.Spec.Params) == string(rec.Spec.Params)
	})
	r.work(1)
	if got := r.credit(3); got.Gen != r.reply.Gen || got.Phase != schema.PhaseRunning {
		t.Errorf("the run: %+v", got)
	}
}

// Each rank of a world can read the record, and what it says moves itself alone: not with the name of another rank, nor
// with the place of one, nor with the name of a world that it is none of.
func TestWordInAnotherRanksName(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	ranks := make([]*reader, 2)
	for n := range ranks {
		r := c.reader("train")
		ranks[n] = r
		for _, mode := range []wire.Mode{wire.ModeOpen, wire.ModeStart} {
			req := r.request(mode, at(0))
			req.Rank, req.Size = wire.Rank{World: "A", Rank: n}, 2
			if reply := r.try(req); reply.Fault != nil {
				t.Fatal(reply.Fault)
			}
		}
	}
	ranks[0].waitJobs(1, 1)
	ranks[0].work(1)
	said := func(r *reader, taken uint64, as wire.Rank, id string) {
		body := mustJSON(t, wire.Credit{
			Gen: r.reply.Gen, Seat: ranks[0].reply.Seat, Reader: id, Secret: r.secret, Rank: as, Taken: taken,
			BatchBytes: 1,
		})
		if err := c.nc.Publish(wire.ReaderPrefix+".train", body); err != nil {
			t.Fatal(err)
		}
	}
	for _, as := range []wire.Rank{{World: "A"}, {World: "A", Rank: 1}, {World: "B"}, {}} {
		said(ranks[1], 1, as, ranks[0].id) // the name of rank 0, and no proof of it
		if as.World != "A" || as.Rank != 1 {
			said(ranks[1], 1, as, ranks[1].id) // its own name in another place
		}
	}
	outsider := c.reader("train")
	outsider.reply = ranks[0].reply
	said(outsider, 1, wire.Rank{World: "B"}, outsider.id)
	said(outsider, 1, wire.Rank{World: "A"}, outsider.id)
	// The credits travel in order: behind this one, all of them have been heard.
	ranks[1].credit(0, func(c *wire.Credit) { c.Rank = wire.Rank{World: "A", Rank: 1} })
	for _, m := range ranks[0].status().Members {
		if m.Taken != 0 {
			t.Errorf("rank %d is moved to %d by a word that is not its own", m.Rank, m.Taken)
		}
	}
	for _, r := range ranks {
		if rec, _ := r.record(); strings.Contains(string(mustJSON(t, rec)), r.secret) {
			t.Error("the record has a rank's secret")
		}
	}
}
