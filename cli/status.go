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

	"github.com/jetbatch/jetbatch/schema"
)

type statusCmd struct {
	natsFlags
	Wait     time.Duration `help:"How long to gather the answers of coordinators." default:"400ms"`
	Watch    bool          `short:"w" help:"Go on until a signal comes."`
	Interval time.Duration `help:"Pause between two looks with --watch." default:"1s"`
	JSON     bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON, one object per look."`
}

// fleetStatus is what all coordinators say together.
type fleetStatus struct {
	Coordinators []coordinatorStatus   `json:"coordinators"`
	Batchers     []schema.Status       `json:"batchers"`
	Workers      []schema.WorkerStatus `json:"workers"`
}

type coordinatorStatus struct {
	Coordinator string   `json:"coordinator"`
	Version     string   `json:"version"`
	Datasets    []string `json:"datasets"`
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
			fmt.Fprintf(a.err, "jetbatch: %v\n", err) // it may come back
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

func (c *statusCmd) show(a *app, s fleetStatus, failed error) error {
	switch {
	case failed != nil:
		return nil
	case c.JSON:
		return printJSON(a.out, s)
	}
	if c.Watch && newConsole(a.out).terminal {
		fmt.Fprint(a.out, "\x1b[H\x1b[2J") // home, clear
	}
	return s.table(a.out)
}

// askOverview asks all coordinators. Who does not answer in time is left out; errUnhealthy means that nobody did.
func askOverview(ctx context.Context, nc *nats.Conn, wait time.Duration) (fleetStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var answers []schema.Overview
	err := gather(ctx, nc, schema.CoordinatorPrefix+".overview", func(m *nats.Msg) bool {
		var o schema.Overview
		if json.Unmarshal(m.Data, &o) == nil {
			answers = append(answers, o)
		}
		return true
	})
	if len(answers) == 0 {
		return fleetStatus{}, errors.Join(fmt.Errorf("%w: no coordinator answers", errUnhealthy), err)
	}
	return merge(answers), err
}

// merge puts the answers of several coordinators together. Each knows its own batchers and hears all workers; of two
// that both own a batcher, at a take-over, the one with the higher seat is right.
func merge(answers []schema.Overview) fleetStatus {
	var s fleetStatus
	for _, o := range answers {
		s.Coordinators = append(s.Coordinators, coordinatorStatus{o.Coordinator, o.Version, o.Datasets})
		s.Batchers = append(s.Batchers, o.Batchers...)
		s.Workers = append(s.Workers, o.Workers...)
	}
	slices.SortFunc(s.Coordinators, func(a, b coordinatorStatus) int { return strings.Compare(a.Coordinator, b.Coordinator) })
	slices.SortStableFunc(s.Batchers, func(a, b schema.Status) int {
		return cmp.Or(strings.Compare(a.Batcher, b.Batcher), cmp.Compare(b.Seat, a.Seat))
	})
	s.Batchers = slices.CompactFunc(s.Batchers, func(a, b schema.Status) bool { return a.Batcher == b.Batcher })
	slices.SortStableFunc(s.Workers, func(a, b schema.WorkerStatus) int {
		return cmp.Or(strings.Compare(a.Worker, b.Worker), cmp.Compare(b.Done, a.Done))
	})
	s.Workers = slices.CompactFunc(s.Workers, func(a, b schema.WorkerStatus) bool { return a.Worker == b.Worker })
	return s
}

func (s fleetStatus) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BATCHER\tPHASE\tDATA SET\tTAKEN\tFED\tWINDOW\tBATCHES/S\tMB/S\tWORKERS\tSLOTS\tWAITING FOR")
	for _, b := range s.Batchers {
		fmt.Fprintf(t, "%s\t%s\t%s@%d\t%d\t%d\t%d\t%.1f\t%.1f\t%d\t%d\t%s\n", b.Batcher, b.Phase, b.Dataset, b.Version,
			b.Taken, b.Fed, b.Window, b.Rate, b.ByteRate/1e6, b.Workers, b.Slots, waitingFor(b))
	}
	if len(s.Batchers) == 0 {
		fmt.Fprintln(t, "none")
	}
	fmt.Fprintln(t, "\nWORKER\tSLOTS\tRUNNING\tDONE\tRETRIED\tFAILED\tDATA SETS\tLAST ERROR")
	for _, x := range s.Workers {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", x.Worker, x.Slots, x.Running, x.Done, x.Retried, x.Failed,
			strings.Join(x.Kinds, " "), oneLine(x.LastError, 60))
	}
	if len(s.Workers) == 0 {
		fmt.Fprintln(t, "none")
	}
	fmt.Fprintln(t, "\nCOORDINATOR\tVERSION\tDATA SETS")
	for _, c := range s.Coordinators {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Coordinator, c.Version, strings.Join(c.Datasets, " "))
	}
	return t.Flush()
}

// waitingFor says why nothing moves, if nothing does.
func waitingFor(b schema.Status) string {
	switch {
	case b.Error != nil:
		return "Start: " + oneLine(b.Error.Error(), 80)
	case b.Waiting != "":
		return oneLine(b.Waiting, 80)
	case b.Reader == "" && b.Phase == schema.PhaseRunning:
		return fmt.Sprintf("a reader, for %v", b.IdleFor.Round(time.Second))
	}
	return "-"
}

// oneLine is the beginning of s, in one line.
func oneLine(s string, most int) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
