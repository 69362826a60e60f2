package worker

import (
	"github.com/jetbatch/jetbatch/schema"
)

// uploadWindow is how many chunks of one payload are in flight.
const uploadWindow = 4

// upload stores a payload as chunks and returns when all are stored, or the first verdict that they cannot be.
func (w *Worker) upload(j *job, r *schema.Result, payload []byte) verdict {
	answers := make(chan verdict, uploadWindow)
	publications := make([]*publication, 0, r.Chunks)
	sent, inFlight, result := 0, 0, stored
	for sent < int(r.Chunks) && result == stored || inFlight > 0 {
		if sent < int(r.Chunks) && result == stored && inFlight < uploadWindow {
			end := min((sent+1)*schema.ChunkSize, len(payload))
			x := &publication{
				stream: j.lane.store, subject: schema.ChunkSubject(j.lane.batcher, j.lane.gen, r.Seq, r.Attempt, sent),
				data: payload[sent*schema.ChunkSize : end],
				done: func(a *pubAck) { answers <- a.verdict(j.lane.store) },
			}
			publications = append(publications, x)
			w.pub.send(x)
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
		case <-w.hard.Done():
			w.pub.withdraw(publications) // the payload is about to be reused
			return passing
		}
	}
	return result
}
