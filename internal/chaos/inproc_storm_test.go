package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// storm injects faults until it is ended. Each kind says why it can happen.
type storm struct {
	w   *world
	t   taker
	rng *rand.Rand
	ctx context.Context
	old []byte // a record of earlier

	ailing  *rand.Rand     // of the faults of hosts
	pending sync.WaitGroup // ends of faults
}

// Faults that explain errors of the trainer.
const (
	foreignResult    = "a foreign result stored"
	recordDeleted    = "record deleted"
	recordRolledBack = "record rolled back"
	bucketDeleted    = "bucket deleted"
)

// longest is how long a role may be held: past AckWait, the leases of coordinators and readers, and the pings of
// nats.go.
const longest = 15 * time.Second

// pass takes batches while faults go on.
func (s *storm) pass(batches int) error {
	ctx, end := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.rage(ctx)
	}()
	s.t.quiet(false)
	err := s.t.run(batches)
	end()
	<-over
	return err
}

// rage injects the faults of the plan. It ends when the last is over, or with ctx, and all of them with it.
func (s *storm) rage(ctx context.Context) {
	s.ctx = ctx
	defer s.pending.Wait()
	s.w.tears(s.w.plan.Torn)
	s.w.enforce(&rule{dir: up, class: classCredit, delay: time.Duration(s.w.plan.LateUS) * time.Microsecond})
	for range s.w.plan.Faults {
		gap := about(s.rng, time.Duration(s.w.plan.GapUS)*time.Microsecond)
		select {
		case <-ctx.Done():
			return
		case <-time.After(gap):
		}
		s.fault()
		s.sicken()
	}
}

// fault injects one.
func (s *storm) fault() {
	e := s.anyone()
	switch k := s.rng.IntN(100); {
	case k < 12:
		// A network or a NATS server between two others went away for a moment.
		s.log("cut", e)
		e.cut()
	case k < 20:
		// SIGSTOP, a swap storm, a laptop that sleeps: what the role sent before, and what it decides with old knowledge
		// when it wakes, comes late. Sometimes the connections are broken by then. Half of them are coordinators, of which
		// one owns the batcher: who sleeps past its lease is what leases are for.
		if all := s.w.all("coordinator"); len(all) > 0 && s.rng.IntN(2) == 0 {
			e = all[s.rng.IntN(len(all))].net
		}
		s.pause(e, true, true, s.rng.IntN(3) == 0)
	case k < 26:
		// A firewall that forgot the connection in one direction.
		dir := s.rng.IntN(2)
		s.pause(e, dir == up, dir == down, s.rng.IntN(2) == 0)
	case k < 40:
		s.lose()
	case k < 44:
		s.refuse()
	case k < 64:
		s.delay()
	case k < 70:
		s.replace("worker", s.w.kill)
	case k < 74:
		s.replace("worker", s.w.stop)
	case k < 80:
		s.replace("coordinator", s.w.kill)
	case k < 82:
		s.replace("coordinator", s.w.stop)
	case k < 84:
		s.join()
	default:
		s.damage(k)
	}
}

func (s *storm) log(what string, e *endpoint) {
	s.w.count(what)
	s.w.note("%s: %s", what, e.name)
}

// anyone is the network of a random role, the trainer's included.
func (s *storm) anyone() *endpoint {
	roles, trainers := s.w.all(""), s.t.endpoints()
	i := s.rng.IntN(len(roles) + len(trainers))
	if i < len(roles) {
		return roles[i].net
	}
	return trainers[i-len(roles)]
}

// later calls f after a random time of at most d, or when the storm ends.
func (s *storm) later(d time.Duration, f func()) {
	wait := time.NewTimer(time.Duration(s.rng.Int64N(int64(d))))
	s.pending.Go(func() {
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-s.ctx.Done():
		}
		f()
	})
}

func (s *storm) pause(e *endpoint, upward, downward, broken bool) {
	what := "pause"
	if upward != downward {
		what = "one-way cut"
	}
	s.log(what, e)
	e.hold(upward, downward)
	s.later(longest, func() {
		if broken {
			e.cut()
		}
		e.hold(false, false)
		s.w.note("%s over: %s", what, e.name)
	})
}

// lose lets messages of one class get lost for a while: NATS promises to deliver a message at most once, and loses some
// between servers when a route breaks, or to a slow client.
func (s *storm) lose() {
	r := s.rule()
	r.lost = 0.05 + 0.95*s.rng.Float64()*s.rng.Float64()
	s.w.note("messages lost: %v %v of %q, %.2f", r.class, r.dir, r.endpoint, r.lost)
	s.apply(r, 4*time.Second)
}

// refuse lets the server refuse jobs, results or writes of records for a while, as one without room does.
func (s *storm) refuse() {
	r := s.rule()
	r.dir, r.class = up, []class{classJob, classResult, classRecord}[s.rng.IntN(3)]
	r.refused = 0.05 + 0.95*s.rng.Float64()
	s.w.note("messages refused: %v of %q, %.2f", r.class, r.endpoint, r.refused)
	s.apply(r, 4*time.Second)
}

// delay lets messages of one class come late, and so after others that were sent later: acks past AckWait, a credit of
// the last seat, a request that was repeated meanwhile.
func (s *storm) delay() {
	r := s.rule()
	r.delay = time.Duration(1 + s.rng.Int64N(int64(5*time.Second)))
	s.w.note("messages late: %v %v of %q, up to %v", r.class, r.dir, r.endpoint, r.delay)
	s.apply(r, 6*time.Second)
}

// part takes batches while the owner is parted from the stores past its lease, and another coordinator stands by. The
// owner lives and decides on with what it knew; all that it sends is under way for as long, and arrives after the other
// took its batcher over and went on: as when the route between two servers of a cluster stalls, and neither end
// notices. Nothing else is wrong meanwhile: most faults would hide what the write of an owner that was deposed does.
func (w *world) part(t taker, r *rand.Rand, batches int) error {
	const saved = 2 * time.Second // what is taken is in the record by then
	for len(w.all("coordinator")) < 2 {
		w.spawn("coordinator")
	}
	if err := t.run(batches / 3); err != nil { // so that the owner has something to write
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), recovery)
	defer cancel()
	status, err := t.status(ctx)
	if err != nil {
		return err
	}
	w.count("owner parted")
	w.note("owner parted: %s", status.Owner)
	until := time.Now().Add(coordinator.DefaultLease * time.Duration(6+r.IntN(5)) / 2)
	for c := classWire + 1; c < classes; c++ {
		w.enforce(&rule{endpoint: status.Owner, dir: up, class: c, until: until})
	}
	err = t.run(batches / 3)
	time.Sleep(time.Until(until) - saved)
	if err == nil {
		err = t.run(batches / 3)
	}
	time.Sleep(time.Until(until) + saved)
	return err
}

func (s *storm) rule() *rule {
	r := &rule{dir: s.rng.IntN(2), class: class(1 + s.rng.IntN(int(classes)-1))}
	if s.rng.IntN(2) == 0 {
		r.endpoint = s.anyone().name
	}
	return r
}

func (s *storm) apply(r *rule, most time.Duration) {
	s.w.enforce(r)
	s.later(most, func() { s.w.lift(r) })
}

// replace ends a role and starts another of its kind, sooner or later.
func (s *storm) replace(kind string, end func(*role)) {
	roles := s.w.all(kind)
	if len(roles) == 0 {
		return
	}
	r := roles[s.rng.IntN(len(roles))]
	s.log(kind+" ended", r.net)
	s.w.tasks.Go(func() { end(r) })
	s.later(5*time.Second, func() {
		if len(s.w.all(kind)) < s.target(kind) {
			s.w.spawn(kind)
		}
	})
}

func (s *storm) target(kind string) int {
	if kind == "worker" {
		return s.w.plan.Workers
	}
	return s.w.plan.Coordinators
}

// join adds a coordinator or a worker beyond the plan, for the time until one is replaced.
func (s *storm) join() {
	kind := []string{"worker", "coordinator"}[s.rng.IntN(2)]
	if len(s.w.all(kind)) > s.target(kind)+1 {
		return
	}
	s.w.count("joined")
	s.w.spawn(kind)
}

// heal ends all faults and sees to it that there are as many roles as planned.
func (s *storm) heal() {
	s.w.note("faults end")
	s.w.mu.Lock()
	s.w.rules, s.w.torn = nil, 0
	s.w.mu.Unlock()
	for _, r := range s.w.all("") {
		r.net.hold(false, false)
	}
	for _, e := range s.t.endpoints() {
		e.hold(false, false)
	}
	for _, kind := range []string{"coordinator", "worker"} {
		for len(s.w.all(kind)) < s.target(kind) {
			s.w.spawn(kind)
		}
	}
}

// damage takes from the stores what they hold, as a wiped or rolled back disk, an operator, or a server that lost its
// memory does.
func (s *storm) damage(k int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	rec := new(wire.Record)
	entry, err := s.w.record(ctx)
	if err != nil || json.Unmarshal(entry.Value(), rec) != nil || rec.Gen == "" {
		return
	}
	what := ""
	switch {
	case k < 86:
		what, err = "results stream deleted", s.w.js.DeleteStream(ctx, topology.ResultsStream(batcherName, rec.Gen))
	case k < 88:
		what, err = "consumer deleted", s.w.js.DeleteConsumer(ctx, topology.JobsStream, topology.Consumer(batcherName, rec.Gen))
	case k < 90:
		what, err = "jobs purged", s.purge(ctx, topology.JobsStream)
	case k < 91:
		what, err = "job stream deleted", s.w.js.DeleteStream(ctx, topology.JobsStream)
	case k < 93:
		what, err = "results purged", s.purge(ctx, topology.ResultsStream(batcherName, rec.Gen))
	case k < 94:
		what, err = "a result lost", s.loseResult(ctx, rec)
	case k < 96:
		what, err = foreignResult, s.forge(ctx, rec)
	case k < 97:
		s.w.checks.forgetGeneration()
		kv, openErr := s.w.js.KeyValue(ctx, topology.Bucket)
		if openErr != nil {
			return
		}
		what, err = recordDeleted, kv.Delete(ctx, topology.BatcherKey(batcherName))
	case k < 98:
		s.w.checks.forgetGeneration()
		what, err = bucketDeleted, s.w.js.DeleteStream(ctx, topology.BucketStream)
	default:
		if s.old == nil {
			s.old = entry.Value()
			return
		}
		s.w.checks.forgetGeneration()
		kv, openErr := s.w.js.KeyValue(ctx, topology.Bucket)
		if openErr != nil {
			return
		}
		what = recordRolledBack
		_, err = kv.Put(ctx, topology.BatcherKey(batcherName), s.old)
		s.old = nil
	}
	if err == nil {
		s.w.count(what)
	}
	s.w.note("%s: %v", what, err)
}

func (s *storm) purge(ctx context.Context, stream string) error {
	st, err := s.w.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	return st.Purge(ctx)
}

// loseResult removes one record, as a store that was rolled back has.
func (s *storm) loseResult(ctx context.Context, rec *wire.Record) error {
	st, err := s.w.js.Stream(ctx, topology.ResultsStream(batcherName, rec.Gen))
	if err != nil {
		return err
	}
	seq := rec.Taken + 1 + s.rng.Uint64N(8)
	return st.Purge(ctx, jetstream.WithPurgeSubject(wire.ResultSubject(batcherName, rec.Gen, seq)))
}

// forge stores the result of one place at another that is not made yet, as a damaged store or a bug on another machine
// may: whole, with a digest that fits, and of other states.
func (s *storm) forge(ctx context.Context, rec *wire.Record) error {
	results, err := s.w.results(ctx, rec.Gen)
	if err != nil {
		return err
	}
	for _, r := range results {
		seq := rec.Taken + 1 + s.rng.Uint64N(16)
		if results[seq] != nil || r.Kind != wire.KindBatch || r.Chunks > 0 || r.Seq == seq {
			continue
		}
		st, err := s.w.js.Stream(ctx, topology.ResultsStream(batcherName, rec.Gen))
		if err != nil {
			return err
		}
		msg, err := st.GetLastMsgForSubject(ctx, wire.ResultSubject(batcherName, rec.Gen, r.Seq))
		if err != nil {
			return err
		}
		_, payload, err := wire.DecodeResult(msg.Data)
		if err != nil {
			return err
		}
		forged := *r
		forged.Seq = seq
		data, err := wire.AppendResult(nil, &forged, payload)
		if err != nil {
			return err
		}
		s.w.checks.forged(rec.Gen, seq)
		_, err = s.w.js.Publish(ctx, wire.ResultSubject(batcherName, rec.Gen, seq), data)
		return err
	}
	return errors.New("nothing to store elsewhere")
}
