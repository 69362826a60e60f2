package onda

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/zeebo/xxh3"
)

// Split keeps some of the recordings. It divides by recording, never by
// window, so that no part of a recording is trained on and validated on.
//
// A part holds the recordings that it names. Every recording that no part
// names goes by its hash to the parts with a fraction: a data set that grows
// never moves a recording from one part to another.
type Split struct {
	// Use names the part to keep.
	Use string `json:"use"`
	// Parts of the split. Defaults to "train" with 0.8 and "validation" with
	// 0.2 of the recordings.
	Parts []Part `json:"parts,omitempty"`
	// Seed of the hash. Another seed divides otherwise.
	Seed uint64 `json:"seed,omitempty"`
}

// Part is one part of a [Split].
type Part struct {
	Name string `json:"name"`
	// Recordings that are in this part, whatever their hash.
	Recordings []uuid.UUID `json:"recordings,omitempty"`
	// Fraction is the share of the other recordings, from 0 to 1. The
	// fractions of all parts come to 1 at most; what is left is unused.
	Fraction float64 `json:"fraction,omitempty"`
}

// apply returns the signals of the part in use, in their order.
func (s *Split) apply(signals []Signal) ([]Signal, error) {
	parts := s.Parts
	if len(parts) == 0 {
		parts = []Part{{Name: "train", Fraction: 0.8}, {Name: "validation", Fraction: 0.2}}
	}
	use := -1
	named := map[uuid.UUID]int{}
	total := 0.0
	for i, p := range parts {
		if p.Name == s.Use && use >= 0 {
			return nil, fmt.Errorf("%w: split has two parts %q", ErrParams, p.Name)
		}
		if p.Name == s.Use {
			use = i
		}
		if !(p.Fraction >= 0 && p.Fraction <= 1) {
			return nil, fmt.Errorf("%w: split part %q has fraction %v", ErrParams, p.Name, p.Fraction)
		}
		total += p.Fraction
		for _, id := range p.Recordings {
			if other, ok := named[id]; ok && other != i {
				return nil, fmt.Errorf("%w: recording %s is in two parts of the split", ErrParams, id)
			}
			named[id] = i
		}
	}
	if use < 0 {
		return nil, fmt.Errorf("%w: split has no part %q", ErrParams, s.Use)
	}
	// Ten tenths come to a little more than 1.
	if total > 1+1e-9 {
		return nil, fmt.Errorf("%w: fractions of the split come to %v", ErrParams, total)
	}
	var kept []Signal
	for _, sig := range signals {
		part, ok := named[sig.Recording]
		if !ok {
			part = partOf(parts, hashFraction(sig.Recording, s.Seed), total)
		}
		if part == use {
			kept = append(kept, sig)
		}
	}
	return kept, nil
}

// partOf finds the part into whose stretch of [0, 1) the fraction f falls, or
// -1. Parts that come to 1 but for rounding leave nothing out.
func partOf(parts []Part, f, total float64) int {
	end, last := 0.0, -1
	for i, p := range parts {
		if p.Fraction == 0 {
			continue
		}
		if end += p.Fraction; f < end {
			return i
		}
		last = i
	}
	if total > 1-1e-9 {
		return last
	}
	return -1
}

// hashFraction maps a recording to [0, 1), alike on every machine and in every
// version: XXH3 is a fixed specification.
func hashFraction(id uuid.UUID, seed uint64) float64 {
	return unitFloat(xxh3.HashSeed(id[:], seed))
}
