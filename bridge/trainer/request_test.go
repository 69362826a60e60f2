//go:build linux

package trainer

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/schema"
)

// A call that a cancel does not find is over: the take after it may come at once.
func TestACallThatIsForgottenIsOver(t *testing.T) {
	t.Parallel()
	own, other, err := bridge.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()   //nolint:errcheck // of a test
	defer other.Close() //nolint:errcheck // of a test
	s := &server{
		ctx: t.Context(), calls: make(map[uint64]context.CancelCauseFunc), log: newLog(own, slog.LevelError),
	}
	for id := range uint64(20_000) {
		ctx, done := s.begin(id, 0)
		go done()
		for forgotten := false; !forgotten; {
			s.mu.Lock()
			forgotten = s.calls[id] == nil
			s.mu.Unlock()
		}
		if ctx.Err() == nil {
			t.Fatalf("call %d is forgotten and not over", id)
		}
	}
}

// TestWorldVectors reads what a rank opens with, and makes the faults of a world, as other languages do.
func TestWorldVectors(t *testing.T) {
	t.Parallel()
	frames := vectorFrames(t)
	var opens openRequest
	frames["open of a rank"](&opens)
	want := &client.World{
		ID: "run-1", Rank: 1, Size: 4, Parts: 2, Whole: []string{"table"}, Even: true, Patience: 90 * time.Second,
	}
	if diff := cmp.Diff(want, opens.config().World); diff != "" {
		t.Error(diff)
	}
	var alone openRequest
	frames["open"](&alone)
	if w := alone.config().World; w != nil {
		t.Errorf("a trainer alone is of %+v", w)
	}

	at := func(rank int, data byte) schema.RankState {
		return schema.RankState{Rank: rank, State: schema.State{Dataset: "onda", Version: 1, Data: []byte{data}}}
	}
	for code, err := range map[string]error{
		"rank_lost": &client.RankError{Batcher: "train", Rank: 1, Seq: 7, Silent: time.Minute},
		"diverged":  &client.DivergedError{Batcher: "train", Ranks: []schema.RankState{at(1, 2), at(0, 1)}},
		"uneven":    fmt.Errorf("batcher train: batch 7: %w", client.ErrUneven),
		"not_rows":  fmt.Errorf("batcher train: batch 7: %w", client.ErrNotRows),
	} {
		data, err := msgpack.Marshal(faultOf(err))
		if err != nil {
			t.Fatal(err)
		}
		var got, want map[string]any
		if err := msgpack.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		frames["error: "+code](&want)
		if fmt.Sprint(got["code"], got["details"]) != fmt.Sprint(want["code"], want["details"]) {
			t.Errorf("%v, not %v", got, want)
		}
	}
}

// vectorFrames has for each frame of the vectors what decodes its third element.
func vectorFrames(t *testing.T) map[string]func(into any) {
	t.Helper()
	data, err := os.ReadFile("../testdata/vectors.json")
	var vectors struct{ Frames []struct{ Name, Hex string } }
	if err == nil {
		err = json.Unmarshal(data, &vectors)
	}
	if err != nil {
		t.Fatal(err)
	}
	frames := make(map[string]func(any))
	for _, v := range vectors.Frames {
		frames[v.Name] = func(into any) {
			t.Helper()
			frame, err := hex.DecodeString(v.Hex)
			if err != nil {
				t.Fatal(err)
			}
			dec := msgpack.NewDecoder(bytes.NewReader(frame[4:])) // behind the length
			if _, err = dec.DecodeArrayLen(); err == nil {
				err = dec.DecodeMulti(new(any), new(any), into)
			}
			if err != nil {
				t.Fatalf("%s: %v", v.Name, err)
			}
		}
	}
	return frames
}
