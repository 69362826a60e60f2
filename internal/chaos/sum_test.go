package chaos

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var sumFlag = flag.String("chaos.sum", "", "a file with what runs in parts printed, whose figures TestSum adds up by tier")

// TestSum adds up the figures of runs in parts: numbers are added, but for those that say how long something took at
// most.
func TestSum(t *testing.T) {
	if *sumFlag == "" {
		t.Skip("runs with -chaos.sum")
	}
	data, err := os.ReadFile(*sumFlag)
	if err != nil {
		t.Fatal(err)
	}
	for _, tier := range sum(data) {
		printFigures(tier)
	}
}

// sum adds up the lines of each tier, in the order of their names.
func sum(output []byte) (all []map[string]any) {
	tiers := make(map[string]map[string]any)
	for line := range bytes.Lines(output) {
		text, found := bytes.CutPrefix(line, []byte("chaos: "))
		figures := make(map[string]any)
		if !found || json.Unmarshal(text, &figures) != nil {
			continue
		}
		tier, _ := figures["tier"].(string)
		if tiers[tier] == nil {
			tiers[tier] = map[string]any{"tier": tier}
		}
		addUp(tiers[tier], figures)
	}
	for _, tier := range slices.Sorted(maps.Keys(tiers)) {
		all = append(all, tiers[tier])
	}
	return all
}

func addUp(to, from map[string]any) {
	for key, value := range from {
		switch v := value.(type) {
		case float64:
			was, _ := to[key].(float64)
			switch {
			case strings.HasPrefix(key, "longest"), strings.HasSuffix(key, "worst_schedule"):
				to[key] = max(was, v)
			case strings.Contains(key, "_per_"): // of no use for a sum
			default:
				to[key] = was + v
			}
		case map[string]any:
			if to[key] == nil {
				to[key] = make(map[string]any)
			}
			addUp(to[key].(map[string]any), v)
		case []any:
			was, _ := to[key].([]any)
			to[key] = append(was, v...)
		}
	}
}

func TestSumOfParts(t *testing.T) {
	t.Parallel()
	got := sum([]byte(`noise
chaos: {"tier":"b","schedules":2,"violations":{"lost":0},"longest_wait_ms":7,"recomputed_per_fault":3}
chaos: {"tier":"a","mutants":[1]}
chaos: {"tier":"b","schedules":3,"violations":{"lost":1},"longest_wait_ms":5,"recomputed_per_fault":3}
chaos: {"tier":"a","mutants":[2]}
`))
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if want := `[{"mutants":[1,2],"tier":"a"},{"longest_wait_ms":7,"schedules":5,"tier":"b","violations":{"lost":1}}]`; string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
}
