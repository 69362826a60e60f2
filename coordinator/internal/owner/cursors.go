package owner

// cursors are how far the ranks of a world have come, one position each; a reader of its own is the one rank of its
// world. What all of them have is the slowest's. A rank that left counts for nothing, unless all have.
type cursors []cursor

type cursor struct {
	taken uint64
	holes uint64 // of taken, the last ones: the rank is past them, and its state is that of before
	left  bool
}

// kept is the position that the rank's state follows: nothing after it is another place for the rank.
func (k cursor) kept() uint64 { return k.taken - k.holes }

// counts reports whether a rank that left is passed over: some other is still there.
func (c cursors) counts(k cursor) bool {
	if !k.left {
		return true
	}
	for _, other := range c {
		if !other.left {
			return false
		}
	}
	return true
}

// present is how many ranks count.
func (c cursors) present() (n int) {
	for _, k := range c {
		if c.counts(k) {
			n++
		}
	}
	return n
}

// slowest is the rank that has come least far, the first of them.
func (c cursors) slowest() int {
	slowest := -1
	for rank, k := range c {
		if c.counts(k) && (slowest < 0 || k.taken < c[slowest].taken) {
			slowest = rank
		}
	}
	return slowest
}

// taken is what all ranks have.
func (c cursors) taken() uint64 { return c[c.slowest()].taken }

// holes is how many of what all ranks have come behind the state of one that all ranks are past.
func (c cursors) holes() uint64 {
	kept := c.taken()
	for _, k := range c {
		if c.counts(k) {
			kept = min(kept, k.kept())
		}
	}
	return c.taken() - kept
}

// furthest is how far one of them has come.
func (c cursors) furthest() uint64 {
	furthest := uint64(0)
	for _, k := range c {
		if c.counts(k) {
			furthest = max(furthest, k.taken)
		}
	}
	return furthest
}

// within is how far the furthest has come, and not more than so much further than the slowest.
func (c cursors) within(most uint64) uint64 { return min(c.furthest(), c.taken()+most) }

// credit notes that a rank has come so far, past holes at last; it never goes back.
func (c cursors) credit(rank int, taken, holes uint64) {
	if k := &c[rank]; taken >= k.taken {
		k.taken, k.holes = taken, min(holes, taken)
	}
}

// place puts a rank, which may have left before, at a position. Among the holes that it was past, its state is the
// same.
func (c cursors) place(rank int, taken uint64) {
	before := c[rank]
	c[rank] = cursor{taken: taken}
	if before.kept() <= taken && taken <= before.taken {
		c[rank].holes = taken - before.kept()
	}
}

// leave has a rank count no more.
func (c cursors) leave(rank int) { c[rank].left = true }

// moveAll puts all ranks at one position, past holes at last.
func (c cursors) moveAll(taken, holes uint64) {
	for i := range c {
		c[i].taken, c[i].holes = taken, min(holes, taken)
	}
}

// renumber is for a new generation that begins after a sequence number of the one before, with first taken already.
func (c cursors) renumber(after, first uint64) {
	for i := range c {
		k := &c[i]
		k.taken = first + max(k.taken, after) - after
		k.holes = min(k.holes, k.taken)
	}
}
