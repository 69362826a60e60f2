package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func newGen() string { return ulid.Make().String() }

// carryOut carries an effect out: at once if it only sends, else in a goroutine that posts its event.
func (b *batcher) carryOut(effect owner.Effect) {
	switch e := effect.(type) {
	case owner.Log:
		level := slog.LevelInfo
		switch {
		case e.Retried:
			level = b.site.line.warns(time.Now())
		case e.Warn:
			level = slog.LevelWarn
		}
		b.log.Log(b.site.ctx, level, e.Text, e.Args...)
	case owner.ReplySeat:
		b.answer(e.Token, e.Reply)
	case owner.ReplyStop:
		b.answer(e.Token, e.Reply)
	case owner.ReplyCredit:
		b.answer(e.Token, e.Reply)
	case owner.Announce:
		b.announce(e.Lane)
	case owner.Notify:
		b.site.hint(wire.NoticePrefix+"."+b.name, e.Reply)

	case owner.Feed:
		b.start(e)
	case owner.Halt:
		b.halt()
	case owner.Demand, owner.Publish, owner.Backup, owner.Forget:
		if b.feed != nil { // else the connection is closed, or Run ends
			b.toFeed(effect)
		}
	case owner.Purge:
		if err := b.store.purge(e); err != nil {
			b.log.Warn("taken results not dropped", "error", err)
		}

	case owner.Record:
		b.site.running.Go(func() {
			ctx, cancel := b.site.call(askTimeout)
			defer cancel()
			b.recorded(e, b.site.records.keep(ctx, e))
		})
	case owner.Retire:
		b.site.running.Go(func() {
			ctx, cancel := b.site.call(callTimeout)
			defer cancel()
			b.retired(b.site.records.retire(ctx, b.name, e))
		})
	case owner.Confirm:
		b.spawn(func() owner.Event {
			ctx, cancel := b.site.call(askTimeout)
			defer cancel()
			return b.site.records.confirm(ctx, b.name)
		})
	case owner.Open:
		b.open(e)
	case owner.Compare:
		b.compare(e)
	case owner.Rebase:
		b.rebase(e)
	case owner.Release:
		b.release(e.Serial)
	case owner.FirstState:
		b.firstState(e)
	case owner.Ready:
		b.spawn(func() owner.Event { return owner.Readied{Reason: reason(b.site.ready(e.Anew))} })
	case owner.Make:
		token := b.owner.KindToken()
		b.spawn(func() owner.Event { return b.store.make(token, e) })
	case owner.Discard:
		b.site.running.Go(func() { b.site.discard(b.name, e.Gen) })
	case owner.Cancel:
		token := b.owner.KindToken()
		b.spawn(func() owner.Event { return b.store.cancelJobs(token, e) })
	case owner.Remove:
		b.spawn(func() owner.Event { return b.store.remove(e) })
	case owner.Look:
		token := b.owner.KindToken()
		b.spawn(func() owner.Event { return b.store.look(token, e) })
	case owner.Probe:
		b.spawn(func() owner.Event { return b.store.probe(e) })
	case owner.StoreVerdict:
		b.spawn(func() owner.Event { return b.store.keepVerdict(e) })
	default:
		panic(fmt.Sprintf("coordinator: unknown effect %T", effect))
	}
}

// announce tells workers about a generation: all of them, or those that follow the lane.
func (b *batcher) announce(lane wire.Lane) {
	lane.Owner = b.site.cfg.Name
	lane.Workers = b.workers.Workers
	if lane.Over {
		b.actors.follows.end(b.name, lane.Gen)
		b.site.hint(wire.LanePrefix+"."+b.name, lane)
		return
	}
	now := time.Now()
	run := b.owner.Run()
	_, unseen := b.owner.Begins()
	all, begins := b.actors.follows.offer(&lane, offered{
		run: &run, slots: b.owner.Demand(), late: b.owner.Late(now) > 0, tookUp: b.owner.TookUp(), unseen: unseen,
	})
	if !all {
		return
	}
	if begins && len(run.Spec.Params) <= wire.MaxRunSize {
		lane.Run = &run
	}
	b.site.hint(wire.LanePrefix+"."+b.name, lane)
}

func (b *batcher) toFeed(effect owner.Effect) {
	switch e := effect.(type) {
	case owner.Demand:
		b.feed.demand(ask{e.State, e.N, e.Bytes})
	case owner.Publish:
		b.feed.publish(e)
	case owner.Backup:
		if err := b.feed.backUp(e); err != nil {
			b.log.Warn("late job not given to a second worker", "seq", e.Seq, "error", err)
		}
	case owner.Forget:
		b.feed.forget(e.Keep)
	}
}

// spawn carries out what takes time, and posts how it ended.
func (b *batcher) spawn(f func() owner.Event) {
	b.site.running.Go(func() { b.postStep(f()) })
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// recorded posts how a change of the record ended, and tells what it stands for.
func (b *batcher) recorded(e owner.Record, done owner.Recorded) {
	b.post(func() {
		before := b.told
		if done.Outcome == owner.Done {
			b.told = e.Record
		}
		managing := b.managing
		b.step(done) // whose answers come first: a trainer waits for one, and nobody for an event
		if done.Outcome != owner.Done {
			return
		}
		for _, event := range changes(&before, &e.Record) {
			if !managing || event.What != whatStopped {
				b.site.tellBatcher(event)
			}
		}
	})
}

// retired posts how the deletion of the record ended. A record that was made for a request that was refused is not
// worth telling.
func (b *batcher) retired(done owner.Retired) {
	b.post(func() {
		if done.Outcome == owner.Done && b.told.Seat > 0 && !b.managing {
			b.site.tellBatcher(wire.Event{
				Name: b.name, Gen: b.told.Gen, What: "deleted", Why: "it had no trainer for its idle timeout",
			})
		}
		b.step(done)
	})
}

// open opens a data set, for as long as it takes.
func (b *batcher) open(e owner.Open) {
	k := b.site.kinds[e.Spec.Dataset]
	b.site.running.Go(func() {
		inst, release, err := k.Reopen(b.site.ctx, e.Spec.Params)
		if err != nil {
			// Parameters that are unknown here may be known to a newer program.
			if handed, others := b.handOver(e.Spec, err.Error()); !handed {
				b.postStep(owner.Opened{Serial: e.Serial, Fault: b.unopened(err, others)})
			}
			return
		}
		b.site.running.Go(func() { b.site.origins.describe(b.site.ctx, b.log, inst.Origin) })
		taken := make(chan struct{})
		b.post(func() {
			defer close(taken)
			d := &opened{spec: e.Spec, inst: inst, release: release}
			d.acquire()
			b.opened[e.Serial] = d
			b.step(owner.Opened{Serial: e.Serial, Origin: inst.Origin.Digest, Verifiable: inst.Origin.Data != ""})
		})
		select {
		case <-taken:
		case <-b.gone:
			release() // the actor may not have taken it; a second release does nothing
		}
	})
}

func (b *batcher) release(serial uint64) {
	if d := b.opened[serial]; d != nil {
		delete(b.opened, serial)
		d.leave()
	}
}

// compare finds out how what is opened differs from another origin.
func (b *batcher) compare(e owner.Compare) {
	compared := owner.Compared{Serial: e.Serial, From: e.From}
	d := b.opened[e.Serial]
	b.spawn(func() owner.Event {
		if d == nil { // it was let go of meanwhile
			compared.Differences = []string{"the data set is not open any more"}
			return compared
		}
		compared.Differences = d.inst.Origin.Differences(b.site.origins.described(b.site.ctx, e.From))
		if b.isRuns(func(rec *wire.Record) bool { return rec.Origin == e.From }) {
			b.handOver(d.spec, "other data than the run: "+strings.Join(compared.Differences, "; "))
		}
		return compared
	})
}

// rebase asks for the place of a state on other data. The author's code is pure and does no I/O, as Next.
func (b *batcher) rebase(e owner.Rebase) {
	d := b.opened[e.Serial]
	b.spawn(func() owner.Event {
		if d == nil { // it was let go of meanwhile
			return owner.Rebased{Serial: e.Serial, Refusal: "the data set is not open any more"}
		}
		r, ok := d.inst.Instance.(kind.Rebaser)
		if !ok {
			return owner.Rebased{Serial: e.Serial, Unsaid: true}
		}
		was := b.site.origins.described(b.site.ctx, e.From)
		state, err := kind.Returning(func() ([]byte, error) { return r.Rebase(e.State, was) })
		switch {
		case errors.Is(err, kind.ErrNoRebase):
			return owner.Rebased{Serial: e.Serial, Unsaid: true}
		case err != nil:
			return owner.Rebased{Serial: e.Serial, Refusal: err.Error()}
		}
		return owner.Rebased{Serial: e.Serial, State: state}
	})
}

// firstState asks for a data set's first state. A Start that does not return within the time for Next leaves its
// goroutine behind.
func (b *batcher) firstState(e owner.FirstState) {
	d := b.opened[e.Serial]
	if d == nil {
		return // it was let go of meanwhile
	}
	done := make(chan owner.FirstKnown, 1)
	go func() {
		state, err := kind.Returning(d.inst.Start)
		done <- owner.FirstKnown{Serial: e.Serial, State: state, Fault: startFault(err)}
	}()
	b.spawn(func() owner.Event {
		limit := time.NewTimer(b.site.cfg.Stall)
		defer limit.Stop()
		select {
		case begun := <-done:
			return begun
		case <-limit.C:
			return owner.FirstKnown{Serial: e.Serial, Fault: iteratorFault(errStalled)}
		case <-b.site.ctx.Done():
			return owner.FirstKnown{Serial: e.Serial, Fault: errGone}
		}
	})
}

// start feeds a generation.
func (b *batcher) start(e owner.Feed) {
	d := b.opened[e.Serial]
	d.acquire() // the owner may let go of the data set while Next of the generation before still runs
	var err error
	b.feed, err = newFeed(b.site.ctx, b.site.nc, b.log.With("gen", e.Gen), d.inst.Instance, d.leave, feedOf{
		gen: e.Gen, dataset: d.spec.Dataset, line: &b.site.line,
		subject: wire.JobPrefix + "." + b.owner.KindToken() + "." + b.name + "." + e.Gen + ".",
	})
	if err != nil { // the connection is closed, or Run ends
		b.log.Warn("generation not fed", "gen", e.Gen, "error", err)
		b.feed = nil
		return
	}
	b.locate()
}

func (b *batcher) halt() {
	if b.feed != nil {
		b.feed.stop()
		b.reissued += b.feed.reissued()
		b.feed = nil
	}
}

// errStalled says that Start did not return in time.
var errStalled = errors.New("Start has not returned")

func openFault(err error) *schema.Fault {
	code := schema.CodeBadParams
	var p *kind.PanicError
	f := &schema.Fault{Message: err.Error()}
	if errors.As(err, &p) {
		code, f.Stack = schema.CodeIterator, string(p.Stack)
	}
	switch {
	case errors.Is(err, kind.ErrBadParams): // also from another process, with its stack
		code = schema.CodeBadParams
	case errors.Is(err, context.Canceled):
		code = schema.CodeUnavailable
	case machineFault(err):
		code = schema.CodeIterator
	}
	f.Code = code
	return f
}

// machineFault reports whether an error is the machine's, and says nothing about the parameters.
func machineFault(err error) bool {
	var network net.Error
	if errors.As(err, &network) {
		if _, local := network.(syscall.Errno); !local { // which has the methods, too
			return true
		}
	}
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) ||
		errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EIO)
}

// startFault says why there is no first state; nil for no error.
func startFault(err error) *schema.Fault {
	if err == nil {
		return nil
	}
	f := iteratorFault(err)
	if errors.Is(err, kind.ErrNoStart) || f == nil {
		f = &schema.Fault{Code: schema.CodeWrongState, Message: err.Error()}
	}
	return f
}
