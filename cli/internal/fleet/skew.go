package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Skew is a kind of jobs, which is a data set at one version on one version of the wire, that only one side has:
// batchers that wait for workers of it, or workers that no coordinator will ever have jobs for.
type Skew struct {
	Kind     string   `json:"kind"`
	Batchers []string `json:"batchers,omitempty"` // that run and have no worker
	Workers  []string `json:"workers,omitempty"`  // that serve it, and nobody asks for it
	Others   []string `json:"others,omitempty"`   // kinds of the same data set that the other side has
}

// String says it in a line.
func (s Skew) String() string {
	var text string
	if len(s.Batchers) > 0 {
		text = fmt.Sprintf("%s: wanted by %s; no worker serves it", wire.KindName(s.Kind), strings.Join(s.Batchers, ", "))
	} else {
		text = fmt.Sprintf("%s: served by %s; no coordinator has it", wire.KindName(s.Kind), strings.Join(s.Workers, ", "))
	}
	if len(s.Others) > 0 {
		text += ", but " + strings.Join(wire.KindNames(s.Others), ", ")
	}
	return text
}

// skews compares what running batchers and coordinators want with what workers serve, sorted by kind.
func skews(s Status) []Skew {
	offered, served := make(map[string][]string), make(map[string][]string)
	for _, c := range s.Coordinators {
		for _, kind := range c.Kinds {
			offered[kind] = append(offered[kind], c.Coordinator)
		}
	}
	for _, w := range s.Workers {
		for _, kind := range w.Kinds {
			served[kind] = append(served[kind], w.Worker)
		}
	}
	found := make(map[string]*Skew)
	for _, b := range s.Batchers {
		if kind := s.kindOf(b); b.Phase == schema.PhaseRunning && served[kind] == nil {
			if found[kind] == nil {
				found[kind] = &Skew{Kind: kind, Others: siblings(kind, served)}
			}
			found[kind].Batchers = append(found[kind].Batchers, b.Batcher)
		}
	}
	for kind, workers := range served {
		if offered[kind] == nil {
			found[kind] = &Skew{Kind: kind, Workers: workers, Others: siblings(kind, offered)}
		}
	}
	var all []Skew
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		all = append(all, *found[kind])
	}
	return all
}

// kindOf is the kind of a batcher's jobs: its owner, which may be of another version than this program, has it in its
// list.
func (s Status) kindOf(b schema.Status) string {
	for _, c := range s.Coordinators {
		if c.Coordinator != b.Owner {
			continue
		}
		for _, kind := range c.Kinds {
			if strings.HasPrefix(kind, fmt.Sprintf("%s-v%d-w", b.Dataset, b.Version)) {
				return kind
			}
		}
	}
	return wire.KindToken(b.Dataset, b.Version)
}

// siblings are the kinds of the same data set.
func siblings(kind string, of map[string][]string) []string {
	var found []string
	for other := range of {
		if other != kind && datasetOf(other) == datasetOf(kind) {
			found = append(found, other)
		}
	}
	slices.Sort(found)
	return found
}

// datasetOf cuts "-v1-w2" off, or what is there of it. A data set's own name may have anything before that.
func datasetOf(kind string) string {
	name := kind
	for _, mark := range []string{"-w", "-v"} {
		if i := strings.LastIndex(name, mark); i > 0 {
			name = name[:i]
		}
	}
	return name
}
