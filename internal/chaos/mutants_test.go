package chaos

import (
	"flag"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/mutant"
)

// mutantsFlag says how many mutants TestMutants builds and hunts; the full run takes all.
var mutantsFlag = flag.Int("chaos.mutants", 0, "mutants to build and catch, from the first of the list on; 0 for none but with -chaos.full")

var mutants = []mutant.Mutant{
	mutant.New("a job is acked before its result is stored", mutant.In(
		"worker/commit.go",
		"	if !c.gate.enter(len(record.data)) {\n", "	c.held.ack(j)\n	if !c.gate.enter(len(record.data)) {\n",
	)),
	mutant.New("generations share a name", mutant.In(
		"coordinator/effects.go",
		"func newGen() string { return ulid.Make().String() }", "func newGen() string { return ulid.Make().String()[:0] + \"G\" }",
	)),
	mutant.New("the first write of a result does not win", mutant.In(
		"internal/topology/topology.go",
		"		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,\n		AllowDirect: true,",
		"		MaxMsgsPerSubject: 4,\n		AllowDirect: true,",
	)),
	mutant.New("results are not chained by their states", mutant.In(
		"client/internal/reorder/reorder.go",
		"if !bytes.Equal(e.Result.Prev, b.state) {", "if false && !bytes.Equal(e.Result.Prev, b.state) {",
	)),
	mutant.New("a deposed owner writes the record", mutant.In(
		"coordinator/records.go",
		"rev, err = r.kv.Update(ctx, topology.BatcherKey(rec.Batcher), data, rev)", "rev, err = r.kv.Put(ctx, topology.BatcherKey(rec.Batcher), data)",
	)),
	mutant.New("credits of an earlier seat count", mutant.In(
		"coordinator/internal/owner/credit.go",
		"c.Gen != rec.Gen || c.Seat != o.ledger.seatOf(rank) || g == nil", "c.Gen != rec.Gen || g == nil",
	)),
	mutant.New("a reader believes what workers publish", mutant.In(
		"client/session.go",
		"in.data.Subscribe(s.live, s.hear)", "in.data.Subscribe(wire.CommitFilter(in.cfg.Name, gen), s.hear)",
	), mutant.In(
		"client/store.go",
		"	if msg.Subject != live || msg.Reply != \"\" {\n",
		"	if true {\n		seq, err := wire.ParseResultSeq(msg.Subject)\n		return seq, err == nil\n",
	)),
	mutant.New("results are dropped before the record says so", mutant.In(
		"coordinator/internal/owner/write.go",
		"		l.record(toSave,", "		o.out.emit(Purge{rec.Gen, g.purged, g.droppable()})\n		l.record(toSave,",
	)),
	mutant.New("a displaced reader takes the seat back", mutant.In(
		"coordinator/internal/owner/seat.go",
		"	case !same && req.Mode != wire.ModeOpen:", "	case false:",
	), mutant.In(
		"client/credit.go",
		"func (l *line) displaced(begun bool, said *wire.CreditReply) bool {\n",
		"func (l *line) displaced(begun bool, said *wire.CreditReply) bool {\n	if begun || !begun {\n		return false\n	}\n",
	)),
	mutant.New("a late head is not looked after", mutant.In(
		"coordinator/internal/owner/late.go",
		"if now.Sub(l.looked) < l.pause {", "if l.pause >= 0 {",
	)),
	mutant.New("a lost store is noticed by nobody", mutant.In(
		"client/session.go",
		"	if errors.Is(err, errStoreGone) {\n		if s.gone++", "	if false {\n		if s.gone++",
	), mutant.In(
		"coordinator/store.go",
		"	if errors.Is(err, jetstream.ErrStreamNotFound) {\n		return true, nil", "	if errors.Is(err, jetstream.ErrStreamNotFound) {\n		return false, nil",
	)),
	mutant.New("a reader does not look for a head that is late", mutant.In(
		"client/session.go",
		"		case <-s.headNow:\n			if s.readHead() {", "		case <-s.headNow:\n			if false {",
	)),
	mutant.New("a job is handed out once", mutant.In(
		"internal/topology/topology.go",
		"		blind = len(queued", "		blind = false && len(queued",
	), mutant.In(
		"internal/topology/topology.go",
		"MaxDeliver: -1, MaxAckPending: -1,", "MaxDeliver: 1, MaxAckPending: -1,",
	)),
	mutant.New("a payload that was lost is not made again", mutant.In(
		"coordinator/internal/owner/credit.go",
		"	if !o.store.isSilent() { // else the reader says it again", "	if false { // else the reader says it again",
	)),
	mutant.New("who says that a payload was lost takes another attempt's result away", mutant.In(
		"coordinator/store.go",
		"	if err != nil || res.Attempt != attempt {", "	if err != nil || res.Attempt == \"\" {",
	)),
	mutant.New("what came from a worker is not compared with its digest", mutant.In(
		"client/direct.go",
		"if got := sum.Sum(); got != res.Digest {", "if got := sum.Sum(); false && got != res.Digest {",
	)),
	mutant.New("a machine's fault is judged as the job's", mutant.In(
		"worker/internal/judge/judge.go",
		"	case OfMachine:\n		return Return", "	case OfMachine:\n		return CommitFault",
	)),
	mutant.New("nobody notices a stale copy", mutant.In(
		"worker/dataset.go",
		"return o.origin == \"\" || ", "return o.origin != \"\" || ",
	)),
	mutant.New("a suspended lane never comes back", mutant.In(
		"worker/suspend.go",
		"		s.puller.start(l)\n", "",
	)),
	mutant.New("the window follows the fastest rank", mutant.In(
		"coordinator/internal/owner/cursors.go",
		"k.taken < c[slowest].taken) {", "k.taken > c[slowest].taken) {",
	)),
	mutant.New("the collector deletes what the record names", mutant.In(
		"coordinator/collector.go",
		"case rec.Gen == g.gen || rec.Wire", "case rec.Wire",
	)),
}

// TestMutantsApply keeps the list of mutants from rotting.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		if _, err := m.Apply(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}

// TestMutants builds the product with one safeguard removed at a time. The schedules that find nothing wrong with the
// whole product must find something wrong with each, soon.
func TestMutants(t *testing.T) {
	const most, batches = 150, 100 // a third of them with one rank, as some of the mutants need
	hunted := mutants[:min(*mutantsFlag, len(mutants))]
	if *fullFlag {
		hunted = mutants
	}
	if len(hunted) == 0 {
		t.Skip("takes a build for each; run it with -chaos.mutants or -chaos.full")
	}
	type catch struct {
		Mutant    string `json:"mutant"`
		Schedules int    `json:"schedules"` // until it was caught
		Class     string `json:"class"`     // as what; empty if it was not
		Error     string `json:"error"`
	}
	var caught []catch
	began := time.Now()
	for _, m := range hunted {
		t.Run(m.Name, func(t *testing.T) {
			c := catch{Mutant: m.Name}
			exe, err := m.Build(t.Context(), "internal/chaos", t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for o := range runSchedules(t.Context(), exe, *firstFlag, most, batches) {
				c.Schedules++
				if o.Class != "" {
					c.Class, c.Error = o.Class, o.Error
					break
				}
			}
			if c.Class == "" {
				t.Errorf("not caught by %d schedules", c.Schedules)
			}
			c.Error = c.Error[:min(len(c.Error), 300)]
			caught = append(caught, c)
		})
	}
	printFigures(struct {
		Tier    string  `json:"tier"`
		Mutants []catch `json:"mutants"`
		Seconds float64 `json:"seconds"`
	}{"mutants", caught, time.Since(began).Seconds()})
}
