package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/jetbatch/jetbatch/internal/kind"
)

// FuzzParams decodes anything as parameters, which come from trainers:
//   - no input is a panic, and every refusal is one of bad parameters;
//   - what is accepted is one JSON value, without unknown fields, and decodes to the same when it is encoded again.
func FuzzParams(f *testing.F) {
	type params struct {
		Dir   string         `json:"dir"`
		Size  int            `json:"size"`
		Rates []float64      `json:"rates"`
		Names map[string]int `json:"names"`
	}
	for _, seed := range []string{``, `{}`, `null`, `{"dir":"/data","size":3}`, `{"dirs":1}`, `{"size":1}{}`, `{"size":1e999}`, `{"rates":[1,2.5],"names":{"a":1}}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p params
		if err := decodeParams("set", data, &p); err != nil {
			if !errors.Is(err, kind.ErrBadParams) {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		if len(data) > 0 && !json.Valid(data) {
			t.Fatalf("%q is accepted", data)
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var q params
		if err := decodeParams("set", again, &q); err != nil {
			t.Fatalf("%q became %q: %v", data, again, err)
		}
		if twice, err := json.Marshal(q); err != nil || !bytes.Equal(again, twice) || !reflect.DeepEqual(p, q) {
			t.Fatalf("%q became %+v, and then %+v", data, p, q)
		}
	})
}
