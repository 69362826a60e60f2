package dataset_test

import (
	"fmt"

	"github.com/jetbatch/jetbatch/dataset"
)

// Clip is a state of Files: the file that comes next.
type Clip struct{ Next int }

func (f *Files) Progress(at Clip) (dataset.Progress, error) {
	return dataset.Progress{Epoch: 1, Epochs: 1, Batch: uint64(at.Next), Batches: uint64(len(f.names))}, nil
}

// How far a state is: two of five files are taken.
func ExampleProgresser() {
	var p dataset.Progresser[Clip] = &Files{names: []string{"a", "b", "c", "d", "e"}}
	fmt.Println(p.Progress(Clip{2}))
	fmt.Println(dataset.ProgressOf(0, 3, 10, 64, 5, false)) // after 10 of 64 samples of the first of 3 epochs, in fives
	// Output:
	// {1 1 2 5} <nil>
	// {1 3 2 13}
}
