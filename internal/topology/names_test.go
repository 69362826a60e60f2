package topology

import (
	"strings"
	"testing"
)

// FuzzNames reads anything as a key of the bucket and as the name of a stream:
//   - a key is a batcher's, a coordinator's, or neither, and names what it was made of;
//   - a stream's name is taken apart into what it was put together from.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"", "batcher.train", "coordinator.c-1", "batcher.", "jetbatch-results-train-01M8", "jetbatch-results-a-b-G", "jetbatch-results--", "jetbatch-results-x-"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		batcher, coordinator := ParseKey(name)
		switch {
		case batcher != "" && coordinator != "":
			t.Errorf("%q is of batcher %q and of coordinator %q", name, batcher, coordinator)
		case batcher != "" && BatcherKey(batcher) != name:
			t.Errorf("%q is not of batcher %q", name, batcher)
		case coordinator != "" && CoordinatorKey(coordinator) != name:
			t.Errorf("%q is not of coordinator %q", name, coordinator)
		}
		batcher, gen, ok := ParseResultsStream(name)
		switch {
		case ok && (batcher == "" || gen == "" || strings.Contains(gen, "-") || ResultsStream(batcher, gen) != name):
			t.Errorf("%q is taken apart into %q and %q", name, batcher, gen)
		case !ok && batcher+gen != "":
			t.Errorf("%q is none, and is %q and %q", name, batcher, gen)
		}
	})
}
