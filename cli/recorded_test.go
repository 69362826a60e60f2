package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Where no coordinator answers, ls and status show what is recorded, say so, and say what to do.
func TestRecordedWithoutCoordinator(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	call := func(args ...string) (int, string, string) {
		var out, err bytes.Buffer
		code := run(t.Context(), append(args, "--server", server.URL(), "--wait", "50ms"), &out, &err, nil)
		return code, out.String(), err.String()
	}
	for _, command := range []string{"ls", "status"} {
		code, out, text := call(command)
		if code != exitUnhealthy || out != "" || text != "jetbatch: not healthy: no coordinator answers; start one: jetbatch coordinator\n" {
			t.Errorf("%s: %d, %q, %q", command, code, out, text)
		}
	}
	_, js := server.JetStream()
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), topology.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte) {
		if _, err := kv.Put(t.Context(), topology.BatcherKey(name), data); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(wire.Record{
		Wire: wire.Version, Batcher: "train", Owner: "gone", Phase: schema.PhaseClosed, Seat: 3, Taken: 7, Total: 1007,
		Spec: wire.Spec{Dataset: "onda", Version: 1}, Since: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	put("train", data)
	put("damaged", []byte("\x1b[2J"))
	put("deleted", data)
	if err := kv.Delete(t.Context(), topology.BatcherKey("deleted")); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"ls":     "train    closed  onda@1    1007   0         -         none     gone   a coordinator, as recorded ",
		"status": "train    closed  onda@1    1007   0         0 ",
	} {
		code, out, text := call(command)
		if code != exitUnhealthy || !strings.Contains(text, "start one: jetbatch coordinator") {
			t.Errorf("%s: %d, %q", command, code, text)
		}
		if !strings.Contains(out, want) || strings.Contains(out, "deleted") || strings.ContainsRune(out, '\x1b') ||
			!strings.Contains(out, "damaged") || !strings.Contains(out, "a coordinator to mend its record") {
			t.Errorf("%s:\n%s", command, out)
		}
	}
}
