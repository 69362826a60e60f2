package topology

import (
	"cmp"
	"errors"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/schema"
)

// Needs are the subjects that a role cannot do without. Each stands for itself and for all below it; "*" is any token,
// and a last token that ends in "-" is how a name begins. The subjects of a role's answers are not among them:
// requesters choose those, and must not be able to end a role.
type Needs struct{ Publish, Subscribe []string }

// violation finds direction and subject in the server's words, such as: Permissions Violation for Publish to "a.b".
var violation = regexp.MustCompile(`(?i)(publish|subscription) to "([^"]*)"`)

// Refused reports whether the last thing that the server said on nc was that it refuses a subject, needed or not.
func Refused(nc *nats.Conn) bool { return errors.Is(nc.LastError(), nats.ErrPermissionViolation) }

// Denied returns a *schema.PermissionError if the last thing that the server said on nc was that it refuses one of the
// subjects that a role needs, or its inbox. Subjects are compared as the server does: token by token, case by case.
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
		inbox := cmp.Or(nc.Opts.InboxPrefix, strings.TrimSuffix(nats.InboxPrefix, "."))
		own = append([]string{inbox}, needs.Subscribe...)
	}
	for _, need := range own {
		if covers(need, found[2]) {
			return &schema.PermissionError{Action: action, Subject: found[2], Cause: err}
		}
	}
	return nil
}

// covers reports whether a subject is the one that a role needs, or below it.
func covers(need, subject string) bool {
	wanted := strings.Split(strings.TrimSuffix(strings.TrimSuffix(need, ">"), "."), ".")
	tokens := strings.Split(subject, ".")
	if len(tokens) < len(wanted) {
		return false
	}
	for i, token := range wanted {
		begins := i == len(wanted)-1 && strings.HasSuffix(token, "-") && strings.HasPrefix(tokens[i], token)
		if token != "*" && token != tokens[i] && !begins {
			return false
		}
	}
	return len(tokens) > len(wanted) || !strings.HasSuffix(need, ".") && !strings.HasSuffix(need, ">")
}

// Aimed reports whether a message is one that the server was made to send here: who reads a stored message chooses
// where the answer goes, which the server does not compare with permissions. Such an answer has the server's headers,
// wherever it is stored after that. No role sends a message with them.
func Aimed(h nats.Header) bool { return len(h[jetstream.StreamHeader]) > 0 }

// Unheard reports whether a message is the server's word that nobody listens on the subject of a request.
func Unheard(m *nats.Msg) bool { return len(m.Data) == 0 && m.Header.Get("Status") == "503" }

// Answerable reports whether a reply subject is one that a requester could be waiting at: an inbox, which begins with
// "_INBOX" or one of prefixes. The server does not compare reply subjects with the requester's permissions: an answer
// goes where the role that answers may publish, and a request could have it write a record, or a job, in the
// requester's place, or be denied what it does not need.
func Answerable(reply string, prefixes ...string) bool {
	if first, _, below := strings.Cut(reply, "."); below && strings.HasPrefix(first, "_INBOX") {
		return true
	}
	for _, prefix := range prefixes {
		if prefix != "" && strings.HasPrefix(reply, prefix+".") {
			return true
		}
	}
	return false
}
