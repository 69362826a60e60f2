package main

import (
	"context"
	"slices"
)

// Report is what a case came to.
type Report struct {
	Case  string                        `json:"case"`
	What  string                        `json:"what"`
	Quick bool                          `json:"quick,omitempty"`
	Rows  []Row                         `json:"rows"`
	Peaks map[string]map[string]float64 `json:"peak_mb"` // side, then role, all processes of the role together
	Notes []string                      `json:"notes,omitempty"`
}

// Row is one figure of the service beside its floor.
type Row struct {
	Name    string `json:"name"`
	Against string `json:"against"` // what the floor is
	Unit    string `json:"unit"`
	Pair           // the figure

	CPUPerBatch Pair `json:"cpu_us_per_batch,omitzero"` // all processes of a side together
	CPUPerMB    Pair `json:"cpu_ms_per_mb,omitzero"`
	Allocs      Pair `json:"allocs_per_batch,omitzero"`

	Limits []Verdict `json:"limits,omitempty"`
}

// Pair is a measure of ours, the floor's, and the first in terms of the second: medians of the rounds, the ratio too.
// Least and Most are the rounds' lowest and highest ratio.
type Pair struct {
	Ours  float64 `json:"ours"`
	Floor float64 `json:"floor"`
	Ratio float64 `json:"ratio"`
	Least float64 `json:"least"`
	Most  float64 `json:"most"`
}

// row compares the samples of ours with the floor's.
func row(name, against, unit string, ours, floor []sample) Row {
	pair := func(f func(sample) float64) Pair {
		ratios := ratiosOf(ours, floor, f)
		if len(ratios) == 0 {
			return Pair{}
		}
		return Pair{medianOf(ours, f), medianOf(floor, f), median(ratios), slices.Min(ratios), slices.Max(ratios)}
	}
	return Row{
		Name: name, Against: against, Unit: unit, Pair: pair(func(s sample) float64 { return s.Value }),
		CPUPerBatch: pair(sample.cpuPerBatch), CPUPerMB: pair(sample.cpuPerMB), Allocs: pair(sample.allocsPerBatch),
	}
}

// dropCosts leaves the figure alone.
func (r *Row) dropCosts() { r.CPUPerBatch, r.CPUPerMB, r.Allocs = Pair{}, Pair{}, Pair{} }

// of is one of the row's measures.
func (r *Row) of(measure string) Pair {
	switch measure {
	case byCPU:
		return r.CPUPerBatch
	case byCPUPerMB:
		return r.CPUPerMB
	case byAllocs:
		return r.Allocs
	}
	return r.Pair
}

// report is what the case came to: rows, and the peaks of the sides.
func (b *bench) report(ctx context.Context, rows []Row, sides ...*side) (*Report, error) {
	r := &Report{Rows: rows}
	return r, b.addPeaks(ctx, r, sides...)
}

// addPeaks adds what the sides' roles needed so far.
func (b *bench) addPeaks(ctx context.Context, r *Report, sides ...*side) error {
	if r.Peaks == nil {
		r.Peaks = make(map[string]map[string]float64)
	}
	for _, s := range sides {
		usage, err := s.usage(ctx)
		if err != nil {
			return err
		}
		peaks := make(map[string]float64)
		for role, u := range usage {
			peaks[role] = float64(u.Peak) / 1e6
		}
		r.Peaks[s.name] = peaks
	}
	return nil
}
