package datasettest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type position struct {
	I       int
	History []int
	Hidden  int `msgpack:"-"`
}

type job struct {
	I      int
	Data   []byte
	Hidden int `msgpack:"-"`
	Odd    lossy
}

// values is a batch.
type values struct {
	N       int
	Text    string
	Numbers []int
	Odd     lossy
}

// numbers is a good data set whose parts a test replaces by bad ones.
type numbers struct {
	length int
	start  func() (position, error)
	next   func(position) (job, position, error)
	batch  func(job) (values, error)

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

func (n *numbers) Materialize(_ context.Context, j job) (values, error) {
	n.calls.Add(1)
	if n.batch != nil {
		return n.batch(j)
	}
	return values{Text: fmt.Sprint(j.I)}, nil
}

type starting struct{ *numbers }

func (s starting) Start() (position, error) { return s.start() }

// check runs all rules over two openings and returns what they found, as "rule: message".
func check(t *testing.T, open func(opening int) dataset.Dataset[position, job, values]) []string {
	t.Helper()
	s := suite[position, job, values]{ctx: t.Context(), one: open(1), two: open(2)}
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
			n.batch = func(j job) (values, error) { return values{}, dataset.Skip(fmt.Sprint(j.I)) }
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
		"a field that is left out of the state": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				j.I += p.Hidden
				next.Hidden = 7
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
			n.batch = func(job) (values, error) { return values{N: int(n.calls.Load())}, nil }
		}, []string{"materialize", "called again, the job of step 0 yields another batch"}},
		"batches that differ between openings": {func(n *numbers) {
			n.batch = func(job) (values, error) { return values{N: n.opening}, nil }
		}, []string{"materialize", "in a second opening"}},
		"skips that differ": {func(n *numbers) {
			n.batch = func(job) (values, error) { return values{}, dataset.Skip(fmt.Sprint(n.calls.Load())) }
		}, []string{"materialize", "skipped: "}},
		"a field that is left out of the job": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				j.Hidden = 7
				return j, next, err
			}
			n.batch = func(j job) (values, error) { return values{N: j.Hidden}, nil }
		}, []string{"materialize", "exported fields of the job"}},
		"a job that decodes to another": {func(n *numbers) {
			n.next = func(p position) (job, position, error) {
				j, next, err := n.good(p)
				j.Odd.n = 7
				return j, next, err
			}
		}, []string{"roundtrip", "step 0: the job, decoded, is another: job.Odd"}},
		"batches in one buffer": {func(n *numbers) {
			var mu sync.Mutex
			buffer := make([]int, 2)
			n.batch = func(j job) (values, error) {
				mu.Lock()
				defer mu.Unlock()
				buffer[0] = j.I
				return values{Numbers: buffer}, nil
			}
		}, []string{"materialize", "must not reuse the memory"}},
		"a truncated file": {func(n *numbers) {
			n.batch = func(job) (values, error) { return values{}, fmt.Errorf("samples: %w", io.EOF) }
		}, []string{"materialize", "io.ErrUnexpectedEOF"}},
		"a job that fails": {func(n *numbers) {
			n.batch = func(job) (values, error) { return values{}, disk }
		}, []string{"materialize", "disk on fire"}},
		"a batch that cannot be encoded": {func(n *numbers) {
			n.batch = func(job) (values, error) { return values{Odd: lossy{bad: true}}, nil }
		}, []string{"materialize", "cannot travel"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := check(t, func(opening int) dataset.Dataset[position, job, values] {
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
type lossy struct {
	n   byte
	bad bool
}

func (l lossy) MarshalBinary() ([]byte, error) {
	if l.bad {
		return nil, errors.New("bad")
	}
	return []byte{l.n}, nil
}

func (l *lossy) UnmarshalBinary([]byte) error { return nil }

func TestBatchMustTravel(t *testing.T) {
	t.Parallel()
	ds := dataset.Funcs[int, int, lossy]{
		NextFunc:        func(i int) (int, int, error) { return i, i + 1, nil },
		MaterializeFunc: func(context.Context, int) (lossy, error) { return lossy{n: 7}, nil },
	}
	s := suite[int, int, lossy]{ctx: t.Context(), one: ds, two: ds}
	if err := s.walk(); err != nil {
		t.Fatal(err)
	}
	if err := s.materialize(); err == nil || !strings.Contains(err.Error(), "the batch, decoded, is another: batch: sent") {
		t.Fatalf("got %v", err)
	}
}

func TestSlowNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := suite[position, job, values]{ctx: t.Context(), one: &numbers{next: func(p position) (job, position, error) {
			time.Sleep(11 * time.Second) // of the bubble's clock
			return job{}, p, nil
		}}}
		if err := s.walk(); err == nil || !strings.Contains(err.Error(), "took 11s") {
			t.Fatalf("got %v", err)
		}
	})
}

// Values whose encoding says less than they do: encodings agree with one another, and values do not.
func TestTypesMustTravel(t *testing.T) {
	t.Parallel()
	type hides struct{ name string }
	ds := dataset.Funcs[int, hides, int]{
		NextFunc:        func(i int) (hides, int, error) { return hides{"x"}, i + 1, nil },
		MaterializeFunc: func(_ context.Context, j hides) (int, error) { return len(j.name), nil },
	}
	s := suite[int, hides, int]{ctx: t.Context(), one: ds, two: ds}
	if err := s.rules()[0].check(); !errors.Is(err, dataset.ErrType) || !strings.Contains(err.Error(), "job.name (string)") {
		t.Fatalf("got %v", err)
	}
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

// A good data set keeps to all rules, and both of its openings are closed.
func TestRun(t *testing.T) {
	t.Parallel()
	var closed atomic.Int64
	t.Run("good", func(t *testing.T) {
		open := func(ctx context.Context, p testset.Params) (*testset.Set, error) {
			return testset.Open(ctx, p, &testset.Hooks{Close: func() error {
				closed.Add(1)
				return nil
			}})
		}
		Run(t, open, testset.Params{N: 40, HoleEvery: 7}, testset.Position{Seed: 1})
	})
	if closed.Load() != 2 {
		t.Fatalf("closed %d times, want both openings once", closed.Load())
	}
}
