package client

import (
	"github.com/jetbatch/jetbatch/internal/wire"
)

// losses are the attempts of one generation whose payloads cannot be had anywhere, by sequence number. Not safe for
// concurrent use.
type losses map[uint64]string

// add notes that the payload of a result is lost.
func (l losses) add(res *wire.Result) { l[res.Seq] = res.Attempt }

// has reports whether this very attempt is lost.
func (l losses) has(res *wire.Result) bool {
	attempt, ok := l[res.Seq]
	return ok && attempt == res.Attempt
}

// list returns those that the owner is told of, and forgets what is behind the head.
func (l losses) list(head uint64) []wire.Lost {
	var lost []wire.Lost
	for seq, attempt := range l {
		if seq < head {
			delete(l, seq)
		} else if len(lost) < wire.MaxLost {
			lost = append(lost, wire.Lost{Seq: seq, Attempt: attempt})
		}
	}
	return lost
}
