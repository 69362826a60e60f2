package wire

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/jetbatch/jetbatch/schema"
)

// controls are all that is sent or stored as JSON.
var controls = []func() any{
	func() any { return new(Record) }, func() any { return new(SeatRequest) }, func() any { return new(SeatReply) },
	func() any { return new(Credit) }, func() any { return new(CreditReply) }, func() any { return new(StopRequest) },
	func() any { return new(StopReply) }, func() any { return new(StatusRequest) }, func() any { return new(StatusReply) },
	func() any { return new(Overview) }, func() any { return new(schema.WorkerStatus) }, func() any { return new(Lane) },
	func() any { return new(Report) },
}

// FuzzControl decodes anything as every kind of control message:
//   - no input is a panic;
//   - what decodes encodes, and what it encodes to decodes to the same, so a record that a coordinator reads and writes
//     back does not change on the way.
func FuzzControl(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"wire":2,"batcher":"train","owner":"c","gen":"G","phase":"running","spec":{"dataset":"onda","version":1,"params":{"dir":"/data"}},
		"settings":{"window_bytes":1073741824,"idle_timeout_ns":600000000000},"seat":2,"reader":"R","since":"2026-11-23T01:01:13.417760816Z","floor_state":"haVl","taken":18}`,
		`{"batcher":"b.>","reader":"r\r\nx","request":"q"}`, `{"worker":"w","kinds":["onda-v1-w2"],"slots":2,"oldest":{"batcher":"b","seq":1,"for":5},"now":"2026-11-23T01:01:13Z"}`,
		`{"reader":"r","gen":"G","seat":1,"taken":9,"timing":{"iterate_ns":-1,"wait_ns":9223372036854775807},"failed":{"code":"x","message":"\u0000"}}`,
		`{"fault":{"code":"busy"},"status":{"rate":1e308,"idle_for_ns":-5}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, make := range controls {
			first := make()
			if json.Unmarshal(data, first) != nil {
				continue
			}
			once, err := json.Marshal(first)
			if err != nil {
				t.Fatalf("%T of %q does not encode: %v", first, data, err)
			}
			second := make()
			if err := json.Unmarshal(once, second); err != nil {
				t.Fatalf("%T: %s does not decode: %v", first, once, err)
			}
			if twice, err := json.Marshal(second); err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("%T: %s became %s, %v", first, once, twice, err)
			}
		}
	})
}
