package owner

import (
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// carryEnd ends the run on an operator's word, whoever is seated, and deletes the record where that is asked for. A run
// is stopped first, so that its reader hears of its end and does not make the record anew.
func (o *Owner) carryEnd(now time.Time, a *asking) {
	running := o.rec.Phase == schema.PhaseRunning
	switch {
	case a.end.Remove && running && !a.end.Force:
		o.finish(a, &schema.Fault{Code: schema.CodeInUse, Message: fmt.Sprintf("batcher %s runs", o.rec.Batcher)})
	case a.end.Remove && !running:
		o.writing = &change{aim: toRetire, next: o.rec, asks: a}
		o.emit(Retire{o.rev})
	case o.rec.Phase == schema.PhaseClosed || o.rec.Phase == schema.PhaseStopped:
		o.finishStop(a)
	default:
		a.before, a.failure = o.rec.Gen, o.rec.Error
		o.record(toStop, a, func(r *wire.Record) {
			if o.gen != nil {
				r.Taken = o.gen.Taken()
			}
			closeIn(now, r)
		})
	}
}
