package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/cli/internal/doctor"
	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
)

type checkCmd struct {
	natsFlags
	Role    string        `help:"Role whose permissions are tried with this user: coordinator, worker, client (a trainer), operator, all or none." enum:"none,coordinator,worker,client,operator,all" default:"none" placeholder:"ROLE"`
	Monitor string        `help:"URL of the server's monitoring port, whose limits are looked at, too, such as http://127.0.0.1:8222." placeholder:"URL"`
	Wait    time.Duration `help:"How long to gather the answers of coordinators." default:"400ms"`
	JSON    bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// checkReport is what a check came to.
type checkReport struct {
	Healthy  bool             `json:"healthy"` // no finding is an error
	Worst    doctor.Severity  `json:"worst"`
	Findings []doctor.Finding `json:"findings"`
}

// Run looks at the deployment. The error says how many findings are errors, if any are.
func (c *checkCmd) Run(ctx context.Context, a *app) error {
	if c.Wait <= 0 {
		return fmt.Errorf("%w: --wait is more than nothing", errUsage)
	}
	findings, err := c.examine(ctx, a)
	if err != nil {
		return err
	}
	r := checkReport{Worst: doctor.Worst(findings), Findings: findings}
	r.Healthy = r.Worst != doctor.Error
	if c.JSON {
		err = printJSON(a.out, r)
	} else {
		err = c.print(a, r)
	}
	n := 0
	for _, f := range findings {
		if f.Severity == doctor.Error {
			n++
		}
	}
	if n > 0 {
		err = errors.Join(err, fmt.Errorf("errors found: %d", n))
	}
	return err
}

func (c *checkCmd) examine(ctx context.Context, a *app) ([]doctor.Finding, error) {
	nc, err := c.connect(ctx, a.log, "jetbatch-check", 2*time.Second,
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // denials are findings
	if errors.Is(err, errUsage) || err != nil && ctx.Err() != nil {
		return nil, interrupted(ctx, err)
	}
	if err != nil {
		return []doctor.Finding{unreachable(err)}, nil
	}
	defer nc.Close()
	d := doctor.Deployment{
		Conn: nc, Version: wire.Release, Monitor: c.Monitor, Domain: c.Domain,
		Overview: func(ctx context.Context) (fleet.Status, error) { return askOverview(ctx, nc, c.Wait) },
	}
	if c.Role != "none" {
		d.Role = c.Role
	}
	findings := doctor.Examine(ctx, d)
	return findings, interrupted(ctx, ctx.Err())
}

// unreachable is the finding that there is no connection, with what to do about it.
func unreachable(err error) doctor.Finding {
	f := doctor.Finding{
		Severity: doctor.Error, Check: "server", Text: strings.TrimPrefix(err.Error(), errUnhealthy.Error()+": "),
		Fix: "start it, or say with --server where it is",
	}
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		f.Fix = "give --creds, --nkey or --user of a user that the server knows"
	case errors.As(err, &authority):
		f.Fix = "give the certificate of the authority that signed the server's: --tls-ca"
	case errors.As(err, &host):
		f.Fix = "use a name that is in the server's certificate, or make one for this name: jetbatch keys --host"
	case errors.Is(err, nats.ErrSecureConnWanted):
		f.Fix = "that server has no TLS: leave --tls-ca out, or name one that has it"
	case errors.Is(err, nats.ErrSecureConnRequired), strings.Contains(err.Error(), "tls:"):
		f.Fix = "the server wants TLS: --tls-ca, and --tls-cert with --tls-key if it asks for a client's"
	}
	return f
}

func (c *checkCmd) print(a *app, r checkReport) error {
	color := newConsole(a.out).terminal
	sgr := map[doctor.Severity]string{doctor.OK: "32", doctor.Note: "36", doctor.Warning: "33", doctor.Error: "31"}
	var b strings.Builder
	for _, f := range r.Findings {
		label := fmt.Sprintf("%-8s", f.Severity)
		if color {
			label = "\x1b[" + sgr[f.Severity] + "m" + label + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s %-13s %s\n", label, f.Check, legible.Line(f.Text))
		if f.Fix != "" {
			fmt.Fprintf(&b, "%23s→ %s\n", "", legible.Line(f.Fix))
		}
	}
	_, err := fmt.Fprint(a.out, b.String())
	return err
}
