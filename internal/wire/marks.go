package wire

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// TimeoutMark is what a worker stores, at TimeoutSubject, of an execution that ran into its deadline.
type TimeoutMark struct {
	Worker  string        `json:"worker"`
	Attempt string        `json:"attempt"`
	After   time.Duration `json:"after"` // the worker's JobTimeout
	Alone   bool          `json:"alone"` // nothing ran beside it
}

// MaxTimeoutMarks is how many deadlines of one job are marked, those with neighbours among them.
const MaxTimeoutMarks = 6

// FailureMark is what a worker stores, at FailureSubject, of a job whose error another worker is to confirm.
type FailureMark struct {
	Worker string `json:"worker"`
	Text   string `json:"text"`
}

// DeadlinesText says which deadlines the executions of a job ran into, such as "10m twice, on a, b". It names the
// shortest.
func DeadlinesText(history []TimeoutMark) string {
	shortest := slices.MinFunc(history, func(a, b TimeoutMark) int { return int(a.After - b.After) }).After
	var workers []string
	for _, m := range history {
		if !slices.Contains(workers, m.Worker) {
			workers = append(workers, m.Worker)
		}
	}
	return fmt.Sprintf("%s %s, on %s", short(shortest), times(len(history)), strings.Join(workers, ", "))
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	case 3:
		return "three times"
	}
	return fmt.Sprintf("%d times", n)
}

// short writes 10 minutes as "10m" and not as "10m0s".
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
