package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// restart is what ends a write error, which nats-server 2.15.2 keeps after there is room again.
const restart = "make room on its disk, then restart the server: until then it keeps the error; nothing is lost"

// writes tries a write, if this user may. The message is for nobody: jetbatch events leaves it out.
func (e *examination) writes(ctx context.Context) {
	subject := wire.EventSubject(wire.Event{Role: wire.EventCheck, Name: probe})
	err := e.ask(ctx, func(ctx context.Context) error {
		_, err := e.js.Publish(ctx, subject, []byte("{}"), jetstream.WithRetryAttempts(0))
		return err
	}, "$JS.API.STREAM.INFO."+topology.EventsStream)
	var denied *schema.PermissionError
	switch {
	case err == nil:
		e.find(OK, "store", "a write to "+topology.EventsStream+" is stored", "")
	case errors.As(err, &denied), errors.Is(err, jetstream.ErrNoStreamResponse): // leases tell, or there is no stream yet
	case e.tryPublish(subject, harmless) != nil:
		// What the server denies looks like silence; an operator may not write, and leases tell.
	default:
		e.find(Error, "store", fmt.Sprintf("a write is not confirmed: %v", err),
			"look at the server's log and its disk; "+restart)
	}
}

// unstored notes that the server stores nothing: a coordinator answers, and cannot renew its lease.
func (e *examination) unstored() {
	for _, c := range e.state.Coordinators {
		age, stale := e.stale[c.Coordinator]
		if !stale {
			continue
		}
		e.find(Error, "store", fmt.Sprintf("the server stores nothing: coordinator %s answers, and could not renew its lease for %v",
			c.Coordinator, age.Round(time.Second)), "look at the server's log and its disk; "+restart)
		delete(e.stale, c.Coordinator)
	}
	for id, age := range e.stale {
		e.find(Warning, "leases", fmt.Sprintf("the lease of coordinator %s has stood still for %v", id, age.Round(time.Second)),
			"it is dead, or cannot reach the server: another coordinator takes its batchers over; start one if there is none")
	}
}

// copies looks at the servers that hold copies of a stream, and reports whether all is well with them.
func (e *examination) copies(name string, info *jetstream.StreamInfo) bool {
	if info.Cluster == nil || info.Config.Replicas < 2 {
		return true
	}
	if info.Cluster.Leader == "" {
		e.find(Error, "cluster", name+" has no leader: nothing of it can be read or written",
			"start the servers that are away; of 3, 2 have to be there")
		return false
	}
	var away, behind []string
	for _, p := range info.Cluster.Replicas {
		switch {
		case p.Offline, !p.Current && (p.Active > unheard || p.Active == 0):
			away = append(away, p.Name)
		case !p.Current || p.Lag > maxLag:
			behind = append(behind, fmt.Sprintf("%s (%s)", p.Name, legible.Count(int(min(p.Lag, 1<<31)), "message")))
		}
	}
	there := info.Config.Replicas - len(away)
	if len(away) > 0 {
		text := fmt.Sprintf("%s: %s of %d is away: %s",
			name, legible.Count(len(away), "server"), info.Config.Replicas, strings.Join(away, ", "))
		if quorum := info.Config.Replicas/2 + 1; there <= quorum {
			text += "; the next death stops the service until one is back"
		}
		e.find(Warning, "cluster", text,
			"start it again; if it is lost for good: nats server cluster peer-remove, and a new one")
	}
	if len(behind) > 0 {
		e.find(Warning, "cluster", name+": a copy is behind: "+strings.Join(behind, ", "),
			"wait until it has caught up before another server is stopped")
	}
	return len(away)+len(behind) == 0
}

// unheard is for how long a server that is there may not have been heard: the leader hears of each every second. 0 says
// that this leader has never heard of it: it may be the leader before, which died. That it is offline is known some
// time later.
const unheard = 4 * time.Second

// maxLag is how many messages a copy may be behind while all is well.
const maxLag = 64

// metaCluster is what the monitoring port says of the servers that agree on which streams there are.
type metaCluster struct {
	Leader   string `json:"leader"`
	Size     int    `json:"cluster_size"`
	Replicas []struct {
		Name    string        `json:"name"`
		Offline bool          `json:"offline"`
		Active  time.Duration `json:"active"`
	} `json:"replicas"`
}

// meta looks at them.
func (e *examination) meta(m *metaCluster) {
	if m == nil || m.Size < 2 {
		return
	}
	if m.Leader == "" {
		e.find(Error, "cluster", "the servers have no leader among them: no stream can be made, and no run can begin",
			"start the servers that are away")
		return
	}
	var away []string
	for _, p := range m.Replicas { // of the leader only: others do not know
		if p.Offline {
			away = append(away, fmt.Sprintf("%s, for %v", p.Name, p.Active.Round(time.Second)))
		}
	}
	if len(away) > 0 {
		e.find(Warning, "cluster",
			fmt.Sprintf("%s of %d is away: %s", legible.Count(len(away), "server"), m.Size, strings.Join(away, "; ")),
			"start it again; if it is lost for good: nats server cluster peer-remove")
		return
	}
	e.find(OK, "cluster", fmt.Sprintf("%s, led by %s", legible.Count(m.Size, "server"), m.Leader), "")
}

// healthz asks the monitoring port whether the server is well, streams and all.
func (e *examination) healthz(ctx context.Context, url string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return // the same URL was bad before
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return // said by the question before
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	var health struct {
		Status string `json:"status"`
		Error  string `json:"error"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&health)
	switch {
	case err != nil:
		e.find(Error, "monitor", fmt.Sprintf("%s: %s, and no answer of a NATS server: %v", url, resp.Status, err),
			"is it the URL of the monitoring port?")
	case strings.Contains(health.Error, "write error"):
		e.find(Error, "store", "the server stores nothing: "+health.Error, restart)
	case health.Status != "ok":
		e.find(Error, "server", fmt.Sprintf("it is not well: %s", health.Error), "look at its log")
	}
}
