package schema_test

import (
	"fmt"

	"github.com/jetbatch/jetbatch/schema"
)

// A commit record is what a worker stores and a reader believes: where it belongs is in its subject, and a small
// payload rides along.
func ExampleAppendResult() {
	payload := []byte("tensors")
	record, err := schema.AppendResult(nil, &schema.Result{
		Seq: 64, Attempt: "a1", Worker: "gpu-1", Deliveries: 1,
		Digest: schema.Sum(payload), Size: uint64(len(payload)),
	}, payload)
	if err != nil {
		fmt.Println(err)
		return
	}
	result, got, err := schema.DecodeResult(record)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(schema.ResultSubject("train", "G1", result.Seq))
	fmt.Println(result.Kind, result.Worker, string(got), schema.Sum(got) == result.Digest)
	// Output:
	// jetbatch.result.train.G1.1.64
	// batch gpu-1 tensors true
}
