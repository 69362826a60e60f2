package doctor

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	fetchTimeout = time.Second
	dialsAtOnce  = 16
	maxDials     = 100 // workers that are tried
)

// direct tries to reach the workers that large batches are fetched from. It is this machine that tries, which says
// something about a trainer if that is here, too. secure is whether it insists on TLS.
func (e *examination) direct(ctx context.Context, secure bool) {
	var workers []schema.WorkerStatus
	for _, w := range e.state.Workers {
		if w.Direct != "" && len(workers) < maxDials {
			workers = append(workers, w)
		}
	}
	if len(workers) == 0 {
		return
	}
	failures := make([]error, len(workers))
	var dials errgroup.Group
	dials.SetLimit(dialsAtOnce)
	for i, w := range workers {
		dials.Go(func() error {
			failures[i] = tryFetch(ctx, w, secure)
			return nil
		})
	}
	_ = dials.Wait() // none of them returns an error
	var unreached []string
	for i, err := range failures {
		if err != nil {
			unreached = append(unreached, fmt.Sprintf("%s (%v)", workers[i].Worker, err))
		}
	}
	if len(unreached) == 0 {
		e.find(OK, "direct", fmt.Sprintf("the ports of %s can be reached from here, for batches of 32 KiB or more", legible.Count(len(workers), "worker")), "")
		return
	}
	e.find(Warning, "direct", fmt.Sprintf("%d of %s cannot be reached from here: %s; for a trainer here their batches of 32 KiB or more come through NATS",
		len(unreached), legible.Count(len(workers), "worker"), strings.Join(unreached, ", ")),
		"open the port that the workers are given by --direct, or name by --direct-advertise what trainers dial; if nothing can be opened, --direct off saves the attempts")
}

// tryFetch asks a worker for a payload as a trainer would, for one that nobody has. That the port is open is not
// enough: a proxy may stand before it.
func tryFetch(ctx context.Context, w schema.WorkerStatus, secure bool) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	conn, err := direct.Dial(ctx, w.Direct, w.DirectPin, secure)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // all that was asked for has come, or nothing will
	if err := conn.SetDeadline(time.Now().Add(fetchTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(wire.AppendFetch(nil, &wire.Fetch{Attempt: rand.Text()})); err != nil {
		return err
	}
	var head [wire.AnswerHead]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return fmt.Errorf("%s does not answer: %w", w.Direct, err)
	}
	if _, _, err := wire.ParseAnswer(head); err != nil {
		return fmt.Errorf("whoever listens at %s is no worker: %w", w.Direct, err)
	}
	return nil
}
