package wire_test

import (
	"fmt"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A commit record is what a worker stores and a reader believes: where it belongs is in its subject, and a small
// payload rides along.
func ExampleAppendResult() {
	payload := []byte("tensors")
	record, err := wire.AppendResult(nil, &wire.Result{
		Seq: 64, Attempt: "a1", Worker: "gpu-1", Deliveries: 1,
		Digest: wire.Sum(payload), Size: uint64(len(payload)),
	}, payload)
	if err != nil {
		fmt.Println(err)
		return
	}
	result, got, err := wire.DecodeResult(record)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(wire.ResultSubject("train", "G1", result.Seq))
	fmt.Println(result.Kind, result.Worker, string(got), wire.Sum(got) == result.Digest)
	// Output:
	// jetbatch.result.train.G1.1.64
	// batch gpu-1 tensors true
}

// A worker writes the payload of a batch; a trainer reads it where it lies.
func ExampleDecodeBatch() {
	x, err := schema.NewTensor([]int{2, 3}, []float32{1, 2, 3, 4, 5, 6})
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := schema.Batch{{Name: "x", Tensor: x}}

	payload, err := wire.AppendBatch(schema.AlignedBuffer(wire.EncodedSize(batch))[:0], batch)
	if err != nil {
		fmt.Println(err)
		return
	}
	got, err := wire.DecodeBatch(payload)
	if err != nil {
		fmt.Println(err)
		return
	}
	x, _ = got.Get("x")
	values, err := schema.View[float32](x)
	fmt.Println(x.DType, x.Shape, values, err)
	// Output: float32 [2 3] [1 2 3 4 5 6] <nil>
}
