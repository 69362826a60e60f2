package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/cli/internal/picture"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

type showCmd struct {
	natsFlags
	Data    string   `help:"Folder of Onda signals, or of EDF, BDF, WFDB or WAVE files, as demo takes it." type:"path" placeholder:"DIR"`
	Batcher string   `help:"Batcher of a service, whose data set and parameters are used. A run of its own makes the batch; the batcher is left alone."`
	Dataset string   `help:"Data set of this binary. The batch is made in this process."`
	Params  string   `help:"Its parameters as JSON, or @FILE with them." placeholder:"JSON"`
	State   string   `help:"State that the batch follows: a token as in a state file, @FILE, or start. Defaults to the data set's first, or to the last that the batcher recorded." placeholder:"STATE"`
	Skip    int      `help:"Go on by so many batches first."`
	Windows int      `help:"Windows of the batch that are drawn." default:"4"`
	Out     []string `short:"o" help:"Write a picture here: .svg or .png. May be given several times." type:"path" placeholder:"FILE"`
	Accept  bool     `name:"accept-change" help:"Show what follows a state of other parameters or data."`
	JSON    bool     `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// showReport is what there is to say of a batch.
type showReport struct {
	Dataset string            `json:"dataset"`
	State   schema.State      `json:"state"`
	Tensors []picture.Summary `json:"tensors"`
	Next    schema.State      `json:"next_state"`
	Wrote   []string          `json:"wrote,omitempty"`

	Windows []windowReport `json:"windows,omitempty"` // of onda
	most    int            // of them in a terminal
}

// windowReport is one window of a batch of onda.
type windowReport struct {
	Recording string   `json:"recording"`
	Sensor    string   `json:"sensor"`
	Start     float64  `json:"start_s"`
	Stop      float64  `json:"stop_s"`
	Channels  []string `json:"channels"`
	Unit      string   `json:"unit"`
}

// shown is a batch with all that is known of it.
type shown struct {
	dataset string
	params  json.RawMessage
	state   schema.State // before it
	batch   schema.Batch
	next    schema.State
}

// Run shows one batch.
func (c *showCmd) Run(ctx context.Context, a *app) (err error) {
	given := 0
	for _, flag := range []string{c.Data, c.Batcher, c.Dataset} {
		if flag != "" {
			given++
		}
	}
	if given != 1 || c.Skip < 0 || c.Windows < 1 {
		return fmt.Errorf("%w: one of --data, --batcher and --dataset; --skip is not negative, --windows at least 1",
			errUsage)
	}
	for _, name := range c.Out {
		if end := strings.ToLower(filepath.Ext(name)); end != ".svg" && end != ".png" {
			return fmt.Errorf("%w: --out %s ends with neither .svg nor .png", errUsage, name)
		}
	}
	s := &shown{dataset: c.Dataset}
	if s.params, err = readParams(c.Params); err != nil {
		return err
	}
	if c.State != "" {
		if s.state, err = readState(c.State); err != nil {
			return err
		}
	}
	switch {
	case c.Batcher != "":
		err = c.remote(ctx, a, s)
	case c.Data != "":
		params, remove, foundErr := findData(ctx, a.err, c.Data)
		if foundErr != nil {
			return interrupted(ctx, foundErr)
		}
		defer func() { err = errors.Join(err, remove()) }()
		s.dataset = onda.Name
		if s.params, err = json.Marshal(params); err == nil {
			err = c.local(ctx, a, s)
		}
	default:
		err = c.local(ctx, a, s)
	}
	if err != nil {
		return interrupted(ctx, err)
	}
	return c.report(ctx, a, s)
}

// local makes the batch in this process.
func (c *showCmd) local(ctx context.Context, a *app, s *shown) error {
	ref, closing, err := a.openReference(ctx, s.dataset, s.params, s.state)
	if err != nil {
		return err
	}
	defer closing()
	if err := ref.beginAt(s.state, c.Accept); err != nil {
		return err
	}
	for range c.Skip + 1 {
		s.state = ref.named()
		payload, err := ref.next(ctx)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: the data end here", errUsage)
		}
		if err != nil {
			return err
		}
		if s.batch, err = wire.DecodePayload[schema.Batch](payload); err != nil {
			return fmt.Errorf("batches of %s are no tensors: take --one shows them: %w", s.dataset, err)
		}
	}
	s.next = ref.named()
	return nil
}

// remote has the batch made by a service, in a run of its own that leaves the batcher alone.
func (c *showCmd) remote(ctx context.Context, a *app, s *shown) (err error) {
	nc, err := c.connect(ctx, a.log, "jetbatch-show", 10*time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	rec, err := c.readRecord(ctx, nc, c.Batcher)
	if err != nil {
		return err
	}
	s.dataset, s.params = rec.Spec.Dataset, rec.Spec.Params
	if c.State == "" && len(rec.FloorState) > 0 {
		s.state = schema.State{
			Dataset: rec.Spec.Dataset, Version: rec.Spec.Version, Origin: rec.Origin, Data: rec.FloorState,
		}
	}
	cfg := client.Config{
		Name: uniqueName("show"), Dataset: s.dataset, Window: 1, Retain: -1, IdleTimeout: auditIdle, AcceptChange: c.Accept,
		Domain: c.Domain,
		Logger: a.log,
	}
	if s.params != nil {
		cfg.Params = s.params
	}
	b, err := client.Open[[]byte](ctx, nc, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(ctx, b)) }()
	s.next = s.state
	for range c.Skip + 1 {
		step, err := b.Take(ctx, s.next)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: the data end here", errUsage)
		}
		if err != nil {
			return err
		}
		s.state, s.next = step.Prev, step.Next
		s.batch, err = wire.DecodePayload[schema.Batch](slices.Clone(step.Batch))
		step.Release()
		if err != nil {
			return fmt.Errorf("batches of %s are no tensors: %w", s.dataset, err)
		}
	}
	return nil
}

// readRecord reads what the coordinators keep of a batcher.
func (f *natsFlags) readRecord(ctx context.Context, nc *nats.Conn, batcher string) (*wire.Record, error) {
	js, err := f.jetStream(nc)
	if err != nil {
		return nil, err
	}
	kv, err := topology.OpenBucket(ctx, js)
	if err != nil {
		return nil, fmt.Errorf("batcher %s: %w", batcher, err)
	}
	value, err := kv.Get(ctx, topology.BatcherKey(batcher))
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrInvalidKey) {
		return nil, fmt.Errorf("%w: there is no batcher %s; jetbatch status lists those that there are", errUsage, batcher)
	}
	if err != nil {
		return nil, fmt.Errorf("batcher %s: %w", batcher, err)
	}
	var rec wire.Record
	if err := json.Unmarshal(value.Value(), &rec); err != nil {
		return nil, fmt.Errorf("batcher %s: its record: %w", batcher, err)
	}
	return &rec, nil
}

// report prints the batch and draws its pictures.
func (c *showCmd) report(ctx context.Context, a *app, s *shown) error {
	r := &showReport{Dataset: s.dataset, State: s.state, Next: s.next, most: c.Windows, Tensors: []picture.Summary{}}
	for _, n := range s.batch {
		summary, err := picture.Summarize(n.Name, n.Tensor)
		if err != nil {
			return err
		}
		r.Tensors = append(r.Tensors, summary)
	}
	windows := s.windows(ctx, c.Windows, r)
	if len(c.Out) > 0 {
		title := fmt.Sprintf("%s: batch after state %s", s.dataset, shortState(s.state))
		p := picture.Table(title, r.Tensors)
		if len(windows) > 0 {
			var err error
			if p, err = picture.Windows(title, windows); err != nil {
				return err
			}
		}
		for _, name := range c.Out {
			data, err := p.Encode(name)
			if err == nil {
				err = replaceFile(name, data, 0o644)
			}
			if err != nil {
				return fmt.Errorf("picture: %w", err)
			}
			r.Wrote = append(r.Wrote, name)
		}
	}
	if c.JSON {
		return printJSON(a.out, r)
	}
	_, err := fmt.Fprint(a.out, r)
	return err
}

func shortState(s schema.State) string {
	text, err := s.MarshalText()
	if err != nil || s.IsZero() {
		return "start"
	}
	const most = 60
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}

// String is the batch in a terminal.
func (r *showReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "data set %s, state %s\n", legible.Line(r.Dataset), shortState(r.State))
	for i := range r.Tensors {
		fmt.Fprintf(&b, "  %s\n", r.Tensors[i].Line())
	}
	for i, w := range r.Windows[:min(len(r.Windows), r.most)] {
		fmt.Fprintf(&b, "  window %d: %s of recording %s, %.6g to %.6g s, %d channels in %s: %s\n", i, legible.Line(w.Sensor),
			w.Recording, w.Start, w.Stop, len(w.Channels), legible.Line(w.Unit),
			legible.Line(strings.Join(w.Channels[:min(len(w.Channels), 8)], ", ")))
	}
	if text, err := r.Next.MarshalText(); err == nil {
		fmt.Fprintf(&b, "next state: %s\n", text)
	}
	for _, name := range r.Wrote {
		fmt.Fprintf(&b, "wrote %s\n", name)
	}
	return b.String()
}

// windows are those of a batch of signals and labels, as onda makes it; none of any other. Where the data are not at
// hand, names and units are left out.
func (s *shown) windows(ctx context.Context, most int, r *showReport) []picture.Window {
	if s.dataset != onda.Name {
		return nil
	}
	x, hasX := s.batch.Get("x")
	y, hasY := s.batch.Get("y")
	if !hasX || !hasY || len(x.Shape) < 3 || len(y.Shape) != 3 || x.Shape[0] != y.Shape[0] {
		return nil
	}
	values, err := picture.Floats(x)
	if err != nil {
		return nil
	}
	var p onda.Params
	if json.Unmarshal(s.params, &p) != nil {
		return nil
	}
	items, text := s.items(ctx, p, r)
	n, samples, labels := x.Shape[0], x.Shape[len(x.Shape)-1], y.Shape[2]
	if n == 0 || samples == 0 {
		return nil
	}
	size := len(values) / n
	out := make([]picture.Window, min(n, most))
	for i := range out {
		w := picture.Window{
			Title: fmt.Sprintf("window %d of %d", i+1, n), Unit: shownUnit(p, p.Unit), Channels: p.Channels, Text: text,
			Labels: y.Data[i*labels : (i+1)*labels], Seconds: time.Duration(p.BatchDuration).Seconds(),
		}
		if w.Seconds == 0 {
			w.Seconds = 10 // the default
		}
		if i < len(items) {
			it := items[i]
			w.Title += fmt.Sprintf(": %s of recording %s, %s to %s s", it.Sensor, it.Recording, seconds(it.Start),
				seconds(it.Stop))
			w.Channels, w.Unit, w.Seconds = it.Channels, it.Unit, it.Stop-it.Start
		}
		for at := i * size; at < (i+1)*size; at += samples {
			w.Data = append(w.Data, values[at:at+samples])
		}
		out[i] = w
	}
	return out
}

// shownUnit is what x is in, whose samples had a unit.
func shownUnit(p onda.Params, unit string) string {
	if p.Normalize != nil {
		return "standard deviations"
	}
	return unit
}

// seconds is a time with as many digits as it has, three at most.
func seconds(v float64) string { return fmt.Sprint(math.Round(v*1000) / 1000) }

// items says where the windows of a batch are from, if the data are at hand and as they were.
func (s *shown) items(ctx context.Context, p onda.Params, r *showReport) ([]windowReport, func(uint8) string) {
	ds, err := onda.New(ctx, p, onda.Config{})
	if err != nil {
		return nil, nil
	}
	defer ds.Close()
	state, err := ds.Start()
	if err == nil && len(s.state.Data) > 0 {
		err = s.state.Decode(&state)
	}
	if err != nil {
		return nil, nil
	}
	job, _, err := ds.Next(state)
	if err != nil {
		return nil, nil
	}
	names := map[uint8]string{}
	for name, code := range ds.Encoding() {
		if old, ok := names[code]; !ok || name < old {
			names[code] = name
		}
	}
	signals := ds.Signals()
	for _, it := range job.Items {
		if it.Signal >= len(signals) {
			return nil, nil
		}
		channels := it.Channels
		if len(channels) == 0 {
			channels = signals[it.Signal].Channels
		}
		r.Windows = append(r.Windows, windowReport{
			Recording: it.Recording, Sensor: it.Sensor, Channels: channels, Unit: shownUnit(p, ds.Unit()),
			Start: time.Duration(it.Start).Seconds(), Stop: time.Duration(it.Stop).Seconds(),
		})
	}
	return r.Windows, func(label uint8) string {
		if name, ok := names[label]; ok {
			return name
		}
		return fmt.Sprint(label)
	}
}
