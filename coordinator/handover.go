package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A data set that one machine cannot open, or has other data of than the run, says nothing about the run or the
// request: another coordinator may do better. The record then names that one as the owner. It finds its name there
// without an actor, and takes the batcher over.

const (
	// unfedFor is for how long a coordinator that could not feed a batcher is not given it again.
	unfedFor = 10 * time.Second
	// maxUnfed is how many of them a record names.
	maxUnfed = 16
	// maxWhy bounds what it has of each, in bytes.
	maxWhy = 256
	// askSubstitute bounds the question to one coordinator whether it has the data set.
	askSubstitute = time.Second
)

// handover gives batchers to other coordinators.
type handover struct {
	*site
	directory *directory
}

// handOver names another coordinator in the record of a batcher that this one cannot feed, and lets go of it. It
// reports false when there is none that has not been tried lately, when the batcher is fed here all the same, by what
// was opened before, or when the record could not be changed. others are those that were tried lately, this one last.
func (b *batcher) handOver(spec wire.Spec, why string) (handed bool, others []wire.Unfed) {
	fed := make(chan bool, 1)
	b.post(func() { fed <- b.feed != nil })
	select {
	case is := <-fed:
		if is {
			return false, nil
		}
	case <-b.gone:
		return false, nil
	}
	ctx, cancel := b.site.call(callTimeout)
	defer cancel()
	rec, rev, _, err := b.site.records.readSized(ctx, b.name)
	if err != nil || rec.Owner != b.site.cfg.Name {
		return false, nil
	}
	rec.Unfed = unfed(rec.Unfed, b.site.cfg.Name, why, time.Now())
	token := wire.KindToken(spec.Dataset, spec.Version)
	to := b.actors.handover.substitute(ctx, rec.Unfed, func(kind string) bool { return kind == token })
	if to == "" || !b.actors.handover.give(ctx, rec, rev, to, why) {
		return false, rec.Unfed
	}
	b.post(func() { b.depose(to) })
	b.actors.handover.prompt(ctx, b.name, to)
	return true, nil
}

// unopened is why a data set cannot be opened here, and what others said of it that differs: a parameter may be wrong,
// or the program of one machine too old for it and the data away from another.
func (b *batcher) unopened(err error, others []wire.Unfed) *schema.Fault {
	fault := openFault(err)
	for _, u := range others {
		if u.Coordinator != b.site.cfg.Name && u.Why != "" && u.Why != clipped(err.Error()) {
			fault.Message += fmt.Sprintf("; and at coordinator %s: %s", u.Coordinator, u.Why)
		}
	}
	return fault
}

// passOn names another coordinator in the record of a batcher that has no owner at work, and whose data set this
// coordinator does not have, or has in another version than the run. It returns an empty name when this coordinator can
// feed the batcher, when another coordinator takes care of it, or when no other has the data set. Without it a
// coordinator that is restarted with other data sets would keep its batchers from all others, and the first to be
// upgraded would end the runs of those that are not.
func (h *handover) passOn(ctx context.Context, rec wire.Record, rev uint64) (to string) {
	k, self := h.kinds[rec.Spec.Dataset], h.cfg.Name
	var why string
	switch {
	case rec.Wire != wire.Version:
		return ""
	case k == nil && rec.Owner == self: // of another's batcher, a coordinator that has it takes care by itself
		why = "coordinator " + self + " does not have the data set any more"
	case k != nil && k.Version != rec.Spec.Version && rec.Phase == schema.PhaseRunning:
		why = fmt.Sprintf("coordinator %s has version %d of the data set, the run is of version %d",
			self, k.Version, rec.Spec.Version)
	default:
		return ""
	}
	rec.Unfed = unfed(rec.Unfed, self, why, time.Now())
	token := wire.KindToken(rec.Spec.Dataset, rec.Spec.Version)
	to = h.substitute(ctx, rec.Unfed, func(kind string) bool { return kind == token })
	if to == "" || !h.give(ctx, rec, rev, to, why) {
		return ""
	}
	h.directory.found(rec.Batcher)
	h.prompt(ctx, rec.Batcher, to)
	return to
}

// give names another coordinator in a record.
func (h *handover) give(ctx context.Context, rec wire.Record, rev uint64, to, why string) bool {
	rec.Owner, rec.Handed = to, true
	rev, err := h.records.update(ctx, rec, rev)
	if err != nil {
		h.log.Warn("batcher not handed over", "batcher", rec.Batcher, "to", to, "error", err)
		return false
	}
	h.directory.note(rec.Batcher, seen{rev: rev, owner: to}, false, time.Now())
	h.log.Warn("batcher handed over: it cannot be fed here",
		"batcher", rec.Batcher, "to", to, "dataset", rec.Spec.Dataset, "error", why)
	return true
}

// prompt has a coordinator look at once at the record that names it, which it would find by itself in a second or two.
func (h *handover) prompt(ctx context.Context, batcher, to string) {
	if data, err := json.Marshal(wire.StatusRequest{Batcher: batcher}); err == nil {
		_, _ = h.nc.RequestWithContext(ctx, wire.CoordinatorSubject(to, opStatus), data)
	}
}

// isRuns reports whether something is of the run that the record names, which is to be resumed here.
func (b *batcher) isRuns(of func(*wire.Record) bool) bool {
	ctx, cancel := b.site.call(callTimeout)
	defer cancel()
	rec, _, _, err := b.site.records.readSized(ctx, b.name)
	return err == nil && rec.Phase == schema.PhaseRunning && of(&rec)
}

// unfed adds a coordinator to those that could not feed a batcher, and forgets those for which that is long ago.
func unfed(list []wire.Unfed, name, why string, now time.Time) []wire.Unfed {
	list = slices.DeleteFunc(slices.Clone(list), func(u wire.Unfed) bool {
		return u.Coordinator == name || now.Sub(u.At).Abs() > unfedFor
	})
	list = append(list, wire.Unfed{Coordinator: name, At: now, Why: clipped(why)})
	return list[max(0, len(list)-maxUnfed):]
}

// clipped is a reason as a record has it.
func clipped(why string) string { return strings.ToValidUTF8(why[:min(len(why), maxWhy)], "") }

// byClock has marks count from now by this machine's clock, if the latest of them was made just now by another's: with
// clocks far enough apart each coordinator would take the marks of the other for old, and hand the batcher back at
// once.
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

// substitute returns a coordinator that answers, has a kind of data set that is wanted, and is not among those that
// could not feed the batcher lately; empty for none. Coordinators take turns: the first is the next by name.
func (h *handover) substitute(ctx context.Context, not []wire.Unfed, wanted func(kind string) bool) string {
	names, err := h.records.names(ctx, topology.CoordinatorKey(""))
	if err != nil {
		return ""
	}
	slices.Sort(names)
	next, _ := slices.BinarySearch(names, h.cfg.Name)
	for _, name := range append(slices.Clone(names[next:]), names[:next]...) {
		tried := slices.ContainsFunc(not, func(u wire.Unfed) bool { return u.Coordinator == name })
		if name != h.cfg.Name && !tried && h.has(ctx, name, wanted) {
			return name
		}
	}
	return ""
}

// has asks a coordinator whether it has a kind of data set that is wanted.
func (h *handover) has(ctx context.Context, name string, wanted func(kind string) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, askSubstitute)
	defer cancel()
	reply, err := h.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: wire.CoordinatorSubject(name, opOverview)})
	var o wire.Overview
	return err == nil && json.Unmarshal(reply.Data, &o) == nil && slices.ContainsFunc(o.Kinds, wanted)
}
