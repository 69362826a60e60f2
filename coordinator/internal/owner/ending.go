package owner

import (
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// ending is the end of a run until the record has it, and the credits that are answered then.
type ending struct {
	failing  *failure
	finished bool // the trainer has everything up to the end of the data
	told     []teller
}

// teller is a credit that waits for its answer.
type teller struct {
	token Token
	at    wire.Rank
}

// failure is an error that ends a generation.
type failure struct {
	gen   string
	fault *schema.Fault
}

// fail ends a generation with an error that its reader met or will be told of. The first one counts.
func (e *ending) fail(gen string, fault *schema.Fault) {
	if e.failing == nil || e.failing.gen != gen {
		e.failing = &failure{gen, fault}
	}
}

// of returns the failure of a generation; nil for none.
func (e *ending) of(gen string) *schema.Fault {
	if e.failing == nil || e.failing.gen != gen {
		return nil
	}
	return e.failing.fault
}

// due reports whether the end of the record's run is to be recorded.
func (e *ending) due(rec *wire.Record) bool {
	return e.of(rec.Gen) != nil || e.finished && rec.Phase == schema.PhaseRunning
}

// answer answers the credits that wait for the end of the run to be recorded, or for why it cannot be.
func (e *ending) answer(out *effects, standing func(wire.Rank) wire.CreditReply) {
	for _, t := range e.told {
		out.emit(ReplyCredit{t.token, standing(t.at)})
	}
	e.told = nil
}
