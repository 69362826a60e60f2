package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/deploy"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// startTenants is one server with the configuration that ships for two tenants, put together as its first lines say.
// What must differ where many tests run is the same as in startSecured, and the folder of the store.
func startTenants(t *testing.T) (a, b *secured) {
	t.Helper()
	root := t.TempDir()
	a, b = &secured{t: t, dir: filepath.Join(root, "lab-a")}, &secured{t: t, dir: filepath.Join(root, "lab-b")}
	for _, args := range [][]string{{"keys", a.dir}, {"keys", b.dir, "--ca-from", a.dir}} {
		if code := run(t.Context(), args, io.Discard, os.Stderr, nil); code != 0 {
			t.Fatalf("%v: exit code %d", args, code)
		}
	}
	folder := filepath.Join(root, "nats")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{
		"permissions.conf": filepath.Join(a.dir, "nats", "permissions.conf"),
		"lab-a.conf":       filepath.Join(a.dir, "nats", "keys.conf"),
		"lab-b.conf":       filepath.Join(b.dir, "nats", "keys.conf"),
		"server.crt":       filepath.Join(a.dir, "nats", "server.crt"),
		"server.key":       filepath.Join(a.dir, "nats", "server.key"),
	} {
		if err := os.Rename(from, filepath.Join(folder, to)); err != nil {
			t.Fatal(err)
		}
	}
	text := deploy.TenantsConf
	for _, name := range []string{"server.crt", "server.key"} {
		text = bytes.Replace(text, fmt.Appendf(nil, "%q", name), fmt.Appendf(nil, "%q", filepath.Join(folder, name)), 1)
	}
	conf := filepath.Join(folder, "nats.conf")
	if err := os.WriteFile(conf, text, 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.HTTPPort, opts.NoLog, opts.NoSigs = "127.0.0.1", server.RANDOM_PORT, 0, true, true
	opts.StoreDir = t.TempDir()
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	a.srv, b.srv = srv, srv
	return a, b
}

// Two tenants of one server have workers and a batcher of the same names, each with parameters of its own. Each
// takes its own batches, sees its own service, and hears nothing of the other, whatever its keys let it listen to.
func TestTenants(t *testing.T) {
	t.Parallel()
	a, b := startTenants(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// The keys of b hear all that they may while a alone is at work.
	heard := make(chan string, 100)
	for _, role := range deploy.Roles {
		nc := b.connect(role)
		for _, x := range actions {
			if x.listen == "" {
				continue
			}
			for _, may := range x.may {
				if may != role {
					continue
				}
				if _, err := nc.Subscribe(x.listen, func(m *nats.Msg) {
					select {
					case heard <- m.Subject:
					default:
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	a.start("coordinator")
	a.start("worker", "--name", "w1")
	takeAs(ctx, t, a, 1, 30)
	select {
	case subject := <-heard:
		t.Errorf("lab-b hears lab-a at %s", subject)
	default:
	}

	b.start("coordinator")
	b.start("worker", "--name", "w1")
	takeAs(ctx, t, b, 2, 30)
	takeAs(ctx, t, a, 1, 30)
	for _, tenant := range []*secured{a, b} {
		js, err := jetstream.New(tenant.connect("coordinator"))
		if err != nil {
			t.Fatal(err)
		}
		account, err := js.AccountInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if l := account.Limits; l.MaxMemory != 2<<30 || l.MaxStore != 5<<30 || l.MaxStreams != 128 {
			t.Errorf("a tenant's account has the limits %+v", l)
		}
		natstest.Eventually(t, "a tenant sees one of each", func() bool {
			var s fleet.Status
			return json.Unmarshal([]byte(tenant.command(t, "operator", "status", "--json")), &s) == nil &&
				len(s.Coordinators) == 1 && len(s.Workers) == 1 && len(s.Batchers) == 1 && s.Batchers[0].Batcher == "train"
		})
	}
	if out := b.command(t, "operator", "check"); strings.Contains(out, "error ") {
		t.Errorf("check of lab-b:\n%s", out)
	}
}

// takeAs takes batches as a tenant's trainer, from the start, and holds them against the reference.
func takeAs(ctx context.Context, t *testing.T, s *secured, seed uint64, n int) {
	t.Helper()
	p := testset.Params{Salt: seed}
	batches, err := client.Open[schema.Batch](ctx, s.connect("client"), client.Config{
		Name: "train", Dataset: "wide", Params: p, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer batches.Close()
	o, err := testset.NewOracle(testset.Define("wide", nil), p, schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		step, err := batches.Take(ctx, o.State)
		if err := o.Check(step, err); err != nil {
			t.Fatalf("%s: %v", s.dir, err)
		}
		step.Release()
	}
	if err := batches.Stop(ctx); err != nil {
		t.Error(err)
	}
}
