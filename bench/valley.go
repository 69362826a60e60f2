package main

import (
	"context"
	"errors"
	"fmt"
)

const valleyWhat = "batches of 1 to 512 KB as they travel by default, one tensor each, beside one TCP connection; 2 slots"

var valleySizes = []size{
	{"1 KB", 1 << 10, 256, 20_000, 0},
	{"4 KB", 4 << 10, 256, 20_000, 0},
	{"16 KB", 16 << 10, 128, 10_000, 0},
	{"32 KB", 32 << 10, 128, 10_000, 0},
	{"64 KB", 64 << 10, 64, 6_000, 2_000},
	{"128 KB", 128 << 10, 64, 4_000, 0},
	{"256 KB", 256 << 10, 64, 3_000, 1_000},
	{"512 KB", 512 << 10, 32, 1_500, 0},
}

// valley measures the sizes between those whose cost is messages and those whose cost is bytes.
func valley(ctx context.Context, b *bench) (*Report, error) {
	report := new(Report)
	for _, s := range valleySizes {
		if n := b.quick(s.fast, s.normal); n > 0 {
			if err := b.valley(ctx, s, n, report); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return report, nil
}

func (b *bench) valley(ctx context.Context, s size, n int, report *Report) error {
	arg := takeArg{Name: "valley", Warm: s.window + 1, Timed: n}
	service, trainer, err := b.service(ctx, s.name, serviceConfig{Workers: 1, Slots: 2})
	if err != nil {
		return err
	}
	if err := trainer.call(ctx, opOpen, s.open(arg.Name, false), nil); err != nil {
		return err
	}
	tcp, client, err := b.floorTCP(ctx, s.name+" raw TCP", tcpArg{Bytes: s.bytes})
	if err != nil {
		return err
	}
	samples, err := b.measure(ctx, taking(service, trainer, arg, megabytesPerSecond), taking(tcp, client, arg, megabytesPerSecond))
	if err != nil {
		return err
	}
	report.Rows = append(report.Rows, row(s.name, againstTCP, "MB/s", samples[0], samples[1]))
	// The next size has the machine, and its peaks, to itself.
	return errors.Join(b.addPeaks(ctx, report, service, tcp), service.end(), tcp.end())
}
