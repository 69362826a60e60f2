package onda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

// Materialize reads the windows of one job, concurrently, and returns a batch
// of two tensors:
//
//   - x, float32 or float64 as Params ask, (batch, channel, time), in the
//     signal's unit; a [ChannelSelector] may add dimensions after batch
//   - y, uint8, (batch, 1, label)
//
// Items of unequal shape are ErrShape. Errors that reading again cannot mend,
// such as ErrTruncated, are marked dataset.Permanent; a file that cannot be
// opened is not.
func (d *Dataset) Materialize(ctx context.Context, job Job) (schema.Batch, error) {
	var batch schema.Batch
	var err error
	if d.double {
		batch, err = materialize[float64](ctx, d, job)
	} else {
		batch, err = materialize[float32](ctx, d, job)
	}
	if err != nil {
		return nil, permanent(err)
	}
	return batch, nil
}

// permanent marks errors about what the files hold or the job says. Errors of
// the source stay as they are: storage has bad moments.
func permanent(err error) error {
	for _, cause := range []error{
		ErrTruncated, ErrCompressed, ErrFile, ErrPath, ErrSignal, ErrChannels, ErrLabels, ErrOutsideSignal, ErrJob,
		ErrShape,
	} {
		if errors.Is(err, cause) {
			return dataset.Permanent(err)
		}
	}
	return err
}

// window is an item with all that is needed to read it.
type window struct {
	item     int // its signal, by place
	signal   *LabeledSignal
	span     Span
	wanted   []string
	channels []int // nil if a selector decides
	first    int64
	count    int64
	labels   int
}

func (d *Dataset) window(item Item) (window, error) {
	if item.Signal < 0 || item.Signal >= len(d.signals) {
		return window{}, fmt.Errorf("%w: signal %d of %d", ErrJob, item.Signal, len(d.signals))
	}
	w := window{
		item:   item.Signal,
		signal: &d.signals[item.Signal],
		span:   Span{time.Duration(item.Start), time.Duration(item.Stop)},
		wanted: item.Channels,
	}
	if id := w.signal.Recording.String(); id != item.Recording || w.signal.SensorLabel != item.Sensor {
		return window{}, fmt.Errorf("%w: signal %d is %q of recording %s, the job means %q of %s",
			ErrJob, item.Signal, w.signal.SensorLabel, id, item.Sensor, item.Recording)
	}
	sub, err := w.signal.SubSpan(w.span)
	if err != nil {
		return window{}, err
	}
	w.labels = sub.LabelCount()
	length := sub.grid().at(int64(w.labels)) // from which the span may be a nanosecond off
	if w.first, w.count, err = d.shaping.sampleRange(&w.signal.Signal, w.span, length); err != nil {
		return window{}, err
	}
	if d.selector == nil {
		if w.channels, err = channelIndices(w.signal.Channels, w.wanted); err != nil {
			return window{}, err
		}
	}
	return w, nil
}

// shape of the window's x, as far as it is known before a selector ran.
func (w *window) shape() [3]int {
	channels := len(w.channels)
	if w.channels == nil {
		channels = len(w.signal.Channels)
	}
	return [3]int{channels, int(w.count), w.labels}
}

func materialize[T float](ctx context.Context, d *Dataset, job Job) (schema.Batch, error) {
	if len(job.Items) == 0 {
		return nil, fmt.Errorf("%w: no items", ErrJob)
	}
	windows := make([]window, len(job.Items))
	for i, item := range job.Items {
		var err error
		if windows[i], err = d.window(item); err != nil {
			return nil, err
		}
		got, want := windows[i].shape(), windows[0].shape()
		if got[2] != want[2] || (d.selector == nil && got != want) {
			return nil, fmt.Errorf("%w: recordings %s and %s have (channel, time, label) %v and %v",
				ErrShape, job.Items[0].Recording, item.Recording, want, got)
		}
	}
	shape := windows[0].shape()
	labels := shape[2]
	// In float64, since the counts come from tables and may be absurd.
	if size := float64(len(windows)) * float64(shape[0]) * float64(shape[1]) * 8; size > maxBatchBytes {
		return nil, fmt.Errorf("%w: a batch of %d windows of (channel, time) %v is more than %d bytes",
			ErrShape, len(windows), shape[:2], maxBatchBytes)
	}
	y := make([]uint8, len(windows)*labels)
	x := newStack[T](len(windows))
	if d.selector == nil {
		x.allocate(shape[:2])
	}
	group, reading := errgroup.WithContext(ctx)
	for _, r := range d.reads(windows) {
		if !d.acquire(reading) {
			break // an item has failed, or ctx has ended
		}
		group.Go(func() error {
			defer func() { <-d.slots }()
			for _, i := range r.windows {
				if err := d.readLabels(reading, &windows[i], y[i*labels:(i+1)*labels]); err != nil {
					return err
				}
			}
			return readSamples(reading, d, windows, r, x)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return x.batch(y, labels)
}

func (d *Dataset) acquire(ctx context.Context) bool {
	select {
	case d.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *Dataset) readLabels(ctx context.Context, w *window, into []uint8) error {
	grid := w.signal.grid()
	from := grid.nearest(w.span.Start - w.signal.LabelSpan.Start)
	stored := w.signal.Stored
	if stored == nil {
		w.signal.Labels.Copy(into, int(from))
		return nil
	}
	first := grid.nearest(w.span.Start - stored.Span.Start)
	raw, err := d.reader.raw(ctx, stored, first, int64(len(into)))
	if err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	copy(into, raw)
	return nil
}

// joined is one read of samples for some windows of one signal.
type joined struct {
	windows      []int
	first, count int64
}

// maxJoined bounds the bytes of windows that are read as one.
const maxJoined = 4 << 20

// reads says which windows are read together: those of one signal that are near, where every read takes long.
func (d *Dataset) reads(windows []window) []joined {
	alone := make([]joined, len(windows))
	for i := range windows {
		from, to := d.inputs(&windows[i])
		alone[i] = joined{[]int{i}, from, to - from}
	}
	if d.reader.near < 0 {
		return alone
	}
	slices.SortFunc(alone, func(a, b joined) int {
		return cmp.Or(cmp.Compare(windows[a.windows[0]].item, windows[b.windows[0]].item), cmp.Compare(a.first, b.first))
	})
	var out []joined
	for _, r := range alone {
		w := &windows[r.windows[0]]
		if len(out) > 0 && windows[out[len(out)-1].windows[0]].item == w.item {
			last := &out[len(out)-1]
			end, frame := max(last.first+last.count, r.first+r.count), w.signal.frame()
			if (r.first-last.first-last.count)*frame <= d.reader.near && (end-last.first)*frame <= maxJoined {
				last.windows, last.count = append(last.windows, r.windows[0]), end-last.first
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

func readSamples[T float](ctx context.Context, d *Dataset, windows []window, r joined, x *stack[T]) error {
	s := &windows[r.windows[0]].signal.Signal
	raw, err := d.reader.raw(ctx, s, r.first, r.count)
	if err != nil {
		return err
	}
	for _, i := range r.windows {
		w := &windows[i]
		from, to := d.inputs(w)
		if err := takeSamples(d, w, raw[(from-r.first)*s.frame():(to-r.first)*s.frame()], x, i); err != nil {
			return err
		}
	}
	return nil
}

// takeSamples makes one item of what was read for its window.
func takeSamples[T float](d *Dataset, w *window, raw []byte, x *stack[T], i int) error {
	s := &w.signal.Signal
	if d.selector == nil && d.shaping.plain(s) && int64(len(raw)) == w.count*s.frame() {
		decode(x.item(i), s, raw, w.channels)
		return nil
	}
	channels := w.channels
	if d.selector != nil {
		channels, _ = channelIndices(s.Channels, nil)
	}
	rows := d.rows(w, raw, channels)
	if d.selector == nil {
		for t, into := 0, x.item(i); t < len(into); t++ {
			into[t] = T(rows[t])
		}
		return nil
	}
	in := Window{
		Recording: w.signal.Recording, Channels: slices.Clone(w.signal.Channels), Wanted: w.wanted,
		SampleRate: d.shaping.rateFor(s), Span: w.span, Time: int(w.count), Data: rows,
	}
	shape, values, err := selectChannels(d.selector, in)
	if err != nil {
		return fmt.Errorf("onda: select channels of recording %s: %w", w.signal.Recording, err)
	}
	return x.put(i, shape, values)
}

// selectChannels runs the user's code. It does so on a goroutine of ours, where
// a panic that nobody catches would end the whole worker.
func selectChannels(s ChannelSelector, w Window) (shape []int, values []float64, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = dataset.Permanent(fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	return s.Select(w)
}
