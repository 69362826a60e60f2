package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/schema"
)

// Requests to a trainer about ranks.
const (
	opLost    = "lost"    // takes until another rank is lost
	opFetched = "fetched" // bytes of payloads, by rank
	opSucceed = "succeed" // first batches of those that take a rank's place
	opAgree   = "agree"   // moves that all ranks ask for
)

// lost takes until the error that says that another rank is lost.
func (t *trainer) lost(ctx context.Context, name string) (struct{}, error) {
	for {
		_, err := t.batchers[name].take(ctx)
		if errors.Is(err, client.ErrRankLost) {
			return struct{}{}, nil
		}
		if err != nil {
			return struct{}{}, err
		}
	}
}

// fetchedBy is what each of these batchers has fetched.
func (t *trainer) fetchedBy(_ context.Context, names []string) (bytes []float64, err error) {
	for _, name := range names {
		families, err := t.fetched[name].Gather()
		if err != nil {
			return nil, err
		}
		for _, f := range families {
			if f.GetName() == "jetbatch_client_bytes_total" {
				bytes = append(bytes, f.GetMetric()[0].GetCounter().GetValue())
			}
		}
	}
	if len(bytes) != len(names) {
		return nil, fmt.Errorf("%d of %d batchers count what they fetch", len(bytes), len(names))
	}
	return bytes, nil
}

type succeedArg struct {
	Names []string `json:"names"` // of both ranks
	Open  openArg  `json:"open"`  // whose name is that of their world, too, until another one takes its place
	N     int      `json:"n"`
	Other bool     `json:"other"` // ranks of another world, else one in the first rank's place
}

// succeed is how long after Open those wait for their first batch who take the first rank's place, and go on where that
// rank is.
func (t *trainer) succeed(ctx context.Context, arg succeedArg) (took []time.Duration, err error) {
	for range arg.N {
		b, err := ranksOf(t, arg.Names)
		if err != nil {
			return nil, err
		}
		if arg.Other {
			t.launches++
		}
		from := b[0].state // where all are
		heir, err := t.heir(ctx, arg, 0, from)
		if err != nil {
			return nil, err
		}
		one, err := timesOf(ctx, 1, heir.taking)
		if err != nil {
			return nil, err
		}
		took = append(took, one...)
		for rank, other := range b[1:] {
			if arg.Other {
				if other, err = t.heir(ctx, arg, rank+1, from); err != nil {
					return nil, err
				}
			}
			if err := other.taking(ctx); err != nil {
				return nil, err
			}
		}
	}
	return took, nil
}

// heir takes the place of a rank.
func (t *trainer) heir(ctx context.Context, arg succeedArg, rank int, from schema.State) (*handleOf[[]byte], error) {
	id := arg.Open.Name
	if t.launches > 0 {
		id = fmt.Sprint(id, "-", t.launches)
	}
	arg.Open.TakeOver = true
	arg.Open.World = &client.World{ID: id, Rank: rank, Size: len(arg.Names), Parts: 1}
	opened, err := t.handle(ctx, arg.Open)
	if err != nil {
		return nil, err
	}
	closing(t.log, t.batchers[arg.Names[rank]].close())
	t.batchers[arg.Names[rank]] = opened
	heir := opened.(*handleOf[[]byte])
	heir.state = from
	return heir, nil
}

// ranksOf are batchers of bytes.
func ranksOf(t *trainer, names []string) (ranks []*handleOf[[]byte], err error) {
	for _, name := range names {
		b, ok := t.batchers[name].(*handleOf[[]byte])
		if !ok {
			return nil, fmt.Errorf("batcher %q is not open", name)
		}
		ranks = append(ranks, b)
	}
	return ranks, nil
}

type agreeArg struct {
	Names []string `json:"names"`
	N     int      `json:"n"`
	Held  bool     `json:"held"` // what they move to
}

// agree is how long it takes, from when the last rank asks for another place, until all have the batch there.
func (t *trainer) agree(ctx context.Context, arg agreeArg) (took []time.Duration, err error) {
	const steps = 8
	b, err := ranksOf(t, arg.Names)
	if err != nil {
		return nil, err
	}
	first, last := b[:len(b)-1], b[len(b)-1]
	for range arg.N {
		for _, h := range b {
			if arg.Held { // forward first, so that there is something to go back to
				_, err = times(ctx, steps, h.taking)
			}
			if err = errors.Join(err, h.move(arg.Held, steps)); err != nil {
				return nil, err
			}
		}
		moved := make(chan error)
		for _, h := range first {
			go func() { moved <- h.taking(ctx) }()
		}
		one, err := timesOf(ctx, 1, func(ctx context.Context) error {
			err := last.taking(ctx)
			for range first {
				err = errors.Join(err, <-moved)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		took = append(took, one...)
	}
	for _, h := range b { // what follows the last one is made before the next measurement begins
		if _, err := times(ctx, steps, h.taking); err != nil {
			return nil, err
		}
	}
	return took, nil
}
