package top

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/schema"
)

// Columns of a wide picture where there are ranks: how many of them are heard; and, where there is room for that, how
// far they are apart, and which one is furthest behind.
const (
	ranksWidth   = 9
	spreadWidth  = 8
	slowestWidth = 9
	spreadFrom   = 130 // the width of a picture that has room
)

// rankCount is how many of a batcher's ranks are heard.
func rankCount(b schema.Status) string {
	if !fleet.Shared(b) {
		return "–"
	}
	return fmt.Sprintf("%d/%d", b.Heard, fleet.Members(b))
}

// spread is how far a batcher's ranks are apart, and the one that is furthest behind.
func spread(b schema.Status) (spread, slowest string) {
	if !fleet.Shared(b) {
		return "–", "–"
	}
	if m, ok := fleet.Slowest(b); ok {
		slowest = strconv.Itoa(m.Rank)
	}
	return grouped(b.Spread), cmp.Or(slowest, "–")
}

// rankLines is how many lines the ranks of the chosen batcher have below the one that says how they stand: one for each
// where the screen has room for that.
func (m *Model) rankLines(height int) int {
	n := len(m.chosen().Members)
	if height == Endless {
		return n
	}
	return min(n, max(1, (height-22)/2))
}

// ranks says how the ranks of a batcher stand that several take: a line for each, the slowest first. Those for which
// there are not enough lines have the last one together, which says how far each is behind the furthest.
func (v *view) ranks(b schema.Status, lines int) {
	if !fleet.Shared(b) {
		return
	}
	v.line().add(dim, "  ranks             ").add(ranksStyle(b), fleet.Ranks(b))
	members := fleet.BySlowest(b)
	each := lines
	if len(members) > lines {
		each--
	}
	for _, m := range members[:each] {
		l := v.line().left(dim, fmt.Sprintf("  rank %d", m.Rank), 20)
		l.right(plain, grouped(m.Taken)+" taken", 15).right(plain, grouped(fleet.Behind(b, m))+" behind", 14)
		l.add(rankStyle(m), "   "+fleet.Heard(m)).add(dim, "   "+legible.Line(m.Waiting))
	}
	if len(members) == each {
		return
	}
	l := v.line().add(dim, "  behind, by rank  ")
	for _, m := range members[each:] {
		if !m.Left {
			l.add(plain, fmt.Sprintf(" %s: %d ", fleet.Label(m), fleet.Behind(b, m)))
		}
	}
}

// rankStyle shows that nothing is heard of a rank that is counted on.
func rankStyle(m schema.MemberStatus) style {
	if fleet.Missed(m) {
		return warn
	}
	return plain
}

// ranksStyle shows that a rank is missed.
func ranksStyle(b schema.Status) style {
	there := 0
	for _, m := range b.Members {
		if !m.Left {
			there++
		}
	}
	if b.Heard < there && b.Phase == schema.PhaseRunning {
		return warn
	}
	return plain
}
