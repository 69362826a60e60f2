//go:build linux

package bridge_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math"
	"os"
	"strconv"
	"testing"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors.json")

const vectorsFile = "testdata/vectors.json"

// vectors are bytes that every implementation must agree on; the tests of the Python package read the same file.
type vectors struct {
	Values  []valueVector `json:"values"`
	States  []stateVector `json:"states"`
	Batches []batchVector `json:"batches"`
	Frames  []valueVector `json:"frames"` // with their lengths
	Ahead   []aheadVector `json:"ahead"`
	Worlds  []worldVector `json:"worlds"`
	Abouts  []aboutVector `json:"abouts"`
}

// aboutVector is what a trainer may want to know of a batch, and its bytes; bridge/trainer and the Python package read
// it.
type aboutVector struct {
	Name       string        `json:"name"`
	Timing     schema.Timing `json:"timing"`
	Worker     string        `json:"worker"`
	Attempt    string        `json:"attempt"`
	Deliveries uint64        `json:"deliveries"`
	Trace      string        `json:"trace"`
	Rows       [3]int        `json:"rows"`
	Hex        string        `json:"hex"`
}

// worldVector is what a launcher tells a process, and the world that it describes; package client reads it, too.
type worldVector struct {
	Name string            `json:"name"`
	Env  map[string]string `json:"env"`
	ID   string            `json:"id,omitempty"`
	Rank int               `json:"rank,omitempty"`
	Size int               `json:"size,omitempty"`
	Bad  bool              `json:"bad,omitempty"`
}

// aheadVector is a script of what lies ready for a trainer; bridge/trainer and the Python package play it.
type aheadVector struct {
	Name   string   `json:"name"`
	Script []string `json:"script"`
}

type valueVector struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
	Hex   string          `json:"hex"`
}

type stateVector struct {
	Dataset string `json:"dataset"`
	Version uint32 `json:"version"`
	Data    string `json:"data"`
	Text    string `json:"text"`
}

type batchVector struct {
	Name    string         `json:"name"`
	Tensors []tensorVector `json:"tensors"`
	Payload string         `json:"payload"`
}

type tensorVector struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	Data  string `json:"data"`
}

// value makes a Go value of the notation of vectors.json: an object with one key, which is the type.
func value(t *testing.T, raw json.RawMessage) any {
	t.Helper()
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || len(object) != 1 {
		t.Fatalf("%s: %v", raw, err)
	}
	read := func(raw json.RawMessage, v any) {
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
	}
	for kind, raw := range object {
		var text string
		if kind == "int" || kind == "float" || kind == "str" || kind == "bytes" {
			read(raw, &text)
		}
		switch kind {
		case "nil":
			return nil
		case "bool":
			var b bool
			read(raw, &b)
			return b
		case "int":
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				return n
			}
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		case "float": // its bits
			bits, err := strconv.ParseUint(text, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return math.Float64frombits(bits)
		case "str":
			return text
		case "bytes":
			return unhex(t, text)
		case "list":
			var raws []json.RawMessage
			read(raw, &raws)
			list := make([]any, len(raws))
			for i := range raws {
				list[i] = value(t, raws[i])
			}
			return list
		case "dict":
			var pairs [][2]json.RawMessage
			read(raw, &pairs)
			dict := make(map[string]any)
			for _, p := range pairs {
				read(p[0], &text)
				dict[text] = value(t, p[1])
			}
			return dict
		}
	}
	t.Fatalf("%s: no such kind", raw)
	return nil
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var v, got vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	got.Ahead, got.Worlds, got.Abouts = v.Ahead, v.Worlds, v.Abouts
	for _, x := range v.Values {
		x.Hex = hex.EncodeToString(marshal(t, value(t, x.Value)))
		got.Values = append(got.Values, x)
	}
	for _, x := range v.Frames {
		body := marshal(t, value(t, x.Value))
		x.Hex = hex.EncodeToString(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...))
		got.Frames = append(got.Frames, x)
	}
	for _, x := range v.States {
		text, err := schema.State{Dataset: x.Dataset, Version: x.Version, Data: unhex(t, x.Data)}.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		x.Text = string(text)
		got.States = append(got.States, x)
	}
	for _, x := range v.Batches {
		var b schema.Batch
		for _, y := range x.Tensors {
			dtype, err := schema.ParseDType(y.DType)
			if err != nil {
				t.Fatal(err)
			}
			tensor := schema.Tensor{DType: dtype, Shape: y.Shape, Data: unhex(t, y.Data)}
			b = append(b, schema.Named{Name: y.Name, Tensor: tensor})
		}
		payload, err := wire.AppendBatch(nil, b)
		if err != nil {
			t.Fatalf("%s: %v", x.Name, err)
		}
		x.Payload = hex.EncodeToString(payload)
		got.Batches = append(got.Batches, x)
	}
	text, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(vectorsFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) != string(data) {
		t.Errorf("the bytes are not those of %s (go test -update writes them):\n%s", vectorsFile, text)
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := msgp.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
