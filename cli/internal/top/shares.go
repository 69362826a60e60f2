package top

import (
	"time"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/schema"
)

// shareRows are the rows of the picture of one batcher's time: training, and five causes to wait. Several ranks have
// another cause.
const shareRows = 6

// maxBar is the longest bar of a share, in cells.
const maxBar = 72

// shares has a bar for training and one for each cause to wait.
func (v *view) shares(b schema.Status) {
	timing, batches := v.batchers[b.Batcher].timing()
	total := timing.Wait + timing.Trainer
	stages := [...]time.Duration{timing.Iterate, timing.Queue, timing.Materialize, timing.Transfer, 0, 0}
	width := min(v.width-54, maxBar)
	row := func(name string, style style, part, stage time.Duration) {
		share := 0.0
		if total > 0 {
			share = float64(part) / float64(total)
		}
		l := v.line().left(dim, "  "+name, 20).add(style, bar(share, width)).right(plain, percent(share, total > 0), 8)
		if batches == 0 {
			return
		}
		l.right(plain, milliseconds(part, batches), 12)
		if stage > 0 {
			l.right(dim, milliseconds(stage, batches), 12)
		}
	}
	title := v.lines[len(v.lines)-1]
	if at := 20 + width; at > title.cells && batches > 0 {
		title.to(at).right(dim, "TIME", 8).right(dim, "A BATCH", 12).right(dim, "ITS STAGE", 12)
	}
	row("training", good, timing.Trainer, 0)
	for i, c := range timing.Causes() {
		if c.Name == "ranks" && !fleet.Shared(b) {
			continue
		}
		style := warn
		if total > 0 && float64(c.Wait)/float64(total) >= 0.2 {
			style = bad
		}
		row("wait: "+c.Name, style, c.Wait, stages[i])
	}
}
