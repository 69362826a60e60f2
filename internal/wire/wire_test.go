package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/jetbatch/jetbatch/internal/golden"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

const testGen = "01JD0000000000000000000000"

// Two consecutive states of a data set, encoded.
var (
	stateA = []byte{0x81, 0xa1, 'i', 0x06}
	stateB = []byte{0x81, 0xa1, 'i', 0x07}
)

func sampleJob() *Job {
	return &Job{Seq: 7, Prev: stateA, Next: stateB, Body: []byte{0x81, 0xa2, 'a', 't', 0x06}, Iterate: 1500 * time.Microsecond,
		Spec: (&Record{Spec: Spec{Dataset: "ecg"}}).SpecDigest()}
}

// sampleResult is a result and the payload that follows it.
type sampleResult struct {
	Result
	payload []byte
}

func sampleResults() map[string]sampleResult {
	payload := bytes.Repeat([]byte("jetbatch"), 5)
	attempt := "01JD0000000000000000000001"
	return map[string]sampleResult{
		"inline": {Result{Seq: 7, Prev: stateA, Next: stateB, Attempt: attempt, Worker: "gpu-1", Deliveries: 1, Digest: Sum(payload), Size: 40,
			Iterate: 1500 * time.Microsecond, Queue: time.Millisecond, Materialize: 20 * time.Millisecond}, payload},
		"chunked": {Result{Seq: 64, Prev: stateA, Next: stateB, Attempt: attempt, Worker: "gpu-1", Deliveries: 2,
			Digest: Sum(nil), Size: InlineLimit + 1, Chunks: 2}, nil},
		"direct": {Result{Seq: 64, Prev: stateA, Next: stateB, Attempt: attempt, Worker: "gpu-1", Deliveries: 1,
			Digest: Sum(nil), Size: InlineLimit + 1, Chunks: 2, Direct: &Direct{Address: "10.0.0.7:40321", Pin: bytes.Repeat([]byte{0xc5}, 32)}}, nil},
		"empty": {Result{Seq: 1, Prev: stateA, Next: stateB, Attempt: attempt, Worker: "gpu-1", Deliveries: 1, Digest: Sum(nil)}, nil},
		"error": {Result{Seq: 7, Kind: KindError, Prev: stateA, Attempt: attempt, Worker: "gpu-1", Deliveries: 5,
			Fault: &schema.Fault{Code: schema.CodeMaterialize, Message: "shard 7 is corrupt", Stack: "goroutine 1", Worker: "gpu-1", Gen: testGen, Seq: 7, Attempts: 5}}, nil},
		"hole": {Result{Seq: 8, Kind: KindHole, Prev: stateA, Next: stateB, Attempt: attempt, Worker: "gpu-2", Deliveries: 1,
			Fault: &schema.Fault{Code: "skip", Message: "too short"}}, nil},
		"end": {Result{Seq: math.MaxUint64, Kind: KindEnd, Prev: stateB, Worker: "coordinator-1", Deliveries: 1}, nil},
	}
}

var sameRecord = cmp.Options{cmpopts.EquateEmpty()}

func TestJobGolden(t *testing.T) {
	t.Parallel()
	data := AppendJob(nil, sampleJob())
	golden.Check(t, "job", golden.Hex(data))
	if library, err := msgp.Marshal([]any{sampleJob().Seq, stateA, stateB, sampleJob().Body, int64(sampleJob().Iterate), sampleJob().Spec}); err != nil || !bytes.Equal(library, data) {
		t.Fatalf("encoded as %x, %v", library, err)
	}
	got, rest, err := DecodeJob(data)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%d bytes left, %v", len(rest), err)
	}
	if diff := cmp.Diff(sampleJob(), got, sameRecord); diff != "" {
		t.Fatal(diff)
	}
	if kept := AppendJob([]byte("kept"), sampleJob()); string(kept) != "kept"+string(data) {
		t.Fatalf("appended: %x", kept)
	}
}

func TestResultGolden(t *testing.T) {
	t.Parallel()
	for name, r := range sampleResults() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := AppendResult(nil, &r.Result, r.payload)
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, "result_"+name, golden.Hex(data))
			got, payload, err := DecodeResult(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&r.Result, got, sameRecord); diff != "" {
				t.Fatal(diff)
			}
			if !bytes.Equal(payload, r.payload) {
				t.Fatalf("payload %q", payload)
			}
			if len(payload) > 0 && (&payload[0] != &data[len(data)-len(payload)] || (len(data)-len(payload))%payloadAlign != 0) {
				t.Fatal("the payload does not lie in the record, aligned")
			}
			// Padding counts from the record, wherever that begins.
			if kept, err := AppendResult([]byte("kept"), &r.Result, r.payload); err != nil || string(kept) != "kept"+string(data) {
				t.Fatalf("appended: %x, %v", kept, err)
			}
			if _, _, err := DecodeResult(append(bytes.Clone(data), 0)); !errors.Is(err, msgp.ErrMalformed) {
				t.Fatalf("a byte too many: %v", err)
			}
			for n := range data {
				if _, _, err := DecodeResult(data[:n]); !errors.Is(err, msgp.ErrMalformed) && !errors.Is(err, msgp.ErrDecode) {
					t.Fatalf("cut to %d of %d bytes: %v", n, len(data), err)
				}
			}
		})
	}
}

func TestRecordsRefuse(t *testing.T) {
	t.Parallel()
	for name, j := range map[string]*Job{"sequence number 0": {}} {
		if _, _, err := DecodeJob(AppendJob(nil, j)); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("job with %s: %v", name, err)
		}
	}
	for name, r := range map[string]*Result{
		"sequence number 0": {},
		"unknown kind":      {Seq: 1, Kind: KindEnd + 1},
		"too few chunks":    {Seq: 1, Size: 2*ChunkSize + 1, Chunks: 2},
		"too many chunks":   {Seq: 1, Size: 2 * ChunkSize, Chunks: 3},
		"chunks of nothing": {Seq: 1, Chunks: 1},
		"overflowing size":  {Seq: 1, Size: math.MaxUint64, Chunks: 1},
		"enormous size":     {Seq: 1, Size: MaxPayload + 1, Chunks: (MaxPayload + ChunkSize) / ChunkSize, Attempt: "a"},
		"two places":        {Seq: 1, Worker: "w", Attempt: "a", Direct: &Direct{Address: "a:1"}},
		"no address":        {Seq: 1, Size: ChunkSize, Chunks: 1, Worker: "w", Attempt: "a", Direct: &Direct{}},
		"a long address": {Seq: 1, Size: ChunkSize, Chunks: 1, Worker: "w", Attempt: "a",
			Direct: &Direct{Address: strings.Repeat("a", MaxAddress+1)}},
		"a short pin":      {Seq: 1, Size: ChunkSize, Chunks: 1, Worker: "w", Attempt: "a", Direct: &Direct{Address: "a:1", Pin: []byte{1}}},
		"an unsafe worker": {Seq: 1, Size: ChunkSize, Chunks: 1, Worker: "w.>", Attempt: "a", Direct: &Direct{Address: "a:1"}},
	} {
		data, err := AppendResult(nil, r, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, _, err := DecodeResult(data); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("result with %s: %v", name, err)
		}
	}
	for _, size := range []uint64{0, 2, 4} {
		if data, err := AppendResult([]byte("kept"), &Result{Seq: 1, Size: size}, []byte("abc")); err == nil || string(data) != "kept" {
			t.Errorf("payload of 3 bytes, %d announced: %q, %v", size, data, err)
		}
	}
	if _, err := AppendResult(nil, &Result{Seq: 1, Size: 3}, nil); err == nil {
		t.Error("a payload that is missing was not missed")
	}
}

func sampleBatcherRecord() Record {
	return Record{
		Wire: Version, Batcher: "train", Owner: "coordinator-1", Gen: testGen, Phase: schema.PhaseFailed,
		Spec:     Spec{Dataset: "ecg", Version: 2, Params: json.RawMessage(`{"root":"s3://ecg"}`)},
		Settings: Settings{Window: 32, WindowBytes: 1 << 28, Retain: -1, IdleTimeout: time.Minute},
		Seat:     3, Reader: "01JD0000000000000000000002", Request: "01JD0000000000000000000003", Position: 65,
		Since: time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC),
		Floor: 63, FloorState: stateA, Taken: 70, BatchBytes: 1 << 20,
		Verdict: &Verdict{Seq: 100, Fault: &schema.Fault{Code: schema.CodeIterator, Message: "shard 7 is not listed", Gen: testGen, Seq: 100, Attempts: 1}},
		Error:   &schema.Fault{Code: schema.CodeIterator, Message: "shard 7 is not listed", Gen: testGen, Seq: 100, Attempts: 1},
	}
}

func TestRecordGolden(t *testing.T) {
	t.Parallel()
	data, err := json.MarshalIndent(sampleBatcherRecord(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "record", string(data)+"\n")
}

// TestStateJSON pins how a state looks to a program that reads requests or checkpoints as JSON.
func TestStateJSON(t *testing.T) {
	t.Parallel()
	req := SeatRequest{Wire: Version, Batcher: "train", Request: "01JD0000000000000000000003", Mode: ModeSeek, Reader: "01JD0000000000000000000002",
		Spec: Spec{Dataset: "ecg"}, State: schema.State{Dataset: "ecg", Version: 2, Data: stateA}}
	data, err := json.MarshalIndent(req, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "seat_request", string(data)+"\n")
}

// TestControlRoundTrip fills every field of every control message, so that none is lost on the way.
func TestControlRoundTrip(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		new(Record), new(SeatRequest), new(SeatReply), new(Credit), new(CreditReply), new(StopRequest), new(StopReply),
		new(StatusRequest), new(StatusReply), new(Overview), new(schema.WorkerStatus), new(Lane), new(Report),
	} {
		zero := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		roundTrip(t, zero)
		fill(t, reflect.ValueOf(v).Elem(), 1)
		roundTrip(t, v)
	}
}

func roundTrip(t *testing.T, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%T: %v", v, err)
	}
	got := reflect.New(reflect.TypeOf(v).Elem()).Interface()
	if err := json.Unmarshal(data, got); err != nil {
		t.Fatalf("%T: %s: %v", v, data, err)
	}
	if diff := cmp.Diff(v, got); diff != "" {
		t.Errorf("%T: %s", v, diff)
	}
}

// fill gives every field a value of its own.
func fill(t *testing.T, v reflect.Value, n int) int {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *json.RawMessage:
		*x = json.RawMessage(`{"n":1}`)
		return n
	case *Digest:
		*x = Sum([]byte{byte(n)})
		return n + 1
	case *time.Time:
		*x = time.Date(2025, 6, 1, 12, 0, n, 0, time.UTC)
		return n + 1
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("x", n%20+1))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Float64:
		v.SetFloat(float64(n) / 2)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			n = fill(t, v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n = fill(t, v.Field(i), n)
		}
	default:
		t.Fatalf("no value for a %v", v.Type())
	}
	return n + 1
}

func TestSpecDigest(t *testing.T) {
	t.Parallel()
	base := Spec{Dataset: "ecg", Version: 1, Params: json.RawMessage(`{"a":1}`)}
	spaced := Spec{Dataset: "ecg", Version: 1, Params: json.RawMessage(` { "a": 1 } `)}
	if base.Digest() != spaced.Digest() {
		t.Error("white space makes another spec")
	}
	for name, s := range map[string]Spec{
		"data set":   {Dataset: "eeg", Version: 1, Params: base.Params},
		"version":    {Dataset: "ecg", Version: 2, Params: base.Params},
		"parameters": {Dataset: "ecg", Version: 1, Params: json.RawMessage(`{"a":2}`)},
		"none":       {Dataset: "ecg", Version: 1},
	} {
		if s.Digest() == base.Digest() {
			t.Errorf("another %s makes the same spec", name)
		}
	}
}

func TestKindString(t *testing.T) {
	t.Parallel()
	for k, want := range []string{"batch", "hole", "error", "end", "kind(4)"} {
		if got := Kind(k).String(); got != want {
			t.Errorf("%d: %s", k, got)
		}
	}
}

// Invariants:
//   - DecodeJob never panics; errors wrap ErrMalformed; allocation is bounded by the input.
//   - What decodes encodes again, and to the same job; what follows it is the end of the input.
func FuzzDecodeJob(f *testing.F) {
	f.Add(AppendJob(nil, sampleJob()))
	f.Add(AppendJob(AppendJob(nil, sampleJob()), sampleJob()))
	f.Add(mustMarshal(f, []any{1}))
	f.Add(mustMarshal(f, map[string]any{"Seq": 1}))
	f.Add(append([]byte{0x95, 0x01}, 0xc6, 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, data []byte) {
		var job *Job
		var rest []byte
		var err error
		if got := allocated(func() { job, rest, err = DecodeJob(data) }); got > untypedCost*uint64(len(data))+1<<20 {
			t.Fatalf("%d allocated for %d bytes", got, len(data))
		}
		if err != nil {
			if !errors.Is(err, msgp.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.HasSuffix(data, rest) {
			t.Fatalf("%x does not end %x", rest, data)
		}
		same, rest, err := DecodeJob(AppendJob(nil, job))
		if err != nil || len(rest) > 0 {
			t.Fatal(len(rest), err)
		}
		if diff := cmp.Diff(job, same, sameRecord); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Invariants:
//   - DecodeResult never panics; errors wrap ErrMalformed or ErrDecode; allocation is bounded by the input.
//   - A payload is the end of the input and has Size bytes; with chunks, or of size 0, there is none.
//   - What decodes encodes again, and to the same result and payload.
func FuzzDecodeResult(f *testing.F) {
	for _, r := range sampleResults() {
		data, err := AppendResult(nil, &r.Result, r.payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(mustMarshal(f, []any{1, 0, nil, nil, "", "", 1, bytes.Repeat([]byte{0}, 16), uint64(math.MaxUint64), uint32(math.MaxUint32)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var res *Result
		var payload []byte
		var err error
		if got := allocated(func() { res, payload, err = DecodeResult(data) }); got > untypedCost*uint64(len(data))+1<<20 {
			t.Fatalf("%d allocated for %d bytes", got, len(data))
		}
		if err != nil {
			if !errors.Is(err, msgp.ErrMalformed) && !errors.Is(err, msgp.ErrDecode) {
				t.Fatal(err)
			}
			return
		}
		switch {
		case res.Chunks > 0 || res.Size == 0:
			if payload != nil {
				t.Fatalf("%d bytes of payload for %+v", len(payload), res)
			}
		case uint64(len(payload)) != res.Size || &payload[len(payload)-1] != &data[len(data)-1]:
			t.Fatalf("payload of %d bytes, %d announced, is not the end of the record", len(payload), res.Size)
		}
		again, err := AppendResult(nil, res, payload)
		if err != nil {
			t.Fatal(err)
		}
		same, samePayload, err := DecodeResult(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(res, same, sameRecord); diff != "" {
			t.Fatal(diff)
		}
		if !bytes.Equal(payload, samePayload) {
			t.Fatal("another payload")
		}
	})
}
