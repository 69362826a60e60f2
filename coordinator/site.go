package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// site is what all parts of a coordinator work with: its connection, its settings, its data sets and its store. It
// decides nothing.
type site struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	cfg   Config
	log   *slog.Logger
	kinds map[string]*kind.Kind // by data set name

	// Set by Run, before any part begins.
	ctx     context.Context // of Run
	domain  string          // of the JetStream that it stores in
	records *records
	origins *origins

	line      line
	pulse     pulse
	process   process
	readiness readiness
	running   sync.WaitGroup // batchers' actors, requests being handled, and the loops
}

// ensure makes the shared streams where they are missing.
func (s *site) ensure(ctx context.Context) error {
	return topology.Ensure(ctx, s.js, topology.Config{Replicas: s.cfg.Replicas})
}

// askAgain is the pause between two questions that a server without a leader may not answer.
const askAgain = 100 * time.Millisecond

// answering asks JetStream, the bucket and the job stream for a sign of life, all at once. It reports whether one of
// the streams is missing.
func (s *site) answering(ctx context.Context) (missing bool, err error) {
	var lost atomic.Bool
	err = s.insist(ctx, func() error {
		asked := new(errgroup.Group)
		asked.Go(func() error {
			_, err := s.js.AccountInfo(ctx)
			return err
		})
		for _, name := range []string{topology.BucketStream, topology.JobsStream} {
			asked.Go(func() error {
				_, err := s.js.Stream(ctx, name)
				if errors.Is(err, jetstream.ErrStreamNotFound) {
					lost.Store(true)
					return nil
				}
				return err
			})
		}
		return asked.Wait()
	})
	return lost.Load(), err
}

// withStreams does something that needs the shared streams, and makes these where one is missing.
func (s *site) withStreams(ctx context.Context, do func() error) error {
	err := do()
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	if err := s.ensure(ctx); err != nil {
		return err
	}
	return do()
}

// insist asks a question and returns the first outcome. One that is sent while there is no leader stays unanswered
// after the election, so it is asked again and again.
func (s *site) insist(ctx context.Context, question func() error) error {
	answers := make(chan error)
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		s.running.Go(func() {
			err := question()
			select {
			case answers <- err:
			case <-ctx.Done():
			}
		})
		select {
		case err := <-answers:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// passing reports whether an error of JetStream may go away by itself. A cluster without a leader, or without all of
// its servers, answers so for a while; a server without JetStream needs another configuration.
func passing(err error) bool {
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return false
	case topology.IsPassing(err):
		return true
	}
	for _, passes := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, jetstream.ErrNoStreamResponse,
		nats.ErrDisconnected, nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, passes) {
			return true
		}
	}
	return false
}

// call returns the context of a call to JetStream.
func (s *site) call(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	stop := context.AfterFunc(s.line.context(), cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// versions are the data sets of this coordinator and their versions.
func (s *site) versions() map[string]uint32 {
	versions := make(map[string]uint32, len(s.kinds))
	for name, k := range s.kinds {
		versions[name] = k.Version
	}
	return versions
}

func (s *site) kindTokens() []string {
	tokens := make([]string, 0, len(s.kinds))
	for _, k := range s.kinds {
		tokens = append(tokens, wire.KindToken(k.Name, k.Version))
	}
	return tokens
}

func (s *site) respond(m *nats.Msg, reply any) {
	data, err := json.Marshal(reply)
	if err == nil {
		err = s.nc.Publish(m.Reply, data)
	}
	if err != nil {
		s.log.Warn("no answer sent", "subject", m.Subject, "error", err)
	}
}

// hint publishes a message that may be lost: the coordinator sends it again, or who missed it finds out by itself.
func (s *site) hint(subject string, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		err = s.nc.Publish(subject, data)
	}
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		s.log.Warn("not announced", "subject", subject, "error", err)
	}
}

// every calls f at once and then in the rhythm of d until ctx ends. pulse, unless nil, is set before each call.
func (s *site) every(ctx context.Context, d time.Duration, pulse *atomic.Int64, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		if pulse != nil {
			pulse.Store(time.Now().UnixNano())
		}
		f()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// discard deletes a generation that is over. A failure is the collector's.
func (s *site) discard(batcher, gen string) {
	ctx, cancel := s.call(callTimeout)
	defer cancel()
	if err := topology.DeleteGeneration(ctx, s.js, batcher, gen); err != nil && ctx.Err() == nil {
		s.log.Warn("generation not deleted yet", "batcher", batcher, "gen", gen, "error", err)
	}
}

// stored reads the result of a sequence number.
func (s *site) stored(ctx context.Context, batcher, gen string, seq uint64) (*wire.Result, error) {
	results, err := s.js.Stream(ctx, topology.ResultsStream(batcher, gen))
	if err != nil {
		return nil, err
	}
	msg, err := results.GetLastMsgForSubject(ctx, wire.ResultSubject(batcher, gen, seq))
	if err != nil {
		return nil, err
	}
	res, _, err := wire.DecodeResult(msg.Data)
	return res, err
}

// lastToken is the last token of a subject.
func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }
