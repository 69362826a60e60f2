package main

import (
	"context"
	"fmt"
)

const smallWhat = "1 KB jobs and 1 KB results that cost nothing to make, window 1024"

const (
	smallBytes  = 1024
	smallWindow = 1024
)

func small(ctx context.Context, b *bench) (*Report, error) {
	service, trainer, err := b.service(ctx, "service", serviceConfig{Workers: 1})
	if err != nil {
		return nil, err
	}
	open := openArg{Name: "small", Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, smallBytes), Window: smallWindow}
	if err := trainer.call(ctx, opOpen, open, nil); err != nil {
		return nil, err
	}
	floor, consumer, err := b.floorSmall(ctx, "floor", floorArg{Window: smallWindow, Bytes: smallBytes})
	if err != nil {
		return nil, err
	}
	// Before what is timed comes more than a window, so that the time is that of a stream under way.
	arg := takeArg{Name: open.Name, Warm: 2 * smallWindow, Timed: b.quick(8_000, 30_000)}
	sides := []*side{service, floor}
	entries := []entry{taking(service, trainer, arg, perSecond), taking(floor, consumer, arg, perSecond)}
	if !b.opts.quick {
		batched, consumer, err := b.floorSmall(ctx, "batched floor", floorArg{Window: smallWindow, Bytes: smallBytes, Batched: true})
		if err != nil {
			return nil, err
		}
		sides, entries = append(sides, batched), append(entries, taking(batched, consumer, arg, perSecond))
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return nil, err
	}
	against := []string{"raw NATS", "raw NATS, results batched"}
	var rows []Row
	for i, s := range samples[1:] {
		rows = append(rows, row("1 KB jobs and results", against[i], "batches/s", samples[0], s))
	}
	return b.report(ctx, rows, sides...)
}

// taking is an entry that takes.
func taking(s *side, p *process, arg takeArg, value func(takeArg, takeAnswer) float64) entry {
	return entry{s, func(ctx context.Context) (outcome, error) {
		var answer takeAnswer
		if err := p.call(ctx, opTake, arg, &answer); err != nil {
			return outcome{}, err
		}
		return outcome{Value: value(arg, answer), Batches: arg.Warm + arg.Timed, Bytes: answer.Bytes}, nil
	}}
}

func perSecond(arg takeArg, a takeAnswer) float64 {
	return per(float64(arg.Timed), a.Elapsed.Seconds())
}

// megabytesPerSecond counts the bytes of the timed batches; all are of one size.
func megabytesPerSecond(arg takeArg, a takeAnswer) float64 {
	timed := float64(a.Bytes) * float64(arg.Timed) / float64(arg.Warm+arg.Timed)
	return per(timed/1e6, a.Elapsed.Seconds())
}
