package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// way is the sequence of takes that all ranks go through, each at its own pace. It is drawn as the first of them comes
// along, and puts their rows together.
type way struct {
	w   *world
	rng *rand.Rand

	mu     sync.Mutex
	calm   bool // it leads nowhere else but on
	size   int  // of the world that goes it
	points []point
	ahead  *testset.Oracle // at its end
	saved  []schema.State  // that it led through
}

// point is one take.
type point struct {
	from  schema.State
	moved bool // it is not where the take before led: the ranks move there together
	end   bool // of the data
	whole schema.Batch
	parts [][]byte // rows of it that were taken, by rank; nil once all of them were
}

func newWay(w *world, rng *rand.Rand) *way {
	return &way{w: w, rng: rng, ahead: newOracle(w.plan.Params, schema.State{})}
}

// at is the point of a number.
func (y *way) at(i int) (point, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	err := y.extend(i)
	if err != nil {
		return point{}, err
	}
	return y.points[i], nil
}

// extend draws the way up to a point. y.mu is held.
func (y *way) extend(to int) error {
	for n := len(y.points); n <= to; n++ {
		var p point
		if n > 0 && y.points[n-1].end || !y.calm && n > 0 && y.rng.IntN(40) == 0 {
			from := y.ahead.State
			y.ahead.State = y.w.elsewhere(y.rng, y.saved, from)
			p.moved = true
			y.w.note("ranks: move at %d from %v to %v", n, from, y.ahead.State)
		}
		p.from = y.ahead.State
		want, err := y.ahead.Want()
		switch {
		case errors.Is(err, io.EOF):
			p.end = true
		case err != nil:
			return err
		default:
			p.whole, p.parts, y.ahead.State = want.Batch, make([][]byte, y.size), want.Next
			y.saved = append(y.saved, want.Next)
		}
		y.points = append(y.points, p)
	}
	return nil
}

// reach is the number of the point after n batches from a point on.
func (y *way) reach(from, n int) (int, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for i := from; ; i++ {
		if n == 0 {
			return i, nil
		}
		if err := y.extend(i); err != nil {
			return 0, err
		}
		if !y.points[i].end {
			n--
		}
	}
}

// batches is how many batches there are from one point to another.
func (y *way) batches(from, to int) (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, p := range y.points[from:to] {
		if !p.end {
			n++
		}
	}
	return n
}

// restart has a world of so many ranks go on from a point. What others took is done with.
func (y *way) restart(at, size int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.size = size
	for i := range y.points {
		p := &y.points[i]
		p.parts = nil
		switch {
		case i < at:
			p.whole = nil
			continue
		case p.end:
			continue
		case p.whole == nil:
			want, err := y.ahead.At(p.from)
			if err != nil {
				panic(err) // it was there before
			}
			p.whole = want.Batch
		}
		p.parts = make([][]byte, size)
	}
}

// took adds the rows that a rank took at a point, which are right by themselves. Those of all ranks, put together, must
// be the batch.
func (y *way) took(i, rank int, step schema.Step[schema.Batch]) error {
	x, _ := step.Batch.Get("x")
	y.mu.Lock()
	defer y.mu.Unlock()
	p := &y.points[i]
	if p.whole == nil {
		return nil // a rank takes it once more that comes again
	}
	all, _ := p.whole.Get("x")
	if want := rowsOf(len(all.Data), rank, y.size); step.Rows != want {
		what := fmt.Sprintf("rank %d has rows %+v, not %+v", rank, step.Rows, want)
		return &testset.Violation{Class: testset.Different, What: what}
	}
	p.parts[rank] = append(make([]byte, 0, len(x.Data)), x.Data...)
	if slices.ContainsFunc(p.parts, func(part []byte) bool { return part == nil }) {
		return nil
	}
	if together := bytes.Join(p.parts, nil); !bytes.Equal(together, all.Data) {
		what := fmt.Sprintf("the rows of %d ranks are not batch %d", y.size, testset.Label(p.whole))
		return &testset.Violation{Class: testset.Different, What: what}
	}
	p.whole, p.parts = nil, nil
	y.w.together()
	return nil
}

// rowsOf is what docs/TRAINERS.md promises of a batch to a rank.
func rowsOf(rows, rank, size int) schema.Rows {
	return schema.Rows{From: rank * rows / size, To: (rank + 1) * rows / size, Of: rows}
}

// cut returns what a rank takes of each batch: its rows of x, and y whole.
func cut(rank, size int) func(schema.Batch) schema.Batch {
	return func(whole schema.Batch) schema.Batch {
		part := slices.Clone(whole)
		for i := range part {
			if part[i].Name == "x" { // one byte a row
				x := &part[i].Tensor
				rows := rowsOf(len(x.Data), rank, size)
				x.Shape, x.Data = []int{rows.To - rows.From}, x.Data[rows.From:rows.To]
			}
		}
		return part
	}
}
