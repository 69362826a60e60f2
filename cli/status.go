package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

type statusCmd struct {
	natsFlags
	Wait     time.Duration `help:"How long to gather the answers of coordinators." default:"400ms"`
	Watch    bool          `short:"w" help:"Go on until a signal comes."`
	Interval time.Duration `help:"Pause between two looks with --watch." default:"1s"`
	JSON     bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON, one object per look."`
}

// Run prints the status once or until ctx ends.
func (c *statusCmd) Run(ctx context.Context, a *app) error {
	if c.Wait <= 0 || c.Interval <= 0 {
		return fmt.Errorf("%w: --wait and --interval are more than nothing", errUsage)
	}
	nc, err := c.connect(ctx, a.log, "jetbatch-status", 2*time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	for {
		s, err := askOverview(ctx, nc, c.Wait)
		if ctx.Err() != nil {
			return nil // --watch ends so
		}
		if err == nil || !c.Watch {
			err = errors.Join(err, c.show(a, s, err))
		} else {
			fmt.Fprintf(a.err, "jetbatch: %s\n", legible.Text(err.Error())) // it may come back
			err = nil
		}
		if err != nil || !c.Watch {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Interval):
		}
	}
}

func (c *statusCmd) show(a *app, s fleet.Status, failed error) error {
	switch {
	case failed != nil:
		return nil
	case c.JSON:
		return printJSON(a.out, s)
	}
	if c.Watch && newConsole(a.out).terminal {
		fmt.Fprint(a.out, "\x1b[H\x1b[2J") // home, clear
	}
	return writeTable(a.out, s)
}

// slowAnswer is how long a coordinator may take when no other answers: none at all, the server says at once.
const slowAnswer = 2 * time.Second

// askOverview asks all coordinators. Who does not answer in time is left out; errUnhealthy means that nobody did.
func askOverview(ctx context.Context, nc *nats.Conn, wait time.Duration) (fleet.Status, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	due := time.Now().Add(wait)
	last := time.AfterFunc(max(wait, slowAnswer), cancel)
	defer last.Stop()
	const overview = wire.CoordinatorPrefix + ".overview"
	var answers []wire.Overview
	err := gather(ctx, nc, overview, func(m *nats.Msg) bool {
		var o wire.Overview
		if json.Unmarshal(m.Data, &o) == nil {
			answers = append(answers, o)
		}
		last.Reset(time.Until(due))
		return true
	})
	if len(answers) == 0 {
		// What the server denies looks like silence.
		if denied := topology.Denied(nc, topology.Needs{Publish: []string{overview}}); denied != nil {
			return fleet.Status{}, fmt.Errorf("%w: %w", errUnhealthy, denied)
		}
		return fleet.Status{}, errors.Join(fmt.Errorf("%w: no coordinator answers", errUnhealthy), err)
	}
	return fleet.Merge(answers), err
}

// writeTable writes the status for people.
func writeTable(w io.Writer, s fleet.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rare := rareOf(s.Batchers)
	fmt.Fprint(t, "BATCHER\tPHASE\tDATA SET\tTAKEN\tFED\tWINDOW\tBATCHES/S\tMB/S\tWAIT %\tWORKERS\tSLOTS\t")
	for _, r := range rare {
		fmt.Fprintf(t, "%s\t", r.head)
	}
	fmt.Fprintln(t, "WAITING FOR")
	for _, b := range s.Batchers {
		fmt.Fprintf(t, "%s\t%s\t%s@%d\t%d\t%d\t%d\t%.1f\t%.1f\t%s\t%d\t%d\t",
			legible.Line(b.Batcher), legible.Line(string(b.Phase)), legible.Line(b.Dataset), b.Version,
			b.Taken, b.Fed, b.Window, b.Rate, b.ByteRate/1e6, waitPercent(b.Timing), b.Workers, b.Slots)
		for _, r := range rare {
			fmt.Fprintf(t, "%d\t", r.of(b))
		}
		waiting := fleet.WaitingFor(b)
		if b.Error != nil {
			waiting = "failed: see below"
		}
		fmt.Fprintln(t, cmp.Or(oneLine(waiting, 80), "-"))
	}
	if len(s.Batchers) == 0 {
		fmt.Fprintln(t, "none")
	}
	for _, b := range s.Batchers {
		if b.Accepted != "" {
			fmt.Fprintf(t, "\naccepted change of %s: %s\n", legible.Line(b.Batcher), oneLine(b.Accepted, 200))
		}
	}
	for _, b := range s.Batchers {
		if b.Data != "" {
			fmt.Fprintf(t, "\ndata of %s: %s\n", legible.Line(b.Batcher), oneLine(b.Data, 300))
		}
	}
	// In full, since what matters may stand at the end: a file's name.
	for _, b := range s.Batchers {
		if b.Error != nil {
			fmt.Fprintf(t, "\n%s %s\n", legible.Line(b.Batcher), legible.Line(fleet.Failure(b.Error)))
		}
	}
	fmt.Fprintln(t, "\nWORKER\tSLOTS\tRUNNING\tDONE\tRETRIED\tFAILED\tDATA SETS\tLAST ERROR")
	for _, x := range s.Workers {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", legible.Line(x.Worker), x.Slots, x.Running, x.Done, x.Retried, x.Failed,
			strings.Join(legible.Lines(x.Kinds), " "), oneLine(x.LastError, 60))
	}
	if len(s.Workers) == 0 {
		fmt.Fprintln(t, "none")
	}
	fmt.Fprintln(t, "\nCOORDINATOR\tVERSION\tDATA SETS")
	for _, c := range s.Coordinators {
		fmt.Fprintf(t, "%s\t%s\t%s\n",
			legible.Line(c.Coordinator), legible.Line(c.Version), strings.Join(legible.Lines(c.Datasets), " "))
	}
	if len(s.Skew) > 0 {
		fmt.Fprintln(t, "\nVERSIONS APART")
	}
	for _, x := range s.Skew {
		fmt.Fprintln(t, legible.Line(x.String()))
	}
	return t.Flush()
}

// rareColumn is a count that is zero unless something went wrong and was made good.
type rareColumn struct {
	head string
	of   func(schema.Status) uint64
}

var rareColumns = []rareColumn{
	{"RESTARTS", func(b schema.Status) uint64 { return uint64(b.Restarts) }},
	{"REISSUED", func(b schema.Status) uint64 { return b.Reissued }},
	{"BACKUPS", func(b schema.Status) uint64 { return b.Backups }},
}

// rareOf returns the columns in which some batcher has something.
func rareOf(batchers []schema.Status) (columns []rareColumn) {
	for _, r := range rareColumns {
		if slices.ContainsFunc(batchers, func(b schema.Status) bool { return r.of(b) > 0 }) {
			columns = append(columns, r)
		}
	}
	return columns
}

// waitPercent is the part of its time that the trainer stood still, as long as it has the batcher open, and what for most.
func waitPercent(t schema.Timing) string {
	share, known := fleet.WaitShare(t)
	if !known {
		return "-"
	}
	if share < 0.005 {
		return "0"
	}
	causes := t.Causes()
	most := slices.MaxFunc(causes[:], func(a, b schema.Cause) int { return cmp.Compare(a.Wait, b.Wait) })
	return fmt.Sprintf("%.0f %s", 100*share, most.Name)
}

// oneLine is the beginning of s, in one line.
func oneLine(s string, most int) string {
	s = legible.Line(s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
