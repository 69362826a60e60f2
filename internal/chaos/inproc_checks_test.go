package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// checks watches what roles send and are sent, and says which invariant of docs/DESIGN.md a message breaks: I2 to I4
// speak of the order of messages, which no look at the stores could show afterwards.
type checks struct {
	w *world

	mu     sync.Mutex
	gen    string                         // the generation that was named last for the first time in a record; empty when none is
	gens   map[string]bool                // all that ever were
	writes map[string]*wire.Record        // on their way into the bucket, by reply subject
	views  map[string]*wire.Record        // what each coordinator knows to be stored
	latest revision                       // of the record, as far as anybody was told
	jobs   map[string][]place             // delivered, by the role's name and the subject of their acks
	sent   map[string]sent                // records on their way, by reply subject
	parted map[string][]place             // jobs that were taken out of a run, on their way, by reply subject
	known  map[string]map[place]knowledge // what each worker knows of a place
	taken  map[seatOf]uint64              // what readers said that they took
	said   map[string]uint64              // likewise, the furthest that each said in any generation, by the role's name
	seeks  map[string]seek                // where the reader sat down last, by generation
	former map[string]bool                // generations of before the record was taken away: an old one may come back
	forges map[place]bool                 // results that a fault put there
	stored map[storedAt]sent              // records of which the server said where they are
	lost   map[sent]bool                  // attempts whose payload a reader said to be lost
	broken []string
}

// sent is a result that a worker published, or says that it did.
type sent struct {
	place
	attempt string
}

// storedAt is a message of a generation's store.
type storedAt struct {
	gen string
	at  uint64
}

// knowledge is what a worker has been told of a place by the server.
type knowledge int

const (
	_      knowledge = iota
	queued           // its job is in the queue by itself, so that a run may be acked
	stored           // its result is stored
)

type place struct {
	gen string
	seq uint64
}

type seatOf struct {
	gen  string
	seat uint64
}

// seek is the last change of position in a generation, the first seat of it, and the last seat that was stored.
type seek struct{ position, seat, last uint64 }

func newChecks(w *world) *checks {
	return &checks{
		w: w, gens: make(map[string]bool), writes: make(map[string]*wire.Record), views: make(map[string]*wire.Record),
		jobs: make(map[string][]place), sent: make(map[string]sent), parted: make(map[string][]place), known: make(map[string]map[place]knowledge), forges: make(map[place]bool),
		taken: make(map[seatOf]uint64), said: make(map[string]uint64), seeks: make(map[string]seek),
		former: make(map[string]bool), stored: make(map[storedAt]sent), lost: make(map[sent]bool),
	}
}

// see is called with every message that passes.
func (c *checks) see(e *endpoint, dir int, f *frame) {
	if f.op == "PING" || f.op == "PONG" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch k := f.class(); {
	case dir == up && f.op == "SUB" && e.role == "client" && strings.HasPrefix(f.subject, wire.ResultPrefix):
		c.breach("I3: a reader listens to what workers publish, stored or not: %s", f.subject)
	case dir == up && k == classRecord && strings.HasPrefix(f.subject, "$KV."+topology.Bucket+".batcher."):
		c.seeWrite(f)
	case dir == down && k == classJob:
		// A backup may be let go: the job itself is queued still.
		if _, _, gen, seq, try, err := wire.ParseJobSubject(f.subject); err == nil && try != wire.TryBackup {
			var places []place
			for i := range wire.RunLength(try) {
				places = append(places, place{gen, seq + uint64(i)})
			}
			c.jobs[e.name+f.reply] = places
		}
	case dir == up && k == classJob && e.role == "worker":
		c.breach("a worker queues a job: %s", f.subject)
	case dir == up && strings.HasPrefix(f.subject, wire.ReportPrefix+".") && f.reply != "":
		var report wire.Report
		if json.Unmarshal(f.body, &report) == nil {
			var places []place
			for _, seq := range report.Apart {
				places = append(places, place{report.Gen, seq})
			}
			c.parted[f.reply] = places
			delete(c.sent, f.reply) // its answer has come: subjects of answers are used again
		}
	case dir == up && k == classResult && f.reply != "":
		if seq, err := wire.ParseResultSeq(f.subject); err == nil {
			s := sent{place: place{strings.Split(f.subject, ".")[3], seq}}
			if r, _, err := wire.DecodeResult(f.body); err == nil {
				s.attempt = r.Attempt
			}
			c.sent[f.reply] = s
			delete(c.parted, f.reply)
		}
	case dir == down && k == classReply:
		c.seeAnswer(e, f)
	case dir == up && k == classCredit:
		credit := new(wire.Credit)
		if json.Unmarshal(f.body, credit) == nil {
			c.seeCredit(e, credit)
		}
	case dir == up && k == classSeat && e.role == "client":
		var request wire.StopRequest // of the others no field is read
		if json.Unmarshal(f.body, &request) == nil && request.Last != nil {
			c.seeCredit(e, request.Last)
		}
		var seat struct{ Repair bool }
		if json.Unmarshal(f.body, &seat) == nil && seat.Repair {
			c.said[e.name] = math.MaxUint64 // its state says where it is, and no number that could be held against another
		}
	case dir == up && k == classAck && len(f.body) == 0:
		places, enough := c.jobs[e.name+f.subject], stored
		if len(places) > 1 {
			enough = queued
		}
		for _, p := range places {
			if p.gen == c.gen && c.known[e.name][p] < enough {
				c.breach("I2: %s acks job %d of %s and does not know its result to be stored", e.name, p.seq, p.gen)
			}
		}
	case dir == up && k == classAPI && e.role == "coordinator":
		c.seeCall(e, f)
	}
}

// seeCredit notes what a reader says that it took.
func (c *checks) seeCredit(e *endpoint, credit *wire.Credit) {
	c.said[e.name] = max(c.said[e.name], credit.Taken)
	at := seatOf{credit.Gen, credit.Seat}
	c.taken[at] = max(c.taken[at], credit.Taken)
	for _, l := range credit.Lost {
		c.lost[sent{place{credit.Gen, l.Seq}, l.Attempt}] = true
	}
}

func (c *checks) breach(format string, args ...any) {
	c.broken = append(c.broken, fmt.Sprintf(format, args...)+" (t="+c.w.now()+")")
}

func (c *checks) seeAnswer(e *endpoint, f *frame) {
	rec, write := c.writes[f.subject]
	at, record := c.sent[f.subject]
	singles, parted := c.parted[f.subject]
	if !write && !record && !parted {
		return
	}
	var ack struct {
		Queued bool   `json:"queued"`
		Seq    uint64 `json:"seq"`
		Error  *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if json.Unmarshal(f.body, &ack) != nil {
		return
	}
	switch {
	case write && ack.Error == nil && ack.Seq > 0:
		c.views[e.name] = rec
		c.seeTaken(e, rec)
		c.seeStored(e, rec, ack.Seq)
	case parted && ack.Queued:
		if c.known[e.name] == nil {
			c.known[e.name] = make(map[place]knowledge)
		}
		for _, single := range singles {
			c.known[e.name][single] = max(c.known[e.name][single], queued)
		}
	case ack.Error == nil && ack.Seq > 0 || ack.Error != nil && topology.IsDuplicate(ack.Error.Code, ack.Error.Description):
		if c.known[e.name] == nil {
			c.known[e.name] = make(map[place]knowledge)
		}
		if record {
			c.known[e.name][at.place] = stored
			if ack.Error == nil {
				c.stored[storedAt{at.gen, ack.Seq}] = at
			}
		}
	}
}

// seeCall checks what a coordinator destroys.
func (c *checks) seeCall(e *endpoint, f *frame) {
	call := strings.TrimPrefix(f.subject, "$JS.API.STREAM.")
	dot := strings.LastIndexByte(call, '.')
	if dot < 0 {
		return
	}
	verb, stream := call[:dot], call[dot+1:]
	_, gen, ok := topology.ParseResultsStream(stream)
	if !ok || gen != c.gen {
		return
	}
	switch verb {
	case "DELETE":
		c.breach("I4: %s deletes the store of generation %s, which is in the record", e.name, gen)
	case "MSG.DELETE":
		var request struct {
			Seq uint64 `json:"seq"`
		}
		if json.Unmarshal(f.body, &request) != nil {
			return
		}
		if s, ok := c.stored[storedAt{gen, request.Seq}]; ok && !c.lost[s] {
			c.breach("I4: %s deletes attempt %s of batch %d, whose payload nobody has said to be lost", e.name, s.attempt, s.seq)
		}
	case "PURGE":
		var request struct {
			Filter string `json:"filter"`
		}
		view := c.views[e.name]
		if json.Unmarshal(f.body, &request) != nil || view == nil || view.Gen != gen {
			return
		}
		last := lastPurged(request.Filter)
		if last > view.Floor && last <= view.Taken {
			c.breach("I4: %s drops results up to %d before its record says so: floor %d, taken %d", e.name, last, view.Floor, view.Taken)
		}
	}
}

// lastPurged is the highest sequence number that a purge reaches.
func lastPurged(filter string) uint64 {
	tokens := strings.Split(filter, ".")
	if len(tokens) < 6 {
		return 0
	}
	block, err := strconv.ParseUint(tokens[4], 10, 64)
	if err != nil {
		return 0
	}
	seq, err := strconv.ParseUint(tokens[5], 10, 64)
	if err != nil { // the whole block
		return (block+1)*wire.BlockSize - 1
	}
	return seq
}

// told reports whether the trainer of that name may have said that it took a batch.
func (c *checks) told(name string, seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said[name] >= seq
}

// forged says that a fault stores a wrong result at a place.
func (c *checks) forged(gen string, seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forges[place{gen, seq}] = true
}

func (c *checks) isForged(gen string, seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forges[place{gen, seq}]
}

// breaches returns what was seen as a violation, and forgets it; nil for nothing.
func (c *checks) breaches() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.broken) == 0 {
		return nil
	}
	broken := &testset.Violation{Class: classInvariant, What: fmt.Sprintf("%q", c.broken)}
	c.broken = nil
	return broken
}

// atRest checks the stores themselves while nothing happens: the faults are over, the trainer does not take, and all
// that was under way has come to rest. status is how the owner says that things stand.
func (w *world) atRest(ctx context.Context, status schema.Status) error {
	entry, err := w.record(ctx)
	if err != nil {
		return err
	}
	rec := new(wire.Record)
	if err := json.Unmarshal(entry.Value(), rec); err != nil {
		return err
	}
	if rec.Phase != schema.PhaseRunning {
		return nil
	}
	if rec.Gen != status.Gen || rec.Seat != status.Seat || rec.Floor > status.Taken || rec.Taken > status.Taken || status.Taken > status.Fed {
		return fmt.Errorf("record %s and status do not agree: %+v", entry.Value(), status)
	}
	results, err := w.results(ctx, rec.Gen)
	if err != nil {
		return err
	}
	jobs, err := w.jobs(ctx, rec.Gen)
	if err != nil {
		return err
	}
	var broken []error
	for seq := status.Taken + 1; seq <= status.Fed; seq++ {
		if results[seq] == nil && !jobs[seq] {
			broken = append(broken, fmt.Errorf("I1: batch %d has neither a result nor a job", seq))
		}
	}
	for seq, r := range results {
		if w.checks.isForged(rec.Gen, seq) || w.checks.isForged(rec.Gen, seq-1) {
			continue
		}
		broken = append(broken, w.stored(rec, r))
		if before := results[seq-1]; before != nil && before.Kind != wire.KindError && string(before.Next) != string(r.Prev) {
			broken = append(broken, fmt.Errorf("I5: the state before batch %d is not the state after the one before", seq))
		}
	}
	return errors.Join(broken...)
}

// stored checks one stored record against the reference, and the end against the batcher's record.
func (w *world) stored(rec *wire.Record, r *wire.Result) error {
	var s testset.Position
	if err := (schema.State{Data: r.Prev}).Decode(&s); err != nil {
		return err
	}
	reference, err := testset.Open(context.Background(), w.plan.Params, &testset.Hooks{Data: rightData})
	if err != nil {
		return err
	}
	job, next, err := reference.Next(s)
	if r.Kind == wire.KindEnd {
		if v := rec.Verdict; v == nil || v.Seq != r.Seq || v.Fault != nil {
			return fmt.Errorf("I4: the end is stored at %d and not in the record", r.Seq)
		}
		if err != io.EOF { //nolint:errorlint // the data set returns exactly io.EOF
			return fmt.Errorf("P1: an end is stored at %d, where the data goes on", r.Seq)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("P1: %v is stored at %d, where the reference says %w", r.Kind, r.Seq, err)
	}
	after, err := schema.NewState(next)
	if err != nil {
		return err
	}
	if string(after.Data) != string(r.Next) {
		return fmt.Errorf("P1: the state after batch %d is not the reference's", r.Seq)
	}
	batch, err := reference.Batch(job)
	if err != nil {
		if r.Kind != wire.KindHole {
			return fmt.Errorf("P1: %v is stored at %d, where there is a hole", r.Kind, r.Seq)
		}
		return nil
	}
	payload, err := wire.AppendPayload(nil, batch)
	if err != nil {
		return err
	}
	if r.Kind != wire.KindBatch || wire.Sum(payload) != r.Digest {
		return fmt.Errorf("P1: %v %x is stored at %d, want batch %x", r.Kind, r.Digest, r.Seq, wire.Sum(payload))
	}
	return nil
}

func (w *world) record(ctx context.Context) (jetstream.KeyValueEntry, error) {
	kv, err := w.js.KeyValue(ctx, topology.Bucket)
	if err != nil {
		return nil, err
	}
	return kv.Get(ctx, topology.BatcherKey(batcherName))
}

// results reads all commit records of a generation. More than one on a subject breaks I3, and nothing mends that.
func (w *world) results(ctx context.Context, gen string) (map[uint64]*wire.Result, error) {
	s, err := w.js.Stream(ctx, topology.ResultsStream(batcherName, gen))
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(wire.CommitFilter(batcherName, gen)))
	if err != nil {
		return nil, err
	}
	results := make(map[uint64]*wire.Result)
	for subject, n := range info.State.Subjects {
		if n > 1 {
			return nil, &testset.Violation{Class: classInvariant, What: fmt.Sprintf("I3: %d records are stored on %s", n, subject)}
		}
		msg, err := s.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			return nil, err
		}
		r, _, err := wire.DecodeResult(msg.Data)
		if err != nil {
			return nil, err
		}
		results[r.Seq] = r
	}
	return results, nil
}

// jobs lists the jobs of a generation that are queued or run.
func (w *world) jobs(ctx context.Context, gen string) (map[uint64]bool, error) {
	s, err := w.js.Stream(ctx, topology.JobsStream)
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(wire.JobFilter("*", batcherName, gen)))
	if err != nil {
		return nil, err
	}
	jobs := make(map[uint64]bool)
	for subject := range info.State.Subjects {
		if _, _, _, seq, try, err := wire.ParseJobSubject(subject); err == nil {
			for i := range wire.RunLength(try) {
				jobs[seq+uint64(i)] = true
			}
		}
	}
	return jobs, nil
}

// leftovers lists what a batcher that was stopped left behind.
func (w *world) leftovers(ctx context.Context) ([]string, error) {
	var left []string
	names := w.js.StreamNames(ctx)
	for name := range names.Name() {
		if name != topology.BucketStream && name != topology.JobsStream && name != topology.EventsStream {
			left = append(left, "stream "+name)
		}
	}
	if err := names.Err(); err != nil {
		return nil, err
	}
	s, err := w.js.Stream(ctx, topology.JobsStream)
	if err != nil {
		return nil, err
	}
	if state := s.CachedInfo().State; state.Msgs > 0 || state.Consumers > 0 {
		left = append(left, fmt.Sprintf("%d jobs and %d consumers", state.Msgs, state.Consumers))
	}
	return left, nil
}
