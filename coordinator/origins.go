package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// Bounds of the descriptions in the bucket.
const (
	describeAgain  = 24 * time.Hour      // a description that is in use is written again so often, and so does not age
	originAge      = 90 * 24 * time.Hour // after which one that nobody wrote again is deleted
	maxOrigins     = 1024                // kept; the youngest
	collectOrigins = time.Hour           // between two looks for old ones
	maxDescription = 128 << 10           // bytes; a larger one is not from here
)

// origins keeps in the bucket what the digests in states stand for, so that an error can name what differs. Nothing
// depends on it but the error's text. Its methods are safe for concurrent use.
type origins struct {
	records *records

	mu        sync.Mutex
	written   map[string]time.Time // when this process wrote a description
	collected time.Time
}

// describe writes the description of an origin, unless this process did so lately.
func (o *origins) describe(ctx context.Context, log *slog.Logger, origin kind.Origin) {
	o.mu.Lock()
	due := time.Since(o.written[origin.Digest]) > describeAgain
	if due {
		o.written[origin.Digest] = time.Now()
	}
	o.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	data, err := json.Marshal(origin)
	if err == nil {
		_, err = o.records.kv.Put(ctx, topology.OriginKey(origin.Digest), data)
	}
	if err == nil {
		return
	}
	o.mu.Lock()
	delete(o.written, origin.Digest)
	o.mu.Unlock()
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		log.Warn("origin of the data not described: an error about it will not name what differs",
			"origin", origin.Digest, "error", err)
	}
}

// described returns the description of an origin, nil where there is none, or nobody says.
func (o *origins) described(ctx context.Context, digest string) *kind.Origin {
	if wire.CheckName("origin", digest) != nil {
		return nil // it is no key
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	value, _, err := topology.Get(ctx, o.records.stream, topology.OriginKey(digest))
	if err != nil || len(value) > maxDescription {
		return nil
	}
	origin := new(kind.Origin)
	if json.Unmarshal(value, origin) != nil || origin.Digest != digest {
		return nil
	}
	return origin
}

// collect deletes descriptions that nobody wrote again for long, and the oldest of too many.
func (o *origins) collect(ctx context.Context, now time.Time) error {
	o.mu.Lock()
	due := now.Sub(o.collected) >= collectOrigins
	if due {
		o.collected = now
	}
	o.mu.Unlock()
	if !due {
		return nil
	}
	names, err := o.records.names(ctx, topology.OriginKey(""))
	if err != nil {
		return err
	}
	type description struct {
		key string
		at  time.Time
	}
	var kept []description
	for _, name := range names {
		key := topology.OriginKey(name)
		entry, err := o.records.kv.Get(ctx, key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			err = o.records.sweep(ctx, key) // the marker of a deletion
		case err == nil:
			kept = append(kept, description{key, entry.Created()})
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(kept, func(a, b description) int { return b.at.Compare(a.at) })
	for i, d := range kept {
		if i < maxOrigins && now.Sub(d.at) < originAge {
			continue
		}
		if err := o.records.kv.Purge(ctx, d.key); err != nil {
			return err
		}
		if err := o.records.sweep(ctx, d.key); err != nil {
			return err
		}
	}
	return nil
}
