//go:build linux

package trainer_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/bridge/trainer"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

// A batch for which the trainer has no room is not taken: the next take has it, if the run is still the trainer's and
// goes on, and the state is of its data.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	service := start(t)
	p := configured(t, trainer.Config{
		Connect: func(context.Context, *slog.Logger) (*nats.Conn, error) { return service.Conn(), nil }, Memory: 1,
	})
	code := func(answer []any) any {
		fault, _ := answer[len(answer)-1].(map[string]any)
		return fault["code"]
	}
	full := func(name string) (handle any, state []any, freed []any) {
		t.Helper()
		handle, state, freed = p.open(name), []any{"", 0, nil}, []any{}
		for {
			answer := p.call("take", handle, 30.0, state, []any{})
			if answer[0] == "ready" {
				answer = p.next("ready")
				p.send(0, "took", handle, answer[2], []any{})
			} else {
				p.news = nil // withdrawn by the answer
			}
			if answer[0] == "error" {
				var status schema.Status
				err := json.Unmarshal([]byte(p.call("status", handle, 30.0)[1].(string)), &status)
				if code(answer) != "memory_full" || err != nil || status.Taken != uint64(len(freed)) {
					t.Fatal(answer, err, status.Taken, len(freed))
				}
				return handle, state, freed
			}
			state, freed = answer[6].([]any), append(freed, answer[2])
		}
	}
	for name, end := range map[string]func(name string, handle any, state []any){
		"stopped": func(_ string, handle any, _ []any) { p.call("stop", handle, 30.0) },
		"superseded": func(name string, handle any, state []any) {
			cfg := client.Config{Name: name, Dataset: "counting", Params: counting{Length: 40}, TakeOver: true}
			other, err := client.Open[schema.Batch](t.Context(), service.Conn(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = other.Close() })
			if _, err := other.Take(t.Context(), schema.State{}); err != nil {
				t.Fatal(err)
			}
			natstest.Eventually(t, "it has heard so", func() bool {
				return code(p.call("take", handle, 30.0, state, []any{})) != "memory_full"
			})
		},
	} {
		handle, state, freed := full(name)
		end(name, handle, state)
		if answer := p.call("take", handle, 30.0, state, freed); code(answer) != name {
			t.Errorf("%s: %v", name, answer)
		}
	}
	handle, state, freed := full("goes-on")
	other := append(append([]any{}, state[:3]...), "00ff")
	if answer := p.call("take", handle, 30.0, other, freed); code(answer) != "wrong_data" {
		t.Errorf("a state of other data: %v", answer)
	}
	if answer := p.call("take", handle, 30.0, state, []any{}); answer[0] != "step" {
		t.Errorf("with room: %v", answer)
	}
}
