// Package doctor looks at a deployment and says what is wrong with it, in plain words and with what to do. The
// doctor changes nothing: beside questions it sends only messages that try a permission, which no role listens to.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Note    Severity = "note"    // worth to know, such as what could not be looked at
	Warning Severity = "warning" // it works, but not as well as it could, or not for long
	Error   Severity = "error"   // it does not work
)

// Finding is what one check came to.
type Finding struct {
	Severity Severity `json:"severity"`
	Check    string   `json:"check"`
	Text     string   `json:"text"`
	Fix      string   `json:"fix,omitempty"`
}

// Deployment is what is looked at.
type Deployment struct {
	Conn     *nats.Conn
	Version  string // of this program
	Role     string // whose permissions are tried; empty for none
	Overview func(context.Context) (fleet.Status, error)
	Domain   string // of its JetStream; empty for the server's own
	Monitor  string // URL of the server's monitoring port, if it is to be asked
}

// callTimeout bounds one question.
const callTimeout = 3 * time.Second

// Examine runs all checks, in the order in which one thing needs the other.
func Examine(ctx context.Context, d Deployment) []Finding {
	e := &examination{Deployment: d, records: make(map[string]wire.Record), stale: make(map[string]time.Duration)}
	js, err := topology.JetStream(d.Conn, d.Domain)
	if err != nil {
		e.find(Error, "server", err.Error(), "")
		return e.findings
	}
	e.js = js
	e.server()
	e.payload()
	e.permissions()
	if e.account(ctx) {
		e.monitor(ctx)
		e.streams(ctx)
		e.strangers(ctx)
		e.bucket(ctx)
		e.writes(ctx)
	}
	e.fleet(ctx)
	_, err = d.Conn.TLSConnectionState()
	e.direct(ctx, err == nil)
	e.clocks(ctx)
	return e.findings
}

// Worst is the worst severity of all findings.
func Worst(findings []Finding) Severity {
	worst := OK
	order := []Severity{OK, Note, Warning, Error}
	for _, f := range findings {
		if slices.Index(order, f.Severity) > slices.Index(order, worst) {
			worst = f.Severity
		}
	}
	return worst
}

// examination is one under way.
type examination struct {
	Deployment
	js       jetstream.JetStream
	findings []Finding

	info    *jetstream.AccountInfo
	state   fleet.Status           // what coordinators say
	records map[string]wire.Record // by batcher
	ahead   time.Duration          // this machine's clock, against the server's
	timed   bool                   // ahead is known

	stale map[string]time.Duration // leases that stand still, by coordinator

	leases map[string]bool // of coordinators, all that are here; nil while that is not known
}

func (e *examination) find(s Severity, check, text, fix string) {
	e.findings = append(e.findings, Finding{s, check, text, fix})
}

// failed notes that something could not be looked at: for want of a permission, which is no fault of the deployment,
// or because there was no answer.
func (e *examination) failed(check, what string, err error) {
	var denied *schema.PermissionError
	if errors.As(err, &denied) {
		e.find(Note, check, fmt.Sprintf("%s: not looked at, since this user may not use %s", what, denied.Subject), "run it as the operator for the whole picture")
		return
	}
	e.find(Error, check, fmt.Sprintf("%s: %v", what, err), "look at the server's log")
}

// ask calls JetStream. The server does not answer what it denies; so that nobody waits, the subjects are tried first.
func (e *examination) ask(ctx context.Context, call func(context.Context) error, subjects ...string) error {
	for _, subject := range subjects {
		if denied := e.tryPublish(subject, nil); denied != nil {
			return denied
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return call(ctx)
}

// bytes writes a size.
func bytes[N int64 | uint64 | int](n N) string {
	size, unit := float64(n), 0
	for size >= 1024 && unit < 4 {
		size /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", size), ".0") + []string{" B", " KiB", " MiB", " GiB", " TiB"}[unit]
}
