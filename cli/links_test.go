package cli

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// A worker's two connections are told of as one.
func TestLinksAreOne(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key != slog.MessageKey {
			return slog.Attr{}
		}
		return a
	}
	l := &links{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: drop})), away: make(map[*nats.Conn]bool)}
	one, two, cut := new(nats.Conn), new(nats.Conn), errors.New("EOF")
	for range 2 {
		l.gone(one, cut)
		l.gone(two, cut)
		l.back(two)
		l.back(one)
	}
	l.gone(one, nil) // closed by this process
	const once = "msg=\"NATS is gone\"\nmsg=\"NATS is back\"\n"
	if got := log.String(); got != once+once {
		t.Errorf("the log is\n%s", got)
	}
}

// A wrong key is one line, whatever it is denied; other errors are a line each.
func TestDenialsAreOneLine(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	handle := logOnce(slog.New(slog.NewTextHandler(&log, nil)))
	for _, subject := range []string{"a", "b", "a"} {
		handle(nil, nil, fmt.Errorf("%w: subscription to %q", nats.ErrPermissionViolation, subject))
	}
	handle(nil, nil, nats.ErrSlowConsumer)
	if got := strings.Count(log.String(), "level=ERROR"); got != 2 || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("the log is\n%s", log.String())
	}
}
