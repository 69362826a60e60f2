package coordinator

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A data set that one machine cannot open, or has other data of than the run, says nothing about the run or the request:
// another coordinator may do better. The record then names that one as the owner. It finds its name there without an
// actor, and takes the batcher over.

const (
	// unfedFor is for how long a coordinator that could not feed a batcher is not given it again.
	unfedFor = 10 * time.Second
	// maxUnfed is how many of them a record names.
	maxUnfed = 16
	// askSubstitute bounds the question to one coordinator whether it has the data set.
	askSubstitute = time.Second
)

// handOver names another coordinator in the record of a batcher that this one cannot feed, and lets go of it. It reports
// false when there is none that has not been tried lately, when the batcher is fed here all the same, by what was opened
// before, or when the record could not be changed.
func (b *batcher) handOver(spec wire.Spec, why string) bool {
	fed := make(chan bool, 1)
	b.post(func() { fed <- b.feed != nil })
	select {
	case is := <-fed:
		if is {
			return false
		}
	case <-b.gone:
		return false
	}
	ctx, cancel := b.c.call(callTimeout)
	defer cancel()
	rec, rev, _, err := b.c.records.readSized(ctx, b.name)
	if err != nil || rec.Owner != b.c.cfg.Name {
		return false
	}
	now := time.Now()
	rec.Unfed = unfed(rec.Unfed, b.c.cfg.Name, now)
	to := b.c.substitute(ctx, wire.KindToken(spec.Dataset, spec.Version), rec.Unfed)
	if to == "" {
		return false
	}
	rec.Owner, rec.Handed = to, true
	if _, err := b.c.records.update(ctx, rec, rev); err != nil {
		b.log.Warn("batcher not handed over", "to", to, "error", err)
		return false
	}
	b.log.Warn("batcher handed over: it cannot be fed here", "to", to, "dataset", spec.Dataset, "error", why)
	b.post(func() { b.depose(to) })
	// It finds the record by itself in a second or two; a question about the batcher has it look at once.
	if data, err := json.Marshal(wire.StatusRequest{Batcher: b.name}); err == nil {
		_, _ = b.c.nc.RequestWithContext(ctx, coordinatorSubject(to, opStatus), data)
	}
	return true
}

// isRuns reports whether an origin is that of the run that the record names, which is to be resumed here.
func (b *batcher) isRuns(origin string) bool {
	ctx, cancel := b.c.call(callTimeout)
	defer cancel()
	rec, _, _, err := b.c.records.readSized(ctx, b.name)
	return err == nil && rec.Origin == origin && rec.Phase == schema.PhaseRunning
}

// unfed adds a coordinator to those that could not feed a batcher, and forgets those for which that is long ago.
func unfed(list []wire.Unfed, name string, now time.Time) []wire.Unfed {
	list = slices.DeleteFunc(slices.Clone(list), func(u wire.Unfed) bool {
		return u.Coordinator == name || now.Sub(u.At).Abs() > unfedFor
	})
	list = append(list, wire.Unfed{Coordinator: name, At: now})
	return list[max(0, len(list)-maxUnfed):]
}

// byClock has marks count from now by this machine's clock, if the latest of them was made just now by another's: with
// clocks far enough apart each coordinator would take the marks of the other for old, and hand the batcher back at once.
func byClock(list []wire.Unfed, now time.Time) []wire.Unfed {
	list = slices.Clone(list)
	if len(list) > 0 {
		ahead := list[len(list)-1].At.Sub(now)
		for i := range list {
			list[i].At = list[i].At.Add(-ahead)
		}
	}
	return list
}

// substitute returns a coordinator that answers, has a kind of data set, and is not among those that could not feed the
// batcher lately; empty for none. Coordinators take turns: the first is the next by name.
func (c *Coordinator) substitute(ctx context.Context, token string, not []wire.Unfed) string {
	names, err := c.records.names(ctx, topology.CoordinatorKey(""))
	if err != nil {
		return ""
	}
	slices.Sort(names)
	next, _ := slices.BinarySearch(names, c.cfg.Name)
	for _, name := range append(slices.Clone(names[next:]), names[:next]...) {
		tried := slices.ContainsFunc(not, func(u wire.Unfed) bool { return u.Coordinator == name })
		if name != c.cfg.Name && !tried && c.has(ctx, name, token) {
			return name
		}
	}
	return ""
}

// has asks a coordinator whether it has a kind of data set.
func (c *Coordinator) has(ctx context.Context, name, token string) bool {
	ctx, cancel := context.WithTimeout(ctx, askSubstitute)
	defer cancel()
	reply, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: coordinatorSubject(name, opOverview)})
	var o wire.Overview
	return err == nil && json.Unmarshal(reply.Data, &o) == nil && slices.Contains(o.Kinds, token)
}

func coordinatorSubject(name, op string) string {
	return wire.CoordinatorPrefix + "." + name + "." + op
}
