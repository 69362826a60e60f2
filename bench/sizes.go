package main

import (
	"context"
	"errors"
	"fmt"
)

const sizesWhat = "one tensor per batch, from the worker's memory to the trainer's; 2 slots"

// size is one size of batches, and how many of them make a round.
type size struct {
	name         string
	bytes        int
	window       int
	normal, fast int // batches per round
}

var sizesAll = []size{
	{"1 KB", 1 << 10, 256, 20_000, 0},
	{"64 KB", 64 << 10, 64, 6_000, 0},
	{"1 MB", 1_000_000, 16, 400, 100},
	{"20 MB", 20_000_000, 5, 30, 10},
	{"100 MB", 100_000_000, 3, 8, 0},
}

// open is how a trainer opens a batcher of such batches; fresh gives each a tensor of its own.
func (s size) open(name string, fresh bool) openArg {
	return openArg{
		Name: name, Dataset: tensorName, Params: fmt.Appendf(nil, `{"bytes":%d,"fresh":%t}`, s.bytes, fresh), Window: s.window,
		Tensors: true,
	}
}

func sizes(ctx context.Context, b *bench) (*Report, error) {
	report := new(Report)
	for _, s := range sizesAll {
		if n := b.quick(s.fast, s.normal); n > 0 {
			if err := b.size(ctx, s, n, report); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return report, nil
}

func (b *bench) size(ctx context.Context, s size, n int, report *Report) error {
	arg := takeArg{Name: "sizes", Warm: s.window + 1, Timed: n}
	var modes []string // a batch is fetched from its worker; or rides in its record; or is stored apart from it
	if s.bytes >= directFrom {
		modes = append(modes, "direct")
	}
	if s.bytes < chunkedFrom {
		modes = append(modes, "inline")
	} else {
		modes = append(modes, "chunked")
	}
	var sides []*side
	var entries []entry
	add := func(side *side, p *process) {
		sides, entries = append(sides, side), append(entries, taking(side, p, arg, megabytesPerSecond))
	}
	for _, mode := range modes {
		service, trainer, err := b.service(ctx, s.name+" "+mode, serviceConfig{Workers: 1, Slots: 2, NoDirect: mode != "direct"})
		if err != nil {
			return err
		}
		if err := trainer.call(ctx, opOpen, s.open(arg.Name, false), nil); err != nil {
			return err
		}
		add(service, trainer)
	}
	stream, consumer, err := b.floorStream(ctx, s.name+" raw stream", streamArg{Bytes: s.bytes, Window: s.window})
	if err != nil {
		return err
	}
	add(stream, consumer)
	tcp, client, err := b.floorTCP(ctx, s.name+" raw TCP", tcpArg{Bytes: s.bytes})
	if err != nil {
		return err
	}
	add(tcp, client)

	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return err
	}
	onStream, onTCP := samples[len(modes)], samples[len(modes)+1]
	for i, mode := range modes {
		name := s.name + ", " + mode
		if mode != "direct" {
			report.Rows = append(report.Rows, row(name, "raw stream", "MB/s", samples[i], onStream))
		}
		if mode == "direct" || mode == modes[0] {
			report.Rows = append(report.Rows, row(name, againstTCP, "MB/s", samples[i], onTCP))
		}
	}
	errs := []error{b.addPeaks(ctx, report, sides...)}
	for _, side := range sides {
		errs = append(errs, side.end()) // the next size has the machine, and its peaks, to itself
	}
	return errors.Join(errs...)
}
