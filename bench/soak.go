package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const soakWhat = "nothing grows over a million small batches: goroutines and memory, after each tenth of them; medians of both halves"

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
	used := make(map[string][]usage) // by role, after each part
	for range parts {
		if err := trainer.call(ctx, opTake, takeArg{Name: open.Name, Timed: total / parts}, nil); err != nil {
			return nil, err
		}
		now, err := service.settled(ctx)
		if err != nil {
			return nil, err
		}
		for role, u := range now {
			used[role] = append(used[role], u)
		}
	}
	report := &Report{}
	for _, role := range slices.Sorted(maps.Keys(used)) {
		for _, m := range []struct {
			what, unit string
			of         func(usage) float64
		}{
			{"goroutines", "", func(u usage) float64 { return float64(u.Goroutines) }},
			{"live heap", "MB", func(u usage) float64 { return float64(u.Heap) / 1e6 }},
			{"resident memory", "MB", func(u usage) float64 { return float64(u.Resident) / 1e6 }},
		} {
			var tenths []float64
			var words []string
			for _, u := range used[role] {
				tenths, words = append(tenths, m.of(u)), append(words, number(m.of(u)))
			}
			// Single looks differ with what is under way in the window just then; a leak moves all that come after.
			floor, ours := median(tenths[:parts/2]), median(tenths[parts/2:])
			ratio := per(ours, floor)
			report.Rows = append(report.Rows, Row{
				Name: role + ", " + m.what, Against: againstHalf, Unit: m.unit, Pair: Pair{ours, floor, ratio, ratio, ratio},
			})
			report.Notes = append(report.Notes, fmt.Sprintf("%s, %s, tenth by tenth: %s", role, m.what, strings.Join(words, ", ")))
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
