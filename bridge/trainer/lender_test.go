//go:build linux

package trainer

import (
	"bytes"
	"errors"
	"testing"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A payload that was received into lent memory is found there, and its slot is free when client and trainer are done.
func TestLender(t *testing.T) {
	t.Parallel()
	memory, err := bridge.NewMemory(1<<20, func(int64, int, bool) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = memory.Close() }()
	x, err := schema.NewTensor([]int{leastLent}, bytes.Repeat([]byte{7}, leastLent))
	if err != nil {
		t.Fatal(err)
	}
	sent, err := wire.AppendBatch(nil, schema.Batch{{Name: "x", Tensor: x}})
	if err != nil {
		t.Fatal(err)
	}
	l := lender{memory}
	if l.Get(leastLent-1) != nil {
		t.Error("a small payload is lent memory for")
	}
	buf := l.Get(schema.Alignment + len(sent))
	copy(buf[schema.Alignment:], sent)
	got, _, err := wire.DecodePart[schema.Batch](buf[schema.Alignment:], len(sent), new(wire.Part))
	if err != nil {
		t.Fatal(err)
	}
	slot, offset, ok, err := l.holds(got, len(sent))
	if !ok || err != nil || offset != slot+schema.Alignment {
		t.Fatalf("at %d of the slot at %d, %v, %v", offset, slot, ok, err)
	}
	if _, _, ok, err := l.holds(got, len(sent)-1); ok || err != nil {
		t.Errorf("a payload of another size is there: %v, %v", ok, err)
	}
	if _, _, ok, err := l.holds(schema.Batch{{Name: "x", Tensor: x}}, len(sent)); ok || err != nil {
		t.Errorf("a batch of other memory is there: %v, %v", ok, err)
	}
	l.Put(buf)
	if err := memory.Free(slot); err != nil {
		t.Fatalf("the trainer's: %v", err)
	}
	if err := memory.Free(slot); !errors.Is(err, bridge.ErrFrame) {
		t.Errorf("the slot is out after both were done: %v", err)
	}
	if again := l.Get(len(buf)); &again[0] != &buf[0] {
		t.Error("the slot does not serve again")
	}
}
