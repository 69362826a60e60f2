package dataset_test

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jetbatch/jetbatch/dataset"
)

// Files is a data set over the files of a folder.
type Files struct {
	digest string
	names  []string // that are used
	found  int      // in the folder
}

func (f *Files) Fingerprint(ctx context.Context) (dataset.Fingerprint, error) {
	return dataset.Fingerprint{
		Digest: f.digest, // equal as long as every state yields the same jobs and every job the same batch
		Parts:  []dataset.Part{{Name: "recordings", Value: strconv.Itoa(len(f.names))}, {Name: "files", Value: f.digest}},
		Ignore: []string{"dir"}, // parameters that change neither order nor content
		// For people: status, take, demo and check show it.
		Summary: fmt.Sprintf("kept %d of %d files", len(f.names), f.found),
	}, nil
}

// What batches depend on besides parameters, in parts for people to compare.
func ExampleFingerprinter() {
	var f dataset.Fingerprinter = &Files{"5f1c", []string{"a", "b"}, 3}
	print, err := f.Fingerprint(context.Background())
	fmt.Println(print.Parts, print.Summary, err)
	// Output: [{recordings 2} {files 5f1c}] kept 2 of 3 files <nil>
}
