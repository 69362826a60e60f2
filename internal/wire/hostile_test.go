package wire

import (
	"errors"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// hostile are names that mean something to a protocol, a stream or a shell.
var hostile = []string{
	"", ".", "a.b", "*", ">", "a b", "a\tb", "a\r\nPUB x 0\r\n", "a\x00b", "$SYS", "ü", "../x", strings.Repeat("a", MaxName+1), "a/b", `a"b`,
}

// Nothing hostile passes for a name, and no result gets its reader to ask for a subject of the writer's choice.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	for _, name := range hostile {
		if err := CheckName("batcher", name); !errors.Is(err, ErrBadName) {
			t.Errorf("CheckName(%q): %v", name, err)
		}
		r := &Result{Seq: 1, Attempt: name, Size: 2 * ChunkSize, Chunks: 2}
		data, err := AppendResult(nil, r, nil)
		if err != nil {
			continue // the writer's own check
		}
		if got, _, err := DecodeResult(data); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("attempt %q is read: %+v, %v", name, got, err)
		}
	}
}

// A trace context is put into headers: nothing else than one passes.
func TestHostileTraces(t *testing.T) {
	t.Parallel()
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if Traceparent(good) != good {
		t.Fatal("a good one is refused")
	}
	for _, bad := range []string{
		good + "\r\nNats-Rollup: all", good[:53] + "\r\n", "00-" + strings.Repeat("\n", 32) + good[35:], strings.ToUpper(good),
		strings.Repeat("0", 1<<20), good[:len(good)-1], "\x00" + good[1:],
	} {
		if got := Traceparent(bad); got != "" {
			t.Errorf("%.80q passes as %q", bad, got)
		}
	}
}
