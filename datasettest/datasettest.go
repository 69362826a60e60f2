// Package datasettest checks that a data set keeps the contract of package dataset, as testing/fstest does for file
// systems. One call in a test of the author's own, with the function that dataset.Define has:
//
//	func TestConformance(t *testing.T) {
//		datasettest.Run(t, open, Params{Dir: "testdata"}, State{Seed: 1})
//	}
//
// What it finds would otherwise show as batches that differ from run to run or after a resumption: state kept outside
// of the state, fields that do not travel, buffers that two calls share, map order and wall clocks in a batch, an end
// of the data that is an error. It uses no NATS and no network.
package datasettest

import (
	"context"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/travel"
)

// Bounds of what [Run] looks at.
const (
	MaxSteps        = 64 // steps from the start; Next is called 8 times on each state
	MaxMaterialized = 16 // jobs, spread over those steps, that are materialized; 6 times each
)

// Run opens the data set twice with params, follows Next for up to [MaxSteps] steps from start, materializes up to
// [MaxMaterialized] of the jobs, and fails t, in one subtest per rule, where the data set does not keep to a rule:
//
//   - types: values of state, job and batch come back from another process as they were; see dataset.Definition.Validate
//   - walk: Next yields jobs and states that can be encoded, with states of at most schema.MaxState bytes and jobs
//     of at most one message of 1 MiB, each within 10 s
//   - unchanged: no call changes a state or a job that was handed out or given before
//   - pure: the same state yields the same bytes again, in any order, from several goroutines, and from a second opening
//   - roundtrip: a state or a job that was encoded and decoded is what it was, and the state yields what the original
//     yields
//   - end: the end of the data is exactly io.EOF, again and again
//   - start: Start, if there is one, always yields the same state, and Next takes it
//   - materialize: a job yields the same bytes again, encoded and decoded, concurrently, and in a second opening; a job
//     that is skipped is skipped for the same reason; a batch decodes to what it was
//
// The end of the data is seen only when it is within reach of start, so let start or params be such that it is, or call
// Run once more for it. Run closes a data set that is an io.Closer. Run it with -race to see data races as well.
func Run[P, S, J, B any, D dataset.Dataset[S, J, B]](t *testing.T, open func(context.Context, P) (D, error), params P, start S) {
	t.Helper()
	s := suite[S, J, B]{ctx: t.Context(), start: start}
	for _, ds := range []*dataset.Dataset[S, J, B]{&s.one, &s.two} {
		opened, err := open(t.Context(), params)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		*ds = opened
		if c, ok := any(opened).(io.Closer); ok {
			t.Cleanup(func() {
				if err := c.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
		}
	}
	for _, r := range s.rules() {
		t.Run(r.name, func(t *testing.T) {
			if err := r.check(); err != nil {
				t.Error(err)
			}
		})
	}
	if !s.ended {
		t.Logf("the end of the data was not reached in %d steps and not looked at", len(s.steps))
	}
}

// types looks at the types alone.
func (s *suite[S, J, B]) types() error {
	return errors.Join(
		travel.Check(reflect.TypeFor[S](), "state"), travel.Check(reflect.TypeFor[J](), "job"), travel.Check(reflect.TypeFor[B](), "batch"))
}

// suite is one conformance run: two openings of a data set and what was seen of them.
type suite[S, J, B any] struct {
	ctx      context.Context
	start    S
	one, two dataset.Dataset[S, J, B]

	steps []step[S, J]
	ended bool   // the walk came to the end of the data
	last  []byte // the encoded state that the walk ended at
	lost  error  // the first state or job that decodes to another value
}

// step is one call of Next. The values are kept to see whether later calls change them.
type step[S, J any] struct {
	state              S
	job                J
	before, body, next []byte // state, job and state after, encoded at once
}

type rule struct {
	name  string
	check func() error
}

// rules are in order: all but start need the walk, and pure trusts states only if they are unchanged.
func (s *suite[S, J, B]) rules() []rule {
	return []rule{
		{"types", s.types},
		{"walk", s.walk},
		{"unchanged", s.unchanged},
		{"pure", s.pure},
		{"roundtrip", s.roundTrip},
		{"end", s.end},
		{"start", s.startAgain},
		{"materialize", s.materialize},
	}
}
