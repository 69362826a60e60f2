//go:build linux

package trainer

import (
	"context"
	"log/slog"
	"testing"

	"github.com/jetbatch/jetbatch/bridge"
)

// A call that a cancel does not find is over: the take after it may come at once.
func TestACallThatIsForgottenIsOver(t *testing.T) {
	t.Parallel()
	own, other, err := bridge.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()   //nolint:errcheck // of a test
	defer other.Close() //nolint:errcheck // of a test
	s := &server{
		ctx: t.Context(), calls: make(map[uint64]context.CancelCauseFunc), log: newLog(own, slog.LevelError),
	}
	for id := range uint64(20_000) {
		ctx, done := s.begin(id, 0)
		go done()
		for forgotten := false; !forgotten; {
			s.mu.Lock()
			forgotten = s.calls[id] == nil
			s.mu.Unlock()
		}
		if ctx.Err() == nil {
			t.Fatalf("call %d is forgotten and not over", id)
		}
	}
}
