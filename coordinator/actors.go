package coordinator

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// actors are the batchers that this coordinator owns. Its lock guards which there are; each batcher's own goroutine
// guards the batcher.
type actors struct {
	*site
	fleet     *fleet
	follows   *follows
	directory *directory
	handover  *handover
	iterate   *prometheus.HistogramVec // of the time of Next

	mu     sync.Mutex
	owned  map[string]*batcher
	closed bool // nothing new is begun
}

// owner returns the actor of a batcher that this coordinator owns, or nil.
func (a *actors) owner(name string) *batcher {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.owned[name]
}

func (a *actors) all() []*batcher {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]*batcher, 0, len(a.owned))
	for _, b := range a.owned {
		all = append(all, b)
	}
	return all
}

// adopt starts the actor of a batcher whose record, at rev, names this coordinator.
func (a *actors) adopt(rec wire.Record, rev uint64) *batcher {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := newBatcher(a, rec, rev)
	a.owned[rec.Batcher] = b
	a.running.Go(b.run)
	return b
}

// spawn runs f in a goroutine that Run waits for. It reports false when Run is about to return: a callback of a
// subscription may come after its end.
func (a *actors) spawn(f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.running.Go(f)
	}
	return !a.closed
}

// disown forgets an actor that ended.
func (a *actors) disown(b *batcher) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.owned[b.name] == b {
		delete(a.owned, b.name)
		a.follows.end(b.name, "")
	}
}

// deliver hands a message for a batcher, whose name is the subject's last token, to its actor if it is owned here.
func (a *actors) deliver(hear func(*batcher, *nats.Msg)) nats.MsgHandler {
	return func(m *nats.Msg) {
		if b := a.owner(lastToken(m.Subject)); b != nil {
			hear(b, m)
		}
	}
}

// deliverReader hands a credit to the batcher's actor, if it is here. Of a batcher that no coordinator can take over
// the directory notes that the reader lives.
func (a *actors) deliverReader(m *nats.Msg) {
	name := lastToken(m.Subject)
	if b := a.owner(name); b != nil {
		b.hearReader(m)
	} else if a.directory.isStray(name) {
		if credit := readCredit(m.Data); credit != nil {
			a.directory.heard(name, credit.Holder(credit.Reader), time.Now())
		}
	}
}

// fleetChanged lets every batcher look at its window again and say that it has jobs, as it does every beat.
func (a *actors) fleetChanged() {
	a.follows.changed()
	for _, b := range a.all() {
		b.hint(func() {
			b.countFleet()
		})
	}
}

// specKey is equal for specs that mean the same: parameters are compared in the form that the data set gives them.
// Those that it refuses, and those of a data set that is not here, are found out when it is to be opened. It runs code
// of the data set.
func (a *actors) specKey(spec wire.Spec) wire.Digest {
	if k := a.kinds[spec.Dataset]; k != nil {
		spec.Version = k.Version
		if params, err := k.NormalFunc(spec.Params); err == nil {
			spec.Params = params
		}
	}
	return spec.Digest()
}

// views asks all actors at once. Of a busy actor it takes the last view.
func (a *actors) views() []*view {
	all := a.all()
	answers := make([]chan *view, len(all))
	for i, b := range all {
		answers[i] = make(chan *view, 1)
		b.hint(func() { answers[i] <- b.view() })
	}
	limit := time.NewTimer(viewWait)
	defer limit.Stop()
	late := false
	views := make([]*view, 0, len(all))
	for i, b := range all {
		var v *view
		if !late {
			select {
			case v = <-answers[i]:
			case <-b.gone:
			case <-limit.C:
				late = true
			}
		}
		if v == nil {
			v = b.viewed.Load()
		}
		if v != nil {
			views = append(views, v)
		}
	}
	return views
}

// close has nothing new begin.
func (a *actors) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
}

// ended reports whether nothing new is begun.
func (a *actors) ended() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}
