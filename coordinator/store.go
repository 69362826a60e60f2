package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// Bounds on a store that does not answer. The actor waits for it, so no look takes long.
const (
	lookTimeout    = time.Second
	storePatience  = 3 * time.Second // with a store that is silent: its server may be paused, or far away
	absentPatience = time.Second     // with one whose server is not there, as every other server says
)

var (
	errAbsent  = errors.New("no server has the store of results") // and nobody says why
	errAnswers = errors.New("the store of results answers again")
)

// lost reports whether the generation's store is gone, is another than the one that was made, or has not answered for
// too long: one server has it in memory, and making the results again takes less time than waiting for a server that may
// have lost them when it is back. Nothing comes of a wrong guess but work, and nothing begins while the records do not
// answer either.
func (b *batcher) lost(ctx context.Context) (bool, error) {
	if b.forsaken != b.rec.Gen {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		began := time.Now()
		lost, err := b.inspect(ctx)
		if err == nil {
			b.silent = time.Time{}
			return lost, nil
		}
		b.muted(began)
		patience := storePatience
		if errors.Is(err, errAbsent) {
			patience = absentPatience
		}
		if !b.c.nc.IsConnected() || time.Since(b.silent) <= patience {
			return false, err
		}
		b.forsaken = b.rec.Gen
	}
	// It may have been this coordinator that was cut off: lost is a store that does not answer after the server has.
	if err := b.ready(); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout/4)
	defer cancel()
	if b.reach(ctx) == nil {
		b.forsaken = ""
		return false, errAnswers
	}
	return true, nil
}

// feel asks the store for a sign of life when the trainer waits for it and nobody has said yet that it is silent: whoever
// could may be cut off by the same fault.
func (b *batcher) feel() {
	if g := b.gen; !b.silent.IsZero() || g.Fed() == g.Taken() || time.Since(g.moved) < beat {
		return
	}
	ctx, cancel := b.c.call(lookTimeout / 2)
	defer cancel()
	began := time.Now()
	if b.reach(ctx) != nil {
		b.muted(began)
	}
}

// muted notes that the store did not answer what it was asked at that moment.
func (b *batcher) muted(asked time.Time) {
	if b.silent.IsZero() {
		b.silent = asked
	}
}

func (b *batcher) inspect(ctx context.Context) (lost bool, err error) {
	if err := b.reach(ctx); err != nil {
		return false, err
	}
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	genesis, err := s.GetLastMsgForSubject(ctx, wire.GenesisSubject(b.name, b.rec.Gen))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return string(genesis.Data) != string(wire.Genesis(b.rec.Gen)), nil
}

// reach sends the store what it refuses, without asking JetStream, whose answers take an election when the server with
// the store is gone: then nobody listens to the store's subjects, and every server says so at once.
func (b *batcher) reach(ctx context.Context) error {
	probe := nats.NewMsg(wire.GenesisSubject(b.name, b.rec.Gen))
	probe.Header.Set(jetstream.ExpectedStreamHeader, "none")
	_, err := b.c.nc.RequestMsgWithContext(ctx, probe)
	if !errors.Is(err, nats.ErrNoResponders) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout/4)
	defer cancel()
	if _, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen)); err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // there is somebody who knows
	}
	return errAbsent
}

// commits lists the sequence numbers that have a commit record.
func (b *batcher) commits(ctx context.Context) (map[uint64]bool, error) {
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(wire.CommitFilter(b.name, b.rec.Gen)))
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

// purge drops the results in (from, to]: by blocks where a block ends there, else one by one. It does not wait for the
// store: what a lost request leaves behind is found by sweep.
func (b *batcher) purge(from, to uint64) error {
	for seq := from + 1; seq <= to; {
		block := seq / wire.BlockSize
		if end := (block+1)*wire.BlockSize - 1; end <= to {
			if err := b.purgeSubject(wire.BlockFilter(b.name, b.rec.Gen, block)); err != nil {
				return err
			}
			seq = end + 1
			continue
		}
		if err := b.purgeOne(seq); err != nil {
			return err
		}
		seq++
	}
	return nil
}

// purgeOne drops a commit record and all chunks and markers of its sequence number.
func (b *batcher) purgeOne(seq uint64) error {
	subject := wire.ResultSubject(b.name, b.rec.Gen, seq)
	if err := b.purgeSubject(subject); err != nil {
		return err
	}
	return b.purgeSubject(subject + ".>")
}

func (b *batcher) purgeSubject(filter string) error {
	request, err := json.Marshal(map[string]string{"filter": filter})
	if err != nil {
		return err
	}
	return b.c.nc.Publish("$JS.API.STREAM.PURGE."+topology.ResultsStream(b.name, b.rec.Gen), request)
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

// ensure makes the job stream and the generation's consumer again where they are gone.
func (b *batcher) ensure(ctx context.Context) error {
	if err := b.c.ensure(ctx); err != nil {
		return err
	}
	return topology.EnsureConsumer(ctx, b.c.js, b.kindToken(), b.name, b.rec.Gen)
}
