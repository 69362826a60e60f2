package worker

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/shelf"
)

const (
	uploadWindow = 4                // chunks of one payload that are in flight
	maxUploads   = 64               // readers' requests that are carried out at a time
	longestAvoid = 10 * time.Minute // that a reader can ask for
)

// uploads stores payloads as chunks: those that are not kept, and kept ones for readers that cannot fetch them. Its
// lock guards the count of requests.
type uploads struct {
	*life
	nc    *nats.Conn
	pub   *publisher
	store *store
	shelf *keeper
	tasks *tasks

	mu       sync.Mutex
	requests int
}

// upload stores the payload of an attempt as chunks and returns when all are stored, or the first verdict that they
// cannot be.
func (u *uploads) upload(l *lane, seq uint64, attempt string, payload wire.Pieces) verdict {
	size := payload.Size()
	chunks := (size + wire.ChunkSize - 1) / wire.ChunkSize
	answers := make(chan verdict, uploadWindow)
	publications := make([]*publication, 0, chunks)
	sent, inFlight, result := 0, 0, stored
	for sent < chunks && result == stored || inFlight > 0 {
		if sent < chunks && result == stored && inFlight < uploadWindow {
			part := payload.Range(sent*wire.ChunkSize, min((sent+1)*wire.ChunkSize, size))
			chunk := part[0]
			if len(part) > 1 {
				chunk = part.AppendTo(nil)
			}
			x := &publication{
				stream: l.store, subject: wire.ChunkSubject(l.batcher, l.gen, seq, attempt, sent),
				data: chunk,
				done: func(a *pubAck) { answers <- a.verdict(l.store) },
			}
			publications = append(publications, x)
			u.pub.send(x)
			sent++
			inFlight++
			continue
		}
		select {
		case v := <-answers:
			inFlight--
			// An attempt's name is its own, so a chunk that exists is one of ours that was sent twice.
			if v != stored && v != exists {
				result = v
			}
		case <-u.hard.Done():
			u.pub.withdraw(publications) // the payload is about to be reused
			return passing
		}
	}
	return result
}

// onRequest stores a payload that a reader cannot fetch.
func (u *uploads) onRequest(msg *nats.Msg) {
	var request wire.Upload
	if json.Unmarshal(msg.Data, &request) != nil || !topology.Answerable(msg.Reply, u.nc.Opts.InboxPrefix) {
		return // of another wire version, or without a reader that waits
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.requests == maxUploads {
		return // the reader asks again
	}
	if u.tasks.run(func() {
		u.respond(msg, &request)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.requests--
	}) {
		u.requests++
	}
}

func (u *uploads) respond(msg *nats.Msg, request *wire.Upload) {
	var reply wire.UploadReply
	if it, ok := u.shelf.get(request.Attempt); ok {
		if request.Avoid > 0 {
			it.Lane.avoid.Store(u.now() + min(request.Avoid, int64(longestAvoid)))
		}
		reply.Fault = u.clear(it)
	} else {
		reply.Fault = &schema.Fault{Code: wire.CodeNotKept, Worker: u.worker()}
	}
	data, err := json.Marshal(reply)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		u.log.Debug("upload not answered", "error", err) // the reader asks again
	}
}

// clear stores a payload of the shelf as the chunks that its record names, and takes it off.
func (u *uploads) clear(it *shelf.Item[*lane, *product]) *schema.Fault {
	size := it.Value.pieces.Size()
	v := u.upload(it.Lane, it.Seq, it.Attempt, it.Value.pieces)
	if v == stored {
		u.shelf.stored(it)
		return nil
	}
	u.shelf.done(it, false, 0)
	if v == full {
		u.store.reportFull(u.worker(), it.Lane, it.Seq, size)
	}
	return &schema.Fault{
		Code: schema.CodeUnavailable, Message: "payload not stored", Worker: u.worker(), Gen: it.Lane.gen, Seq: it.Seq,
	}
}

// clearAll stores what no reader has fetched yet and lets the rest go: the worker leaves.
func (u *uploads) clearAll() {
	for _, it := range u.shelf.close() {
		if fault := u.clear(it); fault != nil {
			u.log.Warn("payload leaves with this worker and is made again", it.Lane.at("seq", it.Seq)...)
		}
	}
}
