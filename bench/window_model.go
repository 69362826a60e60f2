package main

import (
	"slices"
	"time"
)

// inOrder is the model of what a window allows in theory: jobs begin in their order, each as soon as a slot is free and
// the batch that lies a window before it has been taken; batches are taken in order, as soon as they are there. All
// else, iterating, messages and the trainer, takes no time, and nothing is made twice. It returns when each of n
// batches is taken, where sleep says how long job i, from 1, takes.
func inOrder(n, slots, window int, sleep func(i uint64) time.Duration) []time.Duration {
	free := make([]time.Duration, slots) // when each slot is, the first the earliest
	taken := make([]time.Duration, n+1)  // by number, from 1
	for i := 1; i <= n; i++ {
		begin := free[0]
		if i > window {
			begin = max(begin, taken[i-window])
		}
		done := begin + sleep(uint64(i))
		taken[i] = max(taken[i-1], done)
		at, _ := slices.BinarySearch(free[1:], done)
		copy(free, free[1:at+1])
		free[at] = done
	}
	return taken[1:]
}
