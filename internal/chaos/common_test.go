package chaos

import (
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// sequenceName is the name of the data set that all tiers iterate.
const sequenceName = "sequence"

func sequenceDefinition() dataset.Definition {
	return testset.Define(sequenceName, &testset.Hooks{Data: rightData})
}

// rightData is what a schedule's data are; half of the schedules have a data set without a fingerprint.
func rightData(p testset.Params) string {
	if p.Salt%2 == 1 {
		return ""
	}
	return newData
}

// newOracle is the oracle of what all tiers iterate.
func newOracle(p testset.Params, from schema.State) *testset.Oracle {
	o, err := testset.NewOracle(sequenceDefinition(), p, from)
	if err != nil {
		panic(err) // the parameters are drawn in this package
	}
	return o
}

// tally counts what schedules found; it is printed as JSON.
type tally struct {
	Schedules  int            `json:"schedules"`
	Ranks      map[string]int `json:"ranks"` // schedules, by how many ranks took each batch together
	Batches    int            `json:"batches"`
	Together   int            `json:"together"`   // of these, put together from the rows of several ranks
	Violations map[string]int `json:"violations"` // by class; all zero is the promise
	Hangs      int            `json:"hangs"`      // runs that did not finish in time after the faults stopped
	Leaks      int            `json:"leaks"`      // goroutines, streams or consumers left behind
	Failures   int            `json:"failures"`   // runs that ended with an error that no fault explains
	Faults     map[string]int `json:"faults"`     // injected, by kind
}

func newTally() *tally {
	t := &tally{Ranks: make(map[string]int), Violations: make(map[string]int), Faults: make(map[string]int)}
	for _, class := range testset.Classes() {
		t.Violations[class] = 0
	}
	return t
}
