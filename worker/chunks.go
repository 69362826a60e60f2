package worker

import (
	"github.com/jetbatch/jetbatch/internal/wire"
)

// uploadWindow is how many chunks of one payload are in flight.
const uploadWindow = 4

// upload stores the payload of an attempt as chunks and returns when all are stored, or the first verdict that they
// cannot be.
func (w *Worker) upload(l *lane, seq uint64, attempt string, payload wire.Pieces) verdict {
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
