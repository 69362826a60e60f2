package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

type eventsCmd struct {
	natsFlags
	Name   []string      `arg:"" optional:"" help:"Batchers, workers and coordinators whose events are shown. Defaults to all."`
	Since  time.Duration `help:"How far back to look." default:"24h"`
	Last   int           `short:"n" help:"The latest so many only. Defaults to all that are kept, at most 4096."`
	Follow bool          `short:"f" help:"Go on until a signal comes."`
	JSON   bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON, one object per event."`
}

// Run prints events, the oldest first.
func (c *eventsCmd) Run(ctx context.Context, a *app) error {
	if c.Since <= 0 || c.Last < 0 {
		return fmt.Errorf("%w: --since is more than nothing, --last is not negative", errUsage)
	}
	nc, err := c.connect(ctx, a.log, "jetbatch-events", 2*time.Second)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer nc.Close()
	h, err := c.history(nc)
	if err != nil {
		return err
	}
	events, err := h.since(ctx, time.Now().Add(-c.Since))
	if err != nil {
		return interrupted(ctx, err)
	}
	events = c.wanted(events)
	if c.Last > 0 {
		events = events[max(0, len(events)-c.Last):]
	}
	if len(events) == 0 && !c.Follow && !c.JSON {
		_, err = fmt.Fprintf(a.out, "none in the last %v\n", c.Since)
		return err
	}
	for {
		if err := c.print(a.out, events); err != nil || !c.Follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		if events, err = h.news(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintf(a.err, "jetbatch: %s\n", legible.Text(err.Error())) // it may come back
		}
		events = c.wanted(events)
	}
}

func (c *eventsCmd) wanted(events []wire.Event) []wire.Event {
	if len(c.Name) == 0 {
		return events
	}
	return slices.DeleteFunc(events, func(e wire.Event) bool { return !slices.Contains(c.Name, e.Name) })
}

func (c *eventsCmd) print(w io.Writer, events []wire.Event) error {
	if !c.JSON {
		return writeEvents(w, events)
	}
	for _, e := range events {
		if err := printJSON(w, e); err != nil {
			return err
		}
	}
	return nil
}

// writeEvents writes events for people, a line each.
func writeEvents(w io.Writer, events []wire.Event) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range events {
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\n", e.At.Local().Format(time.DateTime), legible.Line(e.Role),
			legible.Line(e.Name), legible.Line(e.What), eventText(e))
	}
	return t.Flush()
}

// eventText is why an event happened, and by whose word where that is not a coordinator that only saw it.
func eventText(e wire.Event) string {
	why := legible.Line(e.Why)
	if e.Role == wire.EventBatcher && e.By != "" {
		why += " (" + legible.Line(e.By) + ")"
	}
	return strings.TrimSpace(why) // some have no reason
}

// history reads the stream of events. One goroutine uses it.
type history struct {
	js   jetstream.JetStream
	last uint64 // sequence number of the last event that was read
}

func (f *natsFlags) history(nc *nats.Conn) (*history, error) {
	js, err := f.jetStream(nc)
	return &history{js: js}, err
}

// parallelEvents is how many events are asked for at a time: the operator may make no consumer, which could be told to
// deliver anywhere.
const parallelEvents = 32

// since returns the events that are stored since a moment, the oldest first. A deployment without the stream has none.
func (h *history) since(ctx context.Context, from time.Time) (events []wire.Event, err error) {
	s, state, err := h.state(ctx)
	if err != nil || s == nil {
		return nil, err
	}
	h.last = state.LastSeq
	for to := state.LastSeq; to >= state.FirstSeq && to > 0; {
		first := max(state.FirstSeq, to-min(to-1, parallelEvents-1))
		some, err := read(ctx, s, first, to)
		if err != nil {
			return nil, err
		}
		events = append(some, events...)
		if len(some) > 0 && some[0].At.Before(from) {
			break
		}
		to = first - 1
	}
	return slices.DeleteFunc(events, func(e wire.Event) bool { return e.At.Before(from) }), nil
}

// news returns the events that came after those that were read.
func (h *history) news(ctx context.Context) ([]wire.Event, error) {
	s, state, err := h.state(ctx)
	if err != nil || s == nil {
		return nil, err
	}
	if state.LastSeq < h.last { // the stream was made again
		h.last = 0
	}
	events, err := read(ctx, s, max(h.last+1, state.FirstSeq, 1), state.LastSeq)
	if err != nil {
		return nil, err // the next call reads them
	}
	h.last = state.LastSeq
	return events, nil
}

func (h *history) state(ctx context.Context) (jetstream.Stream, jetstream.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := h.js.Stream(ctx, topology.EventsStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, jetstream.StreamState{}, nil
	}
	if err != nil {
		return nil, jetstream.StreamState{}, fmt.Errorf("%w: events: %w", errUnhealthy, h.denied(err))
	}
	return s, s.CachedInfo().State, nil
}

// denied is the server's refusal where there was one, since what it denies looks like silence.
func (h *history) denied(err error) error {
	needs := topology.Needs{Publish: []string{"$JS.API.STREAM.INFO." + topology.EventsStream}}
	return cmp.Or(topology.Denied(h.js.Conn(), needs.In(h.js.Options().Domain)), err)
}

// read reads the events that are stored from one sequence number to another, in order; some were dropped.
func read(ctx context.Context, s jetstream.Stream, from, to uint64) (events []wire.Event, err error) {
	var mu sync.Mutex
	bySeq := make(map[uint64]wire.Event)
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(parallelEvents)
	for seq := from; seq <= to; seq++ {
		group.Go(func() error {
			one, cancel := context.WithTimeout(within, 2*time.Second)
			defer cancel()
			m, err := s.GetMsg(one, seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%w: events: %w", errUnhealthy, err)
			}
			e, err := wire.ParseEvent(m.Subject, m.Data, m.Time)
			if err != nil {
				return nil // another's message, or of another release
			}
			mu.Lock()
			defer mu.Unlock()
			bySeq[seq] = e
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for seq := from; seq <= to; seq++ {
		if e, ok := bySeq[seq]; ok {
			events = append(events, e)
		}
	}
	return events, nil
}
