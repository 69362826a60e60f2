package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/schema"
)

// rankSilent is from when on a rank's silence is worth a word: each is heard once a second.
const rankSilent = 3 * time.Second

// Shared reports whether several ranks take a batcher together, or several readers each at its own pace.
func Shared(b schema.Status) bool { return len(b.Members) > 1 }

// Readers reports whether the members of a batcher are readers that go at their own pace.
func Readers(b schema.Status) bool { return len(b.Members) > 0 && b.Members[0].Name != "" }

// Label is what a rank, or a reader, is called.
func Label(m schema.MemberStatus) string {
	if m.Name != "" {
		return legible.Line(m.Name)
	}
	return fmt.Sprint(m.Rank)
}

// apart reports whether a reader does not go with the others: it goes on alone, was stopped, or has not begun.
func apart(m schema.MemberStatus) bool { return m.Name != "" && !m.Attached }

// Members is how many ranks a batcher has, or readers that have not left.
func Members(b schema.Status) (n int) {
	for _, m := range b.Members {
		if m.Name == "" || !m.Left {
			n++
		}
	}
	return n
}

// Ranks is how the ranks, or readers, of a batcher stand, in few words: how many of them are heard, how far they are
// apart, and the one that is furthest behind. It is empty for a trainer without others.
func Ranks(b schema.Status) string {
	if !Shared(b) {
		return ""
	}
	text := fmt.Sprintf("%d/%d", b.Heard, Members(b))
	slowest, ok := Slowest(b)
	if ok {
		text += fmt.Sprintf(", %d apart, slowest %s", b.Spread, Label(slowest))
	} else if slowest, ok = unheard(b); ok {
		text += ", rank " + Label(slowest)
	}
	if trouble := rankTrouble(slowest); ok && trouble != "" {
		text += " " + trouble
	}
	return text
}

// Slowest returns the rank that is furthest behind. It reports false where all ranks are equally far.
func Slowest(b schema.Status) (slowest schema.MemberStatus, ok bool) {
	i := slices.IndexFunc(b.Members, func(m schema.MemberStatus) bool { return m.Rank == b.Slowest })
	if i < 0 || b.Spread == 0 {
		return schema.MemberStatus{}, false
	}
	return b.Members[i], true
}

// unheard is the rank that has been silent for longest, if one is.
func unheard(b schema.Status) (longest schema.MemberStatus, ok bool) {
	for _, m := range b.Members {
		if rankTrouble(m) != "" && m.Silent > longest.Silent {
			longest, ok = m, true
		}
	}
	return longest, ok
}

// rankTrouble is why nothing is heard of a rank that is still counted on; empty where it is heard.
func rankTrouble(m schema.MemberStatus) string {
	switch {
	case m.Left, apart(m):
		return ""
	case m.Reader == "":
		return "has not come yet"
	case m.Silent >= rankSilent:
		return "silent for " + roughly(m.Silent)
	}
	return ""
}

// Missed reports whether nothing is heard of a rank that is still counted on.
func Missed(m schema.MemberStatus) bool { return rankTrouble(m) != "" }

// Behind is how many batches a rank is behind the furthest.
func Behind(b schema.Status, m schema.MemberStatus) uint64 {
	furthest := m.Taken
	for _, other := range b.Members {
		if !other.Left && !apart(other) {
			furthest = max(furthest, other.Taken)
		}
	}
	return furthest - m.Taken
}

// Waiting is what a rank waits for, or where a reader is that does not go with the others; empty for nothing.
func Waiting(m schema.MemberStatus) string {
	if apart(m) && !m.Left {
		return "goes on alone, or has not begun"
	}
	return m.Waiting
}

// Heard is when a rank was last heard, or why it is not.
func Heard(m schema.MemberStatus) string {
	switch {
	case m.Left:
		return "left"
	case m.Reader == "":
		return "not come yet"
	}
	return fmt.Sprintf("%.1fs ago", m.Silent.Seconds())
}

// BySlowest are the ranks, or readers, of a batcher, those that are furthest behind first, and those that left last.
func BySlowest(b schema.Status) []schema.MemberStatus {
	return slices.SortedStableFunc(slices.Values(b.Members), func(x, y schema.MemberStatus) int {
		switch {
		case x.Left && !y.Left:
			return 1
		case y.Left && !x.Left:
			return -1
		case apart(x) && !apart(y):
			return 1
		case apart(y) && !apart(x):
			return -1
		}
		return cmp.Compare(x.Taken, y.Taken)
	})
}
