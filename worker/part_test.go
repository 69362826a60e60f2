package worker

import (
	"bytes"
	"context"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// threeTensors is a batch of 20 MB: 64 rows of 300 kB, of 10 kB and of 100 bytes.
func threeTensors(_ context.Context, n int) (schema.Batch, error) {
	var b schema.Batch
	for i, size := range []int{300_000, 100, 10_000} {
		data := make([]byte, 64*size)
		for k := range data {
			data[k] = byte(n + i + k + k>>8 + k>>16)
		}
		b = append(b, schema.Named{Name: "xyz"[i : i+1], Tensor: schema.Tensor{DType: schema.Uint8, Shape: []int{64, size}, Data: data}})
	}
	return b, nil
}

// TestFetchPart fetches a batch by quarters: a quarter costs hardly more than its share of the bytes, and each byte can
// be checked with the record's digest.
func TestFetchPart(t *testing.T) {
	t.Parallel()
	const ranks = 4
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "rows")
	start(t, s, Config{Slots: 1}, nil, define("rows", threeTensors))
	o.feed(1, 1)
	o.waitEmpty()
	res, _ := o.result(1)
	b, err := threeTensors(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	size, all := int(res.Size), 0
	r := newReader(t, res.Direct)
	for i := range ranks {
		p := wire.Part{Index: i, Count: ranks}
		has, data := r.ask(&wire.Fetch{Attempt: res.Attempt, Part: p})
		if has != wire.HasPart {
			t.Fatalf("part %d: %v", i, has)
		}
		if share := float64(wire.AnswerHead+len(data)) / float64(size); share > 0.27 {
			t.Errorf("part %d is %.4f of %d bytes", i, share, size)
		}
		all += wire.AnswerHead + len(data)
		blocks := wire.Blocks(data[:wire.BlocksSize(size)])
		if blocks.Sum() != res.Digest {
			t.Fatal("the hashes of blocks are not those of the record's digest")
		}
		data = data[len(blocks):]
		got, rows, err := wire.DecodePart[schema.Batch](data, size, &p)
		want, wantRows, err2 := p.Cut(b)
		if err != nil || err2 != nil || rows != wantRows {
			t.Fatal(rows, err, err2)
		}
		for k := range want {
			if !bytes.Equal(got[k].Tensor.Data, want[k].Tensor.Data) {
				t.Errorf("part %d: other rows of tensor %s", i, want[k].Name)
			}
		}
		extents, ok := p.Extents(data, size)
		for _, e := range extents {
			n := e.To - e.From
			ok = ok && blocks.Match(e.From, data[:n])
			data = data[n:]
		}
		if !ok || len(data) > 0 {
			t.Errorf("part %d: a block is not as its hash says, or %d bytes are left", i, len(data))
		}
	}
	t.Logf("%d ranks: %.4f of %d bytes in all", ranks, float64(all)/float64(size), size)
	if float64(all) > 1.08*float64(size) {
		t.Errorf("%d ranks: %d bytes of a payload of %d", ranks, all, size)
	}
	whole := r.fetch(res.Attempt)
	if wire.Sum(whole) != res.Digest {
		t.Error("the whole payload is another afterwards")
	}
	if has, data := r.ask(&wire.Fetch{Attempt: res.Attempt, Part: wire.Part{Count: 4, Whole: []string{"none"}}}); has != wire.HasWhole ||
		!bytes.Equal(data, whole) {
		t.Errorf("a part that cannot be cut: %v, %d bytes", has, len(data))
	}
}

// TestShelfCountsReaders has room for two payloads, each of which two readers fetch.
func TestShelfCountsReaders(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	o.mu.Lock()
	o.readers = 2
	o.mu.Unlock()
	w, _ := start(t, s, Config{Slots: 1, KeepBytes: 12 << 20}, nil, define("large", largeBatches()))
	natstest.Eventually(t, "the worker knows the readers", func() bool {
		w.lanes.mu.Lock()
		defer w.lanes.mu.Unlock()
		l := w.lanes.open[o.batcher]
		return l != nil && l.readers.Load() == 2
	})
	kept := func(seq uint64) *wire.Result {
		t.Helper()
		o.feed(seq, seq)
		o.waitEmpty()
		res, _ := o.result(seq)
		return res
	}
	first, second := kept(1), kept(2)
	r := newReader(t, first.Direct)
	fetch := func(res *wire.Result) {
		t.Helper()
		if r.fetch(res.Attempt) == nil {
			t.Fatalf("batch %d is not here", res.Seq)
		}
		r.fetch("NOBODY") // once it is answered, the worker has counted the fetch before
	}
	fetch(first)
	if res := kept(3); res.Direct != nil {
		t.Fatal("there was room for a third payload, before the second reader had the first")
	}
	fetch(first)
	if res := kept(4); res.Direct == nil {
		t.Fatal("a payload that all have fetched made no room")
	}
	o.mu.Lock()
	o.taken = 2
	o.mu.Unlock()
	natstest.Eventually(t, "a payload that all are past makes room", func() bool {
		w.shelf.mu.Lock()
		defer w.shelf.mu.Unlock()
		_, ok := w.shelf.shelf.Put(nil, 5, "probe", 6<<20, 1, newPayload())
		return ok
	})
	if r.fetch(second.Attempt) != nil {
		t.Fatal("it is here still")
	}
}
