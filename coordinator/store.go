package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// errAbsent says that no server has the store, and that none could say whether it still exists.
var errAbsent = errors.New("no server has the store of results")

// look finds out how a generation's store is, makes its consumer again where it is missing, and lists its results.
func (b *batcher) look(token string, e owner.Look) owner.Event {
	l := owner.Looked{Gen: e.Gen, For: e.For, Asked: time.Now()}
	if e.For == owner.ForLast {
		return b.lookLast(l)
	}
	ctx, cancel := b.site.call(askTimeout)
	defer cancel()
	lost, err := b.inspect(ctx, e.Gen)
	l.Connected = b.site.nc.IsConnected()
	switch {
	case errors.Is(err, errAbsent):
		l.Store, l.Reason = owner.StoreAbsent, err.Error()
		return l
	case err != nil:
		l.Store, l.Reason = owner.StoreSilent, err.Error()
		return l
	case lost:
		l.Store = owner.StoreLost
		return l
	}
	ctx, cancel = b.site.call(2 * askTimeout)
	defer cancel()
	err = b.site.insist(ctx, func() error { // a consumer whose server is gone has another when there was an election
		_, _ = b.site.js.Consumer(ctx, topology.JobsStream, topology.Consumer(b.name, e.Gen)) // any answer will do
		return nil
	})
	if err == nil {
		err = b.site.ensure(ctx)
	}
	if err == nil { // the owner before may have died between the store and the consumer
		l.Unasked, err = topology.EnsureConsumer(ctx, b.site.js, token, b.name, e.Gen)
	}
	if err == nil && e.For == owner.ForRepair {
		l.Queued, err = b.queued(ctx, token, e.Gen)
	}
	if err == nil {
		l.Done, err = b.results(ctx, e.Gen)
	}
	if err != nil {
		l.Store, l.Reason = owner.StoreUnsure, err.Error()
	}
	return l
}

// lookLast asks a store that was silent for too long once more, after a server has answered: it may have been this
// coordinator that was cut off.
func (b *batcher) lookLast(l owner.Looked) owner.Event {
	if err := b.site.canMake(); err != nil {
		l.Store, l.Reason = owner.StoreUnsure, err.Error()
		return l
	}
	ctx, cancel := b.site.call(askTimeout / 4)
	defer cancel()
	if b.reach(ctx, l.Gen) != nil {
		l.Store = owner.StoreLost
	}
	return l
}

// probe asks a store for a sign of life.
func (b *batcher) probe(e owner.Probe) owner.Event {
	ctx, cancel := b.site.call(askTimeout / 2)
	defer cancel()
	asked := time.Now()
	return owner.Probed{Gen: e.Gen, Alive: b.reach(ctx, e.Gen) == nil, Asked: asked}
}

// inspect reports whether a generation's store is gone, or is another than the one that was made.
func (b *batcher) inspect(ctx context.Context, gen string) (lost bool, err error) {
	if err := b.reach(ctx, gen); err != nil {
		return false, err
	}
	s, err := b.site.js.Stream(ctx, topology.ResultsStream(b.name, gen))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	genesis, err := s.GetLastMsgForSubject(ctx, wire.GenesisSubject(b.name, gen))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return string(genesis.Data) != string(wire.Genesis(gen)), nil
}

// reach sends the store what it refuses, without asking JetStream, whose answers take an election when the server with
// the store is gone: then the store's subjects have no listener, and every server says so at once.
func (b *batcher) reach(ctx context.Context, gen string) error {
	probe := nats.NewMsg(wire.GenesisSubject(b.name, gen))
	probe.Header.Set(jetstream.ExpectedStreamHeader, "none")
	_, err := b.site.nc.RequestMsgWithContext(ctx, probe)
	if !errors.Is(err, nats.ErrNoResponders) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout/4)
	defer cancel()
	_, err = b.site.js.Stream(ctx, topology.ResultsStream(b.name, gen))
	if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // there is somebody who knows
	}
	return errAbsent
}

// queued lists the jobs that are in the queue, delivered ones included.
func (b *batcher) queued(ctx context.Context, token, gen string) (map[uint64]bool, error) {
	jobs, err := b.site.js.Stream(ctx, topology.JobsStream)
	if err != nil {
		return nil, err
	}
	info, err := jobs.Info(ctx, jetstream.WithSubjectFilter(wire.JobFilter(token, b.name, gen)))
	if err != nil {
		return nil, err
	}
	queued := make(map[uint64]bool, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		_, _, _, first, try, err := wire.ParseJobSubject(subject)
		if err != nil || try == wire.TryBackup {
			continue
		}
		for seq := first; seq < first+uint64(wire.RunLength(try)); seq++ {
			queued[seq] = true
		}
	}
	return queued, nil
}

// results lists the sequence numbers that have a stored result.
func (b *batcher) results(ctx context.Context, gen string) (map[uint64]bool, error) {
	s, err := b.site.js.Stream(ctx, topology.ResultsStream(b.name, gen))
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(wire.CommitFilter(b.name, gen)))
	if err != nil {
		return nil, err
	}
	done := make(map[uint64]bool, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if seq, err := wire.ParseResultSeq(subject); err == nil {
			done[seq] = true
		}
	}
	return done, nil
}

// purge drops results: by blocks where a block ends there, else one by one. It does not wait for the store: a later
// look at the store finds what a lost request left behind.
func (b *batcher) purge(e owner.Purge) error {
	for seq := e.From + 1; seq <= e.To; {
		block := seq / wire.BlockSize
		if end := (block+1)*wire.BlockSize - 1; end <= e.To {
			if err := b.purgeSubject(e.Gen, wire.BlockFilter(b.name, e.Gen, block)); err != nil {
				return err
			}
			seq = end + 1
			continue
		}
		subject := wire.ResultSubject(b.name, e.Gen, seq)
		if err := errors.Join(b.purgeSubject(e.Gen, subject), b.purgeSubject(e.Gen, subject+".>")); err != nil {
			return err
		}
		seq++
	}
	return nil
}

func (b *batcher) purgeSubject(gen, filter string) error {
	request, err := json.Marshal(map[string]string{"filter": filter})
	if err != nil {
		return err
	}
	subject := "$JS.API.STREAM.PURGE." + topology.ResultsStream(b.name, gen)
	return b.site.nc.Publish(topology.InDomain(b.site.cfg.Domain, subject), request)
}

// remove deletes the results of lost attempts, and of no other.
func (b *batcher) remove(e owner.Remove) owner.Event {
	removed := owner.Removed{Gen: e.Gen}
	ctx, cancel := b.site.call(2 * askTimeout)
	defer cancel()
	s, err := b.site.js.Stream(ctx, topology.ResultsStream(b.name, e.Gen))
	if err != nil {
		return removed // the reader says it again
	}
	for _, l := range e.Lost {
		ok, err := removeAttempt(ctx, s, wire.ResultSubject(b.name, e.Gen, l.Seq), l.Attempt)
		if err != nil {
			b.log.Warn("lost result not removed yet", "seq", l.Seq, "attempt", l.Attempt, "error", err)
		}
		if ok {
			removed.Removed = append(removed.Removed, l)
		}
	}
	return removed
}

// removeAttempt deletes the commit record of a subject if it is that attempt's.
func removeAttempt(ctx context.Context, s jetstream.Stream, subject, attempt string) (bool, error) {
	msg, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	res, _, err := wire.DecodeResult(msg.Data)
	if err != nil || res.Attempt != attempt {
		return false, err
	}
	err = s.DeleteMsg(ctx, msg.Sequence)
	return err == nil, err
}
