package main

import (
	"context"
	"fmt"
)

// readers is the pace of a reader beside another that takes nothing any more, at first within the lag and then further
// behind, beside a reader that is alone.
func (b *bench) readers(ctx context.Context, report *Report) error {
	const slots = 16
	const window = 2*slots + 1
	service, trainer, err := b.service(ctx, "readers of jobs of 20 ms", serviceConfig{Workers: 2, Slots: slots / 2})
	if err != nil {
		return err
	}
	// The other reader falls out of the lag when the first has taken half of the timed batches.
	arg := takeArg{Warm: window, Timed: b.quick(50, 100) * slots}
	run := func(name string, readers ...string) entry {
		round := 0
		return entry{service, func(ctx context.Context) (outcome, error) {
			round++
			of := fmt.Sprint(name, "-", round)
			for _, reader := range readers {
				open := openArg{
					Name: of, As: of + reader, Dataset: sleepName, Params: []byte(`{}`), Window: window, Reader: reader,
					Lag: arg.Warm + arg.Timed/2,
				}
				if err := trainer.call(ctx, opOpen, open, nil); err != nil {
					return outcome{}, err
				}
			}
			for _, reader := range readers[1:] {
				if err := trainer.call(ctx, opTake, takeArg{Name: of + reader, Timed: 1}, nil); err != nil {
					return outcome{}, err
				}
			}
			var answer takeAnswer
			take := arg
			take.Name = of + readers[0]
			if err := trainer.call(ctx, opTake, take, &answer); err != nil {
				return outcome{}, err
			}
			out := outcome{
				Value: per(float64(arg.Timed), answer.Elapsed.Seconds()), Batches: arg.Warm + arg.Timed, Bytes: answer.Bytes,
			}
			for _, reader := range readers {
				if err := trainer.call(ctx, opEnd, of+reader, nil); err != nil {
					return outcome{}, err
				}
			}
			return out, nil
		}}
	}
	samples, err := b.measure(ctx, run("pair", "fast", "stopped"), run("single", "fast"))
	if err != nil {
		return err
	}
	report.Rows = append(report.Rows, row("reader beside one that stopped", againstReader, "batches/s", samples[0], samples[1]))
	return b.over(ctx, report, service)
}
