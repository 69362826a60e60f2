package worker

import (
	"bytes"
	"strconv"

	"github.com/jetbatch/jetbatch/internal/topology"
)

// refusal is why a publication was not stored.
type refusal struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// pubAck is the server's answer to a publication. The zero value is none: the publisher gave up.
type pubAck struct {
	Stream string   `json:"stream"`
	Seq    uint64   `json:"seq"`
	Error  *refusal `json:"error"`
	gone   bool     // no stream takes the subject
}

// parse reads the answer that a server gives as long as all is well, to the letter; all others are left to the JSON
// package.
func (a *pubAck) parse(data []byte) bool {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	stream, rest, ok2 := bytes.Cut(rest, []byte(`","seq":`))
	number, end, ok3 := bytes.Cut(rest, []byte(`}`))
	if !ok || !ok2 || !ok3 || len(end) > 0 || bytes.IndexByte(stream, '\\') >= 0 || bytes.IndexByte(stream, '"') >= 0 {
		return false
	}
	seq, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		return false
	}
	a.Stream, a.Seq = string(stream), seq
	return true
}

// verdict sorts answers by what to do about them.
type verdict int

const (
	stored   verdict = iota // it counts
	exists                  // the subject has its one message
	full                    // no room
	gone                    // no such stream
	tooLarge                // never will be stored
	passing                 // try again
)

func (a *pubAck) verdict(stream string) verdict {
	switch {
	case a.gone:
		return gone
	case a.Error == nil && a.Stream == stream && a.Seq > 0:
		return stored
	case a.Error == nil:
		return passing // an answer from another stream says nothing about ours
	}
	switch code, why := a.Error.ErrCode, a.Error.Description; {
	case topology.IsDuplicate(code, why):
		return exists
	case topology.IsFull(code, why):
		return full
	case topology.IsTooLarge(code, why):
		return tooLarge
	case topology.IsNoStream(code):
		return gone
	}
	return passing // 429 too many requests, no leader, and codes of later servers
}
