package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/jetbatch/jetbatch/deploy"
)

const kubernetes = "../deploy/kubernetes"

// The servers' configuration in Kubernetes is a ConfigMap that includes what "jetbatch keys" writes, which is a secret:
// together they are a cluster with TLS, users and JetStream.
func TestKubernetesServers(t *testing.T) {
	t.Parallel()
	set := t.TempDir()
	if code := run(t.Context(), []string{"keys", filepath.Join(set, "keys")}, io.Discard, os.Stderr, nil); code != 0 {
		t.Fatalf("keys: exit code %d", code)
	}
	secret, config := filepath.Join(set, "secret"), filepath.Join(set, "config")
	if err := os.Rename(filepath.Join(set, "keys", "nats"), secret); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(config, 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(kubernetes, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "nats.conf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	// The container's working directory is the secret; a test has none of its own.
	main := filepath.Join(secret, "nats.conf")
	if text, err = os.ReadFile(main); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server.crt", "server.key"} {
		text = bytes.Replace(text, fmt.Appendf(nil, "%q", name), fmt.Appendf(nil, "%q", filepath.Join(secret, name)), 1)
	}
	if err := os.WriteFile(main, text, 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(filepath.Join(config, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if !opts.JetStream || opts.StoreDir != "/data" || opts.TLSConfig == nil || len(opts.Nkeys) != len(deploy.Roles) {
		t.Errorf("JetStream %v in %q, TLS %v, %d users; want the configuration of jetbatch keys", opts.JetStream, opts.StoreDir, opts.TLSConfig != nil, len(opts.Nkeys))
	}
	if c := opts.Cluster; c.Name != "jetbatch" || c.Port != 6222 || !c.NoAdvertise || len(opts.Routes) != 3 {
		t.Errorf("cluster %+v with routes %v", c, opts.Routes)
	}
}

// A variable that no command reads would be ignored in silence.
func TestKubernetesVariables(t *testing.T) {
	t.Parallel()
	var g grammar
	parser, err := kong.New(&g, kong.Name("jetbatch"), kong.DefaultEnvars("JETBATCH"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	err = kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				known[name] = true
			}
		}
		return next(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(kubernetes, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`name: (JETBATCH_[A-Z_]+)`).FindAllSubmatch(text, -1) {
			found++
			if name := string(match[1]); !known[name] {
				t.Errorf("%s: no flag reads %s", file, name)
			}
		}
	}
	if found == 0 {
		t.Error("the manifests set nothing")
	}
}
