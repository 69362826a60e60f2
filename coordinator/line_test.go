package coordinator

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// While NATS is away, and for a moment after, what fails is no news beside that. What goes on failing is.
func TestNoNewsWithoutNATS(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := slog.New(slog.NewTextHandler(&b, nil))
		l := new(line)
		s := spell{log: log, line: l, begins: "begins", ends: "ends"}
		failed := errors.New("failed")
		try := func(want string) {
			t.Helper()
			s.note(failed, time.Now())
			log.Log(t.Context(), l.warns(time.Now()), "retried")
			s.note(nil, time.Now())
			var got []string
			for _, line := range strings.Split(b.String(), "\n") {
				if _, msg, ok := strings.Cut(line, "msg="); ok {
					msg, _, _ = strings.Cut(msg, " ")
					got = append(got, msg)
				}
			}
			b.Reset()
			if all := strings.Join(got, " "); all != want {
				t.Errorf("logged %q, want %q", all, want)
			}
		}
		try("begins retried ends")
		l.cut()
		try("")
		time.Sleep(time.Hour) // of the bubble's clock
		try("")
		l.back()
		try("")
		time.Sleep(settles)
		try("begins retried ends")
	})
}
