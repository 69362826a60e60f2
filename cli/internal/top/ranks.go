package top

import (
	"fmt"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/schema"
)

// ranksWidth is that of the column of ranks, which a wide picture has where there are some.
const ranksWidth = 9

// rankCount is how many of a batcher's ranks are heard.
func rankCount(b schema.Status) string {
	if !fleet.Shared(b) {
		return "–"
	}
	return fmt.Sprintf("%d/%d", b.Heard, len(b.Members))
}

// ranks says how the ranks of a batcher stand that several take, and how far each is behind the furthest.
func (v *view) ranks(b schema.Status) {
	if !fleet.Shared(b) {
		return
	}
	v.line().add(dim, "  ranks             ").add(ranksStyle(b), fleet.Ranks(b))
	l := v.line().add(dim, "  behind, by rank  ")
	for _, m := range fleet.BySlowest(b) {
		if !m.Left {
			l.add(plain, fmt.Sprintf(" %d: %d ", m.Rank, fleet.Behind(b, m)))
		}
	}
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
