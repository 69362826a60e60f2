package bench

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const soakWhat = "nothing grows over a million small batches: goroutines and memory after a tenth of them, and at the end"

func soak(ctx context.Context, b *bench) (*Report, error) {
	service, trainer, err := b.service(ctx, "service", serviceConfig{Workers: 2})
	if err != nil {
		return nil, err
	}
	open := openArg{Name: "soak", Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, smallBytes), Window: smallWindow}
	if err := trainer.call(ctx, opOpen, open, nil); err != nil {
		return nil, err
	}
	const parts = 10
	total := b.quick(100_000, 1_000_000)
	var first, last map[string]usage
	heaps := make(map[string][]string) // by role, after each part
	for i := range parts {
		if err := trainer.call(ctx, opTake, takeArg{Name: open.Name, Timed: total / parts}, nil); err != nil {
			return nil, err
		}
		if last, err = service.settled(ctx); err != nil {
			return nil, err
		}
		if i == 0 {
			first = last
		}
		for role, u := range last {
			heaps[role] = append(heaps[role], number(float64(u.Heap)/1e6))
		}
	}
	report := &Report{}
	for _, role := range slices.Sorted(maps.Keys(last)) {
		report.Notes = append(report.Notes, fmt.Sprintf("live heap of the %s, MB, tenth by tenth: %s", role, strings.Join(heaps[role], ", ")))
		for _, m := range []struct {
			what, unit string
			of         func(usage) float64
		}{
			{"goroutines", "", func(u usage) float64 { return float64(u.Goroutines) }},
			{"live heap", "MB", func(u usage) float64 { return float64(u.Heap) / 1e6 }},
			{"resident memory", "MB", func(u usage) float64 { return float64(u.Resident) / 1e6 }},
		} {
			ours, floor := m.of(last[role]), m.of(first[role])
			report.Rows = append(report.Rows, Row{Name: role + ", " + m.what, Against: againstTenth, Unit: m.unit, Pair: Pair{ours, floor, per(ours, floor)}})
		}
	}
	return report, b.addPeaks(ctx, report, service)
}

// settled is what is in use when what was begun is done, and garbage is collected.
func (s *side) settled(ctx context.Context) (map[string]usage, error) {
	if err := pause(ctx, 5*settleTime); err != nil {
		return nil, err
	}
	for _, p := range s.procs {
		if err := p.call(ctx, opCollect, nil, nil); err != nil {
			return nil, err
		}
	}
	return s.usage(ctx)
}
