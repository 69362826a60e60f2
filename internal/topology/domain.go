package topology

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// JetStream speaks to the JetStream of a domain; the empty one is that of the server which nc is connected to.
func JetStream(nc *nats.Conn, domain string) (jetstream.JetStream, error) {
	if domain == "" {
		return jetstream.New(nc)
	}
	return jetstream.NewWithDomain(nc, domain)
}

// InDomain is the subject by which the JetStream of a domain hears what its own server hears at subject: of the API, or
// of a bucket. Every other subject is the same in all domains.
func InDomain(domain, subject string) string {
	const api = "$JS.API."
	switch prefix := "$JS." + domain + ".API."; {
	case domain == "":
	case strings.HasPrefix(subject, api):
		return prefix + strings.TrimPrefix(subject, api)
	case strings.HasPrefix(subject, "$KV."):
		return prefix + subject
	}
	return subject
}

// In are the needs of a role that speaks to the JetStream of a domain. The domain's own server translates the subjects
// of its API before it looks at permissions, and denies them by the names that they have without a domain.
func (n Needs) In(domain string) Needs {
	published := slices.Clone(n.Publish)
	for _, subject := range n.Publish {
		if far := InDomain(domain, subject); far != subject {
			published = append(published, far)
		}
	}
	return Needs{Publish: published, Subscribe: n.Subscribe}
}

// OtherJetStream says why a role that is told of domain, and hears coordinators, finds no bucket. theirs is the domain
// that coordinators store in, if that is known.
func OtherJetStream(domain, theirs string) string {
	here, there := "of this server, a leaf node it seems,", "the one that their server names in jetstream { domain: … }"
	if domain != "" {
		here = "of domain " + domain
	}
	if theirs != "" {
		there = theirs
	}
	return fmt.Sprintf("a coordinator is heard, and the JetStream %s has no bucket %s: set --domain (Config.Domain) to %s",
		here, Bucket, there)
}
