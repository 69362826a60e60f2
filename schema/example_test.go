package schema_test

import (
	"fmt"
	"math/rand/v2"

	"github.com/jetbatch/jetbatch/schema"
)

// A trainer saves the state that came with a batch as one line of text, and hands it back after a restart.
func Example() {
	type position struct {
		Generator rand.PCG
		Index     int
	}
	state, err := schema.NewState(position{*rand.NewPCG(1, 2), 41})
	if err != nil {
		fmt.Println(err)
		return
	}
	saved, err := state.MarshalText()
	if err != nil {
		fmt.Println(err)
		return
	}

	var resumed schema.State
	if err := resumed.UnmarshalText(saved); err != nil {
		fmt.Println(err)
		return
	}
	var p position
	if err := resumed.Decode(&p); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resumed.Equal(state), p.Index, p.Generator.Uint64() == rand.NewPCG(1, 2).Uint64())
	// Output: true 41 true
}

func ExampleBatch() {
	x, err := schema.NewTensor([]int{2, 3}, []float32{1, 2, 3, 4, 5, 6})
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := schema.Batch{{Name: "x", Tensor: x}} // what Materialize returns, and Take

	x, _ = batch.Get("x")
	values, err := schema.View[float32](x)
	fmt.Println(x.DType, x.Shape, values, err)
	// Output: float32 [2 3] [1 2 3 4 5 6] <nil>
}
