package coordinator

import (
	"fmt"
	"slices"
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

// say offers a lane that was begun here, or was taken up, and reports whether all workers are to hear of it.
func say(f *follows, lane *wire.Lane, tookUp bool) (all bool) {
	all, _ = f.offer(lane, offered{run: &wire.Run{Spec: wire.Spec{Dataset: "set"}}, slots: 401, tookUp: tookUp})
	return all
}

func offers(f *follows, n int) {
	for i := range n {
		say(f, &wire.Lane{Batcher: fmt.Sprintf("train-%03d", i), Gen: "G", Kind: "k"}, false)
	}
}

func chosen(f *follows, crew []heard) []*follower {
	all, _ := f.choose(crew)
	return all
}

// Many lanes that begin at once are not announced to all for a moment first, and a lane that turns out to be for all is
// announced at once.
func TestLanesThatBeginAtOnce(t *testing.T) {
	t.Parallel()
	f := newFollows(nil, nil)
	chosen(f, crewOf(200))
	open := 0
	for i := range 100 {
		lane := wire.Lane{Batcher: fmt.Sprintf("train-%03d", i), Gen: "G", Kind: "k"}
		if all := say(f, &lane, true); !all {
			t.Fatal("nobody hears whose the lane is")
		}
		if !lane.Few {
			open++
		}
	}
	if open != follow.Overlap {
		t.Errorf("%d lanes are for all", open)
	}
	if all, open := f.choose(crewOf(3)); len(open) != 100-follow.Overlap || open[0].Few || len(all[0].lanes) != 100 {
		t.Errorf("of three workers each follows %d lanes; %d are announced", len(all[0].lanes), len(open))
	}
	if _, open := f.choose(crewOf(3)); len(open) > 0 {
		t.Errorf("%d are announced again", len(open))
	}
}

// Lanes of a few batchers are announced to all workers; of many, each worker is told its own, and hears no other's
// announcements.
func TestLanesAreToldToFew(t *testing.T) {
	t.Parallel()
	f := newFollows(nil, nil)
	crew := crewOf(200)
	offers(f, 2)
	for _, w := range chosen(f, crew) {
		if len(w.lanes) != 2 || w.crowded {
			t.Fatalf("%s follows %d of 2 lanes, crowded: %v", w.name, len(w.lanes), w.crowded)
		}
	}
	lane := wire.Lane{Batcher: "train-000", Gen: "G", Kind: "k", Floor: 64}
	if all := say(f, &lane, false); !all || lane.Few {
		t.Fatalf("announced to all: %v, few: %v", all, lane.Few)
	}
	offers(f, 100)
	crew[5].at = crew[5].at.Add(-followQuiet)
	crew[6].Suspended = []schema.Suspension{{Kind: "k", Batchers: []string{"train-001"}}}
	crew[7].Kinds = []string{"other"}
	for _, w := range chosen(f, crew) {
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
	if all := say(f, &lane, false); all || !lane.Few {
		t.Errorf("a lane with few followers is announced to all: %v, few: %v", all, lane.Few)
	}
	begun := wire.Lane{Batcher: "train-000", Gen: "G2", Kind: "k"}
	if all := say(f, &begun, false); all || !begun.Few {
		t.Errorf("a new generation of few is announced to all: %v, few: %v", all, begun.Few)
	}
	f.end("train-000", "G") // of the generation before: too late to matter
	for i := range 99 {
		f.end(fmt.Sprintf("train-%03d", i+1), "")
	}
	for _, w := range chosen(f, crewOf(200)) {
		if len(w.lanes) != 1 || w.lanes[0].Gen != "G2" || w.crowded {
			t.Fatalf("%s follows %+v, crowded: %v", w.name, w.lanes, w.crowded)
		}
	}
}

// The followers of a lane hear at once that their requests for its jobs were lost, and its floor at the next beat.
func TestFollowersHearOfLostRequests(t *testing.T) {
	t.Parallel()
	f := newFollows(nil, nil)
	crew := crewOf(200)
	offers(f, 100)
	lists := func() map[string][]string {
		told := make(map[string][]string)
		for _, w := range chosen(f, crew) {
			told[w.name] = w.list()
		}
		return told
	}
	before := lists()
	offer := func(floor uint64, unasked bool) (changed int, hurry bool) {
		<-f.kick
		say(f, &wire.Lane{Batcher: "train-000", Gen: "G", Kind: "k", Floor: floor, Unasked: unasked}, false)
		for name, list := range lists() {
			if !slices.Equal(list, before[name]) {
				changed++
			}
		}
		hurry = len(f.kick) > 0
		f.changed()
		return changed, hurry
	}
	if changed, hurry := offer(64, false); changed > 0 || hurry {
		t.Errorf("%d workers hear of a floor at once; told now: %v", changed, hurry)
	}
	if changed, hurry := offer(64, true); changed < follow.MinWorkers || !hurry {
		t.Errorf("%d workers hear that their requests were lost; told now: %v", changed, hurry)
	}
}

// A worker hears of a lane that it is to follow at once, and of one that it is to leave at the next beat.
func TestGainsAreToldAtOnce(t *testing.T) {
	t.Parallel()
	for want, lists := range map[bool][][2][]string{
		true:  {{{}, {"a.G"}}, {{"a.G"}, {"a.G2"}}, {{"a.G"}, {"a.G unasked"}}, {{"a.G", "b.G"}, {"b.G", "c.G"}}},
		false: {{{}, {}}, {{"a.G"}, {"a.G"}}, {{"a.G", "b.G"}, {"b.G"}}, {{"a.G"}, {}}},
	} {
		for _, l := range lists {
			if got := gained(l[0], l[1]); got != want {
				t.Errorf("from %v to %v: %v", l[0], l[1], got)
			}
		}
	}
}

// An announcement that says nothing new is not made for every worker that comes.
func TestLaneIsNotAnnouncedForNothing(t *testing.T) {
	t.Parallel()
	f := newFollows(nil, nil)
	lane := wire.Lane{Batcher: "train", Gen: "G", Kind: "k"}
	if !say(f, &lane, false) || say(f, &lane, false) {
		t.Fatal("announced twice, or never")
	}
	f.lanes["train"].said = time.Now().Add(-announceRest)
	if !say(f, &lane, false) {
		t.Fatal("not announced in every beat")
	}
	lane.Floor = 64
	if !say(f, &lane, false) {
		t.Fatal("a new floor is not announced")
	}
}

// A list says of the lanes that a worker gains what it needs to serve them, and once; of large ones it says nothing.
func TestGainedLanesAreBriefed(t *testing.T) {
	t.Parallel()
	large := &wire.Run{Spec: wire.Spec{Params: make([]byte, wire.MaxRunSize+1)}}
	w := &follower{
		lanes: []wire.Lane{{Batcher: "a", Gen: "G"}, {Batcher: "b", Gen: "G"}, {Batcher: "c", Gen: "G"}},
		runs:  []*wire.Run{{}, {}, large},
	}
	w.brief([]string{"a.G"}, w.list())
	if w.lanes[0].Run != nil || w.lanes[1].Run == nil || w.lanes[2].Run != nil {
		t.Errorf("%+v", w.lanes)
	}
	w = &follower{}
	for i := range 2 * maxBriefing / wire.MaxRunSize {
		w.lanes = append(w.lanes, wire.Lane{Batcher: fmt.Sprint("b", i), Gen: "G"})
		w.runs = append(w.runs, &wire.Run{Spec: wire.Spec{Params: make([]byte, wire.MaxRunSize)}})
	}
	w.brief(nil, w.list())
	briefed := 0
	for i := range w.lanes {
		if w.lanes[i].Run != nil {
			briefed++
		}
	}
	if briefed != maxBriefing/wire.MaxRunSize {
		t.Errorf("%d lanes are briefed in one list", briefed)
	}
}

// While trainers wait for their first batch the slots are shared with them, and one that never takes holds up the
// others for a while only.
func TestShareWhileOthersBegin(t *testing.T) {
	t.Parallel()
	f := newFollows(nil, nil)
	begin := func(name, kind string) {
		f.offer(&wire.Lane{Batcher: name, Gen: "G", Kind: kind}, offered{run: new(wire.Run), unseen: true})
	}
	begin("a", "k")
	begin("far", "other")
	if n := f.share("k", "a", 200); n != 0 {
		t.Errorf("alone a batcher is given a share of %d slots", n)
	}
	begin("b", "k")
	begin("c", "k")
	f.seen("b")
	if n := f.share("k", "a", 200); n != 66 {
		t.Errorf("of three batchers each has %d slots", n)
	}
	if n := f.share("k", "a", 2); n != 1 {
		t.Errorf("of three batchers each has %d slots of two", n)
	}
	f.lanes["c"].from = time.Now().Add(-beginsFor)
	if n := f.share("k", "a", 200); n != 0 {
		t.Errorf("one that never takes leaves the others %d slots", n)
	}
	f.seen("gone")
}
