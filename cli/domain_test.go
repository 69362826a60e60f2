package cli

import (
	"bytes"
	"context"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
)

// leafNode starts a server with the JetStream of a domain, and a leaf node with a JetStream of its own, of no domain.
func leafNode(t *testing.T, domain string) (hub, leaf *natstest.Server) {
	t.Helper()
	hub = natstest.Run(t, func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "hub", domain
		o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", server.RANDOM_PORT
	})
	leaf = natstest.Run(t, func(o *server.Options) {
		o.ServerName = "leaf"
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats", Host: hub.LeafAddress()}}}}
	})
	return hub, leaf
}

// TestDomain has a coordinator at a server, a worker and a trainer at its leaf node. With the domain of the server's
// JetStream all goes on as on one server; without, each says what is wrong.
func TestDomain(t *testing.T) {
	t.Parallel()
	const domain = "hub"
	hub, leaf := leafNode(t, domain)
	defs := []dataset.Definition{counting}
	start := func(srv *natstest.Server, args ...string) *lockedLog {
		ctx, cancel := context.WithCancel(t.Context())
		log, done := new(lockedLog), make(chan int, 1)
		go func() { done <- run(ctx, append(args, "--server", srv.URL()), io.Discard, log, defs) }()
		t.Cleanup(func() {
			cancel()
			if code := <-done; code != 0 {
				t.Errorf("%v ended with %d", args, code)
			}
			if t.Failed() {
				t.Logf("%v:\n%s", args, log)
			}
		})
		return log
	}
	call := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(t.Context(), append(args, "--server", leaf.URL()), &out, &out, defs)
		return code, out.String()
	}
	start(hub, "coordinator", "--name", "c1", "--domain", domain)
	here := start(leaf, "worker", "--name", "lost")
	natstest.Eventually(t, "the coordinator is heard at the leaf node", func() bool {
		code, _ := call("health", "--role", "coordinator", "--domain", domain)
		return code == 0
	})

	take := []string{"take", "--name", "train", "--dataset", "counting", "--params", `{"n":12,"size":600000}`, "--batches", "0", "--verify"}
	const why = "the JetStream of this server, a leaf node it seems, has no bucket jetbatch: set --domain (Config.Domain) to hub"
	if code, text := call(take...); code != 1 || !strings.Contains(text, "another JetStream than the coordinator's: a coordinator is heard, and "+why) {
		t.Errorf("take without the domain: %d, %s", code, text)
	}
	const lease = "coordinators  coordinator c1-"
	if code, text := call("check"); code != 1 || !strings.Contains(text, lease) || !strings.Contains(text, "stores in another JetStream") {
		t.Errorf("check without the domain: %d, %s", code, text)
	}
	if code, text := call("check", "--domain", domain); code != 0 || strings.Contains(text, "another JetStream") {
		t.Errorf("check: %d, %s", code, text)
	}

	start(leaf, "worker", "--name", "found", "--domain", domain, "--direct", "off") // so that batches go through the store, in chunks
	natstest.Eventually(t, "the worker is heard at the server", func() bool {
		code, _ := call("health", "--role", "worker", "--instance", "found")
		return code == 0
	})
	code, text := call(append(take, "--domain", domain)...)
	if code != 0 || !strings.Contains(text, "all 12 batches and states are identical") {
		t.Errorf("take: %d, %s", code, text)
	}
	natstest.Eventually(t, "the worker without the domain says so", func() bool {
		return strings.Contains(here.String(), "of this server, a leaf node it seems, has no bucket jetbatch")
	})
	if n := strings.Count(here.String(), "jobs are announced whose records are not here"); n != 1 {
		t.Errorf("it says so %d times", n)
	}
	natstest.Eventually(t, "the status says so", func() bool { // the worker says how it stands once a second
		_, status := call("status")
		return strings.Contains(status, "another JetStream than the coord")
	})
	for _, command := range []string{"events", "top", "ls"} {
		args := []string{command, "--domain", domain}
		if command == "top" {
			args = append(args, "--looks", "1")
		}
		if code, text := call(args...); code != 0 {
			t.Errorf("%s: %d, %s", command, code, text)
		}
	}
}
