package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

type takeCmd struct {
	natsFlags
	observeFlags
	Name        string        `help:"Name of the batcher; one process at a time has it. Needed but with --one."`
	Dataset     string        `help:"Data set. Defaults to onda with --data; else it is needed."`
	Params      string        `help:"Its parameters as JSON, or @FILE with them." placeholder:"JSON"`
	Data        string        `help:"Folder with labelled Onda signals, whose parameters are guessed; those in --params win." type:"path" placeholder:"DIR"`
	Batches     int           `short:"n" help:"How many to take. Defaults to all, until the data ends."`
	StateFile   string        `help:"File to begin from, if it is there, and to keep the place in." type:"path" placeholder:"FILE"`
	SaveEvery   int           `help:"Batches from one saving of the state to the next; it is saved at the end too." default:"10"`
	One         string        `help:"Make the one batch that follows this state, in this process and without a service, and show it: a token as in a state file, @FILE, or start." placeholder:"STATE"`
	Verify      bool          `help:"Make every batch here too, and compare bytes and states; exit with 3 if they differ."`
	StopAtEnd   bool          `help:"Stop the batcher at the end instead of leaving it to whoever opens it next."`
	TakeOver    bool          `help:"Take the batcher from a process that still has it."`
	Accept      bool          `name:"accept-change" help:"Go on from a state of other parameters or data; else that ends with 2."`
	World       string        `help:"Take as one rank of this world, each of which takes every batch, whole: the same name for all ranks of one launch, another after every restart. Defaults to taking whole batches, alone." placeholder:"ID"`
	Rank        int           `env:"JETBATCH_RANK,RANK" help:"Rank of this process in --world, from 0."`
	Size        int           `env:"JETBATCH_SIZE,WORLD_SIZE" help:"How many ranks --world has."`
	Patience    time.Duration `help:"How long a silent rank of --world is waited for. Defaults to 1 min." placeholder:"DURATION"`
	Reader      string        `help:"Take as one of several readers of the batcher, under this name: each takes all batches, at its own pace. Defaults to having the batcher alone." placeholder:"NAME"`
	Lag         int           `help:"How many batches the slowest --reader may be behind the furthest, before it goes on alone. Defaults to 4 windows." placeholder:"N"`
	LagWait     bool          `help:"Have the others wait for a --reader that is further behind."`
	Window      int           `help:"Batches in flight at most. Defaults to 2 x worker slots + 1."`
	WindowBytes int64         `help:"Bound on window x largest batch, in bytes. Defaults to 1 GiB, or a quarter of the memory limit." placeholder:"BYTES"`
	Retain      int           `help:"Taken batches kept, so that going back to one costs nothing; -1 for none. Defaults to half the window."`
	InOrder     bool          `help:"Take the good batches before a bad one first, instead of failing at once."`
	TrainTime   time.Duration `help:"Pretend to train so long on every batch." placeholder:"DURATION"`
	TakeTimeout time.Duration `help:"Give up, with 4, when one batch takes longer. Defaults to no end." placeholder:"DURATION"`
	JSON        bool          `name:"json" env:"JETBATCH_JSON" help:"Print the summary as JSON."`
}

// The ways in which taking ends.
const (
	endBatches     = "batches" // all that were asked for
	endData        = "data"    // the data ended
	endInterrupted = "interrupted"
	endError       = "error"
)

// takeReport is the summary of a run.
type takeReport struct {
	Batches     int              `json:"batches"`
	Bytes       int64            `json:"bytes"`
	Seconds     float64          `json:"seconds"`
	BatchesPerS float64          `json:"batches_per_s"`
	MBPerS      float64          `json:"mb_per_s"`
	Redelivered int              `json:"redelivered"` // batches whose job was handed out more than once
	Verified    *int             `json:"verified,omitempty"`
	Identical   *bool            `json:"identical,omitempty"` // with --verify
	End         string           `json:"end"`
	Total       uint64           `json:"total,omitempty"`    // taken under this name in all; 0 where the service does not say
	Progress    *schema.Progress `json:"progress,omitempty"` // where that is in the data, if the data set says
	Error       string           `json:"error,omitempty"`
	Data        string           `json:"data,omitempty"` // what the data set says of its data
	State       schema.State     `json:"state"`          // where to go on
	Timing      timingReport     `json:"timing"`
}

// Run takes batches.
func (c *takeCmd) Run(ctx context.Context, a *app) (err error) {
	if c.Batches < 0 || c.SaveEvery < 1 || c.TrainTime < 0 || c.TakeTimeout < 0 {
		return fmt.Errorf("%w: --batches, --train-time and --take-timeout are not negative, --save-every is at least 1", errUsage)
	}
	params, err := c.params(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	switch {
	case c.Dataset == "":
		return fmt.Errorf("%w: which data set? --dataset NAME, or --data DIR", errUsage)
	case c.One != "":
		return interrupted(ctx, c.one(ctx, a, params))
	case c.Name == "":
		return fmt.Errorf("%w: missing flags: --name=STRING", errUsage)
	}
	if err := wire.CheckName("batcher", c.Name); err != nil {
		return err
	}
	t := &taking{cmd: c, app: a}
	if c.StateFile != "" {
		if t.state, err = loadState(c.StateFile); err != nil {
			return err
		}
		if err := checkStateFile(c.StateFile); err != nil {
			return err
		}
	}
	if c.Verify {
		ref, closing, err := a.openReference(ctx, c.Dataset, params, t.state)
		if err != nil {
			return err
		}
		defer closing()
		t.ref = ref
	}
	o, err := c.observe(ctx, a.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	nc, err := c.connect(ctx, a.log, "jetbatch-take-"+c.Name, 10*time.Second)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer nc.Close()
	opening, cancel := c.patience(ctx)
	b, err := client.Open[[]byte](opening, nc, c.config(params, a, o))
	cancel()
	if err != nil {
		return interrupted(ctx, err)
	}
	o.watch(always{})
	if err == nil {
		err = t.data(ctx, b)
	}
	if err == nil {
		err = t.run(ctx, b)
		t.far(ctx, b)
	}
	if c.StopAtEnd {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, b.Stop(stopping))
	}
	return errors.Join(err, b.Close(), t.report(err))
}

func (c *takeCmd) config(params json.RawMessage, a *app, o *observer) client.Config {
	cfg := client.Config{
		Name: c.Name, Dataset: c.Dataset, Window: c.Window, WindowBytes: c.WindowBytes, Retain: c.Retain, Domain: c.Domain,
		TakeOver: c.TakeOver, AcceptChange: c.Accept, Logger: a.log, Registerer: o.registerer(),
		Reader: c.Reader, Lag: c.Lag,
	}
	if c.LagWait {
		cfg.OnLag = client.LagWait
	}
	if params != nil {
		cfg.Params = params
	}
	if c.InOrder {
		cfg.OnError = client.InOrder
	}
	if c.World != "" { // take looks at payloads as they are
		cfg.World = &client.World{ID: c.World, Rank: c.Rank, Size: c.Size, Parts: 1, Patience: c.Patience}
	}
	return cfg
}

// patience bounds one call that waits for the service.
func (c *takeCmd) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.TakeTimeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.TakeTimeout)
}

// taking is a run of take.
type taking struct {
	cmd *takeCmd
	app *app
	ref *reference // nil without --verify

	state schema.State // where to go on
	saved int          // batches at the last saving
	about string       // what the data set says of its data
	end   string

	total    uint64           // taken under the name in all
	progress *schema.Progress // where that is in the data; nil for unknown
	tally
}

// data asks what the data set says of its data, so that the summary can tell what was left out.
func (t *taking) data(ctx context.Context, b *client.Batcher[[]byte]) error {
	asking, cancel := t.cmd.patience(ctx)
	defer cancel()
	s, err := b.Status(asking)
	t.about = s.Data
	return interrupted(ctx, err)
}

// far asks at the end how far it is, for a moment: a service that is away or a batcher that is another's does not say.
func (t *taking) far(ctx context.Context, b *client.Batcher[[]byte]) {
	if t.end == endError {
		return
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s, err := b.Status(asking); err == nil {
		t.total, t.progress = s.Total, s.Progress
	}
}

// run takes until all that were asked for are here, the data ends, or something fails. The state is saved in any case.
func (t *taking) run(ctx context.Context, b *client.Batcher[[]byte]) error {
	m := t.app.err.meter(t.cmd.Name, t.cmd.Batches)
	t.start()
	asking, end := context.WithCancel(ctx)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		askPlace(asking, b, m)
	}()
	err := t.loop(ctx, b, m)
	end()
	<-asked
	t.stop()
	m.end()
	if err != nil {
		t.end = endError
		if ctx.Err() != nil {
			t.end = endInterrupted
		}
	}
	return errors.Join(interrupted(ctx, err), t.save())
}

// askPlace asks every second how far the data are, and shows it, until ctx ends.
func askPlace(ctx context.Context, b *client.Batcher[[]byte], m *meter) {
	for pause(ctx, time.Second) == nil {
		if s, err := b.Status(ctx); err == nil { // else the next look says it
			m.set(s.Progress)
		}
	}
}

func (t *taking) loop(ctx context.Context, b *client.Batcher[[]byte], m *meter) error {
	t.end = endBatches
	for t.cmd.Batches == 0 || t.batches < t.cmd.Batches {
		waiting, cancel := t.cmd.patience(ctx)
		step, err := b.Take(waiting, t.state)
		cancel()
		if errors.Is(err, io.EOF) {
			t.end = endData
			if t.ref != nil {
				return t.ref.end(ctx)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if t.ref != nil {
			if t.batches == 0 && t.cmd.Accept {
				t.ref.state = step.Prev.Data // where the data set goes on, which may be elsewhere
			}
			if err := t.ref.compare(ctx, step.Batch, step.Next); err != nil {
				return err
			}
		}
		t.state = step.Next
		t.add(len(step.Batch), step.Deliveries, step.Timing)
		m.add(len(step.Batch))
		step.Release()
		if t.batches-t.saved >= t.cmd.SaveEvery {
			if err := t.save(); err != nil {
				return err
			}
		}
		if err := pause(ctx, t.cmd.TrainTime); err != nil {
			return err
		}
	}
	return nil
}

// save writes the state file if there is one and something new to write.
func (t *taking) save() error {
	if t.cmd.StateFile == "" || t.saved == t.batches {
		return nil
	}
	t.saved = t.batches
	return saveState(t.cmd.StateFile, t.state)
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return context.Cause(ctx)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// report prints the summary of a run that ended with failure.
func (t *taking) report(failure error) error {
	r := takeReport{
		Batches: t.batches, Bytes: t.bytes, Seconds: t.elapsed.Seconds(), BatchesPerS: rate(float64(t.batches), t.elapsed),
		MBPerS: rate(megabytes(t.bytes), t.elapsed), Redelivered: t.redelivered, End: t.end, Data: t.about, State: t.state, Timing: t.timingReport(),
		Total: t.total, Progress: t.progress,
	}
	if failure != nil {
		r.Error = failure.Error()
	}
	if t.ref != nil {
		identical := !errors.Is(failure, errDiffers)
		r.Verified, r.Identical = &t.batches, &identical
	}
	if t.cmd.JSON {
		return printJSON(t.app.out, r)
	}
	return t.print(r)
}

func (t *taking) print(r takeReport) error {
	var b strings.Builder
	fmt.Fprintf(&b, "took %s, %.1f MB, in %.1f s: %s\n", legible.Count(r.Batches, "batch"), megabytes(r.Bytes), r.Seconds,
		pace(t.batches, t.bytes, t.elapsed))
	if r.Total > 0 {
		fmt.Fprintf(&b, "in all: %s under this name", legible.Count(int(r.Total), "batch"))
		if r.Progress != nil && r.Progress.Batches > 0 {
			b.WriteString(": " + fleet.Place(r.Progress))
		}
		b.WriteByte('\n')
	}
	if r.Data != "" {
		fmt.Fprintf(&b, "data: %s\n", legible.Line(r.Data))
	}
	switch r.End {
	case endData:
		b.WriteString("the data ended\n")
	case endInterrupted:
		b.WriteString("ended by a signal\n")
	}
	if r.Redelivered > 0 {
		fmt.Fprintf(&b, "jobs handed out more than once: %d\n", r.Redelivered)
	}
	switch {
	case r.Identical == nil:
	case *r.Identical:
		fmt.Fprintf(&b, "all %d batches and states are identical to the reference\n", r.Batches)
	default:
		fmt.Fprintf(&b, "%d batches are identical to the reference, the next is NOT\n", r.Batches)
	}
	fmt.Fprintf(&b, "next state: %v", r.State)
	if t.cmd.StateFile != "" {
		fmt.Fprintf(&b, ", saved in %s", t.cmd.StateFile)
	}
	fmt.Fprintf(&b, "\n%v\n", r.Timing)
	_, err := io.WriteString(t.app.out, b.String())
	return err
}

// params returns the parameters that are given or guessed, and fills in the data set that --data is of.
func (c *takeCmd) params(ctx context.Context) (json.RawMessage, error) {
	if c.Data == "" {
		return readParams(c.Params)
	}
	if c.Dataset = cmp.Or(c.Dataset, onda.Name); c.Dataset != onda.Name {
		return nil, fmt.Errorf("%w: --data is of the data set %s", errUsage, onda.Name)
	}
	given, err := readParams(c.Params)
	if err != nil {
		return nil, err
	}
	guessed, err := guessOnda(ctx, c.Data)
	if err != nil || given == nil {
		return guessed, err
	}
	return withParams(guessed, given)
}

// withParams has the fields of both objects; given ones win.
func withParams(guessed, given json.RawMessage) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	for _, object := range []json.RawMessage{guessed, given} {
		if err := json.Unmarshal(object, &all); err != nil {
			return nil, fmt.Errorf("%w: --params is no JSON object: %w", errUsage, err)
		}
	}
	return json.Marshal(all)
}

// readParams returns JSON given as such or as @FILE; nil if there is none.
func readParams(text string) (json.RawMessage, error) {
	if text == "" {
		return nil, nil
	}
	data := []byte(text)
	if path, ok := strings.CutPrefix(text, "@"); ok {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("%w: --params: %w", errUsage, err)
		}
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return nil, fmt.Errorf("%w: --params is not JSON: %w", errUsage, err)
	}
	return compact.Bytes(), nil
}
