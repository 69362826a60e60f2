package main

import (
	"context"
	"fmt"
	"time"
)

const fanoutWhat = "several batchers at once on one coordinator, 1 KB jobs and results, window 1024 of all together"

// opTakeAll takes from several batchers at once.
const opTakeAll = "take-all"

type takeAllArg struct {
	Names []string `json:"names"`
	Warm  int      `json:"warm"` // of each, as of takeArg
	Timed int      `json:"timed"`
}

type takeAllAnswer struct {
	Elapsed time.Duration `json:"elapsed"` // from when the first one had its warm ones until the last one had all
	Bytes   int64         `json:"bytes"`
}

func fanout(ctx context.Context, b *bench) (*Report, error) {
	service, trainer, err := b.service(ctx, "service", serviceConfig{Workers: 1})
	if err != nil {
		return nil, err
	}
	floor, consumer, err := b.floorSmall(ctx, "floor", floorArg{Window: smallWindow, Bytes: smallBytes})
	if err != nil {
		return nil, err
	}
	report := &Report{}
	timed := b.quick(6_400, 25_600)
	for _, n := range []int{1, 8, 64} {
		if b.opts.quick && n != 8 {
			continue
		}
		arg := takeAllArg{Warm: 2 * smallWindow / n, Timed: timed / n}
		for i := range n {
			open := openArg{
				Name: fmt.Sprintf("fanout-%d-%d", n, i), Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, smallBytes), Window: smallWindow / n,
			}
			if err := trainer.call(ctx, opOpen, open, nil); err != nil {
				return nil, err
			}
			arg.Names = append(arg.Names, open.Name)
		}
		samples, err := b.measure(ctx,
			takingAll(service, trainer, arg),
			taking(floor, consumer, takeArg{Warm: 2 * smallWindow, Timed: timed}, perSecond),
		)
		if err != nil {
			return nil, err
		}
		report.Rows = append(report.Rows, row(fmt.Sprintf("%d batchers", n), "raw NATS, one sequence", "batches/s", samples[0], samples[1]))
	}
	return report, b.addPeaks(ctx, report, service, floor)
}

// takingAll is an entry that takes from several batchers at once.
func takingAll(s *side, trainer *process, arg takeAllArg) entry {
	n := len(arg.Names)
	return entry{s, func(ctx context.Context) (outcome, error) {
		var answer takeAllAnswer
		if err := trainer.call(ctx, opTakeAll, arg, &answer); err != nil {
			return outcome{}, err
		}
		return outcome{
			Value:   per(float64(n*arg.Timed), answer.Elapsed.Seconds()),
			Batches: n * (arg.Warm + arg.Timed), Bytes: answer.Bytes,
		}, nil
	}}
}

// takeAll takes from all at once.
func (t *trainer) takeAll(ctx context.Context, arg takeAllArg) (takeAllAnswer, error) {
	type result struct {
		takeAnswer
		ended time.Time
		err   error
	}
	results := make(chan result)
	for _, name := range arg.Names {
		go func() {
			a, err := t.take(ctx, takeArg{Name: name, Warm: arg.Warm, Timed: arg.Timed})
			results <- result{a, time.Now(), err}
		}()
	}
	var answer takeAllAnswer
	var first error
	var began, ended time.Time
	for range arg.Names {
		r := <-results
		if r.err != nil {
			first = r.err
		}
		if at := r.ended.Add(-r.Elapsed); began.IsZero() || at.Before(began) {
			began = at
		}
		if r.ended.After(ended) {
			ended = r.ended
		}
		answer.Bytes += r.Bytes
	}
	answer.Elapsed = ended.Sub(began)
	return answer, first
}
