package datasettest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/travel"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// outcome is what came of a job: a batch, by its digest, or a skip.
type outcome struct {
	digest  wire.Digest
	size    int
	skipped bool
	reason  string
}

func (o outcome) String() string {
	if o.skipped {
		return fmt.Sprintf("skipped: %s", o.reason)
	}
	return fmt.Sprintf("%d bytes, digest %s", o.size, o.digest)
}

// materialize compares the outcomes of jobs from call to call. It keeps digests, since batches may be large.
func (s *suite[S, J, B]) materialize() error {
	picked := spread(len(s.steps), MaxMaterialized)
	first, err := s.firstOutcomes(picked)
	if err != nil {
		return err
	}
	for i, at := range picked {
		got, err := s.again(s.one, at)
		if err != nil {
			return err
		}
		if got == first[i] {
			continue
		}
		if live, _, err := run(s, s.one, at, s.steps[at].job); err == nil && live == first[i] {
			return fmt.Errorf("the job of step %d, encoded and decoded, yields another batch:\n\tfirst %v\n\tnow   %v\nEverything that Materialize looks at must be in exported fields of the job without a msgpack:\"-\" tag: the worker sees nothing else of it.", at, first[i], got)
		}
		return differs("called again", at, first[i], got)
	}
	var group errgroup.Group
	for g, order := range orders(len(picked)) {
		ds, where := s.one, "called from several goroutines"
		if g%2 == 1 {
			ds, where = s.two, "in a second opening with the same parameters"
		}
		group.Go(func() error {
			for _, i := range order {
				got, err := s.again(ds, picked[i])
				if err != nil {
					return fmt.Errorf("%s: %w", where, err)
				}
				if got != first[i] {
					return differs(where, picked[i], first[i], got)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func differs(where string, at int, first, now outcome) error {
	return fmt.Errorf("%s, the job of step %d yields another batch:\n\tfirst %v\n\tnow   %v\nSeed every random generator from the job, iterate over sorted keys instead of maps, use no clock, and share no buffers between calls.", where, at, first, now)
}

// firstOutcomes materializes the jobs as Next returned them, one by one, and sees whether a batch stays what it is
// while the next one is made, and whether it decodes.
func (s *suite[S, J, B]) firstOutcomes(picked []int) ([]outcome, error) {
	var outcomes []outcome
	var held *B // the batch before
	for _, at := range picked {
		o, batch, err := run(s, s.one, at, s.steps[at].job)
		if err != nil {
			return nil, err
		}
		if held != nil {
			before := outcomes[len(outcomes)-1]
			payload, err := wire.AppendPayload(nil, *held)
			if err != nil || wire.Sum(payload) != before.digest {
				return nil, fmt.Errorf("a batch was changed by the next call of Materialize, that for step %d (error: %v)\nMaterialize must not reuse the memory of a batch that it returned: allocate, or copy.", at, err)
			}
		}
		outcomes, held = append(outcomes, o), batch
	}
	return outcomes, nil
}

// again materializes a decoded copy of the job of step at, as a worker does.
func (s *suite[S, J, B]) again(ds dataset.Dataset[S, J, B], at int) (outcome, error) {
	var job J
	if err := msgp.Unmarshal(s.steps[at].body, &job); err != nil {
		return outcome{}, fmt.Errorf("the job of step %d does not decode: %w", at, err)
	}
	o, _, err := run(s, ds, at, job)
	return o, err
}

// run materializes one job; batch is nil when the job is skipped.
func run[S, J, B any](s *suite[S, J, B], ds dataset.Dataset[S, J, B], at int, job J) (o outcome, batch *B, err error) {
	b, err := ds.Materialize(s.ctx, job)
	if reason, ok := dataset.SkipReason(err); ok {
		return outcome{skipped: true, reason: reason}, nil, nil
	}
	switch {
	case errors.Is(err, io.EOF):
		return o, nil, fmt.Errorf("step %d: Materialize of job %s: %w\nThe end of the data is for Next to say. Return io.ErrUnexpectedEOF where a file is cut short.", at, show(job), err)
	case err != nil:
		return o, nil, fmt.Errorf("step %d: Materialize of job %s: %w\nReturn dataset.Skip for a job without a batch.", at, show(job), err)
	}
	payload, err := wire.AppendPayload(nil, b)
	if err != nil {
		return o, nil, fmt.Errorf("step %d: the batch cannot travel: %w", at, err)
	}
	decoded, err := wire.DecodePayload[B](payload)
	if err != nil {
		return o, nil, fmt.Errorf("step %d: the batch does not decode: %w", at, err)
	}
	if d := travel.Diff(b, decoded, "batch"); d != "" {
		return o, nil, fmt.Errorf("step %d: the batch, decoded, is another: %s\nIts own encoder and decoder must agree, and keep all of it.", at, d)
	}
	back, err := wire.AppendPayload(nil, decoded)
	if err != nil || !bytes.Equal(back, payload) {
		return o, nil, fmt.Errorf("step %d: the batch, decoded, encodes to other bytes (error: %v)\nThe trainer gets exported fields only; schema.Batch is the type for tensors.", at, err)
	}
	return outcome{digest: wire.Sum(payload), size: len(payload)}, &b, nil
}

// spread picks at most most of n steps: the first, the last and evenly between.
func spread(n, most int) []int {
	if n <= most {
		most = n
	}
	picked := make([]int, most)
	for i := range picked {
		if most > 1 {
			picked[i] = i * (n - 1) / (most - 1)
		}
	}
	return picked
}
