package topology

import (
	"cmp"
	"errors"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/schema"
)

// Needs are the beginnings of the subjects that a role cannot do without. Where it answers is not among them: others
// choose that, and must not be able to end a role by choosing badly.
type Needs struct{ Publish, Subscribe []string }

// violation finds direction and subject in the server's words, such as: permissions violation for publish to "a.b".
var violation = regexp.MustCompile(`(?i)(publish|subscription) to "([^"]*)"`)

// Denied returns a *schema.PermissionError if the last thing that the server said on nc was that it refuses one of the
// subjects that a role needs, or its inbox.
func Denied(nc *nats.Conn, needs Needs) error {
	err := nc.LastError()
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	found := violation.FindStringSubmatch(err.Error())
	if found == nil {
		return nil
	}
	own, action := needs.Publish, "publish to"
	if strings.EqualFold(found[1], "subscription") {
		action = "subscribe to"
		own = append([]string{cmp.Or(nc.Opts.InboxPrefix, strings.TrimSuffix(nats.InboxPrefix, ".")) + "."}, needs.Subscribe...)
	}
	for _, prefix := range own {
		if len(found[2]) >= len(prefix) && strings.EqualFold(found[2][:len(prefix)], prefix) {
			return &schema.PermissionError{Action: action, Subject: found[2], Cause: err}
		}
	}
	return nil
}

// Answerable reports whether a reply subject is one that a requester could be waiting at. The server does not compare
// reply subjects with the requester's permissions: an answer goes where the one who answers may publish, and a request
// could have it write a record, or a job, in the requester's place.
func Answerable(reply string) bool {
	return reply != "" && !strings.HasPrefix(reply, "$") && !strings.HasPrefix(reply, "jetbatch.")
}
