package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds on a store that does not answer.
const (
	lookTimeout   = time.Second
	storePatience = 3 * time.Second
)

// lost reports whether the generation's store is gone, is another than the one that was made, or has not answered for
// storePatience: one server has it in memory, and making the results again takes less time than waiting for a server
// that may have lost them when it is back. Nothing comes of a wrong guess but work, and nothing begins while the records
// do not answer either.
func (b *batcher) lost(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	began := time.Now()
	lost, err := b.inspect(ctx)
	switch {
	case err == nil:
		b.silent = time.Time{}
		return lost, nil
	case !b.c.nc.IsConnected():
		return false, err
	case b.silent.IsZero():
		b.silent = began
	}
	if time.Since(b.silent) > storePatience {
		return true, nil
	}
	return false, err
}

func (b *batcher) inspect(ctx context.Context) (lost bool, err error) {
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	genesis, err := s.GetLastMsgForSubject(ctx, schema.GenesisSubject(b.name, b.rec.Gen))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return string(genesis.Data) != string(schema.Genesis(b.rec.Gen)), nil
}

// commits lists the sequence numbers that have a commit record.
func (b *batcher) commits(ctx context.Context) (map[uint64]bool, error) {
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(schema.CommitFilter(b.name, b.rec.Gen)))
	if err != nil {
		return nil, err
	}
	done := make(map[uint64]bool, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if seq, err := schema.ParseResultSeq(subject); err == nil {
			done[seq] = true
		}
	}
	return done, nil
}

// purge drops the results in (from, to]: by blocks where a block ends there, else one by one. It does not wait for the
// store: what a lost request leaves behind is found by sweep.
func (b *batcher) purge(from, to uint64) error {
	for seq := from + 1; seq <= to; {
		block := seq / schema.BlockSize
		if end := (block+1)*schema.BlockSize - 1; end <= to {
			if err := b.purgeSubject(schema.BlockFilter(b.name, b.rec.Gen, block)); err != nil {
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
	subject := schema.ResultSubject(b.name, b.rec.Gen, seq)
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
	res, _, err := schema.DecodeResult(msg.Data)
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
