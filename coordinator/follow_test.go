package coordinator

import (
	"fmt"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/follow"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// crewOf is n workers of one slot that were heard just now.
func crewOf(n int) []heard {
	crew := make([]heard, n)
	for i := range crew {
		crew[i] = heard{schema.WorkerStatus{Worker: fmt.Sprintf("w%03d", i), Slots: 1, Running: 1, Kinds: []string{"k"}}, time.Now()}
	}
	return crew
}

func offers(f *follows, n int) {
	for i := range n {
		f.offer(&wire.Lane{Batcher: fmt.Sprintf("train-%03d", i), Gen: "G", Kind: "k"}, 401, false)
	}
}

// Lanes of a few batchers are announced to all workers; of many, each worker is told its own, and hears no other's
// announcements.
func TestLanesAreToldToFew(t *testing.T) {
	t.Parallel()
	f := newFollows(nil)
	crew := crewOf(200)
	offers(f, 2)
	for _, w := range f.choose(crew) {
		if len(w.lanes) != 2 || w.crowded {
			t.Fatalf("%s follows %d of 2 lanes, crowded: %v", w.name, len(w.lanes), w.crowded)
		}
	}
	lane := wire.Lane{Batcher: "train-000", Gen: "G", Kind: "k", Floor: 64}
	if all := f.offer(&lane, 401, false); !all || lane.Few {
		t.Fatalf("announced to all: %v, few: %v", all, lane.Few)
	}
	offers(f, 100)
	crew[5].at = crew[5].at.Add(-followQuiet)
	crew[6].Suspended = []schema.Suspension{{Kind: "k", Batchers: []string{"train-001"}}}
	crew[7].Kinds = []string{"other"}
	for _, w := range f.choose(crew) {
		switch w.name {
		case "w005":
			if !w.silent || len(w.lanes) > 0 {
				t.Errorf("a silent worker is counted on for %d lanes", len(w.lanes))
			}
			continue
		case "w007":
			if len(w.lanes) > 0 || w.crowded {
				t.Errorf("a worker without the data set follows %d lanes", len(w.lanes))
			}
			continue
		}
		if n := len(w.lanes); n < follow.Overlap-2 || n > follow.Overlap+3 || !w.crowded {
			t.Errorf("%s follows %d of 100 lanes, crowded: %v", w.name, n, w.crowded)
		}
		for _, l := range w.lanes {
			if !l.Few || w.name == "w006" && l.Batcher == "train-001" {
				t.Errorf("%s follows %+v", w.name, l)
			}
		}
	}
	lane.Floor = 128
	if all := f.offer(&lane, 401, false); all || !lane.Few {
		t.Errorf("a lane with few followers is announced to all: %v, few: %v", all, lane.Few)
	}
	begun := wire.Lane{Batcher: "train-000", Gen: "G2", Kind: "k"}
	if all := f.offer(&begun, 401, false); !all || !begun.Few {
		t.Errorf("whose a new generation is, all are told: %v, few: %v", all, begun.Few)
	}
	f.end("train-000", "G") // of the generation before: too late to matter
	for i := range 99 {
		f.end(fmt.Sprintf("train-%03d", i+1), "")
	}
	for _, w := range f.choose(crewOf(200)) {
		if len(w.lanes) != 1 || w.lanes[0].Gen != "G2" || w.crowded {
			t.Fatalf("%s follows %+v, crowded: %v", w.name, w.lanes, w.crowded)
		}
	}
}

// An announcement that says nothing new is not made for every worker that comes.
func TestLaneIsNotAnnouncedForNothing(t *testing.T) {
	t.Parallel()
	f := newFollows(nil)
	lane := wire.Lane{Batcher: "train", Gen: "G", Kind: "k"}
	if !f.offer(&lane, 8, false) || f.offer(&lane, 8, false) {
		t.Fatal("announced twice, or never")
	}
	f.lanes["train"].said = time.Now().Add(-announceRest)
	if !f.offer(&lane, 8, false) {
		t.Fatal("not announced in every beat")
	}
	lane.Floor = 64
	if !f.offer(&lane, 8, false) {
		t.Fatal("a new floor is not announced")
	}
}
