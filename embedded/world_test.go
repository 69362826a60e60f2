package embedded_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

// rows is a data set whose batches have 1, 7 or 32 rows in two tensors, and one tensor for all of them.
type rows struct{ rowsParams }

type rowsParams struct {
	N       uint64 `json:"n"`
	Size    int    `json:"size,omitempty"`    // bytes of a row
	FailAt  uint64 `json:"fail_at,omitempty"` // position at which Materialize fails for good
	TableAt uint64 `json:"table_at,omitempty"`
}

type rowsJob struct{ At uint64 }

func (s *rows) Start() (uint64, error) { return 0, nil }

func (s *rows) Next(at uint64) (rowsJob, uint64, error) {
	if at == s.N {
		return rowsJob{}, at, io.EOF
	}
	return rowsJob{at + 1}, at + 1, nil
}

func (s *rows) Materialize(_ context.Context, j rowsJob) (schema.Batch, error) {
	if j.At == s.FailAt {
		return nil, errors.New("shard is corrupt")
	}
	if j.At%11 == 0 {
		return nil, dataset.Skip("hole")
	}
	n := []int{1, 7, 32}[j.At%3]
	gen := rand.New(rand.NewPCG(j.At, 1))
	tensor := func(shape ...int) schema.Tensor {
		x := schema.Tensor{DType: schema.Uint8, Shape: shape}
		x.Data = make([]byte, x.Len())
		for i := range x.Data {
			x.Data[i] = byte(gen.Uint32())
		}
		return x
	}
	table := 5
	if j.At == s.TableAt {
		table = n + 1
	}
	return schema.Batch{
		{Name: "x", Tensor: tensor(n, max(s.Size, 16))}, {Name: "table", Tensor: tensor(table)}, {Name: "y", Tensor: tensor(n)},
	}, nil
}

func rowsDefinition() dataset.Definition {
	return dataset.Define("rows", func(_ context.Context, p rowsParams) (*rows, error) { return &rows{p}, nil })
}

// took is what a rank took in one step.
type took struct {
	step schema.Step[schema.Batch]
	err  error
}

// world is one launch of some ranks.
type world struct {
	t     *testing.T
	ranks []*batcher
}

// launch opens the ranks of a world.
func launch(t *testing.T, svc *embedded.Service, id string, size int, p rowsParams, change ...func(*client.Config)) *world {
	t.Helper()
	w := &world{t: t}
	for rank := range size {
		w.ranks = append(w.ranks, openRank(t, svc, id, rank, size, p, change...))
	}
	return w
}

func openRank(
	t *testing.T, svc *embedded.Service, id string, rank, size int, p rowsParams, change ...func(*client.Config),
) *batcher {
	t.Helper()
	cfg := client.Config{
		Name: "train", Dataset: "rows", Params: p, TakeOver: true, Logger: slog.New(slog.DiscardHandler),
		World: &client.World{ID: id, Rank: rank, Size: size, Whole: []string{"table"}},
	}
	for _, f := range change {
		f(&cfg)
	}
	b, err := client.Open[schema.Batch](t.Context(), svc.Conn(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // of a world that another took over, or closed by the test
	return b
}

// take takes n steps at each rank, each at its own pace, or all up to the end or an error.
func (w *world) take(from schema.State, n int) [][]took {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	all := make([][]took, len(w.ranks))
	var running sync.WaitGroup
	for rank, b := range w.ranks {
		running.Go(func() {
			for state := from; n < 0 || len(all[rank]) < n; {
				step, err := b.Take(ctx, state)
				all[rank] = append(all[rank], took{step, err})
				if err != nil {
					return
				}
				state = step.Next
			}
		})
	}
	running.Wait()
	return all
}

// together holds what the ranks took against the reference, and returns the state after it, or how it ended.
func together(t *testing.T, p rowsParams, from schema.State, all [][]took) (schema.State, error) {
	t.Helper()
	p.FailAt = 0
	ref, err := dataset.SequentialOf[schema.Batch](t.Context(), rowsDefinition(), p)
	if err != nil {
		t.Fatal(err)
	}
	state := from
	for i := range all[0] {
		if err := all[0][i].err; err != nil {
			for rank := range all {
				if len(all[rank]) != i+1 || !errors.Is(all[rank][i].err, err) && all[rank][i].err.Error() != err.Error() {
					t.Fatalf("rank %d: step %d of %d ends in %v, rank 0's %d in %v", rank, i, len(all[rank]), all[rank][i].err, i, err)
				}
			}
			return state, err
		}
		want, err := ref.Take(t.Context(), state)
		if err != nil {
			t.Fatal(err)
		}
		parts := make(map[string][]byte)
		from := 0
		for rank := range all {
			got := all[rank][i].step
			if all[rank][i].err != nil || got.Seq != all[0][i].step.Seq || !got.Next.Equal(want.Next) || got.Rows.From != from {
				t.Fatalf("rank %d, step %d: seq %d next %v rows %+v, %v; want next %v, rows from %d", rank, i, got.Seq, got.Next,
					got.Rows, all[rank][i].err, want.Next, from)
			}
			from = got.Rows.To
			for _, named := range got.Batch {
				if named.Name == "table" {
					parts["table"] = named.Tensor.Data
				} else {
					parts[named.Name] = append(parts[named.Name], named.Tensor.Data...)
				}
			}
		}
		for _, named := range want.Batch {
			if !bytes.Equal(parts[named.Name], named.Tensor.Data) || all[0][i].step.Rows.Of != want.Batch[0].Tensor.Shape[0] {
				t.Fatalf("step %d: tensor %s put together is another", i, named.Name)
			}
		}
		state = want.Next
	}
	return state, nil
}

// TestP8Together takes a sequence by several ranks: put together, the parts are the batches of one trainer.
func TestP8Together(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 4, 5, 8} {
		for name, p := range map[string]rowsParams{"small": {N: 40}, "large": {N: 12, Size: 40_000}} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				t.Parallel()
				svc := startRows(t)
				w := launch(t, svc, "A", size, p)
				if state, err := together(t, p, schema.State{}, w.take(schema.State{}, -1)); err != io.EOF {
					t.Fatalf("ends at %v: %v", state, err)
				}
			})
		}
	}
}

func startRows(t *testing.T) *embedded.Service {
	t.Helper()
	// Its handles are closed after the end of the test's context.
	svc, err := embedded.Start(context.Background(), embedded.Config{Logger: slog.New(slog.DiscardHandler)}, rowsDefinition())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() }) // the tests are of what runs before
	return svc
}

// TestElastic goes on from the one state with another number of ranks, again and again: what is held is not made again,
// and the whole sequence is that of one trainer.
func TestElastic(t *testing.T) {
	t.Parallel()
	svc, p := startRows(t), rowsParams{N: 40}
	state, gen := schema.State{}, ""
	for i, size := range []int{4, 3, 5, 1} {
		w := launch(t, svc, fmt.Sprint("launch-", i), size, p)
		var err error
		if state, err = together(t, p, state, w.take(state, 5+i)); err != nil {
			t.Fatal(err)
		}
		if s, err := w.ranks[0].Status(t.Context()); err != nil || s.Restarts != 0 || s.Gen != cmp.Or(gen, s.Gen) {
			t.Fatalf("a launch of %d made batches again: %+v, %v", size, s, err)
		} else {
			gen = s.Gen
		}
	}
	w := launch(t, svc, "launch-8", 8, p)
	if _, err := together(t, p, state, w.take(state, -1)); err != io.EOF {
		t.Fatal(err)
	}
}

// TestFailsTogether has a job fail: all ranks meet the error at the same batch, whatever their pace.
func TestFailsTogether(t *testing.T) {
	t.Parallel()
	svc, p := startRows(t), rowsParams{N: 40, FailAt: 17}
	w := launch(t, svc, "A", 3, p)
	if _, err := together(t, p, schema.State{}, w.take(schema.State{}, -1)); !errors.Is(err, client.ErrMaterialize) {
		t.Fatal(err)
	}
}

// TestUneven has batches that cannot be cut: it is an error at every rank, at the same batch.
func TestUneven(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p      rowsParams
		change func(*client.Config)
		want   error
	}{
		"uneven":   {rowsParams{N: 9}, func(c *client.Config) { c.World.Even = true }, client.ErrUneven},
		"not rows": {rowsParams{N: 9, TableAt: 3}, func(c *client.Config) { c.World.Whole = nil }, client.ErrNotRows},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := launch(t, startRows(t), "A", 2, c.p, c.change)
			all := w.take(schema.State{}, -1)
			if _, err := together(t, c.p, schema.State{}, all); !errors.Is(err, c.want) {
				t.Fatal(err)
			}
		})
	}
}

// TestMovesTogether moves a world to a state that is not held: each rank takes from the old place until all ask.
func TestMovesTogether(t *testing.T) {
	t.Parallel()
	svc, p := startRows(t), rowsParams{N: 40}
	w := launch(t, svc, "A", 2, p)
	state, err := together(t, p, schema.State{}, w.take(schema.State{}, 3))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := together(t, p, state, w.take(state, 20)); err != nil {
		t.Fatal(err)
	}
	if _, err := together(t, p, state, w.take(state, -1)); err != io.EOF {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = w.ranks[1].Take(ctx, state)
	if !errors.Is(err, client.ErrUnavailable) || !strings.Contains(err.Error(), "rank 0") {
		t.Fatalf("a rank that moves alone: %v", err)
	}
}

// TestDiverged has two ranks begin at different states.
func TestDiverged(t *testing.T) {
	t.Parallel()
	svc, p := startRows(t), rowsParams{N: 40}
	w := launch(t, svc, "A", 2, p)
	step, err := w.ranks[0].Take(t.Context(), schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ranks[1].Take(t.Context(), step.Next); !errors.Is(err, client.ErrDiverged) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for err == nil {
		step, err = w.ranks[0].Take(ctx, step.Next)
	}
	if !errors.Is(err, client.ErrDiverged) || !strings.Contains(err.Error(), "rank 0") || !strings.Contains(err.Error(), "rank 1") {
		t.Fatal(err)
	}
}

// TestRankLost has a rank that never comes: the other's wait names it, and ends in time.
func TestRankLost(t *testing.T) {
	t.Parallel()
	svc, p := startRows(t), rowsParams{N: 400}
	patience := func(c *client.Config) { c.World.Patience, c.Window = 3*time.Second, 4 }
	b := openRank(t, svc, "A", 0, 2, p, patience)
	state := schema.State{}
	var named bool
	for began := time.Now(); ; {
		short, done := context.WithTimeout(t.Context(), time.Second)
		step, err := b.Take(short, state)
		done()
		switch {
		case err == nil:
			state = step.Next
			continue
		case errors.Is(err, client.ErrUnavailable) && time.Since(began) < 50*time.Second:
			named = named || strings.Contains(err.Error(), "rank 1 has not come yet")
			continue
		}
		var lost *client.RankError
		if !errors.As(err, &lost) || lost.Rank != 1 || !lost.NeverCame || !errors.Is(err, client.ErrRankLost) || !named {
			t.Fatal(named, err)
		}
		return
	}
}

// TestNewWorldDisplaces has a world taken over: no rank of it comes back.
func TestNewWorldDisplaces(t *testing.T) {
	t.Parallel()
	svc, p := startRows(t), rowsParams{N: 400}
	a := launch(t, svc, "A", 2, p)
	state, err := together(t, p, schema.State{}, a.take(schema.State{}, 3))
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.ranks[0].Status(t.Context())
	if err != nil || s.World != "A" || len(s.Members) != 2 || s.Members[0].Taken < 3 || s.Members[1].Reader == "" {
		t.Fatalf("%+v, %v", s, err)
	}
	b := launch(t, svc, "B", 3, p)
	if state, err = together(t, p, state, b.take(state, 3)); err != nil {
		t.Fatal(err)
	}
	if err := a.ranks[1].Start(t.Context(), state); !errors.Is(err, client.ErrSuperseded) {
		t.Errorf("a rank of the old world: %v", err)
	}
	if _, err := together(t, p, state, b.take(state, 3)); err != nil {
		t.Fatal(err)
	}
}
