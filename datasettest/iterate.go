package datasettest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/travel"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	maxJobMessage = 1 << 20          // the server's default max_payload
	maxNext       = 10 * time.Second // after which the service fails the run
)

// walk calls Next from the start as a trainer would that keeps its states in memory.
func (s *suite[S, J, B]) walk() error {
	state := s.start
	encoded, err := schema.NewState(state)
	if err != nil {
		return fmt.Errorf("the start state cannot travel: %w", err)
	}
	s.last = encoded.Data
	for i := range MaxSteps {
		began := time.Now()
		job, next, err := s.one.Next(state)
		took := time.Since(began)
		switch {
		case err == io.EOF: //nolint:errorlint // exactly io.EOF is the contract
			s.ended = true
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("step %d: Next returned an error that wraps io.EOF: %w\nThat fails the run. Return io.EOF itself where the data ends, and io.ErrUnexpectedEOF where a file is cut short.", i, err)
		case err != nil:
			return fmt.Errorf("step %d: Next of state %s: %w\nNext must not fail on a state that it or Start returned; read files in Materialize.", i, show(state), err)
		case took > maxNext:
			return fmt.Errorf("step %d: Next took %v; the service gives up after %v\nMove the work to Materialize, or to open.", i, took, maxNext)
		}
		body, err := msgp.Marshal(job)
		if err != nil {
			return fmt.Errorf("step %d: the job cannot travel: %w", i, err)
		}
		after, err := schema.NewState(next)
		if err != nil {
			return fmt.Errorf("step %d: the state after it cannot travel: %w\nKeep exported fields of plain types, and a generator and an index instead of data.", i, err)
		}
		if s.lost == nil { // seen now: a later call may change what was returned, which is another rule
			if err := errors.Join(cameBack(job, body, "job"), cameBack(next, after.Data, "state after it")); err != nil {
				s.lost = fmt.Errorf("step %d: %w", i, err)
			}
		}
		message := wire.AppendJob(nil, &wire.Job{Seq: uint64(i + 1), Prev: s.last, Next: after.Data, Body: body})
		if len(message) > maxJobMessage {
			return fmt.Errorf("step %d: a job of %d bytes encoded; with its states it must fit %d\nSend what to load, such as a path and an offset, and not what was loaded.", i, len(body), maxJobMessage)
		}
		s.steps = append(s.steps, step[S, J]{state: state, job: job, before: s.last, body: body, next: after.Data})
		state, s.last = next, after.Data
	}
	return nil
}

// unchanged encodes every state and job of the walk once more.
func (s *suite[S, J, B]) unchanged() error {
	for i := range s.steps {
		st := &s.steps[i]
		if now, err := msgp.Marshal(st.state); err != nil || !bytes.Equal(now, st.before) {
			return fmt.Errorf("the state of step %d was changed by a call of Next; it is now %s (error: %v)\nNext must not write to slices, maps or pointers in its state: copy them first (slices.Clone, maps.Clone).", i, show(st.state), err)
		}
		if now, err := msgp.Marshal(st.job); err != nil || !bytes.Equal(now, st.body) {
			return fmt.Errorf("the job of step %d was changed by a later call of Next; it is now %s (error: %v)\nA job must not share slices, maps or pointers with the state or the data set: make new ones.", i, show(st.job), err)
		}
	}
	return nil
}

// pure repeats the walk in other orders, concurrently and in the other opening.
func (s *suite[S, J, B]) pure() error {
	const advice = "Next must depend on its state alone: keep counters, generators and caches of positions in the state, use no clock, no global random numbers and no map order."
	for i := range s.steps {
		if err := s.compare(s.one, i); err != nil {
			return fmt.Errorf("called again, %w\n%s", err, advice)
		}
	}
	for i := range s.steps {
		if err := s.compare(s.two, len(s.steps)-1-i); err != nil {
			return fmt.Errorf("in a second opening with the same parameters, and from the last state to the first, %w\n%s", err, advice)
		}
	}
	var group errgroup.Group
	for _, order := range orders(len(s.steps)) {
		group.Go(func() error {
			for _, i := range order {
				if err := s.compare(s.one, i); err != nil {
					return fmt.Errorf("called from several goroutines, %w\nNext runs concurrently: it must not write to fields of the data set.", err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// orders are four orders of n steps: forward, backward and two shuffled ones, the same in every run.
func orders(n int) [][]int {
	all := make([][]int, 4)
	for g := range all {
		all[g] = rand.New(rand.NewPCG(uint64(g), uint64(n))).Perm(n)
	}
	slices.Sort(all[0])
	slices.Sort(all[1])
	slices.Reverse(all[1])
	return all
}

// compare calls Next on a private copy of the state of step i, as the service does. Where the copy itself is at fault,
// which roundTrip reports, it takes the original's word.
func (s *suite[S, J, B]) compare(ds dataset.Dataset[S, J, B], i int) error {
	err := s.compareFrom(ds, i, nil)
	if err != nil && s.compareFrom(ds, i, &s.steps[i].state) == nil {
		return nil
	}
	return err
}

// compareFrom calls Next on *state, or where that is nil on a decoded copy of the state of step i.
func (s *suite[S, J, B]) compareFrom(ds dataset.Dataset[S, J, B], i int, state *S) error {
	st := &s.steps[i]
	if state == nil {
		state = new(S)
		if err := msgp.Unmarshal(st.before, state); err != nil {
			return fmt.Errorf("the state of step %d does not decode: %w", i, err)
		}
	}
	job, next, err := ds.Next(*state)
	if err != nil {
		return fmt.Errorf("the state of step %d yields the error %w", i, err)
	}
	body, err := msgp.Marshal(job)
	if err != nil {
		return fmt.Errorf("the state of step %d yields a job that cannot travel: %w", i, err)
	}
	after, err := msgp.Marshal(next)
	switch {
	case err != nil:
		return fmt.Errorf("the state of step %d yields a state that cannot travel: %w", i, err)
	case !bytes.Equal(body, st.body):
		return fmt.Errorf("the state of step %d yields another job:\n\tfirst %s\n\tnow   %s", i, show(st.job), show(job))
	case !bytes.Equal(after, st.next):
		return fmt.Errorf("the state of step %d yields another state after it: now %s", i, show(next))
	}
	return nil
}

// roundTrip reports what the walk saw come back as another value, and compares what it saw, on states as they were
// returned, with what decoded ones yield.
func (s *suite[S, J, B]) roundTrip() error {
	if s.lost != nil {
		return s.lost
	}
	for i := range s.steps {
		err := s.compareFrom(s.one, i, nil)
		if err == nil || s.compareFrom(s.one, i, &s.steps[i].state) != nil {
			continue // pure has reported what differs every time
		}
		return fmt.Errorf("after encoding and decoding, %w\nEverything that Next looks at must be in exported fields of the state without a msgpack:\"-\" tag, or the state must encode itself (encoding.BinaryMarshaler).", err)
	}
	return nil
}

// cameBack compares a value with what its encoding decodes to.
func cameBack[V any](v V, encoded []byte, name string) error {
	var decoded V
	if err := msgp.Unmarshal(encoded, &decoded); err != nil {
		return fmt.Errorf("the %s does not decode: %w", name, err)
	}
	if d := travel.Diff(v, decoded, name); d != "" {
		return fmt.Errorf("the %s, decoded, is another: %s\nIts own encoder and decoder must agree, and keep all of it.", name, d)
	}
	return nil
}

// end asks for what follows the last state of a walk that came to the end of the data.
func (s *suite[S, J, B]) end() error {
	if !s.ended {
		return nil
	}
	ask := func(ds dataset.Dataset[S, J, B]) error {
		var state S
		if err := msgp.Unmarshal(s.last, &state); err != nil {
			return fmt.Errorf("the state at the end of the data does not decode: %w", err)
		}
		if _, _, err := ds.Next(state); err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
			return fmt.Errorf("the end of the data did not stay: Next of state %s returned io.EOF first, and now the error %v\nReturn exactly io.EOF, unwrapped, whenever the state is at the end, and keep in the state what tells so.", show(state), err)
		}
		return nil
	}
	for _, ds := range []dataset.Dataset[S, J, B]{s.one, s.one, s.two} {
		if err := ask(ds); err != nil {
			return err
		}
	}
	var group errgroup.Group
	for range 4 {
		group.Go(func() error { return ask(s.one) })
	}
	return group.Wait()
}

// startAgain compares the first states of both openings.
func (s *suite[S, J, B]) startAgain() error {
	var first schema.State
	for i, ds := range []dataset.Dataset[S, J, B]{s.one, s.one, s.two} {
		starter, ok := ds.(dataset.Starter[S])
		if !ok {
			return nil
		}
		state, err := starter.Start()
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		encoded, err := schema.NewState(state)
		if err != nil {
			return fmt.Errorf("the state that Start returns cannot travel: %w", err)
		}
		if i == 0 {
			first = encoded
		}
		if !encoded.Equal(first) {
			return fmt.Errorf("calls of Start do not agree; the last one returned %s\nDerive the first state from the parameters: a seed is a parameter, not a clock.", show(state))
		}
		if _, _, err := ds.Next(state); err != nil && err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
			return fmt.Errorf("the state that Start returns is not one that Next takes: %w", err)
		}
	}
	return nil
}

// show is a value in a line of text.
func show(v any) string {
	const most = 200
	text := fmt.Sprintf("%+v", v)
	if len(text) > most {
		text = text[:most] + " …"
	}
	return text
}
