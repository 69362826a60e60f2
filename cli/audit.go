package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

type auditCmd struct {
	natsFlags
	Dataset   string  `help:"Data set." required:""`
	Params    string  `help:"Its parameters as JSON, or @FILE with them." placeholder:"JSON"`
	Batches   int     `short:"n" help:"How many batches to look at." default:"100"`
	Share     float64 `help:"Share of them to make again, spread evenly." default:"0.1"`
	Tries     int     `help:"How often to make a batch again until another worker does it." default:"8"`
	StateFile string  `help:"File with the state to begin from. Defaults to the data set's first." type:"path" placeholder:"FILE"`
	All       bool    `help:"Say of every batch who made it, and not only of those that were made again."`
	JSON      bool    `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// auditIdle is how long the audit's batchers outlive an audit that was killed.
const auditIdle = time.Minute

// made is one execution of one job.
type made struct {
	Worker  string `json:"worker"`
	Attempt string `json:"attempt"`
	Digest  string `json:"digest"` // of the encoded batch
}

// audited is one batch of an audit.
type audited struct {
	Batch     int    `json:"batch"` // from 1
	made             // first
	Again     []made `json:"again,omitempty"`
	Elsewhere bool   `json:"elsewhere,omitempty"` // another worker made it again
	Differs   string `json:"differs,omitempty"`   // what did

	prev, next schema.State
}

// auditReport is what an audit found out.
type auditReport struct {
	Dataset   string    `json:"dataset"`
	Workers   int       `json:"workers"` // that serve the data set
	Batches   int       `json:"batches"`
	Again     int       `json:"again"`     // batches made again
	Elsewhere int       `json:"elsewhere"` // of these, by another worker
	Different int       `json:"different"` // of these, batches or states that were not the same
	End       string    `json:"end"`
	Audited   []audited `json:"audited"` // made again, or all
}

// Run takes batches once, then makes some of them again: by a second batcher of one batch at a time that begins
// a new run at the state of each, so that nothing that is stored can be taken for a recomputation. Which worker gets a
// job is not for anybody to say, so it is tried until another one got it.
func (c *auditCmd) Run(ctx context.Context, a *app) (err error) {
	if c.Batches < 1 || c.Tries < 1 || !(c.Share > 0 && c.Share <= 1) {
		return fmt.Errorf("%w: --batches and --tries are at least 1, --share is above 0 and at most 1", errUsage)
	}
	params, err := readParams(c.Params)
	if err != nil {
		return err
	}
	var state schema.State
	if c.StateFile != "" {
		if state, err = loadState(c.StateFile); err != nil {
			return err
		}
	}
	nc, err := c.connect(ctx, a.log, "jetbatch-audit", 10*time.Second)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer nc.Close()
	open := func(cfg client.Config) (*client.Batcher[[]byte], error) {
		cfg.Name, cfg.Dataset, cfg.IdleTimeout, cfg.Domain, cfg.Logger = uniqueName("audit"), c.Dataset, auditIdle, c.Domain, a.log
		if params != nil {
			cfg.Params = params
		}
		return client.Open[[]byte](ctx, nc, cfg)
	}
	r := &auditReport{Dataset: c.Dataset}
	first, err := open(client.Config{OnError: client.InOrder})
	if err != nil {
		return interrupted(ctx, err)
	}
	taken, err := c.take(ctx, first, state, r)
	err = errors.Join(err, leave(ctx, first))
	if err != nil {
		return interrupted(ctx, err)
	}
	second, err := open(client.Config{OnError: client.InOrder, Window: 1, Retain: -1})
	if err != nil {
		return interrupted(ctx, err)
	}
	for i := range taken {
		if err == nil && c.chosen(i) {
			err = c.again(ctx, second, &taken[i], r)
		}
	}
	if err = errors.Join(err, leave(ctx, second)); err != nil {
		return interrupted(ctx, err)
	}
	for _, b := range taken {
		if c.All || len(b.Again) > 0 {
			r.Audited = append(r.Audited, b)
		}
	}
	return errors.Join(c.report(a, r), r.verdict())
}

// leave ends a batcher of the audit, whether ctx has ended or not.
func leave(ctx context.Context, b *client.Batcher[[]byte]) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(b.Stop(ctx), b.Close())
}

// chosen reports whether batch i, from 0, is one of the share; the first is always.
func (c *auditCmd) chosen(i int) bool {
	return i == 0 || math.Floor(float64(i)*c.Share) > math.Floor(float64(i-1)*c.Share)
}

// take takes the batches and notes who made them. That a batch was made twice on the way, and differently, ends it too.
func (c *auditCmd) take(ctx context.Context, b *client.Batcher[[]byte], state schema.State, r *auditReport) ([]audited, error) {
	var taken []audited
	r.End = endBatches
	for len(taken) < c.Batches {
		step, err := b.Take(ctx, state)
		if errors.Is(err, io.EOF) {
			r.End = endData
			break
		}
		if err != nil {
			return nil, differing(err)
		}
		taken = append(taken, audited{Batch: len(taken) + 1, made: madeBy(step), prev: state, next: step.Next})
		step.Release()
		state = step.Next
	}
	if len(taken) == 0 {
		return nil, fmt.Errorf("%w: there is no batch at %v", errUsage, state)
	}
	r.Batches = len(taken)
	s, err := b.Status(ctx)
	r.Workers = s.Workers
	return taken, err
}

func madeBy(step client.Step[[]byte]) made {
	return made{Worker: step.Worker, Attempt: step.Attempt, Digest: wire.Sum(step.Batch).String()}
}

// differing adds errDiffers to the service's own word that a batch was made in two ways.
func differing(err error) error {
	if errors.Is(err, client.ErrNondeterministic) {
		return fmt.Errorf("%w: %w", errDiffers, err)
	}
	return err
}

// again makes one batch again, until another worker did so, or something differs.
func (c *auditCmd) again(ctx context.Context, b *client.Batcher[[]byte], was *audited, r *auditReport) error {
	for try := 0; try < c.Tries && !was.Elsewhere && was.Differs == "" && (try == 0 || r.Workers > 1); try++ {
		now, next, err := makeAgain(ctx, b, was.prev)
		var failed *client.JobError
		if errors.As(err, &failed) {
			was.Differs = fmt.Sprintf("it was an error: %v", err)
			break
		}
		if err != nil {
			return err
		}
		was.Again = append(was.Again, now)
		was.Elsewhere = now.Worker != was.Worker
		switch {
		case now.Digest != was.Digest:
			was.Differs = "the batch"
		case !next.Equal(was.next):
			was.Differs = "the state after it"
		}
	}
	r.Again++
	if was.Elsewhere {
		r.Elsewhere++
	}
	if was.Differs != "" {
		r.Different++
	}
	return nil
}

// makeAgain makes the batch that follows state in a run of its own.
func makeAgain(ctx context.Context, b *client.Batcher[[]byte], state schema.State) (made, schema.State, error) {
	if err := b.Start(ctx, state); err != nil {
		return made{}, schema.State{}, err
	}
	step, err := b.Take(ctx, state)
	if err != nil {
		return made{}, schema.State{}, err
	}
	defer step.Release()
	return madeBy(step), step.Next, b.Stop(ctx)
}

// verdict is errDiffers if anything differed.
func (r *auditReport) verdict() error {
	if r.Different == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of %d batches that were made again differ", errDiffers, r.Different, r.Again)
}

func (c *auditCmd) report(a *app, r *auditReport) error {
	if c.JSON {
		return printJSON(a.out, r)
	}
	var b strings.Builder
	for _, x := range r.Audited {
		fmt.Fprintf(&b, "batch %d: worker %s, attempt %s, digest %v\n", x.Batch,
			legible.Line(x.Worker), legible.Line(x.Attempt), x.Digest)
		for _, y := range x.Again {
			fmt.Fprintf(&b, "  again: worker %s, attempt %s, digest %v\n",
				legible.Line(y.Worker), legible.Line(y.Attempt), y.Digest)
		}
		if x.Differs != "" {
			fmt.Fprintf(&b, "  DIFFERS: %s\n", legible.Line(x.Differs))
		}
	}
	fmt.Fprintf(&b, "%s of %s by %s; %d made again, %d of them by another worker; %d differ\n",
		legible.Count(r.Batches, "batch"), r.Dataset, legible.Count(r.Workers, "worker"), r.Again, r.Elsewhere, r.Different)
	switch {
	case r.Workers < 2:
		b.WriteString("only one worker serves the data set: what another machine would make of it is not known\n")
	case r.Elsewhere < r.Again && r.Different == 0:
		fmt.Fprintf(&b, "%d were made again by the worker that had made them; more --tries may find another\n", r.Again-r.Elsewhere)
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}
