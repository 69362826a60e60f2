package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// collectEvery is how often old generations are looked for.
const collectEvery = 15 * time.Second

// collector deletes what no record names any more.
type collector struct{ *site }

// collects deletes what is over until ctx ends.
func (c *collector) collects(ctx context.Context) {
	c.every(ctx, collectEvery, nil, func() {
		if err := c.collect(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("old generations not collected", "error", err)
		}
		if err := c.origins.collect(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.log.Warn("old descriptions of data not collected", "error", err)
		}
	})
}

// collect deletes generations that no record names. Streams are listed before records are read: a
// generation is in its record before its stream is made, so one that is listed and not named is over.
// A generation whose record is damaged, or of another wire version, stays, since it may be the current one, and keeps
// no other from being collected.
func (c *collector) collect(ctx context.Context) error {
	stored, err := c.generations(ctx)
	if err != nil {
		return err
	}
	var failed error
	for g := range stored {
		err := c.collectOne(ctx, g)
		if err != nil && (unanswered(err) || ctx.Err() != nil) {
			return errors.Join(failed, err)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (c *collector) collectOne(ctx context.Context, g storedGeneration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rec, _, err := c.records.read(ctx, g.batcher)
	var damaged *damagedError
	switch {
	case errors.Is(err, errNoRecord):
	case errors.As(err, &damaged):
		return nil
	case err != nil:
		return err
	case rec.Gen == g.gen || rec.Wire != wire.Version:
		return nil
	}
	if err := topology.DeleteGeneration(ctx, c.js, g.batcher, g.gen); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	c.log.Info("generation collected", "batcher", g.batcher, "gen", g.gen)
	return nil
}

// storedGeneration names a generation that something is stored of.
type storedGeneration struct{ batcher, gen string }

// parseConsumer is the inverse of topology.Consumer; generations have no '-'.
func parseConsumer(name string) (batcher, gen string, ok bool) {
	prefix, _, _ := strings.Cut(topology.Consumer("", ""), "-")
	rest, ok := strings.CutPrefix(name, prefix+"-")
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 1 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// serversAway counts the servers beside the leader that hold a stream and are away, or behind.
func serversAway(c *jetstream.ClusterInfo) (n int64) {
	if c == nil {
		return 0
	}
	for _, peer := range c.Replicas {
		if peer.Offline || !peer.Current {
			n++
		}
	}
	return n
}

// generations lists the generations that have a store of results, a consumer or jobs: a store in memory may be gone,
// and a job of a deposed owner may have come, after the generation was deleted.
func (c *collector) generations(ctx context.Context) (map[storedGeneration]bool, error) {
	stored := make(map[storedGeneration]bool)
	lister := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(wire.ResultPrefix+".>"))
	for name := range lister.Name() {
		if batcher, gen, ok := topology.ParseResultsStream(name); ok {
			stored[storedGeneration{batcher, gen}] = true
		}
	}
	if err := lister.Err(); err != nil {
		return nil, err
	}
	jobs, err := c.js.Stream(ctx, topology.JobsStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return stored, nil // it is in memory, so a server that was restarted has none until it is made again
	}
	if err != nil {
		return nil, err
	}
	consumers := jobs.ConsumerNames(ctx)
	for name := range consumers.Name() {
		if batcher, gen, ok := parseConsumer(name); ok {
			stored[storedGeneration{batcher, gen}] = true
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, err
	}
	info, err := jobs.Info(ctx, jetstream.WithSubjectFilter(wire.JobPrefix+".>"))
	if err != nil {
		return nil, err
	}
	c.process.away.Store(serversAway(info.Cluster))
	for subject := range info.State.Subjects {
		if _, batcher, gen, _, _, err := wire.ParseJobSubject(subject); err == nil {
			stored[storedGeneration{batcher, gen}] = true
		}
	}
	return stored, nil
}
