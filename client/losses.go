package client

import (
	"github.com/jetbatch/jetbatch/internal/wire"
)

// losses are the attempts of one generation whose payloads cannot be had anywhere, by sequence number. Not safe for
// concurrent use.
type losses map[uint64]loss

type loss struct {
	attempt string
	digest  wire.Digest
}

// add notes that the payload of a result is lost.
func (l losses) add(res *wire.Result) { l[res.Seq] = loss{res.Attempt, res.Digest} }

// has reports whether this very attempt is lost.
func (l losses) has(res *wire.Result) bool {
	lost, ok := l[res.Seq]
	return ok && lost.attempt == res.Attempt
}

// contradict reports whether a result is another than the one that was lost at its place. Another rank may have had
// rows of that one.
func (l losses) contradict(res *wire.Result) bool {
	lost, ok := l[res.Seq]
	return ok && res.Kind != wire.KindError && (res.Kind != wire.KindBatch || res.Digest != lost.digest)
}

// list returns those that the owner is told of, and forgets what is behind the head.
func (l losses) list(head uint64) []wire.Lost {
	var lost []wire.Lost
	for seq, a := range l {
		if seq < head {
			delete(l, seq)
		} else if len(lost) < wire.MaxLost {
			lost = append(lost, wire.Lost{Seq: seq, Attempt: a.attempt})
		}
	}
	return lost
}
