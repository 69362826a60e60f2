package onda

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
)

func TestSplitsByName(t *testing.T) {
	t.Parallel()
	m := newMade(t)
	for n := range byte(10) {
		m.add(n+1, func(s *Signal) { s.SensorLabel = fmt.Sprintf("subject %d", n/2) })
	}
	m.labelled()
	use := func(s Split) []byte {
		var got []byte
		for _, l := range m.must(Params{Split: &s}).Signals() {
			got = append(got, l.Recording[15])
		}
		return got
	}
	// The bytes of a UUID the wrong way round name nobody.
	wrong := []Part{{Name: "train", Fraction: 1},
		{Name: "test", Recordings: []uuid.UUID{id(1), reversed(id(2)), reversed(id(3))}}}
	_, err := m.open(Params{Split: &Split{Use: "train", Parts: wrong}})
	mention(t, err, ErrParams, "names 2", reversed(id(2)).String())

	column := []Part{{Name: "train", Fraction: 1}, {Name: "test", Values: []string{"subject 1", "subject 4"}}}
	if got := use(Split{Use: "test", Column: "sensor_label", Parts: column}); !slices.Equal(got, []byte{3, 4, 9, 10}) {
		t.Errorf("got %v", got)
	}
	if got := use(Split{Use: "train", Column: "sensor_label", Parts: column}); !slices.Equal(got,
		[]byte{1, 2, 5, 6, 7, 8}) {
		t.Errorf("got %v", got)
	}
	// Whatever the hash, a subject is in one part.
	for seed := range uint64(20) {
		got := append(use(Split{Use: "a", Column: "sensor_label", Seed: seed,
			Parts: []Part{{Name: "a", Fraction: 0.5, Values: []string{"subject 0"}}, {Name: "b", Fraction: 0.5}}}), 0)
		for i := 0; i+1 < len(got); i += 2 {
			if got[i]%2 != 1 || got[i+1] != got[i]+1 {
				t.Fatalf("seed %d: %v", seed, got)
			}
		}
	}
	for name, s := range map[string]Split{
		"unknown value": {Use: "a", Column: "sensor_label",
			Parts: []Part{{Name: "a", Values: []string{"subject 9"}}}},
		"recordings, column": {Use: "a", Column: "sensor_label",
			Parts: []Part{{Name: "a", Recordings: []uuid.UUID{id(1)}}}},
		"values without column": {Use: "a", Parts: []Part{{Name: "a", Values: []string{"x"}}}},
	} {
		if _, err := m.open(Params{Split: &s}); !errors.Is(err, ErrParams) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	m.add(1, func(s *Signal) { s.SensorLabel = "subject 3" })
	_, err = m.open(Params{Split: &Split{Use: "test", Column: "sensor_label", Parts: column}})
	mention(t, err, ErrParams, "subject 0", "subject 3", id(1).String())
	if _, err := m.open(Params{Split: &Split{Use: "a", Column: "none", Parts: []Part{{Name: "a"}}}}); !errors.Is(err,
		ErrTable) {
		t.Errorf("got %v", err)
	}
}
