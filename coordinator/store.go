package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// errAbsent says that no server has the store, and that none could say whether it still exists.
var errAbsent = errors.New("no server has the store of results")

// store is where a batcher's generations are: their results and their jobs. Its methods wait for JetStream and are
// called in goroutines of their own; the actor gets what they return as an event.
type store struct {
	*site
	name string // of the batcher
	log  *slog.Logger
}

// look finds out how a generation's store is, makes its consumer again where it is missing, and lists its results.
func (s *store) look(token string, e owner.Look) owner.Event {
	l := owner.Looked{Gen: e.Gen, For: e.For, Asked: time.Now()}
	if e.For == owner.ForLast {
		return s.lookLast(l)
	}
	ctx, cancel := s.call(askTimeout)
	defer cancel()
	lost, err := s.inspect(ctx, e.Gen)
	l.Connected = s.nc.IsConnected()
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
	ctx, cancel = s.call(2 * askTimeout)
	defer cancel()
	err = s.insist(ctx, func() error { // a consumer whose server is gone has another when there was an election
		_, _ = s.js.Consumer(ctx, topology.JobsStream, topology.Consumer(s.name, e.Gen)) // any answer will do
		return nil
	})
	if err == nil {
		err = s.withStreams(ctx, func() (err error) { // the owner before may have died between the store and the consumer
			l.Unasked, err = topology.EnsureConsumer(ctx, s.js, token, s.name, e.Gen)
			return err
		})
	}
	if err == nil && e.For == owner.ForRepair {
		l.Queued, err = s.queued(ctx, token, e.Gen)
	}
	if err == nil {
		l.Done, err = s.results(ctx, e.Gen)
	}
	if err != nil {
		l.Store, l.Reason = owner.StoreUnsure, err.Error()
	}
	return l
}

// lookLast asks a store that was silent for too long once more, after a server has answered: it may have been this
// coordinator that was cut off.
func (s *store) lookLast(l owner.Looked) owner.Event {
	if err := s.ready(true); err != nil {
		l.Store, l.Reason = owner.StoreUnsure, err.Error()
		return l
	}
	ctx, cancel := s.call(askTimeout / 4)
	defer cancel()
	if s.reach(ctx, l.Gen) != nil {
		l.Store = owner.StoreLost
	}
	return l
}

// probe asks a store for a sign of life.
func (s *store) probe(e owner.Probe) owner.Event {
	ctx, cancel := s.call(askTimeout / 2)
	defer cancel()
	asked := time.Now()
	return owner.Probed{Gen: e.Gen, Alive: s.reach(ctx, e.Gen) == nil, Asked: asked}
}

// inspect reports whether a generation's store is gone, or is another than the one that was made.
func (s *store) inspect(ctx context.Context, gen string) (lost bool, err error) {
	if err := s.reach(ctx, gen); err != nil {
		return false, err
	}
	results, err := s.js.Stream(ctx, topology.ResultsStream(s.name, gen))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	genesis, err := results.GetLastMsgForSubject(ctx, wire.GenesisSubject(s.name, gen))
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
func (s *store) reach(ctx context.Context, gen string) error {
	probe := nats.NewMsg(wire.GenesisSubject(s.name, gen))
	probe.Header.Set(jetstream.ExpectedStreamHeader, "none")
	_, err := s.nc.RequestMsgWithContext(ctx, probe)
	if !errors.Is(err, nats.ErrNoResponders) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout/4)
	defer cancel()
	_, err = s.js.Stream(ctx, topology.ResultsStream(s.name, gen))
	if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // there is somebody who knows
	}
	return errAbsent
}

// queued lists the jobs that are in the queue, delivered ones included.
func (s *store) queued(ctx context.Context, token, gen string) (map[uint64]bool, error) {
	jobs, err := s.js.Stream(ctx, topology.JobsStream)
	if err != nil {
		return nil, err
	}
	info, err := jobs.Info(ctx, jetstream.WithSubjectFilter(wire.JobFilter(token, s.name, gen)))
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
func (s *store) results(ctx context.Context, gen string) (map[uint64]bool, error) {
	results, err := s.js.Stream(ctx, topology.ResultsStream(s.name, gen))
	if err != nil {
		return nil, err
	}
	info, err := results.Info(ctx, jetstream.WithSubjectFilter(wire.CommitFilter(s.name, gen)))
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
func (s *store) purge(e owner.Purge) error {
	for seq := e.From + 1; seq <= e.To; {
		block := seq / wire.BlockSize
		if end := (block+1)*wire.BlockSize - 1; end <= e.To {
			if err := s.purgeSubject(e.Gen, wire.BlockFilter(s.name, e.Gen, block)); err != nil {
				return err
			}
			seq = end + 1
			continue
		}
		subject := wire.ResultSubject(s.name, e.Gen, seq)
		if err := errors.Join(s.purgeSubject(e.Gen, subject), s.purgeSubject(e.Gen, subject+".>")); err != nil {
			return err
		}
		seq++
	}
	return nil
}

func (s *store) purgeSubject(gen, filter string) error {
	request, err := json.Marshal(map[string]string{"filter": filter})
	if err != nil {
		return err
	}
	subject := "$JS.API.STREAM.PURGE." + topology.ResultsStream(s.name, gen)
	return s.nc.Publish(topology.InDomain(s.cfg.Domain, subject), request)
}

// remove deletes the results of lost attempts, and of no other.
func (s *store) remove(e owner.Remove) owner.Event {
	removed := owner.Removed{Gen: e.Gen}
	ctx, cancel := s.call(2 * askTimeout)
	defer cancel()
	results, err := s.js.Stream(ctx, topology.ResultsStream(s.name, e.Gen))
	if err != nil {
		return removed // the reader says it again
	}
	for _, l := range e.Lost {
		ok, err := removeAttempt(ctx, results, wire.ResultSubject(s.name, e.Gen, l.Seq), l.Attempt)
		if err != nil {
			s.log.Warn("lost result not removed yet", "seq", l.Seq, "attempt", l.Attempt, "error", err)
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

// make makes generations at once and keeps the first that is whole; the others are in no record, so they go.
// A cluster that lost a server a moment ago goes on giving that one streams, and consumers to lead, until it has said
// nothing for 3 s: of several generations one is whole at once, or one of the next.
func (s *store) make(token string, e owner.Make) owner.Event {
	limit := 3 * askTimeout
	if len(e.Gens) > 1 && !e.Patient {
		limit = askTimeout
	}
	ctx, cancel := s.call(limit)
	defer cancel()
	type made struct {
		gen string
		err error
	}
	all := make(chan made, len(e.Gens))
	for _, gen := range e.Gens {
		s.running.Go(func() {
			all <- made{gen, topology.CreateGeneration(ctx, s.js, token, s.name, gen)}
		})
	}
	var chosen owner.Made
	for range e.Gens {
		m := <-all
		switch {
		case m.err == nil && chosen.Gen == "":
			chosen.Gen = m.gen
			cancel()
		case len(e.Gens) > 1:
			s.running.Go(func() { s.discard(s.name, m.gen) })
			fallthrough
		default:
			chosen.Reason = reason(m.err)
		}
	}
	if chosen.Gen == "" {
		s.readiness.forget()
		return chosen
	}
	chosen.Reason = ""
	return chosen
}

// cancelJobs removes queued jobs; those that run find their results unwanted.
func (s *store) cancelJobs(token string, e owner.Cancel) owner.Event {
	ctx, cancel := s.call(callTimeout)
	defer cancel()
	if err := topology.DeleteJobs(ctx, s.js, token, s.name, e.Gen, e.From, e.To); err != nil {
		s.log.Warn("skipped jobs not cancelled", "from", e.From, "to", e.To, "error", err)
	}
	return owner.Cancelled{Gen: e.Gen}
}

// keepVerdict stores the verdict as a result, first write wins.
func (s *store) keepVerdict(e owner.StoreVerdict) owner.Event {
	stored := owner.VerdictStored{Gen: e.Gen, Seq: e.Result.Seq}
	data, err := wire.AppendResult(nil, e.Result, nil)
	if err != nil {
		stored.Reason = err.Error()
		return stored
	}
	ctx, cancel := s.call(callTimeout)
	defer cancel()
	_, err = s.js.Publish(ctx, wire.ResultSubject(s.name, e.Gen, e.Result.Seq), data)
	var api *jetstream.APIError
	if errors.As(err, &api) && topology.IsDuplicate(int(api.ErrorCode), api.Description) {
		err = nil
	}
	stored.Reason = reason(err)
	return stored
}
