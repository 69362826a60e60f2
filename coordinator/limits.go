package coordinator

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds on what others can make a coordinator keep or do. Every user that may connect may send; nothing here grows
// with how much it sends.
const (
	maxWorkers  = 4096      // heard of at a time; beats of more are dropped
	maxBatchers = 4096      // fed at a time by one coordinator; a seat in one more is refused for now
	maxRequests = 256       // requests carried out at a time, slow ones not counted; more are told to ask again
	maxShare    = 8         // of them for one batcher, slow ones counted
	maxLooks    = 4         // of them for one batcher that only ask how it stands
	maxAsked    = 4         // of them by one reader
	maxViews    = 16        // overviews at a time
	maxJoined   = 64        // answers to one request that is repeated before it is carried out
	maxRequest  = 512 << 10 // bytes of a request, nearly all of them the data set's parameters
	maxCredit   = 128 << 10 // bytes of a credit, nearly all of them the stack of an error
	maxBeat     = 16 << 10  // bytes of a worker's beat
	maxSlots    = wire.MaxSlots
	maxServed   = 256     // data sets of one worker
	maxError    = 4 << 10 // bytes kept of a worker's last error
	maxReason   = 512     // bytes kept of why a worker has suspended a kind
	maxAddress  = 256     // bytes of where a worker is reached, and of what it is known by there
	maxLeases   = 64      // read at a time; of more, as many in turn
	maxStrays   = 256     // shown in an overview
)

// The pace of reading records, which their number and size must not change: other work of the coordinator would wait.
const (
	parallelReads  = 4
	readsPerBeat   = 1024
	bytesPerBeat   = 4 << 20
	bytesPerRecord = 16 << 10               // per second of one record: a large one is read rarely
	listPerName    = 200 * time.Microsecond // between two lists of names
)

// checkIDs refuses what no client of this module sends.
func checkIDs(reader, request string) *schema.Fault {
	for what, id := range map[string]string{"reader": reader, "request": request} {
		if err := wire.CheckName(what, id); err != nil {
			return &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
		}
	}
	return nil
}

// proven refuses what does not come from the reader that it names.
func proven(reader, secret string) *schema.Fault {
	if wire.ReaderOf(secret) == reader {
		return nil
	}
	return &schema.Fault{
		Code: schema.CodeBadRequest, Message: fmt.Sprintf("the request does not prove that it is trainer %s's", reader),
	}
}

// fitting leaves out of an overview what one message cannot hold: the last errors first, then workers.
func fitting(o wire.Overview, limit int64) wire.Overview {
	size := func() int64 {
		data, err := json.Marshal(o)
		if err != nil {
			return 0 // the caller meets the same error and reports it
		}
		return int64(len(data))
	}
	if limit <= 0 || size() <= limit {
		return o
	}
	for i := range o.Workers {
		o.Workers[i].LastError, o.Workers[i].Suspended = "", nil
	}
	for len(o.Workers) > 0 && size() > limit {
		o.Workers = o.Workers[:len(o.Workers)/2]
	}
	for len(o.Batchers) > 0 && size() > limit {
		o.Batchers = o.Batchers[:len(o.Batchers)/2]
	}
	return o
}

func tooLarge(bytes int) *schema.Fault {
	return &schema.Fault{
		Code: schema.CodeBadRequest, Message: fmt.Sprintf("request of %d bytes; at most %d", bytes, maxRequest),
	}
}
