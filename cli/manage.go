package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

type lsCmd struct {
	natsFlags
	Wait time.Duration `help:"How long to gather the answers of coordinators." default:"400ms"`
	JSON bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON, one object per batcher."`
}

// Run lists the batchers.
func (c *lsCmd) Run(ctx context.Context, a *app) error {
	if c.Wait <= 0 {
		return fmt.Errorf("%w: --wait is more than nothing", errUsage)
	}
	nc, err := c.connect(ctx, a.log, "jetbatch-ls", 2*time.Second)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer nc.Close()
	s, err := askOverview(ctx, nc, c.Wait)
	if errors.Is(err, errNobody) { // what is recorded is there all the same
		var unread error
		s.Batchers, unread = c.recorded(ctx, nc)
		err = errors.Join(err, unread)
	}
	if err != nil && len(s.Batchers) == 0 {
		return interrupted(ctx, err)
	}
	return errors.Join(c.list(a.out, s), interrupted(ctx, err))
}

func (c *lsCmd) list(w io.Writer, s fleet.Status) error {
	if c.JSON {
		for _, b := range s.Batchers {
			if err := printJSON(w, b); err != nil {
				return err
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BATCHER\tPHASE\tDATA SET\tTAKEN\tPREPARED\tPROGRESS\tTRAINER\tOWNER\tNOTE")
	for _, b := range s.Batchers {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", legible.Line(b.Batcher), legible.Line(string(b.Phase)),
			legible.Line(datasetOf(b)), b.Total, fleet.Prepared(b), cmp.Or(fleet.Place(b.Progress), "-"), readerOf(b),
			legible.Line(b.Owner), cmp.Or(oneLine(s.WaitingFor(b), maxWaiting), "-"))
	}
	if len(s.Batchers) == 0 {
		fmt.Fprintln(t, "none")
	}
	return t.Flush()
}

func datasetOf(b schema.Status) string {
	if b.Dataset == "" {
		return "-"
	}
	return fmt.Sprintf("%s@%d", b.Dataset, b.Version)
}

// readerOf says whether the batcher has a reader, and since when that is silent.
func readerOf(b schema.Status) string {
	switch {
	case b.Reader == "":
		return "none"
	case b.IdleFor > 0:
		return fmt.Sprintf("silent for %v", b.IdleFor.Round(time.Second))
	}
	return "there"
}

type stopCmd struct {
	manageFlags
	Name string `arg:"" help:"Name of the batcher."`
}

type rmCmd struct {
	manageFlags
	Name  string `arg:"" help:"Name of the batcher."`
	Force bool   `help:"Delete it though it runs."`
}

// manageFlags are those of commands that change what another process uses.
type manageFlags struct {
	natsFlags
	Timeout time.Duration `help:"How long to wait for an answer." default:"10s"`
	JSON    bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// Run ends the run.
func (c *stopCmd) Run(ctx context.Context, a *app) error {
	reply, err := c.manage(ctx, a, wire.ManageRequest{Batcher: c.Name, Action: wire.ActionStop})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.out, reply)
	}
	s := reply.Status
	if s.Phase != schema.PhaseRunning {
		_, err = fmt.Fprintf(a.out, "%s is stopped; it was %s\n", c.Name, legible.Line(string(s.Phase)))
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s is stopped, at %d; dropped: %s\n", c.Name, s.Taken, fleet.Dropped(s))
	return err
}

// Run deletes the batcher.
func (c *rmCmd) Run(ctx context.Context, a *app) error {
	req := wire.ManageRequest{Batcher: c.Name, Action: wire.ActionRemove, Force: c.Force}
	reply, err := c.manage(ctx, a, req)
	var fault *schema.Fault
	if errors.As(err, &fault) && fault.Code == schema.CodeInUse {
		return fmt.Errorf("%s is not deleted, since it runs; with --force would be lost: %s; "+
			"a trainer goes on from the state that it saved", c.Name, fleet.Loss(reply.Status))
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.out, reply)
	}
	_, err = fmt.Fprintf(a.out, "%s is deleted; lost: %s\n", c.Name, fleet.Loss(reply.Status))
	return err
}

// asker says who asks, for the log and the events.
func asker() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	text := name + " at " + host
	return strings.ToValidUTF8(text[:min(len(text), wire.MaxBy)], "")
}

const (
	manageOp      = "manage"
	manageSubject = wire.CoordinatorPrefix + "." + manageOp
)

// manage asks the coordinators until one has carried the request out or refuses.
func (c *manageFlags) manage(ctx context.Context, a *app, req wire.ManageRequest) (reply wire.ManageReply, err error) {
	if err := wire.CheckName("batcher", req.Batcher); err != nil {
		return reply, err
	}
	if c.Timeout <= 0 {
		return reply, fmt.Errorf("%w: --timeout is more than nothing", errUsage)
	}
	nc, err := c.connect(ctx, a.log, "jetbatch-"+string(req.Action), 2*time.Second)
	if err != nil {
		return reply, interrupted(ctx, err)
	}
	defer nc.Close()
	req.Request, req.By = ulid.Make().String(), asker()
	data, err := json.Marshal(req)
	if err != nil {
		return reply, err
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var refused error // why the last coordinator that answered could not
	for {
		reply, err = askOnce(ctx, nc, data)
		var fault *schema.Fault
		switch {
		case outer.Err() != nil:
			return reply, interrupted(outer, outer.Err())
		case errors.As(err, &fault) && fault.Code == schema.CodeUnavailable:
			refused = fmt.Errorf("%w: %w", client.ErrUnavailable, fault)
		case err != nil && refused != nil && ctx.Err() != nil:
			return reply, refused
		default:
			return reply, err
		}
		select {
		case <-ctx.Done():
			return reply, interrupted(outer, refused)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// askOnce asks any coordinator.
func askOnce(ctx context.Context, nc *nats.Conn, data []byte) (reply wire.ManageReply, err error) {
	m, err := topology.Ask(ctx, nc, manageOp, data)
	if err != nil {
		if denied := topology.Denied(nc, topology.Needs{Publish: []string{manageSubject}}); denied != nil {
			return reply, fmt.Errorf("%w: %w", errUnhealthy, denied)
		}
		return reply, fmt.Errorf("%w: %w: %w", errUnhealthy, errNobody, err)
	}
	if err := topology.Answered(manageSubject, m.Data); err != nil {
		return reply, fmt.Errorf("%w: %w", errUnhealthy, err)
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return reply, fmt.Errorf("%w: what answers %s is no coordinator: %w", errUnhealthy, manageSubject, err)
	}
	if reply.Fault != nil {
		return reply, reply.Fault
	}
	return reply, nil
}
