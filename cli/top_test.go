package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/cli/internal/top"
	"github.com/jetbatch/jetbatch/schema"
)

// A look, a key and another size each draw the picture anew; nothing else does.
func TestTopDraws(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := make(frames, 10)
		looks, typed := make(chan sighting), make(chan []byte)
		var height atomic.Int64
		height.Store(24)
		s := &topper{model: top.New("nats://here:4222"), looks: looks}
		ended := make(chan error)
		go func() {
			ended <- s.draw(t.Context(), typed, out, func() (int, int) { return 80, int(height.Load()) }, false)
		}()
		frame := func(what string, want int) string {
			t.Helper()
			synctest.Wait()
			if len(out) != 1 {
				t.Fatalf("%s: %d frames", what, len(out))
			}
			got := <-out
			if lines := strings.Count(got, "\x1b[K"); lines != want || !strings.HasPrefix(got, "\x1b[H") {
				t.Errorf("%s: %d lines, want %d: %q", what, lines, want, got)
			}
			return got
		}
		frame("at first", 24)
		looks <- sighting{at: time.Now(), status: fleet.Status{Batchers: []schema.Status{{Batcher: "train"}}}}
		if f := frame("a look", 24); !strings.Contains(f, "▸ train") {
			t.Error(f)
		}
		looks <- sighting{at: time.Now(), err: errors.New("nobody is there")}
		if f := frame("no answer", 24); !strings.Contains(f, "nobody is there") {
			t.Error(f)
		}
		typed <- []byte("p")
		if f := frame("a key", 24); !strings.Contains(f, "PAUSED") {
			t.Error(f)
		}
		time.Sleep(10 * sizeEvery) // of the bubble's clock
		synctest.Wait()
		if len(out) > 0 {
			t.Error("drawn without a reason")
		}
		height.Store(30)
		time.Sleep(2 * sizeEvery)
		frame("another size", 30)
		typed <- []byte("q")
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// frames has every Write.
type frames chan string

func (f frames) Write(p []byte) (int, error) {
	f <- string(p)
	return len(p), nil
}

func TestTopEnds(t *testing.T) {
	t.Parallel()
	looks := make(chan sighting, 1)
	looks <- sighting{err: errUnhealthy}
	close(looks)
	s := &topper{model: top.New(""), looks: looks}
	var out bytes.Buffer
	if err := s.print(&out, true); !errors.Is(err, errUnhealthy) || !strings.Contains(out.String(), `"error":"not healthy"`) {
		t.Errorf("%v, %s", err, out.String())
	}
	if err := s.draw(t.Context(), nil, &out, func() (int, int) { return 80, 24 }, true); err != nil {
		t.Error("after the last look:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.looks = make(chan sighting)
	if err := s.draw(ctx, nil, &out, func() (int, int) { return 80, 24 }, true); err != nil {
		t.Error("after a signal:", err)
	}
}
