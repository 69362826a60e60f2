package onda

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/zeebo/xxh3"
)

// Split keeps some of the recordings. It divides by recording, never by
// window, so that no part of a recording is trained on and validated on.
//
// A part holds the recordings that it names. Every recording that no part
// names goes by its hash to the parts with a fraction: a data set that grows
// never moves a recording from one part to another.
//
// With a column, such as one that names the subject, the same holds for its
// values in place of recordings: all recordings of one value are in one part.
type Split struct {
	// Use names the part to keep.
	Use string `json:"use"`
	// Parts of the split. Defaults to "train" with 0.8 and "validation" with
	// 0.2 of the recordings.
	Parts []Part `json:"parts,omitempty"`
	// Column of the signal table to divide by: text, numbers or UUIDs. Defaults
	// to the recording.
	Column string `json:"column,omitempty"`
	// Seed of the hash. Another seed divides otherwise.
	Seed uint64 `json:"seed,omitempty"`
}

// Part is one part of a [Split].
type Part struct {
	Name string `json:"name"`
	// Recordings that are in this part, whatever their hash. One that the signal
	// table does not have is ErrParams.
	Recordings []uuid.UUID `json:"recordings,omitempty"`
	// Values of Split.Column that are in this part, in place of Recordings. One
	// that the column does not have is ErrParams.
	Values []string `json:"values,omitempty"`
	// Fraction is the share of the other recordings, from 0 to 1. The
	// fractions of all parts come to 1 at most; what is left is unused.
	Fraction float64 `json:"fraction,omitempty"`
}

// part says of each row of the table whether it is in the part in use.
func (s *Split) part(t signalTable) (func(row int) bool, error) {
	parts := s.Parts
	if len(parts) == 0 {
		parts = []Part{{Name: "train", Fraction: 0.8}, {Name: "validation", Fraction: 0.2}}
	}
	use := slices.IndexFunc(parts, func(p Part) bool { return p.Name == s.Use })
	if use < 0 {
		return nil, fmt.Errorf("%w: split has no part %q", ErrParams, s.Use)
	}
	keys, err := s.keys(t)
	if err != nil {
		return nil, err
	}
	named, total, err := s.named(parts, keys)
	if err != nil {
		return nil, err
	}
	return func(row int) bool {
		part, ok := named[keys[row]]
		if !ok {
			f := hashFraction(t.signals[row].Recording, s.Seed)
			if s.Column != "" {
				f = unitFloat(xxh3.HashStringSeed(keys[row], s.Seed))
			}
			part = partOf(parts, f, total)
		}
		return part == use
	}, nil
}

// keys is what each row is divided by, as text.
func (s *Split) keys(t signalTable) ([]string, error) {
	if s.Column == "" {
		keys := make([]string, len(t.signals))
		for i := range keys {
			keys[i] = t.signals[i].Recording.String()
		}
		return keys, nil
	}
	of := map[uuid.UUID]string{}
	for i, key := range t.splitBy {
		id := t.signals[i].Recording
		if before, ok := of[id]; ok && before != key {
			return nil, fmt.Errorf("%w: recording %s has %q and %q in column %q, and a split never divides a recording",
				ErrParams, id, before, key, s.Column)
		}
		of[id] = key
	}
	return t.splitBy, nil
}

// named gives the part of everything that a part names, and what all fractions
// come to.
func (s *Split) named(parts []Part, keys []string) (map[string]int, float64, error) {
	named := map[string]int{}
	names := map[string]bool{}
	total := 0.0
	for i, p := range parts {
		if names[p.Name] {
			return nil, 0, fmt.Errorf("%w: split has two parts %q", ErrParams, p.Name)
		}
		names[p.Name] = true
		if !(p.Fraction >= 0 && p.Fraction <= 1) {
			return nil, 0, fmt.Errorf("%w: split part %q has fraction %v", ErrParams, p.Name, p.Fraction)
		}
		total += p.Fraction
		if s.Column != "" && len(p.Recordings) > 0 || s.Column == "" && len(p.Values) > 0 {
			return nil, 0,
				fmt.Errorf("%w: split part %q: values are for a split by a column, recordings for one without",
					ErrParams, p.Name)
		}
		values := p.Values
		for _, id := range p.Recordings {
			values = append(values, id.String())
		}
		for _, v := range values {
			if other, ok := named[v]; ok && other != i {
				return nil, 0, fmt.Errorf("%w: %s is in two parts of the split", ErrParams, v)
			}
			named[v] = i
		}
	}
	// Ten tenths come to a little more than 1.
	if total > 1+1e-9 {
		return nil, 0, fmt.Errorf("%w: fractions of the split come to %v", ErrParams, total)
	}
	return named, total, known(named, keys)
}

// known refuses names that no row has: a part that they are meant to fill would
// be used by another in silence.
func known(named map[string]int, keys []string) error {
	unknown := maps.Clone(named)
	for _, key := range keys {
		delete(unknown, key)
	}
	if len(unknown) == 0 {
		return nil
	}
	list := slices.Sorted(maps.Keys(unknown))
	return fmt.Errorf("%w: the split names %d that the signal table does not have, such as %s",
		ErrParams, len(list), strings.Join(list[:min(3, len(list))], ", "))
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
