//go:build linux

package trainer

import (
	"context"
	"errors"
	"strings"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/client"
)

// Codes of errors that are the bridge's own.
const (
	codeOther      = "error"
	codeMemory     = "memory_full"
	codeCancelled  = "cancelled"
	codeBadRequest = "bad_request"
)

// codes has a word of the protocol for every error that a trainer may want to tell from others. The first that matches
// counts. docs/BRIDGE.md lists them.
var codes = []struct {
	err  error
	code string
}{
	{client.ErrBadConfig, "bad_config"},
	{client.ErrClosed, "closed"},
	{client.ErrStopped, "stopped"},
	{client.ErrInUse, "in_use"},
	{client.ErrSuperseded, "superseded"},
	{client.ErrSpecMismatch, "spec_mismatch"},
	{client.ErrUnknownDataset, "unknown_dataset"},
	{client.ErrBadParams, "bad_params"},
	{client.ErrWrongState, "wrong_state"},
	{client.ErrWrongData, "wrong_data"},
	{client.ErrStateTooLarge, "state_too_large"},
	{client.ErrPermission, "permission"},
	{client.ErrDisconnected, "disconnected"},
	{client.ErrCorrupt, "corrupt"},
	{client.ErrDecode, "decode"},
	{client.ErrRankLost, "rank_lost"},
	{client.ErrDiverged, "diverged"},
	{client.ErrUneven, "uneven"},
	{client.ErrNotRows, "not_rows"},
	{client.ErrBadRequest, codeBadRequest},
	{client.ErrIteratorStalled, "iterator_stalled"},
	{client.ErrIterator, "iterator"},
	{client.ErrJobTooLarge, "job_too_large"},
	{client.ErrPoisonJob, "poison"},
	{client.ErrJobTimeout, "job_timeout"},
	{client.ErrNondeterministic, "nondeterministic"},
	{client.ErrMaterialize, "materialize"},
	{client.ErrUnavailable, "unavailable"},
	{bridge.ErrMemoryFull, codeMemory},
	{bridge.ErrFrame, codeBadRequest},
	{context.Canceled, codeCancelled},
}

// fault is an error as it travels.
type fault struct {
	Code    string         `msgpack:"code"`
	Message string         `msgpack:"message"`
	Details map[string]any `msgpack:"details,omitempty"`
}

const (
	maxMessage = 16 << 10
	maxStack   = 64 << 10
)

func faultOf(err error) fault {
	f := fault{Code: codeOther, Message: clip(err.Error(), maxMessage)}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			f.Code = c.code
			break
		}
	}
	var job *client.JobError
	if errors.As(err, &job) {
		f.Details = map[string]any{
			"dataset": job.Dataset, "batcher": job.Batcher, "gen": job.Gen, "seq": job.Seq, "worker": job.Worker,
			"attempts": job.Attempts, "message": clip(job.Message, maxMessage), "stack": clip(job.Stack, maxStack),
		}
	}
	var wait *client.WaitError
	if errors.As(err, &wait) {
		f.Details = map[string]any{"batcher": wait.Batcher, "for": wait.For, "waited": wait.Waited.Seconds()}
	}
	var lost *client.RankError
	if errors.As(err, &lost) {
		f.Details = map[string]any{
			"batcher": lost.Batcher, "rank": lost.Rank, "seq": lost.Seq, "silent": lost.Silent.Seconds(),
			"never_came": lost.NeverCame,
		}
	}
	var diverged *client.DivergedError
	if errors.As(err, &diverged) {
		states := make([]any, len(diverged.Ranks))
		for i, r := range diverged.Ranks {
			states[i] = []any{r.Rank, r.State}
		}
		f.Details = map[string]any{"batcher": diverged.Batcher, "states": states}
	}
	return f
}

// clip is text as it travels: of at most so many bytes and a few, and of UTF-8, wherever it is cut.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
