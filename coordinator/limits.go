package coordinator

import (
	"encoding/json"
	"fmt"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds on what others can make a coordinator keep or do. Whoever may connect may send; nothing here grows with how
// much.
const (
	maxWorkers  = 4096      // heard of at a time; beats of more are dropped
	maxBatchers = 4096      // fed at a time by one coordinator; a seat in one more is refused for now
	maxRequests = 256       // carried out at a time; more are told to ask again
	maxRequest  = 512 << 10 // bytes of a request, nearly all of them the data set's parameters
	maxCredit   = 128 << 10 // bytes of a credit, nearly all of them the stack of an error
	maxBeat     = 16 << 10  // bytes of a worker's beat
	maxWaiting  = 1 << 10   // bytes kept of what a trainer waits for
)

// checkRequest refuses what no client of this module sends.
func checkRequest(req *wire.SeatRequest) *schema.Fault {
	for what, id := range map[string]string{"reader": req.Reader, "request": req.Request} {
		if err := wire.CheckName(what, id); err != nil {
			return &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
		}
	}
	return nil
}

// busy takes one of the places for requests; false means that all are taken.
func (c *Coordinator) busy() bool {
	if c.requests.Add(1) > maxRequests {
		c.requests.Add(-1)
		return false
	}
	return true
}

// fitting leaves out of an overview what one message cannot hold: the last errors first, then workers.
func fitting(o wire.Overview, limit int64) wire.Overview {
	size := func() int64 {
		data, err := json.Marshal(o)
		if err != nil {
			return 0 // and the caller will say why
		}
		return int64(len(data))
	}
	if limit <= 0 || size() <= limit {
		return o
	}
	for i := range o.Workers {
		o.Workers[i].LastError = ""
	}
	for len(o.Workers) > 0 && size() > limit {
		o.Workers = o.Workers[:len(o.Workers)/2]
	}
	for len(o.Batchers) > 0 && size() > limit {
		o.Batchers = o.Batchers[:len(o.Batchers)/2]
	}
	return o
}

func tooMany() *schema.Fault {
	return unavailable("%d requests are being carried out; ask again", maxRequests)
}

func tooLarge(bytes int) *schema.Fault {
	return &schema.Fault{Code: schema.CodeBadRequest, Message: fmt.Sprintf("request of %d bytes; at most %d", bytes, maxRequest)}
}
