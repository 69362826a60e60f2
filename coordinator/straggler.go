package coordinator

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// sweepEvery is how often results are looked for that came after they were dropped.
const sweepEvery = 30 * time.Second

// backUp gives the job of a head that straggles to a second worker, once: the first result that is stored counts, and
// the other is refused. The second job waits its turn behind all that are out, so that it takes no slot from them; it is
// only the head's, and only when there is a second worker. When the head is taken, what is left of its jobs goes.
func (b *batcher) backUp(credit *wire.Credit) {
	g := b.gen
	if g.backup > 0 && g.Taken() >= g.backup {
		b.cancelJobs(g.backup, g.backup+1)
		g.backup = 0
	}
	seq := g.Taken() + 1
	e, fed := g.Entry(seq)
	if !credit.Straggles || credit.Taken != g.Taken() || !fed || g.backup == seq {
		return
	}
	if workers, _ := b.c.fleet.serving(b.kindToken()); workers < 2 {
		return
	}
	if err := g.feed.backUp(seq, e.Job); err != nil {
		b.log.Warn("late job not given to a second worker yet", "seq", seq, "error", err)
		return
	}
	g.backup = seq
	b.backups++
	b.log.Info("late job given to a second worker", "gen", b.rec.Gen, "seq", seq)
}

// sweep drops results that were stored after their like had been dropped: by workers that were late, or had slept.
// Nobody reads them, but a store that keeps them is not bounded.
func (b *batcher) sweep() {
	g := b.gen
	if g.Floor() == 0 || time.Since(g.swept) < sweepEvery || !b.silent.IsZero() {
		return
	}
	g.swept = time.Now()
	ctx, cancel := b.c.call(lookTimeout)
	defer cancel()
	stored, err := b.commits(ctx)
	if err != nil {
		b.log.Warn("late results not looked for yet", "error", err)
		return
	}
	for seq := range stored {
		if seq > g.Floor() {
			continue
		}
		if err := b.purge(seq-1, seq); err != nil {
			b.log.Warn("late result not dropped yet", "seq", seq, "error", err)
			return
		}
	}
}
