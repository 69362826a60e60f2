package chaos

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutantsFlag says how many mutants TestMutants builds and hunts; the full run takes all.
var mutantsFlag = flag.Int("chaos.mutants", 0, "mutants to build and catch, from the first of the list on; 0 for none but with -chaos.full")

// mutant is the product with one safeguard removed: mostly in one place, and in two where two roles see to the same.
type mutant struct {
	name  string
	edits []edit
}

// edit replaces a text that is there exactly once.
type edit struct {
	file     string // from the root of the module
	old, new string
}

var mutants = []mutant{
	{
		"a job is acked before its result is stored", []edit{{
			"worker/commit.go",
			"	if !c.gate.enter(len(record.data)) {\n", "	c.held.ack(j)\n	if !c.gate.enter(len(record.data)) {\n",
		}},
	},
	{
		"generations share a name", []edit{{
			"coordinator/effects.go",
			"func newGen() string { return ulid.Make().String() }", "func newGen() string { return ulid.Make().String()[:0] + \"G\" }",
		}},
	},
	{
		"the first write of a result does not win", []edit{{
			"internal/topology/topology.go",
			"		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,\n		AllowDirect: true,",
			"		MaxMsgsPerSubject: 4,\n		AllowDirect: true,",
		}},
	},
	{
		"results are not chained by their states", []edit{{
			"client/internal/reorder/reorder.go",
			"if !bytes.Equal(e.Result.Prev, b.state) {", "if false && !bytes.Equal(e.Result.Prev, b.state) {",
		}},
	},
	{
		"a deposed owner writes the record", []edit{{
			"coordinator/records.go",
			"rev, err = r.kv.Update(ctx, topology.BatcherKey(rec.Batcher), data, rev)", "rev, err = r.kv.Put(ctx, topology.BatcherKey(rec.Batcher), data)",
		}},
	},
	{
		"credits of an earlier seat count", []edit{{
			"coordinator/internal/owner/credit.go",
			"credit.Gen != o.rec.Gen || credit.Seat != o.rec.Seat || g == nil", "credit.Gen != o.rec.Gen || g == nil",
		}},
	},
	{
		"a reader believes what workers publish", []edit{{
			"client/session.go",
			"in.data.Subscribe(s.live, s.hear)", "in.data.Subscribe(wire.CommitFilter(in.cfg.Name, gen), s.hear)",
		}, {
			"client/store.go",
			"	if msg.Subject != live || msg.Reply != \"\" {\n",
			"	if true {\n		seq, err := wire.ParseResultSeq(msg.Subject)\n		return seq, err == nil\n",
		}},
	},
	{
		"results are dropped before the record says so", []edit{{
			"coordinator/internal/owner/write.go",
			"		o.record(toSave, nil,", "		o.emit(Purge{o.rec.Gen, g.purged, floor})\n		o.record(toSave, nil,",
		}},
	},
	{
		"a displaced reader takes the seat back", []edit{{
			"coordinator/internal/owner/seat.go",
			"	case !same && req.Mode != wire.ModeOpen:", "	case false:",
		}, {
			"client/credit.go",
			"func (s *seat) displaced(id string, begun bool, said *wire.CreditReply) bool {\n",
			"func (s *seat) displaced(id string, begun bool, said *wire.CreditReply) bool {\n	if begun || !begun {\n		return false\n	}\n",
		}},
	},
	{
		"a late head is not looked after", []edit{{
			"coordinator/internal/owner/store.go",
			"if g == nil || now.Sub(g.looked) < g.pause {", "if g == nil || g.pause >= 0 {",
		}},
	},
	{
		"a lost store is noticed by nobody", []edit{{
			"client/session.go",
			"	if errors.Is(err, errStoreGone) {\n		if s.gone++", "	if false {\n		if s.gone++",
		}, {
			"coordinator/store.go",
			"	if errors.Is(err, jetstream.ErrStreamNotFound) {\n		return true, nil", "	if errors.Is(err, jetstream.ErrStreamNotFound) {\n		return false, nil",
		}},
	},
	{
		"a reader does not look for a head that is late", []edit{{
			"client/session.go",
			"		case <-s.headNow:\n			if s.readHead() {", "		case <-s.headNow:\n			if false {",
		}},
	},
	{
		"a job is handed out once", []edit{{
			"internal/topology/topology.go",
			"		blind = len(queued", "		blind = false && len(queued",
		}, {
			"internal/topology/topology.go",
			"MaxDeliver: -1, MaxAckPending: -1,", "MaxDeliver: 1, MaxAckPending: -1,",
		}},
	},
	{
		"a payload that was lost is not made again", []edit{{
			"coordinator/internal/owner/store.go",
			"	if !o.silent.IsZero() {\n		return // the reader says it again", "	if g != nil {\n		return // the reader says it again",
		}},
	},
	{
		"who says that a payload was lost takes another attempt's result away", []edit{{
			"coordinator/store.go",
			"	if err != nil || res.Attempt != attempt {", "	if err != nil || res.Attempt == \"\" {",
		}},
	},
	{
		"what came from a worker is not compared with its digest", []edit{{
			"client/fetch.go",
			"		if err == nil && digest != res.Digest {", "		if false && digest != res.Digest {",
		}},
	},
	{
		"the collector deletes what the record names", []edit{{
			"coordinator/collector.go",
			"case rec.Gen == g.gen || rec.Wire", "case rec.Wire",
		}},
	},
}

// root is the module's.
const root = "../.."

// apply returns the files with the safeguard removed, by name from the root.
func (m *mutant) apply() (map[string]string, error) {
	files := make(map[string]string)
	for _, e := range m.edits {
		text, ok := files[e.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s has %d times, not once:\n%s", e.file, n, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// build builds this test binary with the mutant in it.
func (m *mutant) build(t *testing.T) (exe string) {
	t.Helper()
	dir := t.TempDir()
	files, err := m.apply()
	if err != nil {
		t.Fatal(err)
	}
	replace := make(map[string]string)
	for name, text := range files {
		original, err := filepath.Abs(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		replace[original] = filepath.Join(dir, fmt.Sprintf("mutant-%d.go", len(replace)))
		if err := os.WriteFile(replace[original], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay := filepath.Join(dir, "overlay.json")
	data, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	exe = filepath.Join(dir, "mutant.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return exe
}

// TestMutantsApply keeps the list of mutants from rotting.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		if _, err := m.apply(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

// TestMutants builds the product with one safeguard removed at a time. The schedules that find nothing wrong with the
// whole product must find something wrong with each, soon.
func TestMutants(t *testing.T) {
	const most, batches = 50, 100
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
		t.Run(m.name, func(t *testing.T) {
			c := catch{Mutant: m.name}
			for o := range runSchedules(t.Context(), m.build(t), 1, most, batches) {
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
