package datasettest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type position struct {
	I       int
	History []int
	hidden  int
}

type job struct {
	I      int
	Data   []byte
	hidden int
}

// numbers is a good data set whose parts a test replaces by bad ones.
type numbers struct {
	length int
	start  func() (position, error)
	next   func(position) (job, position, error)
	batch  func(job) (any, error)

	opening int // 1, 2
	calls   atomic.Int64
	scratch [2]byte
}

func (n *numbers) Next(p position) (job, position, error) {
	n.calls.Add(1)
	if n.next != nil {
		return n.next(p)
	}
	return n.good(p)
}

func (n *numbers) good(p position) (job, position, error) {
	if p.I >= n.length {
		return job{}, position{}, io.EOF
	}
	return job{I: p.I}, position{I: p.I + 1, History: append(slices.Clone(p.History), p.I)}, nil
}

func (n *numbers) Materialize(_ context.Context, j job) (any, error) {
	n.calls.Add(1)
	if n.batch != nil {
		return n.batch(j)
	}
	return fmt.Sprint(j.I), nil
}

type starting struct{ *numbers }

func (s starting) Start() (position, error) { return s.start() }

// check runs all rules over two openings and returns what they found, as "rule: message".
func check(t *testing.T, open func(opening int) dataset.Dataset[position, job, any]) []string {
	t.Helper()
	s := suite[position, job, any]{ctx: t.Context(), one: open(1), two: open(2)}
	var found []string
	for _, r := range s.rules() {
		if err := r.check(); err != nil {
			found = append(found, r.name+": "+err.Error())
		}
	}
	return found
}

func TestFindings(t *testing.T) {
	t.Parallel()
	disk := errors.New("disk on fire")
	var opened atomic.Int64
	for name, tc := range map[string]struct {
		spoil func(n *numbers)
		want  []string // a rule, and a part of what it says
	}{
		"good":         {spoil: func(*numbers) {}},
		"good, empty":  {spoil: func(n *numbers) { n.length = 0 }},
		"good, one":    {spoil: func(n *numbers) { n.length = 1 }},
		"good, longer": {spoil: func(n *numbers) { n.length = MaxSteps + 1 }},
		"good, with a start": {spoil: func(n *numbers) {
			n.start = func() (position, error) { return position{I: 2}, nil }
		}},
		"good, skips": {spoil: func(n *numbers) {
			n.batch = func(j job) (any, error) { return nil, dataset.Skip(fmt.Sprint(j.I)) }
		}},

		"a counter outside of the state": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				j.I += int(n.calls.Load())
				return j, next, err
			}
		}, []string{"pure", "called again, the state of step 0 yields another job"}},
		"a generator outside of the state": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				next.I += int(n.calls.Load())
				return j, next, err
			}
		}, []string{"pure", "another state after it"}},
		"openings differ": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				j.I += n.opening
				return j, next, err
			}
		}, []string{"pure", "in a second opening"}},
		"wrong when called concurrently": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				if n.calls.Load() > int64(2*n.length+1) && n.opening == 1 {
					j.I = -1
				}
				return j, next, err
			}
		}, []string{"pure", "from several goroutines"}},
		"an error of the second call": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				if n.calls.Load() > int64(n.length+1) {
					return job{}, position{}, disk
				}
				return n.good(p)
			}
		}, []string{"pure", "disk on fire", "end", "did not stay"}},
		"writes to a slice of its state": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				if len(p.History) > 2 {
					p.History[0] = -p.I
				}
				return n.good(p)
			}
		}, []string{"unchanged", "the state of step 3"}},
		"a job in a buffer of its own": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				if n.calls.Load() > int64(n.length) { // where it would be a data race as well
					j.Data = []byte{byte(p.I), 0}
					return j, next, err
				}
				n.scratch[0] = byte(p.I)
				j.Data = n.scratch[:]
				return j, next, err
			}
		}, []string{"unchanged", "the job of step 0"}},
		"an unexported field in the state": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				j.I += p.hidden
				next.hidden = 7
				return j, next, err
			}
		}, []string{"roundtrip", "the state of step 1 yields another job"}},
		"an end that is wrapped": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				if err != nil {
					err = fmt.Errorf("no more numbers: %w", err)
				}
				return j, next, err
			}
		}, []string{"walk", "Return io.EOF itself"}},
		"an end that does not stay": {func(n *numbers) {
			var ends atomic.Int64
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				if err != nil && ends.Add(1) > 2 {
					return job{}, position{}, disk
				}
				return j, next, err
			}
		}, []string{"end", "disk on fire"}},
		"an iterator that fails": {func(n *numbers) {
			n.next = func(position) (job, position, error) { return job{}, position{}, disk }
		}, []string{"walk", "disk on fire"}},
		"a state that is too large": {func(n *numbers) {
			n.next = func(position) (job, position, error) {
				return job{}, position{History: slices.Repeat([]int{1}, schema.MaxState)}, nil
			}
		}, []string{"walk", "state is too large"}},
		"a job that is too large": {func(n *numbers) {
			n.next = func(p position) (job, position, error) { return job{Data: make([]byte, 1<<20)}, p, nil }
		}, []string{"walk", "Send what to load"}},

		"a start by the clock": {func(n *numbers) {
			n.start = func() (position, error) { return position{I: -int(opened.Add(1))}, nil }
		}, []string{"start", "do not agree"}},
		"a start that fails": {func(n *numbers) {
			n.start = func() (position, error) { return position{}, disk }
		}, []string{"start", "disk on fire"}},
		"a start that Next refuses": {func(n *numbers) {
			n.start = func() (position, error) { return position{I: -1}, nil }
			n.next = func(p position) (job, position, error) {
				if p.I < 0 {
					return job{}, p, disk
				}
				return n.good(p)
			}
		}, []string{"start", "disk on fire"}},

		"random batches": {func(n *numbers) {
			n.batch = func(job) (any, error) { return n.calls.Load(), nil }
		}, []string{"materialize", "called again, the job of step 0 yields another batch"}},
		"batches that differ between openings": {func(n *numbers) {
			n.batch = func(job) (any, error) { return n.opening, nil }
		}, []string{"materialize", "in a second opening"}},
		"skips that differ": {func(n *numbers) {
			n.batch = func(job) (any, error) { return nil, dataset.Skip(fmt.Sprint(n.calls.Load())) }
		}, []string{"materialize", "skipped: "}},
		"an unexported field in the job": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				j.hidden = 7
				return j, next, err
			}
			n.batch = func(j job) (any, error) { return j.hidden, nil }
		}, []string{"materialize", "exported fields of the job"}},
		"batches in one buffer": {func(n *numbers) {
			var mu sync.Mutex
			buffer := make([]int, 2)
			n.batch = func(j job) (any, error) {
				mu.Lock()
				defer mu.Unlock()
				buffer[0] = j.I
				return buffer, nil
			}
		}, []string{"materialize", "must not reuse the memory"}},
		"a truncated file": {func(n *numbers) {
			n.batch = func(job) (any, error) { return nil, fmt.Errorf("samples: %w", io.EOF) }
		}, []string{"materialize", "io.ErrUnexpectedEOF"}},
		"a job that fails": {func(n *numbers) {
			n.batch = func(job) (any, error) { return nil, disk }
		}, []string{"materialize", "disk on fire"}},
		"a batch that cannot be encoded": {func(n *numbers) {
			n.batch = func(job) (any, error) { return make(chan int), nil }
		}, []string{"materialize", "cannot travel"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := check(t, func(opening int) dataset.Dataset[position, job, any] {
				n := &numbers{length: 6, opening: opening}
				tc.spoil(n)
				if n.start != nil {
					return starting{n}
				}
				return n
			})
			if len(found) != len(tc.want)/2 {
				t.Fatalf("%d findings, want %d:\n%s", len(found), len(tc.want)/2, strings.Join(found, "\n"))
			}
			for i, f := range found {
				if rule, says := tc.want[2*i], tc.want[2*i+1]; !strings.HasPrefix(f, rule+": ") || !strings.Contains(f, says) {
					t.Errorf("got  %s\nwant %s: … %s", f, rule, says)
				}
			}
		})
	}
}

// lossy decodes to another value than was encoded.
type lossy struct{ n byte }

func (l lossy) MarshalBinary() ([]byte, error) { return []byte{l.n}, nil }

func (l *lossy) UnmarshalBinary([]byte) error { return nil }

func TestBatchMustTravel(t *testing.T) {
	t.Parallel()
	ds := dataset.Funcs[int, int, lossy]{
		NextFunc:        func(i int) (int, int, error) { return i, i + 1, nil },
		MaterializeFunc: func(context.Context, int) (lossy, error) { return lossy{7}, nil },
	}
	s := suite[int, int, lossy]{ctx: t.Context(), one: ds, two: ds}
	if err := s.walk(); err != nil {
		t.Fatal(err)
	}
	if err := s.materialize(); err == nil || !strings.Contains(err.Error(), "encodes to other bytes") {
		t.Fatalf("got %v", err)
	}
}

func TestSlowNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := suite[position, job, any]{ctx: t.Context(), one: &numbers{next: func(p position) (job, position, error) {
			time.Sleep(11 * time.Second) // of the bubble's clock
			return job{}, p, nil
		}}}
		if err := s.walk(); err == nil || !strings.Contains(err.Error(), "took 11s") {
			t.Fatalf("got %v", err)
		}
	})
}

func TestStartStateMustTravel(t *testing.T) {
	t.Parallel()
	ds := dataset.Funcs[map[int]string, int, int]{}
	s := suite[map[int]string, int, int]{ctx: t.Context(), start: map[int]string{1: "x"}, one: ds, two: ds}
	if err := s.walk(); !errors.Is(err, schema.ErrStateNotCanonical) {
		t.Fatalf("got %v", err)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		n, most int
		want    []int
	}{
		{0, 4, []int{}},
		{1, 4, []int{0}},
		{3, 4, []int{0, 1, 2}},
		{4, 4, []int{0, 1, 2, 3}},
		{64, 4, []int{0, 21, 42, 63}},
	} {
		if got := spread(tc.n, tc.most); !slices.Equal(got, tc.want) {
			t.Errorf("spread(%d, %d) = %v, want %v", tc.n, tc.most, got, tc.want)
		}
	}
}

// tensors is a data set as a user writes it, with a generator in its state and an io.Closer.
type tensors struct{ closed *atomic.Int64 }

type draw struct{ PCG rand.PCG }

func (tensors) Start() (draw, error) { return draw{*rand.NewPCG(3, 4)}, nil }

func (tensors) Next(s draw) (uint64, draw, error) {
	seed := s.PCG.Uint64()
	return seed, s, nil
}

func (tensors) Materialize(_ context.Context, seed uint64) (schema.Batch, error) {
	x, err := schema.NewTensor([]int{2, 2}, []uint64{seed, 1, 2, 3})
	return schema.Batch{{Name: "x", Tensor: x}}, err
}

func (t tensors) Close() error {
	t.closed.Add(1)
	return nil
}

func TestRun(t *testing.T) {
	t.Parallel()
	var closed atomic.Int64
	t.Run("good", func(t *testing.T) {
		Run(t, func(closed *atomic.Int64) (tensors, error) { return tensors{closed}, nil }, &closed, draw{*rand.NewPCG(1, 2)})
	})
	if closed.Load() != 2 {
		t.Fatalf("closed %d times, want both openings once", closed.Load())
	}
}
