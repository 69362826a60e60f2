package owner

// cursors are how far the ranks of a world have come, one position each; a reader of its own is the one rank of its
// world. What all of them have is the slowest's. A rank that left counts for nothing, unless all have.
type cursors []cursor

type cursor struct {
	taken uint64
	left  bool
}

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

// credit notes that a rank has come so far; it never goes back.
func (c cursors) credit(rank int, taken uint64) { c[rank].taken = max(c[rank].taken, taken) }

// place puts a rank, which may have left before, at a position.
func (c cursors) place(rank int, taken uint64) { c[rank] = cursor{taken: taken} }

// leave has a rank count no more.
func (c cursors) leave(rank int) { c[rank].left = true }

// moveAll puts all ranks at one position.
func (c cursors) moveAll(taken uint64) {
	for i := range c {
		c[i].taken = taken
	}
}

// renumber is for a new generation that begins after a sequence number of the one before, with first taken already.
func (c cursors) renumber(after, first uint64) {
	for i := range c {
		c[i].taken = first + max(c[i].taken, after) - after
	}
}
