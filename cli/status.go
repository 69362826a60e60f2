package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	Ranks    bool          `help:"Show each rank of the batchers that several take together, too, the slowest first."`
	Since    time.Duration `help:"Show what happened within so long, too; jetbatch events has more." placeholder:"DURATION"`
	JSON     bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON, one object per look."`
}

// Run prints the status once or until ctx ends.
func (c *statusCmd) Run(ctx context.Context, a *app) error {
	if c.Wait <= 0 || c.Interval <= 0 || c.Since < 0 {
		return fmt.Errorf("%w: --wait, --interval and --since are more than nothing", errUsage)
	}
	nc, err := c.connect(ctx, a.log, "jetbatch-status", 2*time.Second)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer nc.Close()
	for {
		s, err := askOverview(ctx, nc, c.Wait)
		if c.Watch && ctx.Err() != nil {
			return nil // it ends so
		}
		if errors.Is(err, errNobody) {
			batchers, unread := c.recorded(ctx, nc)
			s = fleet.Merge([]wire.Overview{{Workers: askWorkers(ctx, nc, c.Wait), Batchers: batchers}})
			s.Coordinators, s.Skew = s.Coordinators[:0], nil
			err = errors.Join(err, unread)
		}
		if err == nil || !c.Watch {
			err = errors.Join(err, c.show(ctx, a, nc, s, err))
		} else {
			fmt.Fprintf(a.err, "jetbatch: %s\n", legible.Text(err.Error())) // it may come back
			err = nil
		}
		if err != nil || !c.Watch {
			return interrupted(ctx, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Interval):
		}
	}
}

// statusReport is one look as JSON.
type statusReport struct {
	fleet.Status
	Events []wire.Event `json:"events,omitempty"`
}

func (c *statusCmd) show(ctx context.Context, a *app, nc *nats.Conn, s fleet.Status, failed error) error {
	if failed != nil && len(s.Workers) == 0 && len(s.Batchers) == 0 {
		return nil
	}
	r := statusReport{Status: s}
	var untold error // the status is shown where no events can be read
	if c.Since > 0 {
		h, err := c.history(nc)
		if err != nil {
			return err
		}
		r.Events, untold = h.since(ctx, time.Now().Add(-c.Since))
		if untold != nil && c.Watch {
			if ctx.Err() != nil {
				return nil
			}
			fmt.Fprintf(a.err, "jetbatch: %s\n", legible.Text(untold.Error())) // they may come back
			untold = nil
		}
	}
	if c.JSON {
		return cmp.Or(printJSON(a.out, r), untold)
	}
	if c.Watch && newConsole(a.out).terminal {
		fmt.Fprint(a.out, "\x1b[H\x1b[2J") // home, clear
	}
	err := writeTable(a.out, s)
	if err == nil && c.Ranks {
		err = writeRanks(a.out, s.Batchers)
	}
	if err != nil || c.Since <= 0 || untold != nil {
		return cmp.Or(err, untold)
	}
	if _, err := fmt.Fprintf(a.out, "\nSINCE %s\n", time.Now().Add(-c.Since).Format(time.DateTime)); err != nil {
		return err
	}
	return writeEvents(a.out, r.Events)
}

// errNobody is that no coordinator answers.
var errNobody = errors.New("no coordinator answers; start one: jetbatch coordinator")

// askWorkers asks the workers themselves how they stand.
func askWorkers(ctx context.Context, nc *nats.Conn, wait time.Duration) (workers []schema.WorkerStatus) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	_ = gather(ctx, nc, "$SRV.STATS.jetbatch-worker", func(m *nats.Msg) bool { // that there is none is seen
		var stats struct {
			Endpoints []struct {
				Data schema.WorkerStatus `json:"data"`
			} `json:"endpoints"`
		}
		if json.Unmarshal(m.Data, &stats) == nil && len(stats.Endpoints) > 0 {
			workers = append(workers, stats.Endpoints[0].Data)
		}
		return true
	})
	return workers
}

// slowAnswer is how long a coordinator may take when no other answers: none at all, the server says at once.
const slowAnswer = 2 * time.Second

// askOverview asks all coordinators. Who does not answer in time is left out; errUnhealthy means that nobody did.
func askOverview(outer context.Context, nc *nats.Conn, wait time.Duration) (fleet.Status, error) {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	due := time.Now().Add(wait)
	last := time.AfterFunc(max(wait, slowAnswer), cancel)
	defer last.Stop()
	const overview = wire.CoordinatorPrefix + ".overview"
	var answers []wire.Overview
	var stranger error
	err := gather(ctx, nc, overview, func(m *nats.Msg) bool {
		if err := topology.Answered(overview, m.Data); err != nil {
			stranger = err
			return true
		}
		var o wire.Overview
		if json.Unmarshal(m.Data, &o) == nil && o.Coordinator != "" {
			answers = append(answers, o)
		}
		last.Reset(time.Until(due))
		return true
	})
	if outer.Err() != nil {
		return fleet.Merge(nil), interrupted(outer, outer.Err())
	}
	if len(answers) == 0 {
		// What the server denies looks like silence.
		if denied := topology.Denied(nc, topology.Needs{Publish: []string{overview}}); denied != nil {
			return fleet.Merge(nil), fmt.Errorf("%w: %w", errUnhealthy, denied)
		}
		if errors.Is(err, nats.ErrNoResponders) {
			err = nil // that is what it means
		}
		return fleet.Merge(nil), errors.Join(fmt.Errorf("%w: %w", errUnhealthy, errNobody), stranger, err)
	}
	return fleet.Merge(answers), err
}

// writeTable writes the status for people.
func writeTable(w io.Writer, s fleet.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rare := rareOf(s.Batchers)
	fmt.Fprint(t, "BATCHER\tPHASE\tDATA SET\tTAKEN\tPREPARED\tWINDOW\tBATCHES/S\tMB/S\tWAIT %\tWORKERS\tSLOTS\t")
	placed := slices.ContainsFunc(s.Batchers, func(b schema.Status) bool { return b.Progress != nil })
	if placed {
		fmt.Fprint(t, "PROGRESS\t")
	}
	shared := slices.ContainsFunc(s.Batchers, fleet.Shared)
	if shared {
		fmt.Fprint(t, "RANKS\t")
	}
	for _, r := range rare {
		fmt.Fprintf(t, "%s\t", r.head)
	}
	fmt.Fprintln(t, "WAITING FOR")
	batchers := fleet.Begun(s.Batchers)
	for _, b := range batchers {
		fmt.Fprintf(t, "%s\t%s\t%s@%d\t%d\t%d\t%d\t%.1f\t%.1f\t%s\t%d\t%d\t",
			legible.Line(b.Batcher), legible.Line(string(b.Phase)), legible.Line(b.Dataset), b.Version,
			b.Total, fleet.Prepared(b), b.Window, b.Rate, b.ByteRate/1e6, waitPercent(b.Timing), b.Workers, b.Slots)
		if placed {
			fmt.Fprintf(t, "%s\t", cmp.Or(fleet.Place(b.Progress), "-"))
		}
		if shared {
			fmt.Fprintf(t, "%s\t", cmp.Or(fleet.Ranks(b), "-"))
		}
		for _, r := range rare {
			fmt.Fprintf(t, "%d\t", r.of(b))
		}
		waiting := s.WaitingFor(b)
		if b.Error != nil {
			waiting = "failed: see below"
		}
		fmt.Fprintln(t, cmp.Or(oneLine(waiting, maxWaiting), "-"))
	}
	if len(batchers) == 0 {
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
	fmt.Fprintln(t, "\nWORKER\tSLOTS\tRUNNING\tDONE\tRETRIED\tFAILED\tA JOB\tTO STORE\tDATA SETS\tLAST ERROR")
	for _, x := range s.Workers {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", legible.Line(x.Worker),
			x.Slots, x.Running, x.Done, x.Retried, x.Failed,
			perJob(x, func(s schema.Spent) schema.Sum { return s.Materialize }),
			perJob(x, func(s schema.Spent) schema.Sum { return s.Store }),
			strings.Join(legible.Lines(wire.KindNames(x.Kinds)), " "), oneLine(x.LastError, 60))
	}
	if len(s.Workers) == 0 {
		fmt.Fprintln(t, "none")
	}
	slow := fleet.Slows(s.Workers)
	if len(slow) > 0 {
		fmt.Fprintln(t, "\nSLOW WORKERS")
	}
	for _, name := range slices.Sorted(maps.Keys(slow)) {
		fmt.Fprintf(t, "%s: %s (%s)\n", legible.Line(name), slow[name], legible.Line(wire.KindName(slow[name].Kind)))
	}
	fmt.Fprintln(t, "\nCOORDINATOR\tVERSION\tDATA SETS")
	for _, c := range s.Coordinators {
		fmt.Fprintf(t, "%s\t%s\t%s\n",
			legible.Line(c.Coordinator), legible.Line(c.Version), strings.Join(legible.Lines(wire.KindNames(c.Kinds)), " "))
	}
	if len(s.Coordinators) == 0 {
		fmt.Fprintln(t, "none answers")
	}
	for _, head := range []string{"MISSING", "VERSIONS APART"} {
		shown := false
		for _, x := range s.Skew {
			if (len(x.Others) > 0) != (head == "VERSIONS APART") {
				continue
			}
			if !shown {
				fmt.Fprintln(t, "\n"+head)
			}
			shown = true
			fmt.Fprintln(t, legible.Line(x.String()))
		}
	}
	return t.Flush()
}

// perJob is the mean of a stage, for people.
func perJob(w schema.WorkerStatus, stage func(schema.Spent) schema.Sum) string {
	mean, known := fleet.PerJob(w, stage)
	if !known {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", float64(mean)/float64(time.Millisecond))
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

// waitPercent is the part of its time that the trainer stood still, as long as it has the batcher open, and what for
// most.
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

// maxWaiting is how many runes are shown of what a batcher waits for: of a worker's words the machine and the path,
// too.
const maxWaiting = 200

// oneLine is the beginning of s, in one line.
func oneLine(s string, most int) string {
	s = legible.Line(s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
