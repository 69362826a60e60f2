package owner

import (
	"math"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds of the estimate of how many workers a trainer needs.
const (
	needSpan     = 5 * time.Second // how long a trainer is watched for one estimate
	needHeadroom = 1.25            // slots above what the mean of the pace asks for
)

// need estimates how many slots would keep a trainer from waiting for materialization: the time that its batches took
// to materialize, by the time that the trainer itself spent on them. Both are sums over the same batches, so a trainer
// that starves does not look like one that needs little. The zero value knows nothing.
type need struct {
	at    time.Time
	total schema.Timing
	slots float64 // 0 for unknown
}

// observe takes the sums of a reader. Those of another one, which are smaller, begin anew.
func (n *need) observe(now time.Time, total schema.Timing) {
	if n.at.IsZero() || total.Trainer < n.total.Trainer || total.Materialize < n.total.Materialize {
		n.at, n.total = now, total
		return
	}
	if now.Sub(n.at) < needSpan {
		return
	}
	spent := total
	spent.Sub(n.total)
	n.at, n.total = now, total
	if spent.Materialize <= 0 {
		return // nothing was taken: what was known stays
	}
	// A trainer that only takes asks for more than there can be, and bounded does the rest.
	slots := float64(spent.Materialize) / float64(max(spent.Trainer, 1))
	if n.slots > 0 {
		slots = (slots + n.slots) / 2 // one odd span moves it half way
	}
	n.slots = slots
}

// workers is the estimate in workers of the present kind, of which there are so many with so many slots together. It is
// at least 1, at most what inFlight batches can keep busy, and at most twice the present number and one, since what was
// seen at one scale says little about another.
func (n *need) workers(workers, slots, inFlight int) int {
	each := 1.0
	if workers > 0 && slots > workers {
		each = float64(slots) / float64(workers)
	}
	want := math.Ceil(n.slots * needHeadroom)
	want = min(max(want, 1), float64(max(inFlight, 1)))
	return int(min(math.Ceil(want/each), float64(2*workers+1)))
}

// inFlight is how many batches the settings allow in flight, with any number of workers.
func inFlight(s wire.Settings, batchBytes int64) int {
	return windowLimit(s, maxWindow, max(batchBytes, 1))
}
