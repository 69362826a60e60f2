//go:build linux

package trainer

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
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

// The bridge answers a call whose fields do not decode, and frees the batches that the call lists. A message that is no
// frame ends the connection.
func TestFieldsThatDoNotDecode(t *testing.T) {
	t.Parallel()
	own, other, err := bridge.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close() //nolint:errcheck // of a test
	trainer, err := bridge.NewConn(other)
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close() //nolint:errcheck // of a test
	memory, err := bridge.NewMemory(1<<20, func(int64, int, bool) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close() //nolint:errcheck // of a test
	s := &server{conn: own, memory: memory, dec: msgpack.NewDecoder(nil)}
	first := []any{"", 0, nil}
	for _, c := range []struct {
		request []any
		code    string // empty for the end of the connection
	}{
		{[]any{1, "open", map[string]any{"name": 5}}, "bad_request"},
		{[]any{1, "open", map[string]any{"window": 1.5}}, "bad_request"},
		{[]any{1, "open", map[string]any{"take_over": 1}}, "bad_request"},
		{[]any{1, "status", "handle", 1.0}, "bad_request"},
		{[]any{1, "take", 1}, "bad_request"},
		{[]any{1, "take", 1, true, first, []any{7}}, "bad_request"},
		{[]any{1, "take", 1, 1.0, []any{"d", 1 << 32, []byte{1}}, []any{7}}, "bad_request"},
		{[]any{1, "take", 1, 1.0, []any{"d", 1, make([]byte, schema.MaxState+1)}, []any{7}}, "state_too_large"},
		{[]any{1, "take", 1, 1.0, first, "freed"}, ""},
		{[]any{0, "took", "handle", 1, []any{}}, ""},
		{[]any{1, "dance", 1}, ""},
	} {
		offset, _, err := memory.Alloc(100)
		if err != nil {
			t.Fatal(err)
		}
		s.lent = map[uint64]int64{7: offset}
		frame, err := msgpack.Marshal(c.request)
		if err != nil {
			t.Fatal(err)
		}
		err = s.request(frame)
		if c.code == "" {
			if !errors.Is(err, bridge.ErrFrame) {
				t.Errorf("%v: %v", c.request[:3], err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.request[:3], err)
			continue
		}
		answer, err := trainer.Read()
		var fields struct {
			_msgpack struct{} `msgpack:",as_array"`
			ID       uint64
			Word     string
			Fault    fault
		}
		if err = errors.Join(err, msgpack.Unmarshal(answer, &fields)); err != nil || fields.Fault.Code != c.code {
			t.Errorf("%v: %+v, %v, not %s", c.request[:3], fields, err, c.code)
		}
		if len(c.request) == 6 && len(s.lent) > 0 {
			t.Errorf("%v: what it frees is not free", c.request[:3])
		}
		if err := s.request(frame[:len(frame)-1]); !errors.Is(err, bridge.ErrFrame) {
			t.Errorf("%v, cut: %v", c.request[:3], err)
		}
	}
}

// A time that no Duration holds is the longest there is, and never a negative one.
func TestSeconds(t *testing.T) {
	t.Parallel()
	for s, want := range map[float64]time.Duration{
		0: 0, 1.5: 1500 * time.Millisecond, -1: -time.Second, 1e10: math.MaxInt64, math.Inf(1): math.MaxInt64,
		math.NaN(): math.MaxInt64, math.Inf(-1): math.MinInt64,
	} {
		if got := seconds(s); got != want {
			t.Errorf("%v s is %v, not %v", s, got, want)
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
