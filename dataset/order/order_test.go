package order_test

import (
	"context"
	"errors"
	"io"
	"math"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/dataset/order"
	"github.com/jetbatch/jetbatch/datasettest"
)

func TestShuffleIsPermutation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := order.Shuffle{N: rapid.Uint64Range(1, 3000).Draw(t, "n"), Seed: rapid.Uint64().Draw(t, "seed")}
		seen := make([]bool, s.N)
		for i := range s.N {
			if at := s.At(i); seen[at] {
				t.Fatalf("%d comes twice", at)
			} else {
				seen[at] = true
			}
		}
	})
	for _, n := range []uint64{1 << 62, 1<<63 + 1, math.MaxUint64} { // no table, no overflow
		if at := (order.Shuffle{N: n}).At(n - 1); at >= n {
			t.Errorf("%d of %d", at, n)
		}
	}
}

// Every number is as likely at every place, and pairs of neighbours are as likely as any other.
func TestShuffleIsFair(t *testing.T) {
	t.Parallel()
	const seeds = 4000
	for _, n := range []uint64{2, 3, 5, 7, 16, 33} {
		places, followers := make([]float64, n*n), make([]float64, n*n)
		for seed := range uint64(seeds) {
			s := order.Shuffle{N: n, Seed: seed}
			for i := range n {
				places[i*n+s.At(i)]++
				if i > 0 {
					followers[s.At(i-1)*n+s.At(i)]++
				}
			}
		}
		if err := unlike(places, seeds/float64(n)); err != 0 {
			t.Errorf("n %d: a number is at a place %.0f times, not about %.0f", n, err, seeds/float64(n))
		}
		for i := range n { // none follows itself
			followers[i*n+i] = seeds / float64(n)
		}
		if err := unlike(followers, seeds/float64(n)); err != 0 {
			t.Errorf("n %d: a number follows another %.0f times, not about %.0f", n, err, seeds/float64(n))
		}
	}
}

// unlike returns a count that is six standard deviations from the expected one, or 0.
func unlike(counts []float64, expected float64) float64 {
	for _, c := range counts {
		if math.Abs(c-expected) > 6*math.Sqrt(expected) {
			return c
		}
	}
	return 0
}

// walk takes n batches from a state, or to the end, and returns them with all states.
func walk[S, J any](t interface{ Fatal(...any) }, it dataset.Iterator[S, J], state S, n int) (jobs []J, states []S) {
	states = []S{state}
	for range n {
		job, next, err := it.Next(state)
		if errors.Is(err, io.EOF) {
			return jobs, states
		}
		if err != nil {
			t.Fatal(err)
		}
		state = next
		jobs, states = append(jobs, job), append(states, next)
	}
	return jobs, states
}

// resumes checks that from every state on the way the rest is what it was.
func resumes[S, J any](t *rapid.T, it dataset.Iterator[S, J], start S) {
	jobs, states := walk(t, it, start, 40)
	from := rapid.IntRange(0, len(jobs)).Draw(t, "from")
	again, _ := walk(t, it, states[from], len(jobs)-from)
	if len(again) != len(jobs)-from || len(again) > 0 && !reflect.DeepEqual(again, jobs[from:]) {
		t.Fatalf("from batch %d: %v, and %v before", from, again, jobs[from:])
	}
}

// Every epoch has every sample once, less than a batch of them left out, and its own order.
func TestEpochs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := order.Epochs{
			N: rapid.Uint64Range(1, 200).Draw(t, "n"), Limit: rapid.Uint64Range(1, 3).Draw(t, "epochs"),
			Seed: rapid.Uint64().Draw(t, "seed"), InOrder: rapid.Bool().Draw(t, "in order"),
			DropLast: rapid.Bool().Draw(t, "drop last"),
		}
		e.Batch = rapid.IntRange(1, int(e.N)).Draw(t, "batch")
		resumes(t, e, order.Position{})
		jobs, states := walk(t, e, order.Position{}, math.MaxInt)
		visited := make(map[uint64][]uint64)
		for i, job := range jobs {
			epoch := states[i+1].Epoch // a position after the last sample is still of the epoch
			visited[epoch] = append(visited[epoch], job...)
		}
		most := int(e.N)
		if e.DropLast {
			most -= most % e.Batch
		}
		for epoch := range e.Limit {
			all := visited[epoch]
			slices.Sort(all)
			if all = slices.Compact(all); len(all) != most {
				t.Fatalf("epoch %d has %d samples, not %d", epoch, len(all), most)
			}
		}
	})
	one := order.Epochs{N: 100, Batch: 100}
	jobs, _ := walk(t, one, order.Position{}, 2)
	if slices.Equal(jobs[0], jobs[1]) {
		t.Error("two epochs have one order")
	}
}

func TestShards(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := order.Shards{
			Sizes: rapid.SliceOfN(rapid.Uint64Range(0, 30), 1, 8).Draw(t, "sizes"),
			Limit: rapid.Uint64Range(1, 3).Draw(t, "epochs"),
			Seed:  rapid.Uint64().Draw(t, "seed"), DropLast: rapid.Bool().Draw(t, "drop last"),
		}
		n := 0
		for _, size := range s.Sizes {
			n += int(size)
		}
		if n == 0 {
			s.Sizes[0], n = 1, 1
		}
		s.Batch = rapid.IntRange(1, n).Draw(t, "batch")
		resumes(t, s, order.ShardPosition{})
		jobs, states := walk(t, s, order.ShardPosition{}, math.MaxInt)
		visited := make(map[uint64]map[order.Sample]bool)
		changes := 0
		for i, job := range jobs {
			for k, sample := range job {
				epoch := states[i+1].Epoch
				if visited[epoch] == nil {
					visited[epoch] = make(map[order.Sample]bool)
				}
				visited[epoch][sample] = true
				if k > 0 && sample.Shard != job[k-1].Shard {
					changes++
				}
			}
		}
		if most := len(s.Sizes) * int(s.Limit); changes > most {
			t.Fatalf("shards change %d times within batches, not at most %d", changes, most)
		}
		most := n
		if s.DropLast {
			most -= n % s.Batch
		}
		for epoch := range s.Limit {
			if len(visited[epoch]) != most {
				t.Fatalf("epoch %d has %d samples, not %d", epoch, len(visited[epoch]), most)
			}
		}
	})
}

// Sources come by their weights, and each visits all that it has before one comes twice.
func TestMix(t *testing.T) {
	t.Parallel()
	mix := func(seed uint64, batch int, weights ...float64) order.Mix[order.Position, []uint64] {
		m := order.Mix[order.Position, []uint64]{Weights: weights, Batch: batch, Seed: seed}
		for i := range weights {
			m.Sources = append(m.Sources, order.Epochs{N: uint64(10 + i), Seed: uint64(i)})
		}
		return m
	}
	rapid.Check(t, func(t *rapid.T) {
		m := mix(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 5).Draw(t, "batch"), 1, 0, 2.5, 0.01)
		start, err := m.Start()
		if err != nil {
			t.Fatal(err)
		}
		resumes(t, m, start)
	})
	const draws = 40000
	m := mix(7, 4, 3, 0, 1)
	start, _ := m.Start()
	jobs, _ := walk(t, m, start, draws/4)
	counts := make([]map[uint64]int, 3)
	total := make([]float64, 3)
	for _, drawn := range slices.Concat(jobs...) {
		if counts[drawn.Source] == nil {
			counts[drawn.Source] = make(map[uint64]int)
		}
		counts[drawn.Source][drawn.Job[0]]++
		total[drawn.Source]++
	}
	if total[1] != 0 || unlike(total[:1], draws*0.75) != 0 || unlike(total[2:], draws*0.25) != 0 {
		t.Errorf("weights 3, 0, 1: drawn %v times", total)
	}
	for source, of := range counts {
		for _, n := range of {
			if expected := total[source] / float64(10+source); math.Abs(float64(n)-expected) > 1 {
				t.Errorf("a sample of source %d came %d times, not %.1f", source, n, expected)
			}
		}
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	c := order.Classes{
		Samples: [][]uint64{{0, 1, 2, 3, 4, 5}, nil, {6}, {7, 8}}, Weights: []float64{1, 0, 1, 2}, Batch: 8, Seed: 3,
	}
	rapid.Check(t, func(t *rapid.T) { resumes(t, c, rapid.Uint64().Draw(t, "start")) })
	const draws = 48000
	counts := make([]float64, 9)
	jobs, _ := walk(t, c, 0, draws/c.Batch)
	for _, sample := range slices.Concat(jobs...) {
		counts[sample]++
	}
	if unlike(counts[:6], draws/24.0) != 0 || unlike(counts[6:7], draws/4.0) != 0 || unlike(counts[7:], draws/4.0) != 0 {
		t.Errorf("classes of 6, 0, 1, 2 samples and weights 1, 0, 1, 2: %v", counts)
	}
}

// Fields that make no order are an error, and no endless loop.
func TestBadFields(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func() error{
		"no samples": func() error { _, _, err := order.Epochs{}.Next(order.Position{}); return err },
		"no full batch": func() error {
			_, _, err := order.Epochs{N: 3, Batch: 4, DropLast: true}.Next(order.Position{})
			return err
		},
		"no shards": func() error { _, _, err := order.Shards{}.Next(order.ShardPosition{}); return err },
		"empty shards": func() error {
			_, _, err := order.Shards{Sizes: []uint64{0, 0}}.Next(order.ShardPosition{Epoch: 2, Shard: 1})
			return err
		},
		"no full batch of shards": func() error {
			_, _, err := order.Shards{Sizes: []uint64{1, 2}, Batch: 4, DropLast: true}.Next(order.ShardPosition{Shard: 1})
			return err
		},
		"no sources": func() error { _, _, err := order.Mix[int, int]{}.Next(order.MixState[int]{}); return err },
		"weights of other classes": func() error {
			_, _, err := order.Classes{Samples: [][]uint64{{1}}, Weights: []float64{1, 1}}.Next(0)
			return err
		},
		"a class without samples": func() error {
			_, _, err := order.Classes{Samples: [][]uint64{nil}, Weights: []float64{1}}.Next(0)
			return err
		},
		"a weight below 0": func() error {
			_, _, err := order.Classes{Samples: [][]uint64{{1}, {2}}, Weights: []float64{1, -1}}.Next(0)
			return err
		},
		"no weight": func() error {
			_, _, err := order.Classes{Samples: [][]uint64{{1}}, Weights: []float64{0}}.Next(0)
			return err
		},
		"not a number": func() error {
			_, _, err := order.Classes{Samples: [][]uint64{{1}}, Weights: []float64{math.NaN()}}.Next(0)
			return err
		},
	} {
		if err := next(); !errors.Is(err, order.ErrFields) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// States that were saved go on with every later version: these orders never change.
func TestOrdersStay(t *testing.T) {
	t.Parallel()
	epochs, _ := walk(t, order.Epochs{N: 10, Batch: 5, Seed: 1}, order.Position{Epoch: 3}, 2)
	shards, _ := walk(t, order.Shards{Sizes: []uint64{2, 3}, Batch: 5, Seed: 1}, order.ShardPosition{}, 1)
	classes, _ := walk(t, order.Classes{
		Samples: [][]uint64{{0, 1, 2, 3}, {4, 5, 6, 7}}, Weights: []float64{1, 3}, Batch: 8, Seed: 1,
	}, 0, 1)
	for _, tc := range []struct{ got, want any }{
		{epochs, [][]uint64{{9, 3, 1, 5, 7}, {4, 2, 0, 6, 8}}},
		{shards[0], []order.Sample{
			{Shard: 1, Index: 1}, {Shard: 1, Index: 0}, {Shard: 1, Index: 2}, {Shard: 0, Index: 1}, {Shard: 0, Index: 0},
		}},
		{classes[0], []uint64{5, 5, 4, 1, 5, 7, 2, 5}},
	} {
		if !reflect.DeepEqual(tc.got, tc.want) {
			t.Errorf("got %v, and %v once", tc.got, tc.want)
		}
	}
}

// all makes a data set of an iterator.
type all[S, J any] struct {
	dataset.Iterator[S, J]
}

func (all[S, J]) Materialize(_ context.Context, job J) (J, error) { return job, nil }

// Each is what a data set has to be, with types that travel.
func TestConformance(t *testing.T) {
	t.Parallel()
	t.Run("epochs", func(t *testing.T) {
		t.Parallel()
		conforms(t, order.Epochs{N: 50, Batch: 7, Limit: 2, Seed: 5}, order.Position{})
	})
	t.Run("shards", func(t *testing.T) {
		t.Parallel()
		conforms(t, order.Shards{Sizes: []uint64{9, 0, 3}, Batch: 4, Limit: 2}, order.ShardPosition{})
	})
	t.Run("mix", func(t *testing.T) {
		t.Parallel()
		m := order.Mix[order.Position, []uint64]{
			Weights: []float64{2, 1}, Batch: 3,
			Sources: []dataset.Iterator[order.Position, []uint64]{order.Epochs{N: 5}, order.Epochs{N: 9, Limit: 1}},
		}
		start, err := m.Start()
		if err != nil {
			t.Fatal(err)
		}
		conforms(t, m, start)
	})
	t.Run("classes", func(t *testing.T) {
		t.Parallel()
		conforms(t, order.Classes{Samples: [][]uint64{{1}, {2, 3}}, Weights: []float64{1, 1}, Batch: 5}, 0)
	})
}

func conforms[S, J any](t *testing.T, it dataset.Iterator[S, J], start S) {
	t.Helper()
	datasettest.Run(t, func(context.Context, struct{}) (all[S, J], error) { return all[S, J]{it}, nil }, struct{}{}, start)
}

func BenchmarkShuffle(b *testing.B) {
	s := order.Shuffle{N: 1_281_167, Seed: 1}
	for i := 0; b.Loop(); i++ {
		s.At(uint64(i) % s.N)
	}
}

// Progress counts the batches, epoch by epoch, up to the end of the data.
func TestProgress(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		batch, drop := rapid.IntRange(1, 9).Draw(t, "batch"), rapid.Bool().Draw(t, "drop")
		n, limit := rapid.Uint64Range(uint64(batch), 40).Draw(t, "n"), rapid.Uint64Range(1, 3).Draw(t, "limit")
		progresses(t, order.Epochs{N: n, Batch: batch, Limit: limit, DropLast: drop})
		progresses(t, order.Shards{Sizes: []uint64{n / 3, 0, n - n/3}, Batch: batch, Limit: limit, DropLast: drop})
	})
}

func progresses[S, J any](t *rapid.T, it interface {
	dataset.Iterator[S, J]
	dataset.Starter[S]
	dataset.Progresser[S]
}) {
	state, err := it.Start()
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(0); ; n++ {
		p, unknown := it.Progress(state)
		if unknown != nil || (p.Epoch-1)*p.Batches+p.Batch != n {
			t.Fatalf("%+v: after %d batches at %+v, %v", it, n, p, unknown)
		}
		if _, state, err = it.Next(state); err == io.EOF {
			if n != p.Epochs*p.Batches || p.Epoch != p.Epochs {
				t.Fatalf("%+v: the data end after %d batches, at %+v", it, n, p)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
