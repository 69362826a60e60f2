package coordinator

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestJobsAreConfirmed says what becomes of a job by what the stream answers. One that is there already is what was
// wanted, and was not missing.
func TestJobsAreConfirmed(t *testing.T) {
	t.Parallel()
	refusal := func(code int, description string) string {
		return fmt.Sprintf(`{"error":{"err_code":%d,"description":%q}}`, code, description)
	}
	for name, test := range map[string]struct {
		answer   string
		waiting  int
		again    uint64
		crowded  bool
		refusals bool
	}{
		"stored":        {`{"stream":"jetbatch-jobs","seq":4}`, 0, 1, false, false},
		"there already": {refusal(10077, "maximum messages per subject exceeded"), 0, 0, false, false},
		"no room":       {refusal(10047, "insufficient storage resources available"), 1, 0, true, true},
		"no stream":     {"", 1, 0, false, true},
		"nonsense":      {"[", 1, 0, false, true},
	} {
		f := &feed{
			feedOf: feedOf{line: new(line)}, inbox: "_INBOX.x", log: slog.New(slog.DiscardHandler),
			unconfirmed: map[uint64]publication{7: {n: 1, again: true}},
		}
		f.onAnswer(&nats.Msg{Subject: "_INBOX.x.7", Data: []byte(test.answer)})
		refused, waiting := f.waiting()
		again, crowded := f.reissued(), f.crowded()
		if len(waiting) != test.waiting || again != test.again || crowded != test.crowded ||
			(refused != "") != test.refusals {
			t.Errorf("%s: %v wait, refused %q, %d published again, crowded %v", name, waiting, refused, again, crowded)
		}
	}
}
