package wire

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/schema"
)

func goodRecord() Record {
	return Record{
		Wire: Version, Batcher: "b", Owner: "me", Gen: "G1", Phase: schema.PhaseRunning,
		Spec: Spec{Dataset: "count", Version: 1}, Reader: "r", Request: "q", Floor: 3, Taken: 5, FloorState: []byte{1},
	}
}

func TestParseRecord(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Record)
		want   string // in the error; empty for none
	}{
		"good":                     {func(*Record) {}, ""},
		"never started":            {func(r *Record) { r.Gen, r.Request, r.Phase = "", "", schema.PhaseStopped }, ""},
		"another wire":             {func(r *Record) { r.Wire, r.Phase = 99, "napping" }, ""},
		"of another":               {func(r *Record) { r.Batcher = "c" }, "of batcher"},
		"no owner":                 {func(r *Record) { r.Owner = "" }, "owner"},
		"all generations":          {func(r *Record) { r.Gen = ">" }, "generation"},
		"hostile reader":           {func(r *Record) { r.Reader = "a b" }, "reader"},
		"long request":             {func(r *Record) { r.Request = strings.Repeat("q", 1000) }, "request"},
		"no such phase":            {func(r *Record) { r.Phase = "napping" }, "phase"},
		"many readers":             {func(r *Record) { r.Former = make([]Former, MaxFormer+1) }, "former"},
		"large state":              {func(r *Record) { r.FloorState = make([]byte, schema.MaxState+1) }, "state of"},
		"taken below":              {func(r *Record) { r.Floor = 6 }, "floor"},
		"negative":                 {func(r *Record) { r.BatchBytes = -1 }, "bytes"},
		"long idle":                {func(r *Record) { r.Settings.IdleTimeout = MaxIdleTimeout + 1 }, "idle timeout"},
		"origin":                   {func(r *Record) { r.Origin = "a.b" }, "origin"},
		"as far behind as is held": {func(r *Record) { r.Taken = r.Floor + MaxBehind }, ""},
		"far behind":               {func(r *Record) { r.Taken = 1 << 40 }, "at most"},
		"far ahead":                {func(r *Record) { r.Floor, r.Taken = 1<<63, 1<<63+1 }, "position"},
		"last seat":                {func(r *Record) { r.Seat = math.MaxUint64 }, "position"},
		"last position":            {func(r *Record) { r.Position = math.MaxUint64 }, "position"},
		"last verdict":             {func(r *Record) { r.Verdict = &Verdict{Seq: math.MaxUint64} }, "position"},
		"huge": {func(r *Record) {
			r.Error = &schema.Fault{Code: "x", Stack: strings.Repeat("s", MaxRecord)}
		}, "at most"},
	} {
		rec := goodRecord()
		test.change(&rec)
		data, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseRecord("b", data)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParseRecord: a record that is accepted says the same when it was written and read once more, and its names are
// safe in subjects.
func FuzzParseRecord(f *testing.F) {
	data, err := json.Marshal(goodRecord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"wire":"two"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := ParseRecord("b", data)
		if err != nil {
			return
		}
		spoken := rec.Wire == Version
		if CheckName("owner", rec.Owner) != nil || spoken && strings.ContainsAny(rec.Gen, ".*> ") {
			t.Fatalf("accepted: %+v", rec)
		}
		again, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := ParseRecord("b", again)
		if len(again) > MaxRecord { // escapes may make it longer
			return
		}
		third, _ := json.Marshal(twice)
		if err != nil || !reflect.DeepEqual(again, third) {
			t.Fatalf("%s is read as %s, %v", again, third, err)
		}
	})
}
