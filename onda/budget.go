package onda

import (
	"fmt"
	"math"
	"sync/atomic"
)

// defaultOpenBytes is half of the memory that the Compose files give to a
// coordinator: one data set can be opened while another is in use.
const defaultOpenBytes = 512 << 20

// openBytes is the default of [Config].OpenBytes in a process whose memory is
// limited so; math.MaxInt64 is no limit.
func openBytes(memoryLimit int64) int64 {
	if memoryLimit == math.MaxInt64 {
		return defaultOpenBytes
	}
	return memoryLimit / 2
}

// cacheBytes is the default of [Config].CacheBytes in such a process.
func cacheBytes(memoryLimit int64) int64 { return min(256<<20, memoryLimit/4) }

// budget bounds the bytes that one opening holds at a time: files and their
// decompressed content, rows, labels and weights. The opening charges a size
// that a table or a parameter states before it allocates so much. A nil budget
// has no limit. It is safe for concurrent use.
type budget struct {
	limit int64
	taken atomic.Int64
}

// take charges size bytes. An error is a *BudgetError, and nothing is charged.
func (b *budget) take(what string, size int64) error {
	if b == nil {
		return nil
	}
	for {
		taken := b.taken.Load()
		if size < 0 || size > b.limit-taken {
			return &BudgetError{What: what, Bytes: size, Taken: taken, Limit: b.limit}
		}
		if b.taken.CompareAndSwap(taken, taken+size) {
			return nil
		}
	}
}

// give returns bytes that were taken and are not held any more.
func (b *budget) give(size int64) {
	if b != nil {
		b.taken.Add(-size)
	}
}

// BudgetError names the thing that does not fit the bytes of one opening:
// see [Config].OpenBytes.
type BudgetError struct {
	// What names the thing.
	What string
	// Bytes that it takes, Taken that are held already, of Limit.
	Bytes, Taken, Limit int64
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("%v: %s takes %d bytes, and %d of %d are taken", ErrTooLarge, e.What, e.Bytes, e.Taken, e.Limit)
}

// Unwrap gives ErrTooLarge.
func (e *BudgetError) Unwrap() error { return ErrTooLarge }
