package cli

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/deploy"
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

// leaf starts a leaf node with a JetStream of its own, and the keys and permissions of s, in which the API of the
// domain stands in the place of the server's own, as docs/OPERATIONS.md has it.
func (s *secured) leaf(t *testing.T, domain string, to *url.URL) *secured {
	t.Helper()
	dir := t.TempDir()
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(s.dir, "nats", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	api := "$JS." + domain + ".API."
	permissions := strings.NewReplacer(`"$JS.API.`, `"`+api, `"$KV.jetbatch.`, `"`+api+`$KV.jetbatch.`).Replace(string(deploy.PermissionsConf))
	conf := read("nats.conf")
	store, _, _ := strings.Cut(conf, "\n") // JETBATCH_STORE, of the other server
	conf = strings.Replace(conf, store, "JETBATCH_STORE: "+strconv.Quote(t.TempDir()), 1)
	conf = strings.Replace(conf, "server_name: jetbatch", "server_name: leaf", 1)
	for name, text := range map[string]string{
		"nats.conf": conf, "permissions.conf": permissions, "keys.conf": read("keys.conf"),
		"server.crt": read("server.crt"), "server.key": read("server.key"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := &secured{t: t, dir: s.dir}
	l.serve(dir, func(o *server.Options) {
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{LocalAccount: "JETBATCH", URLs: []*url.URL{to}}}
	})
	return l
}

// TestDomainWithPermissions has the shipped permissions at a server with a domain and, with that domain's API, at its
// leaf node. Nobody is denied anything, wherever a role is connected.
func TestDomainWithPermissions(t *testing.T) {
	t.Parallel()
	const domain = "hub"
	hub := startSecured(t, func(o *server.Options) {
		o.JetStreamDomain = domain
		o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", server.RANDOM_PORT
		o.LeafNode.Username, o.LeafNode.Password, o.LeafNode.Account = "leaf", "of-no-use-elsewhere", "JETBATCH"
	})
	varz, err := hub.srv.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort(varz.LeafNode.Host, strconv.Itoa(varz.LeafNode.Port))
	leaf := hub.leaf(t, domain, &url.URL{Scheme: "nats", Host: at, User: url.UserPassword("leaf", "of-no-use-elsewhere")})
	logs := []*lockedLog{hub.start("coordinator", "--domain", domain), leaf.start("worker", "--domain", domain, "--name", "w1", "--direct", "off")}
	for place, s := range map[string]*secured{"the server": hub, "the leaf node": leaf} {
		take := func(name string) string {
			return s.command(t, "client", "take", "--domain", domain, "--name", name, "--dataset", "wide", "--params", `{"n":12,"size":600000}`, "--json")
		}
		logs = append(logs, s.start("coordinator", "--domain", domain)) // one that was here before the batcher, and one after
		name := "train-" + strings.ReplaceAll(place, " ", "-")
		if out := take(name); !strings.Contains(out, `"batches":12,`) {
			t.Errorf("a trainer at %s: %s", place, out)
		}
		for _, role := range deploy.Roles {
			out := s.command(t, role, "check", "--domain", domain, "--role", role)
			if strings.Contains(out, "warning ") || strings.Contains(out, "error ") {
				t.Errorf("check of %s at %s: %s", role, place, out)
			}
		}
		s.command(t, "operator", "events", "--domain", domain)
		s.command(t, "operator", "rm", name, "--force", "--domain", domain)
	}
	for _, log := range logs {
		if text := log.String(); strings.Contains(strings.ToLower(text), "permission") {
			t.Errorf("a role was denied something:\n%s", text)
		}
	}
}
