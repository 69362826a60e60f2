package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

// demo is one run of the demo. What is taken is spooled, and made again and compared when all is taken, so that the
// pace is that of the service.
type demo struct {
	cmd    *demoCmd
	app    *app
	story  *console
	params onda.Params
	dir    string
	spool  *os.File

	taken  []takenBatch
	gens   map[string]bool
	killed []string
	tally
}

// takenBatch is what is kept of a batch besides its bytes in the spool.
type takenBatch struct {
	size int
	next schema.State
}

func (d *demo) run(ctx context.Context) (*demoReport, error) {
	stop := d.cmd.Batches / 2
	path := filepath.Join(d.dir, "state")
	g := new(gate)
	d.story.say("service   NATS server, coordinator and %s in this process", legible.Count(d.cmd.Workers, "worker"))
	if err := d.leg(ctx, "taking", path, stop, d.cmd.Workers, gatedOnda(g), g); err != nil {
		return nil, err
	}
	token, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d.story.say("stopped   after %s; nothing is left of the service but the saved state,", legible.Count(stop, "batch"))
	d.story.say("          %s", token[:len(token)-1])
	d.story.say("service   a new one with %s", legible.Count(d.cmd.ResumeWorkers, "worker"))
	if err := d.leg(ctx, "resuming", path, d.cmd.Batches, d.cmd.ResumeWorkers, onda.Definition(), nil); err != nil {
		return nil, err
	}
	report := &demoReport{
		Batches: d.batches, ResumedAt: stop, Generations: len(d.gens), Killed: d.killed, Redelivered: d.redelivered,
		Workers: [2]int{d.cmd.Workers, d.cmd.ResumeWorkers}, Bytes: d.bytes, Seconds: d.elapsed.Seconds(),
		BatchesPerS: rate(float64(d.batches), d.elapsed), MBPerS: rate(megabytes(d.bytes), d.elapsed),
		Dataset: onda.Name, State: string(token[:len(token)-1]), Timing: d.timingReport(),
	}
	err = d.compare(ctx)
	switch {
	case errors.Is(err, errDiffers):
		report.Difference = err.Error()
		d.story.say("DIFFERENT %v", err)
	case err != nil:
		return nil, err
	default:
		report.Identical = true
		d.story.say("identical all %d batches and the states after them equal, byte for byte, what one process makes alone", d.batches)
	}
	d.story.say("          generations: %d, workers killed: %d, jobs handed out again: %d; %s", report.Generations, len(report.Killed),
		report.Redelivered, pace(d.batches, d.bytes, d.elapsed))
	d.story.say("%v", report.Timing)
	return report, nil
}

// leg starts a service, takes from the saved state, or from the data set's first, until there are upto batches in all,
// saves the state, and ends the service. With a gate it kills a worker on the way.
func (d *demo) leg(ctx context.Context, label, path string, upto, workers int, def dataset.Definition, g *gate) (err error) {
	service, err := embedded.Start(context.WithoutCancel(ctx), embedded.Config{Workers: workers, Slots: d.cmd.Slots, Logger: d.app.log}, def)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	state, err := loadState(path)
	if err != nil {
		return err
	}
	b, err := client.Open[schema.Batch](ctx, service.Conn(), client.Config{
		Name: "demo", Dataset: onda.Name, Params: d.params, Logger: d.app.log,
	})
	if err != nil {
		return err
	}
	state, err = d.take(ctx, b, state, label, upto, func() func() error {
		if g == nil {
			return func() error { return nil }
		}
		return d.kill(ctx, service, g, workers*d.cmd.Slots)
	})
	if err != nil {
		return errors.Join(err, b.Close())
	}
	status, err := b.Status(ctx)
	if err == nil {
		if len(d.gens) == 0 && status.Data != "" {
			d.story.say("data      %s", status.Data)
		}
		d.gens[status.Gen] = true
		err = errors.Join(saveState(path, state), b.Stop(ctx))
	}
	return errors.Join(err, b.Close())
}

// take takes until there are upto batches. Half way it calls disturb, which must not block, and waits at the end for
// what that returned.
func (d *demo) take(ctx context.Context, b *client.Batcher[schema.Batch], state schema.State, label string, upto int, disturb func() func() error) (schema.State, error) {
	m := d.story.meter(fmt.Sprintf("%-9s", label), upto-d.batches)
	defer m.end()
	d.start()
	defer d.stop()
	half := (d.batches + upto) / 2
	settle := func() error { return nil }
	var buf []byte
	for d.batches < upto {
		if d.batches == half {
			settle = disturb()
		}
		step, err := b.Take(ctx, state)
		if err != nil {
			return state, errors.Join(err, settle())
		}
		if buf, err = wire.AppendPayload(buf[:0], step.Batch); err != nil {
			return state, errors.Join(err, settle())
		}
		step.Release()
		if _, err := d.spool.Write(buf); err != nil {
			return state, errors.Join(err, settle())
		}
		state = step.Next
		d.taken = append(d.taken, takenBatch{len(buf), state})
		d.add(len(buf), step.Deliveries, step.Timing)
		m.add(len(buf))
	}
	return state, settle()
}

// holdTimeout bounds the waits of kill; a worker is killed in any case.
const holdTimeout = 5 * time.Second

// kill shuts the gate, waits until all slots have a job, cuts a worker off with its jobs, and opens the gate again. It
// returns at once; the result waits.
func (d *demo) kill(ctx context.Context, service *embedded.Service, g *gate, slots int) func() error {
	g.close()
	done := make(chan error, 1)
	go func() {
		defer g.open()
		waiting, cancel := context.WithTimeout(ctx, holdTimeout)
		defer cancel()
		g.wait(waiting, func(held, _ int) bool { return held == slots })
		name := "embedded-1"
		if err := service.KillWorker(name); err != nil {
			done <- err
			return
		}
		d.killed = append(d.killed, name)
		d.story.say("killed    worker %s, with %s in its hands; others make them when its lease on them has run out", name,
			legible.Count(d.cmd.Slots, "batch"))
		g.wait(waiting, func(_, ended int) bool { return ended > 0 })
		done <- nil
	}()
	return func() error { return <-done }
}

// compare makes every batch again in this goroutine and compares it with what was taken. A difference is errDiffers.
func (d *demo) compare(ctx context.Context) error {
	ds, err := onda.New(ctx, d.params, onda.Config{})
	if err != nil {
		return err
	}
	defer ds.Close()
	if _, err := d.spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	spool := bufio.NewReaderSize(d.spool, 1<<20)
	m := d.story.meter("comparing", len(d.taken))
	defer m.end()
	reference := dataset.Sequential(ds)
	var state schema.State
	var got, want []byte
	for i, taken := range d.taken {
		step, err := reference.Take(ctx, state)
		if err != nil {
			return fmt.Errorf("reference: %w", err)
		}
		state = step.Next
		if want, err = wire.AppendPayload(want[:0], step.Batch); err != nil {
			return fmt.Errorf("reference: %w", err)
		}
		if got, err = readBack(spool, got, taken.size); err != nil {
			return err
		}
		if err := differ(i+1, got, want, taken.next.Data, state.Data); err != nil {
			return err
		}
		m.add(taken.size)
	}
	return nil
}
