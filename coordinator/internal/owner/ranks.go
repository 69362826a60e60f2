package owner

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds on the patience with a rank.
const (
	defaultPatience = time.Minute
	neverCame       = 10 // patiences for a rank that no process ever was
)

// ranks are those of the world that has the seat, as last heard, and how far each has come. A reader of its own is the
// one rank of its world. Where several readers share a run, each is one of them; those that are not attached count as
// ranks that left.
type ranks struct {
	ledger *ledger
	cursors
	asks  asks
	each  []rank
	beat  time.Time     // when silence was counted last
	wrong time.Duration // since a rank first met an error that the others are to meet at the same place
	fault *schema.Fault // that error; nil for none
}

// rank is one of the ranks.
type rank struct {
	heard   time.Time
	silent  time.Duration // a pause of this process is none of the rank's
	late    time.Time     // since when it waits for what is fed; zero while it does not
	waiting string        // what it waits for
	held    bool          // it has all that is fed, and waits for another rank
	need    need
	failed  bool      // it has met the error
	told    time.Time // when it last said where it is in the run; zero: not to this owner
	took    time.Time // when it last said that it is further than before
}

// reset begins with the ranks of the record, all of them at one position, past holes at last.
func (r *ranks) reset(now time.Time, taken, holes uint64) {
	size := max(1, r.ledger.rec.Size)
	r.cursors, r.each, r.asks = make(cursors, size), make([]rank, size), make(asks, size)
	r.wrong, r.fault = 0, nil
	r.moveAll(taken, holes)
	for i := range r.each {
		r.each[i].heard = now
		if r.ledger.rec.Absent(i) {
			r.leave(i)
		}
	}
	r.beat = now
}

// counted makes place for the ranks of a record that was lost, and that a request made anew.
func (r *ranks) counted(now time.Time) {
	if len(r.each) != max(1, r.ledger.rec.Size) {
		r.reset(now, 0, 0)
	}
}

// moved puts all ranks at a position that a request asked for.
func (r *ranks) moved(now time.Time, taken uint64) {
	clear(r.asks)
	r.wrong, r.fault = 0, nil
	for i := range r.each {
		r.each[i].failed = false
	}
	r.moveAll(taken, 0)
}

// renumber is for a generation that takes the place of a lost one: it begins after a sequence number of that, with some
// taken already.
func (r *ranks) renumber(after, taken uint64) {
	if r.ledger.rec.Size == 0 { // a reader of its own says where it is when it is seated
		r.moveAll(taken, 0)
		return
	}
	r.cursors.renumber(after, taken)
}

// asking is the move that a rank asks for; nil for none.
func (r *ranks) asking(rank int) *ask {
	if rank >= len(r.asks) {
		return nil // the request makes the record anew
	}
	return r.asks[rank]
}

// came notes that a process has the slot of a rank.
func (r *ranks) came(now time.Time, rank int) {
	r.asks[rank] = nil
	r.each[rank].heard, r.each[rank].silent, r.each[rank].failed = now, 0, false
}

// hear takes a credit's word on its rank, whatever seat it is of. held says that another rank is in its way.
func (r *ranks) hear(now time.Time, rank int, c *wire.Credit, held bool) {
	k := &r.each[rank]
	k.heard, k.silent, k.waiting, k.held = now, 0, c.Waiting, held
	if c.Timing != nil {
		k.need.observe(now, *c.Timing)
	}
	switch {
	case !c.Late:
		k.late = time.Time{}
	case k.late.IsZero():
		k.late = now
	}
	r.asks.hear(rank, c.Asking)
}

// credit notes how far a rank is in the run. A reader, alone or one of several, may go on from any state.
func (r *ranks) credit(now time.Time, rank int, c *wire.Credit) {
	holes := c.Holes
	if !r.isWorld() {
		holes = 0
	}
	if c.Taken > r.cursors[rank].taken {
		r.each[rank].took = now
	}
	r.cursors.credit(rank, c.Taken, holes)
	r.each[rank].told = now
}

// late is for how long a rank has said that it waits, though no other rank is in its way.
func (r *ranks) late(now time.Time) (longest time.Duration) {
	for i := range r.each {
		if since := r.each[i].late; !since.IsZero() {
			longest = max(longest, now.Sub(since))
		}
	}
	return longest
}

// speaker is the rank whose sums of times stand for all.
func (r *ranks) speaker() int {
	for i := range r.cursors {
		if !r.cursors[i].left && (r.ledger.rec.Size == 0 || r.ledger.rec.Members[i].Seated) {
			return i
		}
	}
	return 0
}

// least is the need of the rank that spends the most time on a batch: the others wait for it, and not for workers. Of
// readers that do not wait for one another it is the need of the quickest. It knows nothing while no need is known.
func (r *ranks) least() (least need) {
	quickest := r.ledger.rec.Shared() && !r.ledger.rec.Settings.LagWait
	for i := range r.each {
		n := r.each[i].need
		if n.slots > 0 && r.counts(r.cursors[i]) && (least.slots == 0 || (n.slots < least.slots) != quickest) {
			least = n
		}
	}
	return least
}

// slots is how many slots keep the ranks busy. Zero while it is not known, or a rank waits for a batch.
func (r *ranks) slots() float64 {
	for i := range r.each {
		if k := &r.each[i]; k.waiting != "" && !k.held && r.counts(r.cursors[i]) {
			return 0
		}
	}
	return r.least().slots
}

// isWorld reports whether the seat is a world's.
func (r *ranks) isWorld() bool { return r.ledger.rec.Size > 0 && !r.ledger.rec.Shared() }

// there are the ranks that have not left.
func (r *ranks) there() (there []int) {
	for i := range r.cursors {
		if !r.cursors[i].left {
			there = append(there, i)
		}
	}
	return there
}

// patience is how long a silent rank is waited for.
func (r *ranks) patience() time.Duration {
	return cmp.Or(max(0, r.ledger.rec.Settings.Patience), defaultPatience)
}

// count counts silence, and how long an error has waited for the ranks that have not met it. Two beats count at most
// from one look to the next: time in which this process was paused says nothing of the ranks.
func (r *ranks) count(now time.Time) {
	passed := min(now.Sub(r.beat), 2*Beat)
	r.beat = now
	if deserted(&r.ledger.rec) { // nobody waits for anybody
		return
	}
	for i := range r.each {
		r.each[i].silent += passed
	}
	if r.fault != nil {
		r.wrong += passed
	}
}

// lost is why the run cannot go on: a rank of the world is not heard any more, or never came. Nil while it can.
func (r *ranks) lost() *schema.Fault {
	if !r.isWorld() || !anyPlaced(&r.ledger.rec) {
		return nil
	}
	for _, i := range r.there() {
		if f := r.lostRank(i); f != nil {
			return f
		}
	}
	return nil
}

// lostRank is lost for one rank.
func (r *ranks) lostRank(i int) *schema.Fault {
	silent, world := r.each[i].silent, r.ledger.rec.Reader
	seq := r.cursors[i].taken + 1
	switch came := r.ledger.rec.Members[i].Reader != ""; {
	case !came && silent/neverCame > r.patience(): // the product may be more than a duration holds
		return &schema.Fault{
			Code: schema.CodeRankLost, Seq: seq, Rank: &schema.RankFault{Rank: i, Silent: silent, NeverCame: true},
			Message: fmt.Sprintf("rank %d of world %s has not come within %v", i, world, silent.Round(time.Second)),
		}
	case came && silent > r.patience():
		return &schema.Fault{
			Code: schema.CodeRankLost, Seq: seq, Rank: &schema.RankFault{Rank: i, Silent: silent},
			Message: fmt.Sprintf("rank %d of world %s, which is at batch %d, was not heard for %v", i, world, seq,
				silent.Round(time.Second)),
		}
	}
	return nil
}

// failed takes the error that a rank met, and returns the one to end the run with; nil while others are to meet it at
// the same place first. An error that has no place is the rank's own, and ends the run for all at once.
func (r *ranks) failed(at int, f *schema.Fault) *schema.Fault {
	switch {
	case !r.isWorld():
		return f
	case f.Seq == 0:
		own := *f
		own.Code, own.Rank = schema.CodeRankLost, &schema.RankFault{Rank: at}
		own.Message = fmt.Sprintf("rank %d of world %s cannot go on: %s", at, r.ledger.rec.Reader, f.Message)
		return &own
	}
	if r.fault == nil {
		r.fault = f
	}
	r.each[at].failed = true
	return r.overdue()
}

// overdue is the error to end the run with, once all ranks have met it or had the time to; nil before.
func (r *ranks) overdue() *schema.Fault {
	for _, i := range r.there() {
		if !r.each[i].failed && r.wrong <= r.patience() {
			return nil
		}
	}
	return r.fault
}

// awaited names the rank that another one waits for; empty where no rank is behind that.
func (r *ranks) awaited(now time.Time, by int) string {
	if r.cursors[by].taken == r.cursors.taken() {
		return ""
	}
	return r.behind(now)
}

// waiting is what holds the ranks up: what the slowest waits for, or the slowest itself, if others wait.
func (r *ranks) waiting(now time.Time) string {
	if text := r.each[r.slowest()].waiting; text != "" {
		return text
	}
	for i := range r.each {
		if r.each[i].waiting != "" && r.counts(r.cursors[i]) {
			if text := r.behind(now); text != "" || r.isWorld() {
				return text
			}
			return r.each[i].waiting
		}
	}
	return ""
}

// heard is how many ranks are there: a process came, was heard within the lease, and has not left.
func (r *ranks) heard(now time.Time, lease time.Duration) (n int) {
	for _, i := range r.there() {
		if r.ledger.rec.Members[i].Reader != "" && now.Sub(r.each[i].heard) < lease {
			n++
		}
	}
	return n
}

// behind names the rank that the others are ahead of; empty where there is none.
func (r *ranks) behind(now time.Time) string {
	if r.ledger.rec.Size == 0 || r.cursors.furthest() == r.cursors.taken() {
		return ""
	}
	i := r.slowest()
	if r.ledger.rec.Shared() {
		if !r.ledger.rec.Settings.LagWait {
			return ""
		}
		return fmt.Sprintf("reader %s is at batch %d, heard %v ago", r.ledger.rec.Members[i].Name, r.cursors[i].taken+1,
			now.Sub(r.each[i].heard).Round(100*time.Millisecond))
	}
	if r.ledger.rec.Members[i].Reader == "" {
		return fmt.Sprintf("rank %d has not come yet", i)
	}
	return fmt.Sprintf("rank %d is at batch %d, heard %v ago", i, r.cursors[i].taken+1,
		now.Sub(r.each[i].heard).Round(100*time.Millisecond))
}

// members are the ranks for people.
func (r *ranks) members(now time.Time) []schema.MemberStatus {
	all := make([]schema.MemberStatus, len(r.each))
	for i := range r.each {
		all[i] = schema.MemberStatus{
			Rank: i, Reader: r.ledger.rec.Members[i].Reader, Taken: r.cursors[i].taken, Silent: now.Sub(r.each[i].heard),
			Waiting: r.each[i].waiting, Left: r.cursors[i].left,
		}
		if m := &r.ledger.rec.Members[i]; m.Name != "" {
			all[i].Name, all[i].Left, all[i].Attached = m.Name, m.Left, m.Seated
		}
	}
	return all
}

// anyPlaced reports whether a rank of the record's world has begun.
func anyPlaced(rec *wire.Record) bool {
	for i := range rec.Members {
		if rec.Members[i].Placed {
			return true
		}
	}
	return false
}

// ranksText lists ranks for people.
func ranksText(list []int) string {
	text := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), ", "), "[]")
	if len(list) == 1 {
		return "rank " + text
	}
	return "ranks " + text
}
