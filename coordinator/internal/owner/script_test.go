package owner

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

var update = flag.Bool("update", false, "rewrite the scripts in testdata with what the owner does now")

// TestScripts plays testdata/*.txt: a line that begins with "> " is an event, and the lines below it, indented, are the
// effects that the owner must answer it with. All else is for the reader. States are numbers; the job after state 4 has
// sequence number 5 where the generation began at state 0.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := play(string(want))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s: the owner does something else (go test -update rewrites the script)\n%s", file, firstDifference(string(want), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			to := min(i+4, len(g))
			return fmt.Sprintf("line %d\n want: %s\n  got: %s", i+1, w[i], strings.Join(g[min(i, to):to], "\n       "))
		}
	}
	return "more than is wanted:\n" + strings.Join(g[len(w):], "\n")
}

// script is an owner that a text plays with.
type script struct {
	o      *Owner
	now    time.Time
	token  Token
	gens   int
	rev    uint64
	asked  Demand // the last one
	purged Look
}

// play returns the script with the effects that the owner answers it with.
func play(text string) (string, error) {
	s := &script{now: time.Unix(1000, 0)}
	var out strings.Builder
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "\t") {
			continue // written anew
		}
		out.WriteString(line + "\n")
		command, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		effects, err := s.run(command)
		if err != nil {
			return "", fmt.Errorf("line %d: %s: %w", n+1, line, err)
		}
		for _, e := range effects {
			if text := s.show(e); text != "" {
				out.WriteString("\t" + text + "\n")
			}
		}
	}
	return out.String(), nil
}

// words are a command's words: those with '=' by name, and the others in order.
type words struct {
	plain []string
	named map[string]string
}

func (w words) has(word string) bool {
	for _, p := range w.plain {
		if p == word {
			return true
		}
	}
	return false
}

func (w words) uint(name string) uint64 {
	n, _ := strconv.ParseUint(w.named[name], 10, 64)
	return n
}

// rank is the place of world=A rank=1, or of name=a.
func (w words) rank() wire.Rank {
	return wire.Rank{World: w.named["world"], Rank: int(w.uint("rank")), Name: w.named["name"]}
}

func state(n uint64) []byte { return []byte(strconv.FormatUint(n, 10)) }

func (s *script) run(command string) ([]Effect, error) {
	w := words{named: map[string]string{}}
	fields := strings.Fields(command)
	for _, f := range fields[1:] {
		if name, value, ok := strings.Cut(f, "="); ok {
			w.named[name] = value
		} else {
			w.plain = append(w.plain, f)
		}
	}
	if fields[0] == "new" {
		s.begin(w)
		return nil, nil
	}
	if fields[0] == "again" { // another coordinator takes the record over
		l := s.o.ledger
		s.o = New(s.now, *s.o.cfg, l.rec, s.rev, l.key)
		return nil, nil
	}
	e, err := s.event(fields[0], w)
	if err != nil {
		return nil, err
	}
	before, key := s.o.ledger.rec, s.o.ledger.key
	effects := s.o.Step(s.now, e)
	if done, is := e.(Recorded); (!is || done.Outcome != Done) && (s.o.ledger.key != key || !reflect.DeepEqual(s.o.ledger.rec, before)) {
		return nil, fmt.Errorf("the owner believes %+v, which is not recorded", s.o.ledger.rec)
	}
	if due := s.o.Due(); !s.o.Over() && !due.After(s.now) {
		return nil, fmt.Errorf("it wants to be woken %v ago, again and again", s.now.Sub(due))
	}
	for _, e := range effects {
		switch e := e.(type) {
		case Demand:
			s.asked = e
		case Look:
			s.purged = e
		}
	}
	return effects, nil
}

func key(params string) wire.Digest { return wire.Sum([]byte(params)) }

// begin makes the owner of a record, by default of a batcher that nobody opened yet.
func (s *script) begin(w words) {
	rec := wire.Record{
		Wire: wire.Version, Batcher: "train", Owner: "me", Phase: schema.PhaseStopped, Since: s.now,
		Spec: wire.Spec{Dataset: "count", Version: 1},
		Settings: wire.Settings{
			Window: int(w.uint("window")), Retain: int(w.uint("retain")), Lag: int(w.uint("lag")), LagWait: w.has("wait"),
		},
	}
	if w.has("forgets") {
		rec.Settings.Retain = -1
	}
	if w.has("running") {
		rec.Phase, rec.Gen, rec.Seat, rec.Reader, rec.Request = schema.PhaseRunning, "G0", 2, "r1", "1"
		rec.Floor, rec.Taken, rec.BatchBytes = w.uint("floor"), w.uint("taken"), 1<<20
		rec.Total = rec.Taken
		rec.FloorState, rec.Position, rec.Origin = state(rec.Floor), 1, w.named["origin"]
		if version := w.uint("version"); version > 0 {
			rec.Spec.Version = uint32(version)
		}
	}
	candidates := 1
	if w.has("cluster") {
		candidates = 3
	}
	s.rev = 1
	s.o = New(s.now, Config{
		Name: "me", Kinds: map[string]uint32{"count": 1}, ReaderLease: 5 * time.Second, Stall: 10 * time.Second, Candidates: candidates,
		NewGen:     func() string { s.gens++; return fmt.Sprint("G", s.gens) },
		MaxPayload: func() int64 { return 1 << 20 },
	}, rec, s.rev, key(""))
}

var errWords = errors.New("not understood")

func (s *script) event(name string, w words) (Event, error) {
	first := ""
	if len(w.plain) > 0 {
		first = w.plain[0]
	}
	reader, request := w.named["reader"], w.named["request"]
	switch name {
	case "tick":
		d, err := time.ParseDuration(first)
		s.now = s.now.Add(d)
		return Tick{}, err
	case "fleet":
		return Fleet{Workers: int(w.uint("workers")), Slots: int(w.uint("slots")), Share: int(w.uint("share"))}, nil
	case "seat":
		req := &wire.SeatRequest{
			Batcher: "train", Reader: reader, Request: request, Mode: wire.Mode(first), TakeOver: w.has("takeover"),
			Spec: wire.Spec{Dataset: "count"}, Settings: s.o.ledger.rec.Settings,
			Rank: w.rank(), Size: int(w.uint("size")), Repair: w.has("repair"),
		}
		if rank, ok := s.o.ledger.slot(req.Rank, reader); ok {
			req.Seat = s.o.ledger.seatOf(rank)
		}
		if w.named["seat"] != "" {
			req.Seat = w.uint("seat")
		}
		req.Taken = w.uint("taken")
		if p := w.named["patience"]; p != "" {
			req.Settings.Patience, _ = time.ParseDuration(p)
		}
		if p := w.named["params"]; p != "" {
			req.Spec.Params = []byte(p)
		}
		if at := w.named["state"]; at != "" {
			req.State = schema.State{Data: []byte(at), Origin: w.named["origin"]}
			if w.has("named") {
				req.State.Dataset, req.State.Version = "count", 1
			}
		}
		req.AcceptChange = w.has("accept")
		s.token++
		return SeatAsked{s.token, req, key(w.named["params"])}, nil
	case "stop":
		s.token++
		return StopAsked{s.token, &wire.StopRequest{Batcher: "train", Reader: reader, Request: request, Rank: w.rank(), Leave: w.has("leave")}}, nil
	case "end":
		s.token++
		return EndAsked{s.token, w.has("remove"), w.has("force")}, nil
	case "credit":
		return s.credit(w), nil
	case "produced":
		return s.produced(first, w)
	case "record":
		s.rev++
		outcome, err := outcomeOf(first)
		return Recorded{Outcome: outcome, Revision: s.rev, Owner: w.named["owner"], Reason: "no answer"}, err
	case "retired":
		outcome, err := outcomeOf(first)
		return Retired{Outcome: outcome, Owner: w.named["owner"], Reason: "no answer"}, err
	case "confirmed":
		outcome, err := outcomeOf(first)
		return Confirmed{Outcome: outcome, Owner: w.named["owner"], Reason: "no answer"}, err
	case "compared":
		n, err := strconv.ParseUint(strings.TrimPrefix(first, "#"), 10, 64)
		return Compared{n, w.named["from"], []string{w.named["says"]}}, err
	case "rebased":
		n, err := strconv.ParseUint(strings.TrimPrefix(first, "#"), 10, 64)
		return Rebased{n, []byte(w.named["state"]), w.named["refusal"], w.has("unsaid")}, err
	case "opened", "begun":
		return s.opened(name, first, w)
	case "ready":
		return Readied{Reason: w.named["reason"]}, nil
	case "made":
		return Made{Gen: first, Reason: w.named["reason"]}, nil
	case "looked":
		return s.looked(first, w)
	case "probed":
		return Probed{Gen: s.o.ledger.rec.Gen, Alive: w.has("alive"), Asked: s.now}, nil
	case "removed":
		return Removed{Gen: s.o.ledger.rec.Gen, Removed: []wire.Lost{{Seq: w.uint("seq"), Attempt: "a"}}}, nil
	case "verdict":
		return VerdictStored{Gen: s.o.ledger.rec.Gen, Seq: w.uint("seq"), Reason: w.named["reason"]}, nil
	case "cancelled":
		return Cancelled{s.o.ledger.rec.Gen}, nil
	case "report":
		return Reported{&wire.Report{Gen: s.o.ledger.rec.Gen, Fault: &schema.Fault{Code: first, Message: "said a worker"}}}, nil
	case "crowded":
		return Crowded{}, nil
	case "reconnected":
		return Reconnected{}, nil
	case "damaged":
		return Damaged{}, nil
	case "deposed":
		return Deposed{first}, nil
	}
	return nil, errWords
}

func outcomeOf(word string) (Outcome, error) {
	for i, name := range []string{"ok", "conflict", "silent", "failed"} {
		if word == name {
			return Outcome(i), nil
		}
	}
	return 0, errWords
}

func (s *script) credit(w words) Event {
	c := &wire.Credit{
		Gen: s.o.ledger.rec.Gen, Seat: s.o.ledger.rec.Seat, Reader: s.o.ledger.rec.Reader, Taken: w.uint("taken"), BatchBytes: 1 << 20,
		Holes: w.uint("holes"), Late: w.has("late"), Straggles: w.has("straggles"), Rank: w.rank(),
		Asking: w.named["asking"],
	}
	if rank, ok := s.o.ledger.slot(c.Rank, w.named["reader"]); ok {
		c.Seat = s.o.ledger.seatOf(rank)
	}
	if gen := w.named["gen"]; gen != "" {
		c.Gen = gen
	}
	if w.named["seat"] != "" {
		c.Seat = w.uint("seat")
	}
	if reader := w.named["reader"]; reader != "" {
		c.Reader = reader
	}
	if w.has("failed") || w.named["failed"] != "" {
		c.Failed = &schema.Fault{Code: schema.CodeMaterialize, Message: "no such file", Worker: "w1", Seq: w.uint("failed")}
	}
	if lost := w.uint("lost"); lost > 0 {
		c.Lost = []wire.Lost{{Seq: lost, Attempt: "a"}}
	}
	var token Token
	if w.has("asks") {
		s.token++
		token = s.token
	}
	return Credited{token, c}
}

// produced makes jobs from where the owner asked for them.
func (s *script) produced(count string, w words) (Event, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, err
	}
	from, err := strconv.ParseUint(string(s.asked.State), 10, 64)
	if err != nil {
		return nil, err
	}
	p := Produced{Gen: s.o.ledger.rec.Gen, Ended: w.has("end") || w.has("fault")}
	for range n {
		from++
		p.Items = append(p.Items, Item{Job: []byte("job"), Next: state(from)})
	}
	s.asked.State, s.asked.N = state(from), s.asked.N-n
	p.Last = p.Ended || s.asked.N <= 0
	if w.has("fault") {
		p.Fault = &schema.Fault{Code: schema.CodeIterator, Message: "index out of range"}
	}
	return p, nil
}

func (s *script) opened(name, serial string, w words) (Event, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(serial, "#"), 10, 64)
	var fault *schema.Fault
	if reason := w.named["fails"]; reason != "" {
		fault = &schema.Fault{Code: schema.CodeBadParams, Message: reason}
	}
	if name == "opened" {
		return Opened{Serial: n, Fault: fault, Origin: w.named["origin"], Verifiable: w.named["origin"] != ""}, err
	}
	return FirstKnown{n, []byte(w.named["state"]), fault}, err
}

func (s *script) looked(store string, w words) (Event, error) {
	e := Looked{Gen: s.o.ledger.rec.Gen, For: s.purged.For, Asked: s.now, Connected: true}
	for i, name := range []string{"there", "lost", "silent", "absent", "unsure"} {
		if name != store {
			continue
		}
		e.Store = Store(i)
		if e.Store >= StoreSilent {
			e.Reason = "no answer"
		}
		e.Done, e.Queued, e.Unasked = w.set("done"), w.set("queued"), w.has("unasked")
		return e, nil
	}
	return nil, errWords
}

// set is the sequence numbers of a list such as done=1,2.
func (w words) set(name string) map[uint64]bool {
	seqs := make(map[uint64]bool)
	for _, seq := range strings.Split(w.named[name], ",") {
		if n, err := strconv.ParseUint(seq, 10, 64); err == nil {
			seqs[n] = true
		}
	}
	return seqs
}
