//go:build linux

package trainer

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/schema"
)

// TestAheadVectors plays the scripts of what lies ready, which the Python package plays, too.
func TestAheadVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../testdata/vectors.json")
	var vectors struct {
		Ahead []struct {
			Name   string
			Script []string
		}
	}
	if err == nil {
		err = json.Unmarshal(data, &vectors)
	}
	if err != nil || len(vectors.Ahead) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, v := range vectors.Ahead {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			var a ahead
			var asked schema.State
			for _, line := range v.Script {
				if err := play(&a, &asked, line); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			}
		})
	}
}

// TestAboutVectors encodes what a trainer may want to know of a batch; the Python package decodes the same bytes.
func TestAboutVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../testdata/vectors.json")
	var vectors struct {
		Abouts []struct {
			Name                   string
			Timing                 schema.Timing
			Worker, Attempt, Trace string
			Deliveries             uint64
			Rows                   [3]int
			Hex                    string
		}
	}
	if err == nil {
		err = json.Unmarshal(data, &vectors)
	}
	if err != nil || len(vectors.Abouts) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, v := range vectors.Abouts {
		step := schema.Step[schema.Batch]{
			Timing: v.Timing, Worker: v.Worker, Attempt: v.Attempt, Deliveries: v.Deliveries, Trace: v.Trace,
			Rows: schema.Rows{From: v.Rows[0], To: v.Rows[1], Of: v.Rows[2]},
		}
		if got := hex.EncodeToString(about(nil, &step)); got != v.Hex {
			t.Errorf("%s: %s, not %s", v.Name, got, v.Hex)
		}
	}
}

// play is one line as the bridge sees it.
func play(a *ahead, asked *schema.State, line string) error {
	words := strings.Fields(strings.ReplaceAll(line, ":", ""))
	state := func(s string) schema.State { return schema.State{Dataset: "x", Version: 1, Data: []byte(s)} }
	batch := uint64(0)
	if len(words) > 1 {
		batch, _ = strconv.ParseUint(words[1], 10, 64) // where it is one
	}
	switch words[0] {
	case "step":
		if a.has(*asked) {
			return fmt.Errorf("it lies ready")
		}
		a.begin(state(words[2]))
	case "ready":
		if !a.on || !a.room(1) {
			return fmt.Errorf("on %v, %d lie ready", a.on, len(a.ready))
		}
		a.add(offer{batch, 1, a.next}, state(words[2]))
	case "withdrawn":
		a.lapse()
	case "answer":
		if words[1] != "ready" {
			a.end()
		} else if !a.has(*asked) {
			return fmt.Errorf("it does not lie ready")
		}
	case "take":
		*asked = state(words[1])
	case "took":
		a.drop(len(a.taken(batch)))
		if len(a.ready) > 0 && a.ready[0].batch <= batch {
			return fmt.Errorf("%d is left", a.ready[0].batch)
		}
		if a.has(*asked) || a.bytes != len(a.ready) {
			return fmt.Errorf("%+v is left", a)
		}
	case "freed": // the trainer's
	default:
		return fmt.Errorf("no such line")
	}
	return nil
}

// At most 16 batches and 4 MiB lie ready.
func TestAheadIsBounded(t *testing.T) {
	t.Parallel()
	var a ahead
	a.begin(schema.State{})
	if !a.room(aheadBytes) || a.room(aheadBytes+1) {
		t.Error("one batch has all the room, and no more")
	}
	for n := range uint64(aheadBatches) {
		if !a.room(aheadBytes/aheadBatches) || a.room(aheadBytes) && n > 0 {
			t.Errorf("%d lie ready: %+v", n, a)
		}
		a.add(offer{n + 1, aheadBytes / aheadBatches, schema.State{}}, schema.State{})
	}
	if a.room(0) {
		t.Error("there is room for one more than the most")
	}
	if n := len(a.taken(1)); n != 1 {
		t.Errorf("%d are taken, not the first", n)
	}
	a.drop(1)
	if !a.room(aheadBytes/aheadBatches) || a.room(aheadBytes/aheadBatches+1) {
		t.Errorf("after one was taken: %+v", a)
	}
}
