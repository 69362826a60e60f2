package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

type healthCmd struct {
	natsFlags
	Role     string        `help:"Role that must answer too: none, coordinator or worker." enum:"none,coordinator,worker" default:"none"`
	Here     bool          `help:"The role must answer from this host; for containers, whose host is themselves."`
	Instance string        `help:"The role must answer under this name, with or without the random part." placeholder:"NAME"`
	Timeout  time.Duration `help:"How long to wait for each answer." default:"2s"`
	JSON     bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

type healthReport struct {
	Healthy   bool     `json:"healthy"`
	NATS      string   `json:"nats"`      // "ok" or the error
	JetStream string   `json:"jetstream"` // likewise
	Role      string   `json:"role,omitempty"`
	Instances []string `json:"instances,omitempty"` // those that answered
	RTT       string   `json:"rtt,omitempty"`
	Denied    string   `json:"denied,omitempty"` // the subject that the server refused to this user
}

// healthNeeds are the subjects of a health check.
var healthNeeds = topology.Needs{Publish: []string{"$JS.API.INFO", "$SRV.PING"}}

// denied puts the server's refusal, if there was one, in the place of the silence that it looked like.
func (r *healthReport) denied(nc *nats.Conn, domain string, err error) error {
	var p *schema.PermissionError
	if errors.As(topology.Denied(nc, healthNeeds.In(domain)), &p) {
		r.Denied = p.Subject
		return p
	}
	return err
}

// Run asks NATS, JetStream and the role's service.
func (c *healthCmd) Run(ctx context.Context, a *app) error {
	r, err := c.check(ctx, a)
	err = interrupted(ctx, err)
	r.Healthy = err == nil
	if c.JSON {
		return errors.Join(err, printJSON(a.out, r))
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "healthy: NATS %s (%s), JetStream %s", r.NATS, r.RTT, r.JetStream)
	if r.Role != "" {
		fmt.Fprintf(a.out, ", %s %s", r.Role, strings.Join(legible.Lines(r.Instances), " "))
	}
	fmt.Fprintln(a.out)
	return err
}

func (c *healthCmd) check(ctx context.Context, a *app) (*healthReport, error) {
	r := &healthReport{NATS: "ok", JetStream: "ok"}
	nc, err := c.connect(ctx, a.log, "jetbatch-health", c.Timeout)
	if err != nil {
		r.NATS, r.JetStream = err.Error(), "unknown"
		return r, err
	}
	defer nc.Close()
	if rtt, err := nc.RTT(); err == nil {
		r.RTT = rtt.Round(time.Microsecond).String()
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	js, err := c.jetStream(nc)
	if err == nil {
		_, err = js.AccountInfo(ctx)
	}
	if err != nil {
		err = r.denied(nc, c.Domain, err)
		r.JetStream = err.Error()
		return r, fmt.Errorf("%w: JetStream: %w", errUnhealthy, err)
	}
	if c.Role == "none" {
		return r, nil
	}
	r.Role = c.Role
	if r.Instances, err = c.instances(ctx, nc); err != nil {
		return r, fmt.Errorf("%w: role %s: %w", errUnhealthy, c.Role, r.denied(nc, c.Domain, err))
	}
	return r, nil
}

// instances asks the role's service until one that fits has answered. Names are in the service's metadata, under the
// name of the role.
func (c *healthCmd) instances(ctx context.Context, nc *nats.Conn) ([]string, error) {
	subject, err := micro.ControlSubject(micro.PingVerb, "jetbatch-"+c.Role, "")
	if err != nil {
		return nil, err
	}
	var others int
	var unready error
	var found []string
	err = gather(ctx, nc, subject, func(m *nats.Msg) (more bool) {
		var ping micro.Ping
		if json.Unmarshal(m.Data, &ping) != nil {
			return true
		}
		name := ping.Metadata[c.Role]
		if !c.fits(name) {
			others++
			return true
		}
		if why := ping.Metadata[topology.Unready]; why != "" {
			unready = fmt.Errorf("%s is not ready: %s", name, why)
			return true
		}
		found = append(found, name)
		return false
	})
	switch {
	case len(found) > 0:
		return found, nil
	case unready != nil:
		return nil, unready
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errors.New("no instance answers")
	case others > 0:
		return nil, fmt.Errorf("%d instances answer, but not this one", others)
	}
	return nil, errors.Join(errors.New("no answer in time"), err)
}

func (c *healthCmd) fits(name string) bool {
	if c.Here && !strings.HasPrefix(name, hostToken()+"-") {
		return false
	}
	return c.Instance == "" || name == c.Instance || strings.HasPrefix(name, c.Instance+"-")
}

// gather sends a request that many may answer and calls each with every answer, until it returns false or ctx ends,
// which is no error.
func gather(ctx context.Context, nc *nats.Conn, subject string, each func(*nats.Msg) (more bool)) error {
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		return err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return err
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case topology.Unheard(m):
			return nats.ErrNoResponders
		}
		if !each(m) {
			return nil
		}
	}
}
