package client

import (
	"log/slog"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// rowsOf is the batch of a state: 31 rows of size bytes, a table, and 31 labels.
func rowsOf(n uint64, size int) schema.Batch {
	tensor := func(shape ...int) schema.Tensor {
		data := make([]byte, schema.Tensor{Shape: shape}.Len())
		for i := range data {
			data[i] = byte(n) ^ byte(i) ^ byte(i>>8) ^ byte(i>>16)
		}
		return schema.Tensor{DType: schema.Uint8, Shape: shape, Data: data}
	}
	return schema.Batch{
		{Name: "x", Tensor: tensor(31, size)}, {Name: "table", Tensor: tensor(7)}, {Name: "y", Tensor: tensor(31)},
	}
}

func encoded(b schema.Batch) []byte {
	payload, err := wire.AppendPayload(nil, b)
	if err != nil {
		panic(err)
	}
	return payload
}

// answerPart is what a worker answers to a fetch of a part; change has the hashes and the extents before they are sent.
func answerPart(change func(blocks wire.Blocks, extents []byte) []byte) func(*wire.Fetch, []byte) []byte {
	return func(f *wire.Fetch, payload []byte) []byte {
		extents, ok := f.Part.Extents(payload, len(payload))
		if !ok {
			return append(wire.AppendAnswer(nil, wire.HasWhole, len(payload)), payload...)
		}
		blocks := wire.Pieces{payload}.Blocks(nil)
		var data []byte
		for _, e := range extents {
			data = append(data, payload[e.From:e.To]...)
		}
		if change != nil {
			data = change(blocks, data)
		}
		return append(append(wire.AppendAnswer(nil, wire.HasPart, len(blocks)+len(data)), blocks...), data...)
	}
}

// TestPart takes a part of each batch from workers that have it, send it damaged or whole, or know no parts: the rows
// are the same. A part that its hashes do not fit is dropped, and the reader takes the whole payload by way of NATS.
func TestPart(t *testing.T) {
	t.Parallel()
	const large, small = 40_000, 500
	flip := func(at func(blocks wire.Blocks, data []byte) *byte) func(wire.Blocks, []byte) []byte {
		return func(blocks wire.Blocks, data []byte) []byte { *at(blocks, data) ^= 1; return data }
	}
	for name, c := range map[string]struct {
		size   int
		answer func(*wire.Fetch, []byte) []byte
		change func(*Config)
		stored bool // payloads come from the store
	}{
		"parts": {size: large, answer: answerPart(nil)},
		"whole": {size: large},
		"older": {size: large, answer: func(f *wire.Fetch, payload []byte) []byte {
			if f.Part.Count > 0 {
				return nil
			}
			return append(wire.AppendAnswer(nil, wire.HasWhole, len(payload)), payload...)
		}},
		"too small for parts": {size: small, answer: answerPart(nil)},
		"first block damaged": {size: large, stored: true,
			answer: answerPart(flip(func(_ wire.Blocks, data []byte) *byte { return &data[0] }))},
		"last block damaged": {size: large, stored: true,
			answer: answerPart(flip(func(_ wire.Blocks, data []byte) *byte { return &data[len(data)-1] }))},
		"a hash damaged": {size: large, stored: true,
			answer: answerPart(flip(func(blocks wire.Blocks, _ []byte) *byte { return &blocks[len(blocks)-1] }))},
		"hashes of a damaged block": {size: large, stored: true, answer: func(f *wire.Fetch, payload []byte) []byte {
			payload = append(payload[:len(payload)/2:len(payload)/2], make([]byte, len(payload)-len(payload)/2)...)
			return answerPart(nil)(f, payload)
		}},
		"another part": {size: large, stored: true, answer: func(f *wire.Fetch, payload []byte) []byte {
			f.Part.Index++
			return answerPart(nil)(f, payload)
		}},
		"a block less": {size: large, stored: true,
			answer: answerPart(func(_ wire.Blocks, data []byte) []byte { return data[:len(data)-wire.DigestBlock] })},
		"a block more": {size: large, stored: true,
			answer: answerPart(func(_ wire.Blocks, data []byte) []byte { return append(data, make([]byte, wire.DigestBlock)...) })},
		"a part of nothing": {size: large, stored: true, answer: func(*wire.Fetch, []byte) []byte {
			return wire.AppendAnswer(nil, wire.HasPart, 0)
		}},
		"a part of too much": {size: large, stored: true, answer: func(*wire.Fetch, []byte) []byte {
			return wire.AppendAnswer(nil, wire.HasPart, math.MaxInt32)
		}},
		"direct off": {size: large, stored: true, change: func(c *Config) { c.NoDirect = true }},
		"inline":     {size: 10, stored: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			k := newKeeper(t, o)
			k.hear(t, false)
			k.answer = c.answer
			o.remake = true // on a busy machine, the reader may give a payload up as lost
			k.content = func(n uint64) []byte { return encoded(rowsOf(n, c.size)) }
			if name == "inline" {
				o.locked(func() {
					o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
						n := o.base + seq - 1
						return result(seq, n, k.content(n))
					}
				})
			}
			part := wire.Part{Index: 1, Count: 4, Whole: []string{"table"}}
			cfg := Config{Name: o.name, Dataset: "count", Logger: slog.New(slog.DiscardHandler),
				World: &World{ID: "world", Size: 1, Part: part.Index, Parts: part.Count, Whole: part.Whole}}
			if c.change != nil {
				c.change(&cfg)
			}
			b, err := Open[schema.Batch](deadline(t), o.srv.Connect(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close() }) // the owner may be off the air by then
			var state schema.State
			for n := range uint64(3) {
				step, err := b.Take(deadline(t), state)
				if err != nil {
					t.Fatal(err)
				}
				want, rows, err := part.Cut(rowsOf(n, c.size))
				if err != nil || rows != (schema.Rows{From: 7, To: 15, Of: 31}) {
					t.Fatal(rows, err)
				}
				if diff := cmp.Diff(want, step.Batch); diff != "" || step.Rows != rows {
					t.Fatalf("at %d: rows %+v: %.500s", n, step.Rows, diff)
				}
				state = step.Next
				step.Release()
			}
			b.r.line.mu.Lock()
			defer b.r.line.mu.Unlock()
			if tally := b.r.line.tally; (tally.direct == 0) != c.stored { // on a busy machine some are lost, too, and made again
				t.Errorf("%+v", tally)
			}
		})
	}
}
