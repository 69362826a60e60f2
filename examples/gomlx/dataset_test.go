package main

import (
	"context"
	"math"
	"testing"

	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train"
	"github.com/gomlx/gomlx/ml/train/optimizer"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

// openSmall opens a batcher on made-up recordings: windows of 2 s, 8 in a batch, and two epochs of 7
// such batches and one of 4 windows.
func openSmall(t *testing.T) *client.Batcher[schema.Batch] {
	t.Helper()
	dir := t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 1}); err != nil {
		t.Fatal(err)
	}
	service, err := embedded.Start(context.WithoutCancel(t.Context()), embedded.Config{}, onda.Definition())
	if err != nil {
		t.Fatal(err)
	}
	p := onda.Params{Dir: dir, Mode: onda.ModeEpochs, Epochs: 2, BatchDuration: 2e9, BatchSize: 8}
	cfg := client.Config{Name: "small", Dataset: onda.Name, Params: p}
	b, err := client.Open[schema.Batch](t.Context(), service.Conn(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestDataset has it go on, or begin again, as it is told.
func TestDataset(t *testing.T) {
	t.Parallel()
	d := dataset(t.Context(), openSmall(t), "small")
	sizes := func(most int) (rows []int) {
		t.Helper()
		for batch, err := range d.Iter() {
			if err != nil {
				t.Fatal(err)
			}
			x, y, of := batch.Inputs[0].Shape(), batch.Labels[0].Shape(), d.Rows().Of
			if x.Rank() != 3 || y.Dim(0) != x.Dim(0) || of != x.Dim(0) {
				t.Fatal(x, y, of)
			}
			rows = append(rows, d.Rows().Of)
			if len(rows) == most {
				break
			}
		}
		return rows
	}
	if !d.State().IsZero() || d.Name() != "small" {
		t.Error(d.State(), d.Name())
	}
	first := sizes(5)
	saved := d.State()
	if rest := sizes(-1); len(first)+len(rest) != 16 || rest[len(rest)-1] != 4 {
		t.Error(first, rest)
	}
	if more := sizes(-1); len(more) != 0 {
		t.Error("more after the end:", more)
	}
	d.Rewind = true
	if again := sizes(-1); len(again) != 16 {
		t.Error(again)
	}
	d.From = saved
	if again := sizes(-1); len(again) != 11 {
		t.Error(again)
	}
	d.Inputs = []string{"nothing"}
	for _, err := range d.Iter() {
		if err == nil {
			t.Error("a tensor that the batch does not have")
		}
	}
}

// TestLoop is GoMLX's own loop of training: cut in two at a saved state, the weights are those of one go.
func TestLoop(t *testing.T) {
	t.Parallel()
	b := openSmall(t)
	digest := func(cut ...int) string {
		t.Helper()
		backend, err := gobackend.New("ops_sequential")
		if err != nil {
			t.Fatal(err)
		}
		store := model.NewStore()
		if err := store.SetRNGStateFromSeed(1); err != nil {
			t.Fatal(err)
		}
		answer := func(scope *model.Scope, x *graph.Node) *graph.Node { return logits(scope, x, 2) }
		loop := train.NewLoop(train.NewTrainer(backend, store, answer, losses, optimizer.Adam().Done(), nil, nil))
		var saved schema.State // with the step, in the checkpoint
		for _, steps := range cut {
			d := dataset(t.Context(), b, "small")
			d.From = saved
			if _, err := loop.RunSteps(d, steps); err != nil {
				t.Fatal(err)
			}
			saved = d.State()
		}
		text, err := (&Network{store: store}).Digest()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if whole, parts := digest(6), digest(2, 3, 1); whole != parts {
		t.Errorf("%s, and in parts %s", whole, parts)
	}
}

// TestGradientsAddUp has the vectors of all parts of a batch, uneven and empty ones among them, come to that of the
// batch.
func TestGradientsAddUp(t *testing.T) {
	t.Parallel()
	n, err := NewNetwork(2, &Checkpoint{})
	if err != nil {
		t.Fatal(err)
	}
	const rows, channels, time, labels = 7, 2, 256, 2
	x, y := make([]float32, rows*channels*time), make([]uint8, rows*labels)
	for i := range x {
		x[i] = float32(math.Sin(float64(i*i) / 1000))
	}
	for i := range y {
		y[i] = uint8(i / 3 % 2)
	}
	part := func(from, to int) []float32 {
		t.Helper()
		const row = channels * time
		v, err := n.Gradients(train.Batch{
			Inputs: []*tensors.Tensor{tensors.FromFlatDataAndDimensions(x[from*row:to*row], to-from, channels, time)},
			Labels: []*tensors.Tensor{tensors.FromFlatDataAndDimensions(y[from*labels:to*labels], to-from, 1, labels)},
		}, schema.Rows{From: from, To: to, Of: rows})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	whole := part(0, rows)
	for parts := 1; parts <= rows+1; parts++ {
		sum := make([]float32, len(whole))
		for p := range parts {
			for i, v := range part(p*rows/parts, (p+1)*rows/parts) {
				sum[i] += v
			}
		}
		for i := range sum {
			if math.Abs(float64(sum[i]-whole[i])) > 1e-6 {
				t.Fatalf("%d parts: value %d is %v, not %v", parts, i, sum[i], whole[i])
			}
		}
	}
}
