package doctor

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	dialTimeout = time.Second
	dialsAtOnce = 16
	maxDials    = 100 // workers that are tried
)

// direct tries to reach the workers that large batches are fetched from. It is this machine that tries, which says
// something about a trainer if that is here, too.
func (e *examination) direct(ctx context.Context) {
	var names, addresses []string
	for _, w := range e.state.Workers {
		if w.Direct != "" && len(names) < maxDials {
			names, addresses = append(names, w.Worker), append(addresses, w.Direct)
		}
	}
	if len(names) == 0 {
		return
	}
	failures := make([]error, len(names))
	var dials errgroup.Group
	dials.SetLimit(dialsAtOnce)
	for i, address := range addresses {
		dials.Go(func() error {
			conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
			if err == nil {
				err = conn.Close()
			}
			failures[i] = err
			return nil
		})
	}
	_ = dials.Wait() // none of them returns an error
	var unreached []string
	for i, err := range failures {
		if err != nil {
			unreached = append(unreached, fmt.Sprintf("%s (%v)", names[i], err))
		}
	}
	if len(unreached) == 0 {
		e.find(OK, "direct", fmt.Sprintf("the ports of %s can be reached from here, for batches of over 512 KiB", count(len(names), "worker")), "")
		return
	}
	e.find(Warning, "direct", fmt.Sprintf("%d of %s cannot be reached from here: %s; for a trainer here their batches of over 512 KiB come through NATS",
		len(unreached), count(len(names), "worker"), strings.Join(unreached, ", ")),
		"open the port that the workers are given by --direct, or name by --direct-advertise what trainers dial; if nothing can be opened, --direct off saves the attempts")
}
