package onda

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The sequence is part of the product: a state saved by one version has to go
// on alike in the next. These numbers must never change.
func TestDrawsAreFixed(t *testing.T) {
	t.Parallel()
	if got := seeded(1); got != (Generator{0x910a2dec89025cc1, 0xe9fd6049d65af21e}) {
		t.Errorf("seeded(1) is %#x, %#x", got.Hi, got.Lo)
	}
	d := seeded(42).dice()
	var got []int
	for _, n := range []int{2, 10, 1000, 1 << 40, 3, 1} {
		got = append(got, d.below(n))
	}
	if want := []int{0, 6, 754, 961906552357, 2, 0}; !slices.Equal(got, want) {
		t.Errorf("drew %v, want %v", got, want)
	}
	s := newShuffle(seeded(42), 3, 10)
	got = nil
	for i := range 10 {
		got = append(got, s.at(i))
	}
	if want := []int{4, 8, 7, 6, 3, 1, 5, 2, 9, 0}; !slices.Equal(got, want) {
		t.Errorf("shuffled %v, want %v", got, want)
	}
}

func TestGeneratorRoundTrip(t *testing.T) {
	t.Parallel()
	whole, pieces := seeded(7).dice(), seeded(7)
	for range 100 {
		d := pieces.dice()
		if a, b := whole.below(1000), d.below(1000); a != b {
			t.Fatalf("drew %d, and %d from a saved generator", a, b)
		}
		pieces = d.generator()
	}
}

func TestBelowIsUniform(t *testing.T) {
	t.Parallel()
	d := seeded(1).dice()
	const n, draws = 7, 70000
	var counts [n]int
	for range draws {
		counts[d.below(n)]++
	}
	chi := 0.0
	for _, c := range counts {
		chi += math.Pow(float64(c)-draws/n, 2) / (draws / n)
	}
	if chi > 22.5 { // 6 degrees of freedom, p = 0.001
		t.Errorf("chi squared is %v: %v", chi, counts)
	}
}

func TestWeights(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]float64{
		"short": {1, 2}, "long": {1, 2, 3, 4}, "empty": {}, "NaN": {1, math.NaN(), 1}, "negative": {1, -1, 1},
		"infinite": {1, math.Inf(1), 1}, "all zero": {0, 0, 0}, "overflow": {math.MaxFloat64, math.MaxFloat64, 1},
	} {
		if _, err := newWeights("things", 3, values); !errors.Is(err, ErrWeights) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	w, err := newWeights("things", 4, []float64{0, 1, 0, 3})
	if err != nil {
		t.Fatal(err)
	}
	d := seeded(1).dice()
	var counts [4]int
	for range 40000 {
		counts[w.draw(d)]++
	}
	if counts[0] != 0 || counts[2] != 0 || counts[1] < 9500 || counts[1] > 10500 {
		t.Errorf("drew %v", counts)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	d := seeded(1).dice()
	var counts [5][5]int
	for range 10000 {
		got := d.choose(5, 2)
		if len(got) != 2 || got[0] == got[1] {
			t.Fatalf("chose %v", got)
		}
		counts[got[0]][got[1]]++
	}
	for i := range counts {
		for j, c := range counts[i] {
			if i != j && (c < 400 || c > 600) {
				t.Errorf("chose %d and %d %d times of 10000, want 500", i, j, c)
			}
		}
	}
}

func TestShuffleIsAPermutation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5000).Draw(t, "n")
		g := seeded(rapid.Uint64().Draw(t, "seed"))
		s := newShuffle(g, rapid.Uint64().Draw(t, "epoch"), n)
		seen := make([]bool, n)
		for i := range n {
			at := s.at(i)
			if at < 0 || at >= n || seen[at] {
				t.Fatalf("place %d of %d is %d", i, n, at)
			}
			seen[at] = true
		}
	})
}

// Every item comes to every place about as often.
func TestShuffleIsFair(t *testing.T) {
	t.Parallel()
	const n, epochs = 6, 12000
	var counts [n][n]int
	for epoch := range uint64(epochs) {
		s := newShuffle(seeded(9), epoch, n)
		for i := range n {
			counts[i][s.at(i)]++
		}
	}
	for i := range counts {
		for j, c := range counts[i] {
			if c < 1800 || c > 2200 {
				t.Errorf("item %d came to place %d in %d of %d epochs, want 2000", j, i, c, epochs)
			}
		}
	}
}
