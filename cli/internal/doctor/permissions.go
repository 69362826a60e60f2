package doctor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// probe names what does not exist, so that whoever hears of it has nothing to do with it.
const probe = "jetbatch-check"

// Roles are those whose permissions can be tried, beside "all".
var Roles = []string{"coordinator", "worker", "client", "operator"}

// needs are, by role, the subjects that it says and hears. deploy/nats/permissions.conf allows them and more; a test
// compares. No message to one of them does anything: streams and consumers of these names do not exist, messages that
// would be stored name another stream than that of their subject, and the rest is not what its readers understand, but
// that workers beat once more.
var needs = map[string]topology.Needs{
	"coordinator": {
		Publish: []string{
			"$JS.API.STREAM.CREATE." + probe, "$JS.API.STREAM.INFO." + probe, "$JS.API.STREAM.DELETE." + probe, "$JS.API.STREAM.PURGE." + probe,
			"$JS.API.STREAM.MSG.GET." + probe, "$JS.API.STREAM.MSG.DELETE." + probe, "$JS.API.CONSUMER.CREATE.jetbatch-jobs." + probe, "$JS.API.CONSUMER.INFO.jetbatch-jobs." + probe,
			"$JS.API.CONSUMER.DELETE.jetbatch-jobs." + probe, "$KV.jetbatch." + probe, wire.JobPrefix + "." + probe + ".b.g.1.0",
			wire.ResultPrefix + "." + probe + ".g.0.1", wire.LanePrefix + "." + probe, wire.NoticePrefix + "." + probe,
			wire.EventPrefix + "." + wire.EventBatcher + "." + probe, wire.AskSubject,
		},
		Subscribe: []string{
			wire.CoordinatorPrefix + ".seat", wire.CoordinatorPrefix + "." + probe + ".*", wire.WorkerPrefix + ".*", wire.ReaderPrefix + ".*",
			wire.ReportPrefix + ".*", "$SRV.PING.jetbatch-coordinator",
		},
	},
	"worker": {
		Publish: []string{
			"$JS.API.STREAM.MSG.GET." + probe, "$JS.API.STREAM.PURGE." + probe, "$JS.API.CONSUMER.MSG.NEXT.jetbatch-jobs." + probe,
			"$JS.ACK.jetbatch-jobs." + probe + ".1.1.1.1.0", wire.ResultPrefix + "." + probe + ".g.0.1", wire.WorkerPrefix + "." + probe,
			wire.ReportPrefix + "." + probe,
		},
		Subscribe: []string{wire.LanePrefix + ".*", wire.AskSubject, wire.UploadSubject(probe), wire.StatusPrefix + "." + probe, "$SRV.PING.jetbatch-worker"},
	},
	"client": {
		Publish: []string{
			"$JS.API.STREAM.INFO." + topology.BucketStream, "$JS.API.STREAM.MSG.GET." + topology.BucketStream,
			"$JS.API.DIRECT.GET." + probe + "." + wire.ResultPrefix + "." + probe + ".g.0.1", wire.CoordinatorPrefix + ".seat",
			wire.CoordinatorPrefix + ".stop", wire.CoordinatorPrefix + ".status", wire.ReaderPrefix + "." + probe,
			wire.UploadSubject(probe),
		},
		Subscribe: []string{wire.LiveSubject(probe, "g"), wire.NoticePrefix + "." + probe},
	},
	"operator": {
		Publish: []string{
			"$JS.API.INFO", "$JS.API.STREAM.INFO." + probe, "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET." + probe,
			wire.CoordinatorPrefix + ".overview", wire.CoordinatorPrefix + ".manage", wire.StatusPrefix + "." + probe,
			"$SRV.PING.jetbatch-coordinator", "$SRV.PING.jetbatch-worker",
		},
	},
}

// permissions tries what the role needs.
func (e *examination) permissions() {
	roles := []string{e.Role}
	switch e.Role {
	case "":
		return
	case "all":
		roles = Roles
	}
	for _, role := range roles {
		n := needs[role]
		published := e.refused(role, n.Publish, func(subject string) error { return e.tryPublish(subject, harmless) })
		subscribed := e.refused(role, n.Subscribe, e.trySubscribe)
		good := e.permitted(role, "publish to", published)
		good = e.permitted(role, "subscribe to", subscribed) && good
		if err := e.trySubscribe(e.Conn.NewInbox()); err != nil { // where all answers come
			e.find(Error, "permissions", fmt.Sprintf("role %s: %v", role, err), "set --inbox-prefix to what this user may subscribe to")
			good = false
		}
		if good {
			e.find(OK, "permissions", fmt.Sprintf("this user may all that role %s needs", role), "")
		}
	}
}

// refused are those of the subjects that the server denies. What else goes wrong is a finding.
func (e *examination) refused(role string, subjects []string, try func(subject string) error) (refused []string) {
	for _, subject := range subjects {
		var denied *schema.PermissionError
		switch err := try(subject); {
		case err == nil:
		case errors.As(err, &denied):
			refused = append(refused, strings.ReplaceAll(denied.Subject, probe, "*"))
		default:
			e.find(Error, "permissions", fmt.Sprintf("role %s: %v", role, err), "is the server still there?")
		}
	}
	return refused
}

func (e *examination) permitted(role, action string, refused []string) bool {
	if len(refused) == 0 {
		return true
	}
	e.find(Error, "permissions", fmt.Sprintf("role %s: this user may not %s %s", role, action, strings.Join(refused, ", ")),
		"allow it to this user, as deploy/nats/permissions.conf does, or use the key of the role")
	return false
}

// harmless makes a stream refuse to store a message.
var harmless = nats.Header{nats.ExpectedStreamHdr: []string{probe}}

// tryPublish sends nothing to a subject and returns a *schema.PermissionError if that is denied.
func (e *examination) tryPublish(subject string, h nats.Header) error {
	if err := e.Conn.PublishMsg(&nats.Msg{Subject: topology.InDomain(e.Domain, subject), Header: h}); err != nil {
		return err
	}
	return e.answerOf(subject)
}

func (e *examination) trySubscribe(subject string) error {
	sub, err := e.Conn.SubscribeSync(subject)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // denied, it is gone already
	return e.answerOf(subject)
}

// answerOf waits until the server has read what was sent. A denial comes before its answer to the ping.
func (e *examination) answerOf(subject string) error {
	if err := e.Conn.FlushTimeout(callTimeout); err != nil {
		return err
	}
	err := topology.Denied(e.Conn, topology.Needs{Publish: []string{subject}, Subscribe: []string{subject}}.In(e.Domain))
	var denied *schema.PermissionError
	if errors.As(err, &denied) && !strings.EqualFold(denied.Subject, subject) &&
		!strings.EqualFold(denied.Subject, topology.InDomain(e.Domain, subject)) {
		return nil // that was another one, before
	}
	return err
}
