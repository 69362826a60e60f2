// Package picture shows batches: as text, and as pictures in SVG and PNG. It is the one package that links a plotting
// library.
package picture

import (
	"bytes"
	"fmt"
	"math"
	"strings"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/schema"
)

// Summary is what a person wants to know of a tensor at first sight.
type Summary struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	// Elements in all; NaN and Inf are how many of them are no finite numbers.
	Elements int `json:"elements"`
	NaN      int `json:"nan"`
	Inf      int `json:"inf"`
	// Min, Max and Mean are of those that are finite; all 0 if none is.
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
	// Histogram counts them in bins of equal width from Min to Max.
	Histogram []int `json:"histogram"`
}

// maxBins of a histogram.
const maxBins = 24

// Summarize looks at all elements of a tensor.
func Summarize(name string, t schema.Tensor) (Summary, error) {
	s := Summary{Name: name, DType: t.DType.String(), Shape: t.Shape}
	values, err := Floats(t)
	if err != nil {
		return s, fmt.Errorf("tensor %s: %w", name, err)
	}
	s.Elements = len(values)
	lo, hi, sum, n := math.Inf(1), math.Inf(-1), 0.0, 0
	for _, v := range values {
		switch {
		case math.IsNaN(v):
			s.NaN++
		case math.IsInf(v, 0):
			s.Inf++
		default:
			lo, hi, sum, n = min(lo, v), max(hi, v), sum+v, n+1
		}
	}
	if n == 0 {
		return s, nil
	}
	s.Min, s.Max, s.Mean = lo, hi, sum/float64(n)
	bins := maxBins
	if whole := t.DType != schema.Float32 && t.DType != schema.Float64; whole && hi-lo < maxBins {
		bins = int(hi-lo) + 1 // one for each number
	}
	if lo == hi {
		bins = 1
	}
	s.Histogram = make([]int, bins)
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			// Each half is finite where hi-lo is not.
			at := (v/2 - lo/2) / (hi/2 - lo/2) * float64(bins)
			if math.IsNaN(at) {
				at = 0 // all are one number, or the range is too narrow to divide
			}
			s.Histogram[max(0, min(bins-1, int(at)))]++
		}
	}
	return s, nil
}

// Floats are the elements of a tensor; integers beyond 2^53 are rounded, booleans are 0 and 1.
func Floats(t schema.Tensor) ([]float64, error) {
	switch t.DType {
	case schema.Bool:
		return floats(t, func(v bool) float64 {
			if v {
				return 1
			}
			return 0
		})
	case schema.Int8:
		return floats(t, func(v int8) float64 { return float64(v) })
	case schema.Int16:
		return floats(t, func(v int16) float64 { return float64(v) })
	case schema.Int32:
		return floats(t, func(v int32) float64 { return float64(v) })
	case schema.Int64:
		return floats(t, func(v int64) float64 { return float64(v) })
	case schema.Uint8:
		return floats(t, func(v uint8) float64 { return float64(v) })
	case schema.Uint16:
		return floats(t, func(v uint16) float64 { return float64(v) })
	case schema.Uint32:
		return floats(t, func(v uint32) float64 { return float64(v) })
	case schema.Uint64:
		return floats(t, func(v uint64) float64 { return float64(v) })
	case schema.Float32:
		return floats(t, func(v float32) float64 { return float64(v) })
	}
	return floats(t, func(v float64) float64 { return v })
}

func floats[T schema.Element](t schema.Tensor, of func(T) float64) ([]float64, error) {
	t.Data = bytes.Clone(t.Data) // where it is aligned
	values, err := schema.View[T](t)
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = of(v)
	}
	return out, nil
}

// Range is what the elements are between, as text.
func (s *Summary) Range() string {
	if len(s.Histogram) == 0 {
		return "no numbers"
	}
	return fmt.Sprintf("%.4g to %.4g, mean %.4g", s.Min, s.Max, s.Mean)
}

// Gaps are the elements that are no numbers, as text.
func (s *Summary) Gaps() string {
	if s.Inf > 0 {
		return fmt.Sprintf("%d NaN, %d Inf", s.NaN, s.Inf)
	}
	return fmt.Sprintf("%d NaN", s.NaN)
}

// Line is a tensor on one line of a terminal.
func (s *Summary) Line() string {
	return fmt.Sprintf("%-12s %-8s %-16v %-40s %-8s %s", legible.Line(s.Name), s.DType, fmt.Sprint(s.Shape), s.Range(),
		s.Gaps(), Bars(s.Histogram))
}

// Bars are counts as blocks of eight heights, of which the lowest is of any that is not 0.
func Bars(counts []int) string {
	top := 1
	for _, n := range counts {
		top = max(top, n)
	}
	var out strings.Builder
	for _, n := range counts {
		if n == 0 {
			out.WriteByte(' ')
			continue
		}
		out.WriteRune('▁' + rune(7*n/top))
	}
	return out.String()
}
