//go:build linux

package trainer_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// sheets is a data set of batches with 1 to 9 rows, and a table beside them that is not cut.
type sheets struct{ Length int }

func (s sheets) Start() (position, error) { return position{}, nil }

func (s sheets) Next(p position) (int, position, error) { return counting(s).Next(p) }

func (s sheets) Materialize(_ context.Context, job int) (schema.Batch, error) {
	n := 1 + job%9
	data := make([]byte, n*1000)
	for i := range data {
		data[i] = byte(job + i/1000)
	}
	table := bytes.Repeat([]byte{byte(job)}, 20)
	return schema.Batch{
		{Name: "x", Tensor: schema.Tensor{DType: schema.Uint8, Shape: []int{n, 1000}, Data: data}},
		{Name: "table", Tensor: schema.Tensor{DType: schema.Uint8, Shape: []int{20}, Data: table}},
	}, nil
}

// launch starts a service and a trainer for each rank, which has a connection of its own.
func launch(t *testing.T, size int) []*peer {
	t.Helper()
	sheet := dataset.Define("sheets", func(_ context.Context, s sheets) (sheets, error) { return s, nil })
	service, err := embedded.Start(context.WithoutCancel(t.Context()),
		embedded.Config{Workers: 2, Listen: "127.0.0.1:0"}, sheet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Close() })
	peers := make([]*peer, size)
	for rank := range peers {
		peers[rank] = setup(t, func(context.Context) (*nats.Conn, error) { return client.Connect(service.URL()) })
	}
	return peers
}

// join opens the batcher as a rank.
func (p *peer) join(rank, size int, more map[string]any) any {
	p.t.Helper()
	world := map[string]any{"id": "run-1", "rank": rank, "size": size, "whole": []string{"table"}, "patience": 3.0}
	maps.Copy(world, more)
	answer := p.call("open", map[string]any{
		"name": "ranks", "dataset": "sheets", "params": `{"Length":400}`, "window": 8, "world": world,
	})
	if answer[0] != "ok" || number(p.t, answer[2]) != int64(rank) {
		p.t.Fatal(answer...)
	}
	return answer[1]
}

// step takes the batch after a state, as a trainer does: what lies ready it does not ask for. The memory of the batch
// before is free then.
func (p *peer) step(handle any, state schema.State) []any {
	p.t.Helper()
	answer := p.call("take", handle, 60.0, wire3(state), []any{})
	if answer[0] == "ready" {
		answer = p.next("ready")
		p.send(0, "took", handle, answer[2], append([]any{}, p.passed...))
		p.passed = []any{answer[2]}
	} else {
		p.news = nil
	}
	return answer
}

// kill ends a trainer as a signal does: it says nothing.
func (p *peer) kill() {
	p.t.Helper()
	if err := p.conn.Close(); err != nil {
		p.t.Fatal(err)
	}
	err := <-p.served
	p.served <- err
}

// The parts of the ranks, put together, are the batch, whether it was asked for or lay ready.
func TestRanks(t *testing.T) {
	t.Parallel()
	peers := launch(t, 3)
	handles := make([]any, len(peers))
	for rank, p := range peers {
		handles[rank] = p.join(rank, len(peers), nil)
	}
	reference := dataset.Sequential(sheets{Length: 400})
	var state schema.State
	lay := 0
	for range 30 {
		want, err := reference.Take(t.Context(), schema.State{Data: state.Data})
		if err != nil {
			t.Fatal(err)
		}
		for rank, p := range peers {
			answer := p.step(handles[rank], state)
			if answer[0] == "ready" {
				lay++
			} else if answer[0] != "step" {
				t.Fatal(answer...)
			}
			part := wire.Part{Index: rank, Count: len(peers), Whole: []string{"table"}}
			cut, rows, err := part.Cut(want.Batch)
			if err != nil {
				t.Fatal(err)
			}
			expected, err := wire.AppendBatch(nil, cut)
			payload := make([]byte, number(t, answer[4]))
			if _, missing := p.memory.ReadAt(payload, number(t, answer[3])); missing != nil || err != nil {
				t.Fatal(missing, err)
			}
			if !bytes.Equal(payload, expected) || !bytes.Equal(after(t, answer).Data, want.Next.Data) {
				t.Fatalf("batch %d of rank %d differs from the reference", want.Seq, rank)
			}
			var about []any
			if err := msgpack.Unmarshal(answer[7].([]byte), &about); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(about[5]); got != fmt.Sprint([]int{rows.From, rows.To, rows.Of}) {
				t.Fatalf("batch %d of rank %d: rows %s, not %+v", want.Seq, rank, got, rows)
			}
			if rank == len(peers)-1 {
				state = after(t, answer)
			}
		}
	}
	if lay == 0 {
		t.Error("no batch lay ready")
	}
}

// A rank whose trainer is killed is lost for the others; one that left is not.
func TestKilledRank(t *testing.T) {
	t.Parallel()
	for name, leaves := range map[string]bool{"killed": false, "left": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peers := launch(t, 2)
			first, second := peers[0].join(0, 2, nil), peers[1].join(1, 2, nil)
			if answer := peers[1].step(second, schema.State{}); answer[0] != "step" {
				t.Fatal(answer...)
			}
			if leaves {
				if answer := peers[1].call("close", second, 0.0); answer[0] != "ok" {
					t.Fatal(answer...)
				}
			}
			peers[1].kill()
			var state schema.State
			answer := peers[0].step(first, state)
			for ; answer[0] == "step" || answer[0] == "ready"; answer = peers[0].step(first, state) {
				state = after(t, answer)
			}
			if leaves {
				if answer[0] != "end" {
					t.Fatalf("after a rank has left: %v", answer)
				}
				return
			}
			fault, _ := answer[1].(map[string]any)
			details, _ := fault["details"].(map[string]any)
			if fault["code"] != "rank_lost" || fmt.Sprint(details["rank"], details["never_came"]) != "1 false" {
				t.Fatalf("after a rank was killed: %v", answer)
			}
			if silent, _ := details["silent"].(float64); silent < 3 || silent > 60 {
				t.Errorf("it was silent for %v s", details["silent"])
			}
		})
	}
}

// Ranks at different states are told which, and rows that do not divide are an error at all ranks.
func TestRanksThatDisagree(t *testing.T) {
	t.Parallel()
	peers := launch(t, 2)
	first, second := peers[0].join(0, 2, nil), peers[1].join(1, 2, nil)
	next := after(t, peers[0].step(first, schema.State{}))
	answer := peers[1].step(second, next)
	fault, _ := answer[1].(map[string]any)
	if answer[0] != "error" || fault["code"] != "diverged" {
		t.Fatal(answer...)
	}
	states := fault["details"].(map[string]any)["states"].([]any)
	asks, is := states[0].([]any), states[1].([]any)
	if fmt.Sprint(asks[0], is[0]) != "1 0" || !bytes.Equal(asks[1].([]any)[2].([]byte), next.Data) ||
		bytes.Equal(is[1].([]any)[2].([]byte), next.Data) {
		t.Errorf("states %v", states)
	}

	even := map[string]any{"id": "run-2", "even": true}
	for rank, p := range launch(t, 2) {
		handle := p.join(rank, 2, even)
		answer := p.step(handle, schema.State{})
		if fault, _ := answer[1].(map[string]any); answer[0] != "error" || fault["code"] != "uneven" {
			t.Errorf("rank %d: %v", rank, answer)
		}
	}
}
