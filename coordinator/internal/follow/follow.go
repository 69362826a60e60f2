// Package follow decides which workers ask for the jobs of which batchers. It is pure: the same workers and lanes give
// the same answer, in whatever order.
//
// A broker walks through the requests that wait at a consumer for each of its messages, and a worker has a request, an
// inbox and a record to read for each lane that it follows. So neither is to grow with workers times batchers.
//
// Rules:
//   - The lanes share the slots of all workers. No lane gets more slots than it can use; the others share the rest equally.
//   - The workers lie on a circle in the order of a hash of their names, each as wide as it has slots. A lane begins at
//     a place of its own, a multiple of the golden ratio: however many there are, they lie about evenly, and another one
//     moves none of them. Each is followed by the workers on an arc that is Overlap times as wide as its share. So each
//     slot is in about Overlap arcs: it is idle only while all of these lanes have nothing queued, and lanes that can
//     use as much are served alike.
//   - No lane is followed by less than MinWorkers workers: some may die, or be busy with a long job.
//   - A lane whose head is late is followed by workers with an idle slot as well. The late lanes share these, so that each
//     is given Overlap late lanes: by all of them where few lanes are late, and by some where many batchers begin at once.
//   - A worker that leaves a lane to others, since it cannot open its data set, is passed over.
package follow

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
)

const (
	// Overlap is how many lanes each slot serves: enough for one of them to have jobs nearly always, where some trainers
	// rest, and few enough for their requests to cost little.
	Overlap = 8
	// MinWorkers is how many workers follow a lane at least.
	MinWorkers = 8
	// room is how many slots there are for each that a lane can use, at most: the others may be busy.
	room = 2
)

// Worker is a live worker.
type Worker struct {
	Name  string
	Slots int
	Idle  bool // it has said that a slot is free
}

// Lane is a batcher with jobs.
type Lane struct {
	Place int                   // a number from 0 on that no other has; small ones are given first
	Slots int                   // how many it can use
	Late  bool                  // its trainer waits
	Left  func(worker int) bool // reports whether the worker at a place leaves it to others; nil where none does
}

// Choose returns the followers of each lane, as places in workers, in order; nil for a lane that all follow.
func Choose(workers []Worker, lanes []Lane) [][]int {
	chosen := make([][]int, len(lanes))
	ring := ordered(workers)
	total := 0
	for _, w := range workers {
		total += w.Slots
	}
	shares := share(lanes, total)
	used := 0.0
	for _, s := range shares {
		used += s
	}
	more := spare(workers, lanes)
	for i := range lanes {
		wide := Overlap * shares[i] * float64(total) / max(used, 1)
		wide = min(wide, float64(room*max(lanes[i].Slots, 1)))
		_, place := math.Modf(float64(lanes[i].Place) * math.Phi)
		from := float64(total) * place
		chosen[i] = arc(workers, ring, &lanes[i], from, wide, more)
	}
	return chosen
}

// share divides slots among lanes: none gets more than it can use, and the others get equal parts.
func share(lanes []Lane, slots int) []float64 {
	order := make([]int, len(lanes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lanes[a].Slots, lanes[b].Slots) })
	shares, left := make([]float64, len(lanes)), float64(slots)
	for k, i := range order {
		part := left / float64(len(order)-k)
		shares[i] = min(part, float64(max(lanes[i].Slots, 0)))
		left -= shares[i]
	}
	return shares
}

// spare is how many workers with an idle slot there are for each lane that is late.
func spare(workers []Worker, lanes []Lane) int {
	idle, late := 0, 0
	for _, w := range workers {
		if w.Idle {
			idle++
		}
	}
	for i := range lanes {
		if lanes[i].Late {
			late++
		}
	}
	return (Overlap*idle + late - 1) / max(late, 1)
}

// arc is the workers on so wide a part of the circle, from a place on, and the next with an idle slot, so many more,
// where the lane is late; nil for all of them.
func arc(workers []Worker, ring []int, l *Lane, from, wide float64, more int) []int {
	follows := make([]bool, len(workers))
	n, at, first := 0, 0.0, 0
	for first < len(ring)-1 && at+float64(workers[ring[first]].Slots) <= from {
		at += float64(workers[ring[first]].Slots)
		first++
	}
	for k := range ring {
		w := ring[(first+k)%len(ring)]
		left, full := l.Left != nil && l.Left(w), at >= from+wide && n >= MinWorkers
		switch {
		case left && !full:
			wide += float64(workers[w].Slots)
		case left:
		case !full:
			follows[w] = true
			n++
		case l.Late && workers[w].Idle && more > 0:
			follows[w] = true
			more--
		}
		at += float64(workers[w].Slots)
	}
	var list []int
	all := true
	for i := range workers {
		left := l.Left != nil && l.Left(i)
		if follows[i] {
			list = append(list, i)
		} else {
			all = all && left
		}
	}
	if all {
		return nil
	}
	return list
}

// ordered is the places of workers in the order of a hash of their names, so that those of one machine are not beside
// one another.
func ordered(workers []Worker) []int {
	hashes, order := make([]uint64, len(workers)), make([]int, len(workers))
	for i := range workers {
		h := fnv.New64a()
		_, _ = h.Write([]byte(workers[i].Name)) // never fails
		hashes[i], order[i] = spread(h.Sum64()), i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(hashes[a], hashes[b]), cmp.Compare(workers[a].Name, workers[b].Name))
	})
	return order
}

// spread mixes a hash: those of names that differ in their last letters alone lie close together.
func spread(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}
