package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func goodRecord() wire.Record {
	return wire.Record{
		Wire: wire.Version, Batcher: "b", Owner: "me", Gen: "G1", Phase: schema.PhaseRunning,
		Spec: wire.Spec{Dataset: "count", Version: 1}, Reader: "r", Request: "q", Floor: 3, Taken: 5, FloorState: []byte{1},
	}
}

// bucket is the records of two coordinators in a new bucket.
func bucket(t *testing.T) (me, other *records, kv jetstream.KeyValue) {
	t.Helper()
	_, js := natstest.RunInProcess(t).JetStream()
	me = recordsOf(t, js, "me")
	return me, &records{me.kv, me.stream, "other"}, me.kv
}

// recordsOf makes the shared streams, and is the records of one coordinator.
func recordsOf(t *testing.T, js jetstream.JetStream, self string) *records {
	t.Helper()
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	kv, err := topology.OpenBucket(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), topology.BucketStream)
	if err != nil {
		t.Fatal(err)
	}
	return &records{kv, stream, self}
}

// TestSaveAfterAnUnknownOutcome saves a record that is not what the owner thinks it is.
func TestSaveAfterAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	me, other, kv := bucket(t)
	ctx := t.Context()
	rec := goodRecord()
	key := topology.BatcherKey(rec.Batcher)
	rev, err := me.create(ctx, rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := me.create(ctx, rec); !errors.Is(err, errConflict) {
		t.Errorf("made twice: %v", err)
	}
	save := func(what string) {
		t.Helper()
		rec.Taken++
		if rev, err = me.save(ctx, rec, rev); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got, at, err := me.read(ctx, rec.Batcher)
		if err != nil || at != rev || got.Taken != rec.Taken {
			t.Fatalf("%s: %+v at %d, %v; saved at %d", what, got, at, err, rev)
		}
	}
	save("nothing happened")
	if _, err := me.update(ctx, rec, rev); err != nil {
		t.Fatal(err)
	}
	save("the last change was stored after all")
	if _, err := kv.PutString(ctx, key, `{"wire":"two"}`); err != nil {
		t.Fatal(err)
	}
	var damaged *damagedError
	if _, _, err := me.read(ctx, rec.Batcher); !errors.As(err, &damaged) || damaged.revision == rev {
		t.Fatalf("read: %v", err)
	}
	save("it was damaged")
	if err := kv.Purge(ctx, key); err != nil {
		t.Fatal(err)
	}
	save("it was lost")
	rec.Owner = "other"
	if _, err := other.update(ctx, rec, rev); err != nil {
		t.Fatal(err)
	}
	rec.Owner = "me"
	var taken *takenError
	if _, err := me.save(ctx, rec, rev); !errors.As(err, &taken) || taken.owner != "other" {
		t.Errorf("it was taken: %v", err)
	}
	if err := me.delete(ctx, rec.Batcher, rev); !errors.As(err, &taken) {
		t.Errorf("another's deleted: %v", err)
	}
	if err := other.delete(ctx, rec.Batcher, rev); err != nil { // at a revision of before
		t.Errorf("its own not deleted: %v", err)
	}
	if _, _, err := me.read(ctx, rec.Batcher); !errors.Is(err, errNoRecord) {
		t.Errorf("deleted: %v", err)
	}
	if err := other.delete(ctx, rec.Batcher, rev); err != nil {
		t.Errorf("deleted twice: %v", err)
	}
	if err := me.sweep(ctx, key); err != nil {
		t.Error(err)
	}
	if names, err := me.names(ctx, topology.BatcherKey("")); len(names) != 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
}

// TestSweepSparesWhatIsThereAgain: a record that was made between its deletion and the sweep is not the marker's.
func TestSweepSparesWhatIsThereAgain(t *testing.T) {
	t.Parallel()
	me, _, kv := bucket(t)
	rec := goodRecord()
	key := topology.BatcherKey(rec.Batcher)
	if _, err := kv.PutString(t.Context(), key, "before"); err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	rev, err := me.create(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := me.sweep(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if _, at, err := me.read(t.Context(), rec.Batcher); err != nil || at != rev {
		t.Errorf("read at %d, %v; made at %d", at, err, rev)
	}
}

// TestRecordsInRotation: whatever the records are, so many are read per turn, a large one rarely, and what a dead
// coordinator owned comes first and all at once.
func TestRecordsInRotation(t *testing.T) {
	t.Parallel()
	var d directory
	now := time.Now()
	names := make([]string, 3000)
	for i := range names {
		names[i] = fmt.Sprint("b", i)
	}
	alive := func(string, time.Time) bool { return false }
	d.list(names)
	reads := make(map[string]int)
	turn := func(size int) (n int) {
		now = now.Add(beat)
		for _, name := range d.due(now, alive) {
			d.note(name, seen{rev: 1, size: size, owner: "ghost"}, false, now)
			reads[name]++
			n++
		}
		return n
	}
	for range 30 {
		if n := turn(500); n > readsPerBeat {
			t.Fatalf("%d records in a turn", n)
		}
	}
	if len(reads) != len(names) {
		t.Fatalf("%d of %d were read", len(reads), len(names))
	}
	for name, n := range reads {
		if n < 8 || n > 16 {
			t.Fatalf("%s was read %d times in 30 turns", name, n)
		}
	}
	d.list(append(names, "new"))
	if due := d.due(now.Add(beat), alive); due[0] != "new" {
		t.Errorf("%s comes before the new one", due[0])
	}
	d.note("b7", seen{rev: 2, size: 500, owner: "dead"}, false, now)
	d.note("b8", seen{rev: 2, size: 500, owner: "dead"}, false, now)
	due := d.due(now, func(owner string, _ time.Time) bool { return owner == "dead" })
	if got := strings.Join(due[:2], " "); got != "b7 b8" && got != "b8 b7" {
		t.Errorf("%s come before those of the dead", got)
	}
	d.stray("b7", "no coordinator has it", schema.Status{}, time.Hour, now)
	if due := d.due(now, func(owner string, _ time.Time) bool { return owner == "dead" }); slices.Contains(due, "b7") {
		t.Error("a stray is read as if it could be taken over")
	}

	d, reads = directory{}, make(map[string]int)
	d.list(names[:100])
	bytes := 0
	for range 20 {
		bytes += 450_000 * turn(450_000)
	}
	if len(reads) != 100 || bytes > 20*(bytesPerBeat+450_000) || bytes > 2*100*450_000 {
		t.Errorf("%d of 100 large records were read, %d MB in 20 turns", len(reads), bytes/1_000_000)
	}
	if due := d.due(now, alive); slices.Contains(due, "b7") {
		t.Error("a large record is read without need")
	}
	d.doubt([]*batcher{{name: "b7"}, {name: "not listed"}})
	if due := d.due(now, alive); due[0] != "b7" {
		t.Errorf("%v come before one that another coordinator may have taken", due[:1])
	}
}

// TestLeases: one that is not read, or is looked at late, is not taken for one that stands still.
func TestLeases(t *testing.T) {
	t.Parallel()
	l := newLeases(3 * time.Second)
	now := time.Now().Add(-time.Minute)
	look := func(later time.Duration, revisions map[string]uint64, ids ...string) {
		now = now.Add(later)
		l.observe(now, ids, revisions, now)
		l.at = time.Now() // so that state adds no time of its own
	}
	step := func(revisions map[string]uint64) {
		l.at = now
		look(beat, revisions, "a", "b")
	}
	step(map[string]uint64{"a": 1, "b": 2})
	if l.state("a") != leaseUnknown {
		t.Error("judged at first sight")
	}
	for i := range uint64(10) {
		step(map[string]uint64{"a": 10 + i}) // b's is not answered
	}
	if l.state("a") != leaseLive || l.state("b") != leaseUnknown || l.state("c") != leaseAbsent {
		t.Errorf("a %v, b %v, c %v", l.state("a"), l.state("b"), l.state("c"))
	}
	for range 4 {
		step(map[string]uint64{"a": 30, "b": 2})
	}
	if l.state("a") != leaseDead || l.state("b") != leaseDead || len(l.dead()) != 0 {
		t.Errorf("a %v, b %v, to be removed: %v", l.state("a"), l.state("b"), l.dead())
	}
	look(time.Hour, map[string]uint64{"a": 31, "b": 3}, "a", "b")
	l.at = now
	look(time.Hour, map[string]uint64{"a": 31, "b": 3}, "a", "b")
	if l.state("a") != leaseLive || l.state("b") != leaseLive {
		t.Errorf("after an hour in which nobody could look: a %v, b %v", l.state("a"), l.state("b"))
	}
	if l.over("c", now) || !l.over("c", now.Add(-time.Nanosecond)) {
		t.Error("an owner without a lease is dead if its record is older than the list of leases")
	}
}

// A lease that lasts for ever is not over, nor what lasts a few of them.
func TestEndlessLease(t *testing.T) {
	t.Parallel()
	cfg, err := Config{Lease: math.MaxInt64, ReaderLease: math.MaxInt64, Stall: math.MaxInt64}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := newLeases(cfg.Lease)
	l.observe(time.Now(), []string{"a"}, map[string]uint64{"a": 1}, time.Now())
	if l.state("a") != leaseUnknown {
		t.Errorf("state %v", l.state("a"))
	}
	if s := (&successor{site: &site{cfg: cfg}}); s.damagedPatience() < cfg.Lease {
		t.Errorf("patience %v", s.damagedPatience())
	}
}

func TestCountTakeover(t *testing.T) {
	t.Parallel()
	now := time.Now()
	rec := goodRecord()
	die := func(died bool) bool {
		now = now.Add(5 * time.Second)
		return countTakeover(&rec, died, now)
	}
	for i := range maxTakeovers {
		if die(true) || rec.Takeovers.Count != i+1 {
			t.Fatalf("takeover %d: %+v", i+1, rec.Takeovers)
		}
	}
	for name, change := range map[string]func(){
		"the trainer came further":        func() { rec.Taken++ },
		"in another generation":           func() { rec.Gen, rec.Floor, rec.Taken = "G2", 1, 1 },
		"the owner lived for a long time": func() { now = now.Add(forgiven) },
	} {
		before, then := rec, now
		change()
		if die(true) || rec.Takeovers.Count != 1 {
			t.Errorf("%s: %+v", name, rec.Takeovers)
		}
		rec, now = before, then
	}
	before := rec
	if die(false) || rec.Takeovers != before.Takeovers {
		t.Error("an owner that resigned counts")
	}
	rec.Gen, rec.Floor, rec.Taken = "G2", 0, 0 // a generation that began where the one before stood
	if !die(true) || rec.Phase != schema.PhaseFailed || rec.Error.Code != schema.CodePoison ||
		!strings.Contains(rec.Error.Message, "batcher b (data set count)") || rec.Takeovers != nil {
		t.Errorf("after too many: %+v, %+v", rec, rec.Error)
	}
}

func TestHeartbeatsAreChecked(t *testing.T) {
	t.Parallel()
	changed := 0
	f := fleet{log: slog.New(slog.DiscardHandler), tell: func(string, string, schema.WorkerStatus, bool) {}, changed: func() { changed++ }, answered: make(chan struct{}, 1)}
	beat := func(s schema.WorkerStatus) {
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		f.hear(message(data))
	}
	for _, s := range []schema.WorkerStatus{
		{Worker: "w", Slots: -1000}, {Worker: "w", Slots: 1 << 62}, {Worker: "w", Running: -1},
		{Worker: "w", Kinds: make([]string, maxServed+1)}, {Worker: "w", Kinds: []string{strings.Repeat("k", 1000)}},
		{Worker: "w", Direct: strings.Repeat("d", 1000)}, {Worker: "w", DirectPin: make([]byte, 1000)},
		{Worker: "w", Oldest: &schema.Running{Batcher: "b.>"}}, {Worker: "w", Oldest: &schema.Running{Batcher: "b", For: -1}},
		{Worker: "w.>"}, {Worker: "w", Suspended: []schema.Suspension{{Batchers: []string{"b.>"}}}},
		{Worker: "w", Suspended: []schema.Suspension{{Batchers: make([]string, maxServed+1)}}},
	} {
		if beat(s); len(f.list()) != 0 || changed != 0 {
			t.Fatalf("taken: %+v", s)
		}
	}
	beat(schema.WorkerStatus{Worker: "w", Slots: 4, Kinds: []string{"k"}, LastError: strings.Repeat("e", 10_000)})
	if workers, slots := f.serving("k", ""); workers != 1 || slots != 4 || len(f.list()[0].LastError) != maxError {
		t.Errorf("%d workers, %d slots", workers, slots)
	}
	beat(schema.WorkerStatus{Worker: "w", Leaving: true})
	beat(schema.WorkerStatus{Worker: "w", Leaving: true})
	if len(f.list()) != 0 || changed != 2 {
		t.Errorf("%d workers after it left, %d changes", len(f.list()), changed)
	}
}

// TestPauseIsNobodysSilence: a coordinator that did not run for a while hears workers again before it forgets them.
func TestPauseIsNobodysSilence(t *testing.T) {
	t.Parallel()
	f := fleet{log: slog.New(slog.DiscardHandler), tell: func(string, string, schema.WorkerStatus, bool) {}, changed: func() {}}
	f.hear(message([]byte(`{"worker":"w","slots":1,"kinds":["k"]}`)))
	now := time.Now()
	f.expire(now)
	now = now.Add(time.Minute)
	f.expire(now)
	if n, _ := f.serving("k", ""); n != 1 {
		t.Fatal("forgotten after a pause")
	}
	for range 5 {
		now = now.Add(beat)
		f.expire(now)
	}
	if n, _ := f.serving("k", ""); n != 0 {
		t.Fatal("a silent worker is not forgotten")
	}
	f.hear(message([]byte(`{"worker":"w","slots":1,"kinds":["k"]}`)))
	now = now.Add(time.Hour)
	f.pardon(now)
	f.expire(now)
	if n, _ := f.serving("k", ""); n != 1 {
		t.Fatal("forgotten after the connection was back")
	}
}

// A worker that leaves and one that dies are told apart in the log, by name.
func TestFleetLog(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	f := fleet{log: slog.New(slog.NewTextHandler(&log, nil)), tell: func(string, string, schema.WorkerStatus, bool) {}, changed: func() {}, answered: make(chan struct{}, 1)}
	for _, beat := range []string{`{"worker":"a","slots":1}`, `{"worker":"b","slots":1,"running":1}`, `{"worker":"a","leaving":true,"done":3}`} {
		f.hear(message([]byte(beat)))
	}
	now := time.Now()
	f.expire(now)
	for range 5 {
		now = now.Add(time.Second)
		f.expire(now)
	}
	for _, want := range []string{
		`msg="worker came" worker=a`, `msg="worker left" worker=a done=3`,
		`level=WARN msg="worker is gone: it fell silent without leaving" worker=b`,
	} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, &log)
		}
	}
	if strings.Contains(log.String(), "leaving\" worker=a") {
		t.Errorf("a worker that left counts as dead:\n%s", &log)
	}
}
