package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const workersWhat = "many workers, many batchers: CPU per batch beside that of 4 workers with as many slots and one batcher"

// A crowd is one shape of the service. All shapes have as many batches per second to make, so that what each costs per
// second counts alike.
type crowd struct {
	workers, slots int // slots of each
	batchers       int
}

const (
	crowdRate  = 4000 // batches per second
	crowdFirst = 1    // second, in which all batchers that are opened at once are to have their first batch

	crowdJoined = 100 * time.Millisecond // in which a worker that comes is to have its first job
)

// sleep is how long a job takes.
func (c crowd) sleep() time.Duration {
	return time.Duration(c.workers*c.slots) * time.Second / crowdRate
}

func (c crowd) String() string {
	return fmt.Sprintf("%d workers x %d, batchers: %d", c.workers, c.slots, c.batchers)
}

func workers(ctx context.Context, b *bench) (*Report, error) {
	few := crowd{4, 50, 1}
	ours, err := b.crowd(ctx, few)
	if err != nil {
		return nil, err
	}
	raw, err := b.floorCrowd(ctx, few, ours.arg)
	if err != nil {
		return nil, err
	}
	report := &Report{Notes: []string{"raw NATS: the least that so many workers cost, each with a connection of its own, and one sequence"}}
	crowds := []crowd{{200, 1, 1}, {200, 1, 20}, {200, 1, 100}, {1000, 1, 1}}
	if b.opts.quick {
		crowds = []crowd{{200, 1, 20}}
	}
	if b.opts.tiny {
		crowds = []crowd{{20, 1, 3}, {20, 1, 1}}
	}
	for _, c := range crowds {
		if err := b.compareCrowd(ctx, report, c, ours.entry, raw); err != nil {
			return nil, err
		}
	}
	return report, b.addPeaks(ctx, report, ours.entry.side, raw.side)
}

// compareCrowd adds the rows of one shape, beside four workers of ours and of raw NATS.
func (b *bench) compareCrowd(ctx context.Context, report *Report, c crowd, few, rawFew entry) error {
	many, err := b.crowd(ctx, c)
	if err != nil {
		return err
	}
	entries := []entry{many.entry, few}
	if c.batchers == 1 {
		raw, err := b.floorCrowd(ctx, c, many.arg)
		if err != nil {
			return err
		}
		entries = append(entries, raw, rawFew)
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return err
	}
	alone := func(r Row) Row { // a figure without costs
		r.dropCosts()
		return r
	}
	report.Rows = append(report.Rows,
		alone(row(c.String(), againstRate, "batches/s", samples[0], constant(crowdRate, len(samples[0])))),
		row(c.String(), againstFew, "batches/s", samples[0], samples[1]),
		alone(row(c.String()+": first batch of the last", againstAllowed, "s", many.first, constant(crowdFirst, 1))))
	ending := []*side{many.entry.side}
	if c.batchers == 1 {
		report.Rows = append(report.Rows,
			row(c.String(), againstCrew, "batches/s", samples[0], samples[2]),
			row("raw NATS, "+c.String(), againstCrewOfFew, "batches/s", samples[2], samples[3]))
		ending = append(ending, entries[2].side)
	} else {
		came, err := b.joining(ctx, c, many)
		if err != nil {
			return err
		}
		joined := row(c.String()+": first job of a worker that comes", againstAllowed, "s", came, constant(crowdJoined.Seconds(), len(came)))
		report.Rows = append(report.Rows,
			alone(row(c.String()+": slowest batcher", againstMean, "of it", many.slowest[1:], constant(1, b.opts.rounds))), alone(joined))
	}
	return b.over(ctx, report, ending...)
}

// joining starts one worker after another while all batchers are taken from, and returns after what time each had its
// first job.
func (b *bench) joining(ctx context.Context, c crowd, many *crew) (came []sample, err error) {
	joined := make(chan error, 1)
	go func() {
		for range b.opts.rounds {
			var took time.Duration
			newcomer, err := many.entry.side.start(ctx, "newcomer", workerArg{URL: many.url, Slots: c.slots}, nil)
			if err == nil {
				err = newcomer.call(ctx, opFirstJob, nil, &took)
			}
			if err != nil {
				joined <- err
				return
			}
			came = append(came, sample{outcome: outcome{Value: took.Seconds()}})
		}
		joined <- nil
	}()
	for {
		err := many.trainer.call(ctx, opShare, shareArg{For: time.Second}, nil)
		select {
		case failed := <-joined:
			return came, errors.Join(err, failed)
		default:
		}
		if err != nil {
			return nil, errors.Join(err, <-joined)
		}
	}
}

// crew is a crowd at work.
type crew struct {
	url     string
	trainer *process
	entry   entry
	arg     takeArg  // of a round, of one batcher
	first   []sample // one: how long it took until all batchers, opened at once, had their first batch
	slowest []sample // of rounds with several batchers: what the slowest of them had, of their mean
}

// opOpenAll opens batchers at once and takes the first batch of each.
const opOpenAll = "open-all"

func (t *trainer) openAll(ctx context.Context, all []openArg) (took time.Duration, err error) {
	opened := make([]batcher, len(all))
	errs := make([]error, len(all))
	began := time.Now()
	var opening sync.WaitGroup
	for i, arg := range all {
		opening.Go(func() {
			if opened[i], errs[i] = t.handle(ctx, arg); errs[i] == nil {
				_, errs[i] = opened[i].take(ctx)
			}
		})
	}
	opening.Wait()
	took = time.Since(began)
	for i, b := range opened {
		if b != nil {
			t.batchers[all[i].Name] = b
		}
	}
	return took, errors.Join(errs...)
}

// crowdTime is how long so many batches take.
func (b *bench) crowdTime(batches int) time.Duration {
	return time.Duration(b.quick(batches/2, batches)) * time.Second / crowdRate
}

// opShare takes from all batchers for a while, and then for another in which their batches are counted: it begins when
// what lay ready before is taken.
const opShare = "share"

type shareArg struct {
	Warm time.Duration `json:"warm"`
	For  time.Duration `json:"for"`
}

type shareAnswer struct {
	Slowest float64 `json:"slowest"` // how many batches the batcher with the fewest had, of their mean
	Rate    float64 `json:"rate"`    // batches per second of all
	All     int     `json:"all"`     // batches, those of before included
	Bytes   int64   `json:"bytes"`   // of these
}

func (t *trainer) share(ctx context.Context, arg shareArg) (shareAnswer, error) {
	type count struct {
		n, all int
		bytes  int64
	}
	counts := make(chan count)
	errs := make(chan error, len(t.batchers))
	began := time.Now()
	for _, b := range t.batchers {
		go func() {
			var c count
			for time.Since(began) < arg.Warm+arg.For {
				n, err := b.take(ctx)
				if err != nil {
					errs <- err
					break
				}
				c.all, c.bytes = c.all+1, c.bytes+int64(n)
				if since := time.Since(began); since > arg.Warm && since < arg.Warm+arg.For {
					c.n++
				}
			}
			counts <- c
		}()
	}
	fewest, sum := -1, 0
	var answer shareAnswer
	for range t.batchers {
		c := <-counts
		if sum += c.n; fewest < 0 || c.n < fewest {
			fewest = c.n
		}
		answer.All, answer.Bytes = answer.All+c.all, answer.Bytes+c.bytes
	}
	close(errs)
	answer.Slowest, answer.Rate = per(float64(fewest*len(t.batchers)), float64(sum)), per(float64(sum), arg.For.Seconds())
	return answer, <-errs
}

// crowd starts a service of that shape and takes a window of each batcher.
func (b *bench) crowd(ctx context.Context, c crowd) (*crew, error) {
	var url string
	service, trainer, err := b.service(ctx, c.String(), serviceConfig{Workers: 1, Crew: c.workers, Slots: c.slots, URL: &url})
	if err != nil {
		return nil, err
	}
	arg := takeAllArg{Warm: b.quick(1, 2) * crowdRate / 2, Timed: b.quick(1, 4) * crowdRate}
	var all []openArg
	for i := range c.batchers {
		open := openArg{
			Name: fmt.Sprintf("crowd-%d", i), Dataset: sleepName, Params: fmt.Appendf(nil, `{"sleep":%d}`, c.sleep()),
		}
		all = append(all, open)
		arg.Names = append(arg.Names, open.Name)
	}
	var took time.Duration
	if err := trainer.call(ctx, opOpenAll, all, &took); err != nil {
		return nil, err
	}
	made := &crew{
		url: url, trainer: trainer, arg: takeArg{Warm: arg.Warm, Timed: arg.Timed},
		first: []sample{{outcome: outcome{Value: took.Seconds()}}},
	}
	made.entry = entry{service, func(ctx context.Context) (outcome, error) {
		if c.batchers > 1 {
			return made.shared(ctx, shareArg{Warm: b.crowdTime(2 * c.workers * c.slots * c.batchers), For: b.crowdTime(4 * crowdRate)})
		}
		var answer takeAllAnswer
		if err := trainer.call(ctx, opTakeAll, arg, &answer); err != nil {
			return outcome{}, err
		}
		return outcome{
			Value: per(float64(arg.Timed), answer.Elapsed.Seconds()), Batches: arg.Warm + arg.Timed, Bytes: answer.Bytes,
		}, nil
	}}
	_, err = made.entry.run(ctx) // whatever is done once
	return made, err
}

// shared takes from all batchers at their own pace.
func (c *crew) shared(ctx context.Context, arg shareArg) (outcome, error) {
	var answer shareAnswer
	if err := c.trainer.call(ctx, opShare, arg, &answer); err != nil {
		return outcome{}, err
	}
	c.slowest = append(c.slowest, sample{outcome: outcome{Value: answer.Slowest}})
	return outcome{Value: answer.Rate, Batches: answer.All, Bytes: answer.Bytes}, nil
}
