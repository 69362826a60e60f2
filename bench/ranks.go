package main

import (
	"context"
	"fmt"

	"github.com/jetbatch/jetbatch/client"
)

const ranksWhat = "one world of ranks in one trainer process, each of which takes its rows of every batch; one tensor of 20 MB"

// ranksBytes is the size of a batch, whose rows are single bytes.
const ranksBytes = 20_000_000

func ranks(ctx context.Context, b *bench) (*Report, error) {
	const window = 5
	timed := b.quick(10, 30)
	var sides []*side
	var entries []entry
	counts := []int{4, 1}
	for _, n := range counts {
		service, trainer, err := b.service(ctx, fmt.Sprintf("%d ranks", n), serviceConfig{Workers: 1, Slots: 2})
		if err != nil {
			return nil, err
		}
		arg := takeAllArg{Warm: window + 1, Timed: timed}
		for rank := range n {
			open := openArg{
				Name: "ranks", Dataset: tensorName, Params: fmt.Appendf(nil, `{"bytes":%d}`, ranksBytes), Window: window, Tensors: true,
				As: fmt.Sprint("rank-", rank), World: &client.World{ID: "bench", Rank: rank, Size: n},
			}
			if err := trainer.call(ctx, opOpen, open, nil); err != nil {
				return nil, err
			}
			arg.Names = append(arg.Names, open.As)
		}
		sides = append(sides, service)
		entries = append(entries, entry{service, func(ctx context.Context) (outcome, error) {
			var answer takeAllAnswer
			if err := trainer.call(ctx, opTakeAll, arg, &answer); err != nil {
				return outcome{}, err
			}
			return outcome{
				Value: per(float64(ranksBytes*timed)/1e6, answer.Elapsed.Seconds()), Batches: arg.Warm + timed, Bytes: answer.Bytes,
			}, nil
		}})
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return nil, err
	}
	report := &Report{Rows: []Row{row("4 ranks, quarters", againstOneRank, "MB/s", samples[0], samples[1])}}
	return report, b.addPeaks(ctx, report, sides...)
}
