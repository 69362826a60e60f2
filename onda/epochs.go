package onda

import (
	"cmp"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
)

// EpochConfig configures [NewEpochBatches].
type EpochConfig struct {
	WindowConfig
	// Stride from the start of one window to the next, a whole number of
	// labels. Defaults to BatchDuration: windows side by side.
	Stride time.Duration
	// Epochs after which the data ends. Defaults to 0: never.
	Epochs uint64
	// DropLast leaves out the batch at the end of an epoch that is smaller
	// than the others. Defaults to false.
	DropLast bool
}

// EpochBatches gives every window of every signal once per epoch, in an order
// that is shuffled anew for each epoch. One epoch follows the other without a
// pause, but no batch holds windows of two: the last of an epoch may be
// smaller. After the last epoch comes io.EOF.
type EpochBatches struct {
	windows
	stride   []int // in labels, of each signal
	ends     []int // windows of all signals up to and with each
	epochs   uint64
	dropLast bool
}

// NewEpochBatches checks the configuration: windows or strides that do not fit
// the labels are ErrWindow, unknown channels ErrChannels.
func NewEpochBatches(cfg EpochConfig) (*EpochBatches, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return newEpochBatches(cfg), nil
}

// check does without what is kept of each signal.
func (cfg *EpochConfig) check() error {
	if err := cfg.WindowConfig.check(); err != nil {
		return err
	}
	total := 0
	for i := range cfg.Signals {
		s := &cfg.Signals[i]
		grid := s.grid()
		if n, whole := grid.whole(max(0, cfg.stride())); !whole || n < 1 {
			return fmt.Errorf("%w: stride %v is not a whole number of labels of %v", ErrWindow, cfg.Stride, grid)
		}
		_, windows := cfg.windowsOf(s)
		total += windows
	}
	if cfg.DropLast && total < cfg.BatchSize {
		return fmt.Errorf("%w: drop_last with batch_size %d leaves none of %d windows", ErrParams, cfg.BatchSize,
			total)
	}
	return nil
}

func (cfg *EpochConfig) stride() time.Duration { return cmp.Or(cfg.Stride, cfg.BatchDuration) }

// windowsOf gives the labels from one window of s to the next, and how many
// windows there are.
func (cfg *EpochConfig) windowsOf(s *LabeledSignal) (stride, windows int) {
	grid := s.grid()
	stride = int(grid.nearest(cfg.stride()))
	return stride, (s.LabelCount()-int(grid.nearest(cfg.BatchDuration)))/stride + 1
}

// newEpochBatches takes a configuration that check accepts.
func newEpochBatches(cfg EpochConfig) *EpochBatches {
	n := len(cfg.Signals)
	e := &EpochBatches{
		windows: newWindows(cfg.WindowConfig), epochs: cfg.Epochs, dropLast: cfg.DropLast,
		stride: make([]int, n), ends: make([]int, n),
	}
	total := 0
	for i := range cfg.Signals {
		stride, windows := cfg.windowsOf(&cfg.Signals[i])
		total += windows
		e.stride[i], e.ends[i] = stride, total
	}
	return e
}

// Windows is the number of windows of one epoch.
func (e *EpochBatches) Windows() int { return e.ends[len(e.ends)-1] }

// Progress says how far a state is.
func (e *EpochBatches) Progress(state State) (dataset.Progress, error) {
	return dataset.ProgressOf(state.Epoch, e.epochs, state.Index, uint64(e.Windows()), uint64(e.BatchSize), e.dropLast),
		state.check(ModeEpochs)
}

// Next gives the batch after state. It is a pure function of state and safe
// for concurrent use. A state at or past the end of its epoch, as one that was
// saved with other parameters may be, goes on with the next epoch.
func (e *EpochBatches) Next(state State) (Job, State, error) {
	if err := state.check(ModeEpochs); err != nil {
		return Job{}, state, err
	}
	usable := uint64(e.Windows())
	// The first index from which no batch can be made any more.
	end := usable
	if e.dropLast {
		end = usable - uint64(e.BatchSize) + 1
	}
	if state.Index >= end {
		state.Epoch, state.Index = state.Epoch+1, 0
	}
	if e.epochs > 0 && state.Epoch >= e.epochs {
		return Job{}, state, io.EOF
	}
	shuffled := newShuffle(state.Generator, state.Epoch, e.Windows())
	size := min(uint64(e.BatchSize), usable-state.Index)
	job := Job{Items: make([]Item, size)}
	for i := range job.Items {
		job.Items[i] = e.window(state, shuffled.at(int(state.Index)+i))
	}
	state.Index += size
	if state.Index >= end {
		state.Epoch, state.Index = state.Epoch+1, 0
	}
	return job, state, nil
}

// window is the n-th window of the epoch in the order of the tables.
func (e *EpochBatches) window(state State, n int) Item {
	signal := sort.SearchInts(e.ends, n+1)
	if signal > 0 {
		n -= e.ends[signal-1]
	}
	label := n * e.stride[signal]
	return e.item(signal, label, func() dice {
		// Channels depend on the window and the epoch alone, so that they stay
		// the same when a run goes on with another batch size.
		return Generator{
			Hi: mix(state.Generator.Hi ^ mix(state.Epoch)),
			Lo: mix(mix(state.Generator.Lo^uint64(signal)) ^ uint64(label)),
		}.dice()
	})
}
