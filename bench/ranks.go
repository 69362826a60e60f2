package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/client"
)

const ranksWhat = "one world of ranks: shares of 20 MB, steps of 1 KB and of 20 ms, a rank that is killed, moves, the owner's CPU; readers"

const (
	// ranksBytes is the size of a large batch of three tensors, whose rows are single bytes.
	ranksBytes = 3 * 6_666_667

	// ranksPatience is the least that a world may have.
	ranksPatience = 3 * time.Second

	// What the owner of many ranks may take of a processor, and their steps per second: two slots, jobs of 20 ms.
	ownerShare, ownerSteps = 0.1, 100
)

func ranks(ctx context.Context, b *bench) (*Report, error) {
	report := &Report{Notes: []string{"all ranks of a world are in one trainer process, with a connection of each"}}
	for _, figure := range []func(context.Context, *Report) error{
		b.ranksQuarters, b.ranksSmall, b.ranksSleeping, b.ranksLost, b.ranksMoves, b.ranksOwner, b.readers,
	} {
		if err := figure(ctx, report); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// world opens all ranks of a world in a trainer process and returns what they are taken from by.
func world(ctx context.Context, trainer *process, id string, size int, open openArg) (names []string, err error) {
	parts := 1 // all rows for each
	if open.Tensors {
		parts = size
	}
	for rank := range size {
		open.As = fmt.Sprint(id, "-", rank)
		open.World = &client.World{ID: id, Rank: rank, Size: size, Part: rank % parts, Parts: parts}
		if err := trainer.call(ctx, opOpen, open, nil); err != nil {
			return nil, err
		}
		names = append(names, open.As)
	}
	return names, nil
}

// stepping is an entry of the steps that ranks take together. The value is per second.
func stepping(s *side, trainer *process, arg takeAllArg) entry {
	return entry{s, func(ctx context.Context) (outcome, error) {
		var answer takeAllAnswer
		err := trainer.call(ctx, opTakeAll, arg, &answer)
		return outcome{
			Value: per(float64(arg.Timed), answer.Elapsed.Seconds()), Batches: arg.Warm + arg.Timed, Bytes: answer.Bytes,
		}, err
	}}
}

// ranksQuarters is how fast four ranks fetch a quarter each, beside one that fetches all, and how many bytes those are.
func (b *bench) ranksQuarters(ctx context.Context, report *Report) error {
	const window, size = 5, 4
	arg := takeAllArg{Warm: window + 1, Timed: b.quick(10, 30)}
	var sides []*side
	var entries []entry
	var trainers []*process
	var names [][]string
	for _, n := range []int{size, 1} {
		service, trainer, err := b.service(ctx, fmt.Sprintf("%d ranks", n), serviceConfig{Workers: 1, Slots: 2})
		if err != nil {
			return err
		}
		open := openArg{
			Name: "ranks", Dataset: tensorName, Params: fmt.Appendf(nil, `{"bytes":%d,"parts":3}`, ranksBytes), Window: window,
			Tensors: true, Counted: true,
		}
		if arg.Names, err = world(ctx, trainer, "bench", n, open); err != nil {
			return err
		}
		sides, trainers, names = append(sides, service), append(trainers, trainer), append(names, arg.Names)
		entries = append(entries, stepping(service, trainer, arg))
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return err
	}
	for _, of := range samples {
		for i := range of {
			of[i].Value *= ranksBytes / 1e6
		}
	}
	report.Rows = append(report.Rows, row("4 ranks, quarters", againstOneRank, "MB/s", samples[0], samples[1]))
	var fetched []float64
	if err := trainers[0].call(ctx, opFetched, names[0], &fetched); err != nil {
		return err
	}
	steps, most, all := float64(b.opts.rounds*(arg.Warm+arg.Timed)), 0., 0.
	for _, bytes := range fetched {
		most, all = max(most, bytes/steps/1e6), all+bytes/steps/1e6
	}
	for _, r := range []struct {
		name string
		mb   float64
	}{{"4 ranks: bytes that a rank fetches", most}, {"4 ranks: bytes that all fetch", all}} {
		report.Rows = append(report.Rows, row(r.name, againstPayload, "MB", constant(r.mb, 1), constant(ranksBytes/1e6, 1)))
	}
	return b.over(ctx, report, sides...)
}

// over adds what sides came to, and ends them.
func (b *bench) over(ctx context.Context, report *Report, sides ...*side) error {
	err := b.addPeaks(ctx, report, sides...)
	for _, s := range sides {
		err = errors.Join(err, s.end())
	}
	return err
}

// ranksSmall is how many small steps ranks take, beside as many listeners of the results of raw NATS.
func (b *bench) ranksSmall(ctx context.Context, report *Report) error {
	service, trainer, err := b.service(ctx, "small ranks", serviceConfig{Workers: 1})
	if err != nil {
		return err
	}
	sides := []*side{service}
	for _, n := range []int{2, 4, 8} {
		if b.opts.quick && n != 4 {
			continue
		}
		open := openArg{
			Name: fmt.Sprint("small-", n), Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, smallBytes), Window: smallWindow,
		}
		arg := takeAllArg{Warm: 2 * smallWindow, Timed: b.quick(8_000, 20_000)}
		if arg.Names, err = world(ctx, trainer, open.Name, n, open); err != nil {
			return err
		}
		floor, err := b.listening(ctx, n, arg)
		if err != nil {
			return err
		}
		samples, err := b.measure(ctx, stepping(service, trainer, arg), floor)
		if err != nil {
			return err
		}
		report.Rows = append(report.Rows, row(fmt.Sprintf("%d ranks, 1 KB", n), againstListeners, "steps/s", samples[0], samples[1]))
		sides = append(sides, floor.side)
	}
	return b.over(ctx, report, sides...)
}

// ranksSleeping is how many steps of jobs that take a while ranks take, beside one.
func (b *bench) ranksSleeping(ctx context.Context, report *Report) error {
	const slots = 16
	service, trainer, err := b.service(ctx, "ranks of jobs of 20 ms", serviceConfig{Workers: 2, Slots: slots / 2})
	if err != nil {
		return err
	}
	sizes := []int{1, 2, 4, 8}
	if b.opts.quick {
		sizes = []int{1, 8}
	}
	var entries []entry
	for _, n := range sizes {
		open := openArg{Name: fmt.Sprint("sleep-", n), Dataset: sleepName, Params: []byte(`{}`)}
		arg := takeAllArg{Warm: 2*slots + 1, Timed: b.quick(50, 100) * slots}
		if arg.Names, err = world(ctx, trainer, open.Name, n, open); err != nil {
			return err
		}
		entries = append(entries, stepping(service, trainer, arg))
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return err
	}
	for i, n := range sizes[1:] {
		r := row(fmt.Sprintf("%d ranks, jobs of 20 ms", n), againstOne, "steps/s", samples[i+1], samples[0])
		report.Rows = append(report.Rows, r)
	}
	return b.over(ctx, report, service)
}

// ranksLost is after what time a rank hears that another one was killed.
func (b *bench) ranksLost(ctx context.Context, report *Report) error {
	var url string
	service, trainer, err := b.service(ctx, "a rank that is killed", serviceConfig{Workers: 1, Slots: 2, URL: &url})
	if err != nil {
		return err
	}
	var samples []sample
	for n := range b.opts.rounds {
		other, err := service.start(ctx, "trainer", trainerArg{url}, nil)
		if err != nil {
			return err
		}
		open := openArg{Name: fmt.Sprint("lost-", n), Dataset: sleepName, Params: fmt.Appendf(nil, `{"sleep":%d}`, time.Millisecond)}
		for rank, p := range []*process{trainer, other} {
			open.World = &client.World{ID: "bench", Rank: rank, Size: 2, Parts: 1, Patience: ranksPatience}
			if err := p.call(ctx, opOpen, open, nil); err != nil {
				return err
			}
			if err := p.call(ctx, opTake, takeArg{Name: open.Name, Timed: 2}, nil); err != nil {
				return err
			}
		}
		if err := service.kill(other); err != nil {
			return err
		}
		began := time.Now()
		if err := trainer.call(ctx, opLost, open.Name, nil); err != nil {
			return err
		}
		samples = append(samples, sample{outcome: outcome{Value: time.Since(began).Seconds()}})
	}
	allowed := (ranksPatience + 2*time.Second).Seconds()
	r := row("rank killed: the other's error", againstAllowed, "s", samples, constant(allowed, len(samples)))
	report.Rows = append(report.Rows, r)
	return b.over(ctx, report, service)
}

// ranksMoves is how long a seat takes that changes hands, and a move that all ranks ask for.
func (b *bench) ranksMoves(ctx context.Context, report *Report) error {
	service, trainer, err := b.service(ctx, "ranks that move", serviceConfig{Workers: 1})
	if err != nil {
		return err
	}
	floor, asker, err := b.floorLatency(ctx, "one request")
	if err != nil {
		return err
	}
	open := openArg{Name: "moves", Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, latencyBytes), Window: 64}
	names, err := world(ctx, trainer, "moves", 2, open)
	if err != nil {
		return err
	}
	open.Name = "successions"
	heirs, err := world(ctx, trainer, open.Name, 2, open)
	if err != nil {
		return err
	}
	for _, all := range [][]string{names, heirs} {
		if err := trainer.call(ctx, opTakeAll, takeAllArg{Names: all, Timed: 8}, nil); err != nil {
			return err
		}
	}
	n := b.quick(20, 50)
	next := func(other bool) entry {
		return asked(service, trainer, opSucceed, succeedArg{Names: heirs, Open: open, N: n, Other: other}, n)
	}
	samples, err := b.measure(ctx,
		next(false), next(true),
		asked(service, trainer, opAgree, agreeArg{Names: names, N: n, Held: true}, n),
		asked(service, trainer, opAgree, agreeArg{Names: names, N: n}, n),
		asked(floor, asker, opEcho, timesArg{N: n}, n),
	)
	if err != nil {
		return err
	}
	for i, name := range []string{
		"successor's first batch", "another world's first batch, held", "move by agreement, held", "move by agreement, not held",
	} {
		r := row(name, againstRequest, "µs", samples[i], samples[4])
		r.dropCosts() // those of one request say nothing
		report.Rows = append(report.Rows, r)
	}
	return b.over(ctx, report, service, floor)
}

// asked is an entry of times, of which the value is the median in microseconds.
func asked(s *side, p *process, op string, arg any, n int) entry {
	return entry{s, func(ctx context.Context) (outcome, error) {
		var took []time.Duration
		err := p.call(ctx, op, arg, &took)
		return outcome{Value: quantile(took, 0.5), Batches: n}, err
	}}
}

// ranksOwner is what the owner of many ranks takes of a processor.
func (b *bench) ranksOwner(ctx context.Context, report *Report) error {
	size := 64
	if b.opts.tiny {
		size = 8
	}
	service, trainer, err := b.service(ctx, "many ranks", serviceConfig{Workers: 1, Slots: 2})
	if err != nil {
		return err
	}
	open := openArg{Name: "many", Dataset: sleepName, Params: []byte(`{}`), Window: 33}
	arg := takeAllArg{Timed: b.quick(2, 5) * ownerSteps}
	if arg.Names, err = world(ctx, trainer, "many", size, open); err != nil {
		return err
	}
	if err := trainer.call(ctx, opTakeAll, takeAllArg{Names: arg.Names, Timed: open.Window}, nil); err != nil {
		return err
	}
	var samples []sample
	for range b.opts.rounds {
		before, err := service.usage(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := trainer.call(ctx, opTakeAll, arg, nil); err != nil {
			return err
		}
		took := time.Since(began)
		after, err := service.usage(ctx)
		if err != nil {
			return err
		}
		cpu := after["coordinator"].CPU - before["coordinator"].CPU
		samples = append(samples, sample{outcome: outcome{Value: per(cpu.Seconds(), took.Seconds())}})
	}
	r := row(fmt.Sprintf("%d ranks, %d steps/s: coordinator", size, ownerSteps), againstAllowed, "cores", samples,
		constant(ownerShare, len(samples)))
	report.Rows = append(report.Rows, r)
	return b.over(ctx, report, service)
}
