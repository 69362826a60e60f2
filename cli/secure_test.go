package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/deploy"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// secured is a server with the configuration that ships, and keys as "jetbatch keys" makes them.
type secured struct {
	t   *testing.T
	dir string
	srv *server.Server
}

// startSecured changes of the configuration what must differ where many tests run: the port, and the folder that
// certificates are looked for in, which is the server's own otherwise.
func startSecured(t *testing.T, options ...natstest.Option) *secured {
	t.Helper()
	s := &secured{t: t, dir: filepath.Join(t.TempDir(), "set")}
	if code := run(t.Context(), []string{"keys", s.dir, "--store-dir", t.TempDir()}, io.Discard, os.Stderr, nil); code != 0 {
		t.Fatalf("keys: exit code %d", code)
	}
	s.serve(filepath.Join(s.dir, "nats"), options...)
	return s
}

// serve starts the server that a folder configures.
func (s *secured) serve(dir string, options ...natstest.Option) {
	t := s.t
	t.Helper()
	conf := filepath.Join(dir, "nats.conf")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server.crt", "server.key"} {
		text = bytes.Replace(text, fmt.Appendf(nil, "%q", name), fmt.Appendf(nil, "%q", filepath.Join(s.dir, "nats", name)), 1)
	}
	conf += ".test"
	if err := os.WriteFile(conf, text, 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.HTTPPort, opts.NoLog, opts.NoSigs = "127.0.0.1", server.RANDOM_PORT, 0, true, true
	for _, option := range options {
		option(opts)
	}
	if s.srv, err = server.NewServer(opts); err != nil {
		t.Fatal(err)
	}
	s.srv.Start()
	t.Cleanup(func() {
		s.srv.Shutdown()
		s.srv.WaitForShutdown()
	})
	if !s.srv.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
}

func (s *secured) url() string { return "tls://" + s.srv.Addr().String() }

// flags are how a command connects as a role.
func (s *secured) flags(role string) []string {
	return []string{
		"--server", s.url(), "--tls-ca", filepath.Join(s.dir, "ca.crt"),
		"--nkey", filepath.Join(s.dir, role+".nk"), "--inbox-prefix", deploy.InboxPrefix(role),
	}
}

// connect connects as a role, as a program of its own would.
func (s *secured) connect(role string, more ...nats.Option) *nats.Conn {
	s.t.Helper()
	key, err := nats.NkeyOptionFromSeed(filepath.Join(s.dir, role+".nk"))
	if err != nil {
		s.t.Fatal(err)
	}
	opts := []nats.Option{
		key, nats.RootCAs(filepath.Join(s.dir, "ca.crt")), nats.CustomInboxPrefix(deploy.InboxPrefix(role)),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}
	nc, err := client.Connect(s.url(), append(opts, more...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// start runs a role's command until the test ends, and returns its log.
func (s *secured) start(role string, args ...string) *lockedLog {
	ctx, cancel := context.WithCancel(context.Background())
	log, done := new(lockedLog), make(chan int, 1)
	args = append(append([]string{role, "--log-level", "debug"}, s.flags(role)...), args...)
	go func() { done <- run(ctx, args, io.Discard, log, []dataset.Definition{wide}) }()
	s.t.Cleanup(func() {
		cancel()
		if code := <-done; code != 0 {
			s.t.Errorf("%s ended with %d", role, code)
		}
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", role, log)
		}
	})
	return log
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// slow says of the slow batches, by their parameters, how a second worker lets the first one go on. All workers of the
// tests are in this process.
var slow sync.Map

// wide is a data set whose batch at SlowEvery takes until a second worker is asked for it.
var wide = testset.Define("wide", &testset.Hooks{Materialize: func(ctx context.Context, p testset.Params, j testset.Job) error {
	if j.At != p.SlowEvery {
		return nil
	}
	second := make(chan struct{})
	if goOn, begun := slow.LoadOrStore(p, sync.OnceFunc(func() { close(second) })); begun {
		goOn.(func())()
		return nil
	}
	select {
	case <-second:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}})

// The whole service under the shipped permissions: seats, jobs, small and large batches, a straggler, going back, the
// end, status, health. Nobody is denied anything, and no secret is in a log or in an answer.
func TestSecuredService(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	logs := []*lockedLog{s.start("coordinator"), s.start("worker", "--name", "w1"), s.start("worker", "--name", "w2")}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var denials lockedLog
	for _, size := range []int{100, 3 << 20} {
		nc := s.connect("client", nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { fmt.Fprintln(&denials, err) }))
		p := testset.Params{Size: size, SlowEvery: 31, Salt: uint64(crc32.ChecksumIEEE([]byte(s.dir)))} // slow in each test
		b, err := client.Open[schema.Batch](ctx, nc, client.Config{
			Name: fmt.Sprint("train-", size), Dataset: "wide", Params: p, Window: 9, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		o, err := testset.NewOracle(testset.Define("wide", nil), p, schema.State{})
		if err != nil {
			t.Fatal(err)
		}
		states := []schema.State{{}} // before each position
		take := func() {
			t.Helper()
			step, err := b.Take(ctx, o.State)
			if err := o.Check(step, err); err != nil {
				t.Fatalf("batches of %d bytes: %v", size, err)
			}
			step.Release()
		}
		for range 40 {
			take()
			states = append(states, o.State)
		}
		if status, err := b.Status(ctx); err != nil || status.Backups == 0 {
			t.Errorf("no second worker was asked for the slow one: %+v, %v", status, err)
		}
		for _, back := range []int{39, 1, 0} { // looked up; a new generation, or looked up; likewise
			o.State = states[back]
			take()
		}
		if err := b.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}

	var status string
	natstest.Eventually(t, "the coordinator has heard both workers", func() bool { // each beats once a second
		status = s.command(t, "operator", "status", "--json")
		var fleet fleet.Status
		return json.Unmarshal([]byte(status), &fleet) == nil && len(fleet.Workers) == 2 && len(fleet.Batchers) == 2
	})
	s.command(t, "operator", "health", "--role", "worker")
	s.command(t, "coordinator", "status") // from within its container, as in Kubernetes
	s.command(t, "worker", "health", "--role", "worker", "--instance", "w2")
	s.command(t, "coordinator", "health", "--role", "coordinator")

	all := denials.String()
	for _, log := range logs {
		all += log.String()
	}
	if strings.Contains(strings.ToLower(all), "permission") {
		t.Errorf("somebody was denied something:\n%s", all)
	}
	for _, path := range []string{"coordinator.nk", "worker.nk", "client.nk", "operator.nk", "ca.key", "nats/server.key"} {
		secret, err := os.ReadFile(filepath.Join(s.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(secret)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "--") && strings.Contains(all+status, line) {
				t.Errorf("%s is in a log", path)
			}
		}
	}
}

// The server does not compare reply subjects with permissions, so who may ask it for a message can have it sent where a
// reader listens. Readers believe it only if it is what the store has for that very place.
func TestSecuredReplies(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	s.start("coordinator")
	s.start("worker")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg := client.Config{Name: "train", Dataset: "wide", Window: 1, Logger: slog.New(slog.DiscardHandler)}
	b, err := client.Open[schema.Batch](ctx, s.connect("client"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	o, err := testset.NewOracle(testset.Define("wide", nil), testset.Params{}, schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	worker, other := s.connect("worker"), s.connect("client")
	for range 40 {
		step, err := b.Take(ctx, o.State)
		if err := o.Check(step, err); err != nil {
			t.Fatalf("after %d batches: %v", o.Taken, err)
		}
		status, err := b.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		store, stored := topology.ResultsStream("train", status.Gen), wire.ResultSubject("train", status.Gen, step.Seq)
		head := wire.LiveSubject("train", status.Gen)
		for from, request := range map[*nats.Conn]*nats.Msg{
			worker: {Subject: "$JS.API.STREAM.MSG.GET." + store, Data: fmt.Appendf(nil, `{"last_by_subj":%q}`, stored)},
			other:  {Subject: "$JS.API.DIRECT.GET." + store + "." + stored},
		} {
			request.Reply = head
			if err := errors.Join(from.PublishMsg(request), from.Flush()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if status, err := b.Status(ctx); err != nil || status.Seat != 2 {
		t.Errorf("the reader was shaken: seat %d, %v", status.Seat, err)
	}
}

// A coordinator that starts after the workers knows them at once, and has them say nothing that they may not.
func TestSecuredCoordinatorMeetsWorkers(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	s.start("coordinator")
	worker := s.start("worker", "--name", "w1")
	natstest.Eventually(t, "the worker is known", func() bool { return strings.Contains(worker.String(), "worker started") })
	operator := s.connect("operator")
	beats, err := operator.SubscribeSync(wire.WorkerPrefix + ".w1")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // one of them is the beat of every second, at most
		if err := s.connect("coordinator").Publish(wire.AskSubject, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := beats.NextMsg(patience); err != nil {
			t.Fatalf("the worker does not say that it is there: %v", err)
		}
	}
	late := s.start("coordinator")
	natstest.Eventually(t, "the second coordinator knows it", func() bool {
		return strings.Contains(late.String(), "worker came") && strings.Contains(late.String(), "worker=w1")
	})
	if _, err := operator.Request("jetbatch.worker-status.w1", nil, patience); err != nil { // answered after all before
		t.Fatal(err)
	}
	for name, log := range map[string]*lockedLog{"worker": worker, "coordinator": late} {
		if text := log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(strings.ToLower(text), "permission") {
			t.Errorf("%s was denied something:\n%s", name, text)
		}
	}
}

// A worker, too, answers where the requester says. It must not be had to write, with its own permissions or with a
// response's, what the requester may not.
func TestSecuredWorkerAnswersInboxesOnly(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	s.start("coordinator")
	s.start("worker", "--name", "w1")
	operator := s.connect("operator")
	natstest.Eventually(t, "coordinator and worker answer", func() bool {
		_, err := operator.Request(wire.CoordinatorPrefix+".overview", nil, patience)
		if err == nil {
			_, err = operator.Request("jetbatch.worker-status.w1", nil, patience)
		}
		return err == nil
	})
	subjects := map[string][]string{
		"client":   {wire.UploadSubject("w1")},
		"operator": {"jetbatch.worker-status.w1", "$SRV.PING.jetbatch-worker", "$SRV.STATS.jetbatch-worker"},
	}
	for role, subjects := range subjects {
		nc := s.connect(role)
		for _, subject := range subjects {
			for _, hostile := range []string{"$KV.jetbatch.batcher.victim", "jetbatch.job.wide-v1-w2.victim.GEN.1.0", "jetbatch.coordinator.stop", "_INBOX_coordinator.x.y"} {
				if err := nc.PublishRequest(subject, hostile, []byte(`{"attempt":"a"}`)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if role == "client" {
			if _, err := nc.Request(subjects[0], []byte(`{"attempt":"a"}`), patience); err != nil { // handled after the others
				t.Fatalf("%s: %v", subjects[0], err)
			}
			continue
		}
		if _, err := nc.Request("$SRV.PING.jetbatch-worker", nil, patience); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{topology.JobsStream, topology.BucketStream} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		for subject := range info.State.Subjects {
			if strings.Contains(subject, "victim") {
				t.Errorf("an answer was stored at %s", subject)
			}
		}
	}
}

// command runs a command as a role and returns what it printed.
func (s *secured) command(t *testing.T, role string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	args = append(args[:1:1], append(s.flags(role), args[1:]...)...)
	if code := run(t.Context(), args, &out, &errs, nil); code != 0 {
		t.Errorf("%v as %s: exit code %d: %s", args[0], role, code, errs.String())
	}
	return out.String()
}

// A role with another role's key ends and says what it was denied; a health check with the wrong one says so, too.
func TestSecuredMixup(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, c := range []struct{ command, key, subject string }{
		{"coordinator", "worker", "$JS.API.STREAM."},
		{"worker", "client", "jetbatch."},
		{"health --role worker --timeout 300ms", "client", "$SRV.PING.jetbatch-worker"},
	} {
		var log lockedLog
		args := strings.Fields(c.command)
		args = append(args, s.flags(c.key)...)
		code := run(ctx, args, io.Discard, &log, []dataset.Definition{wide})
		if text := strings.ToLower(log.String()); code != exitUnhealthy || !strings.Contains(text, "permission denied by the nats server") || !strings.Contains(text, strings.ToLower(c.subject)) {
			t.Errorf("%s with the key of %s: exit code %d: %s", c.command, c.key, code, &log)
		}
	}
}

// Without the authority's certificate, a key, or TLS there is no way in.
func TestSecuredDoor(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	key, err := nats.NkeyOptionFromSeed(filepath.Join(s.dir, "client.nk"))
	if err != nil {
		t.Fatal(err)
	}
	ca := nats.RootCAs(filepath.Join(s.dir, "ca.crt"))
	other := filepath.Join(t.TempDir(), "other")
	if code := run(t.Context(), []string{"keys", other}, io.Discard, os.Stderr, nil); code != 0 {
		t.Fatalf("keys: exit code %d", code)
	}
	foreign, err := nats.NkeyOptionFromSeed(filepath.Join(other, "client.nk"))
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]nats.Option{
		"no key":          {ca},
		"a foreign key":   {ca, foreign},
		"no authority":    {key},
		"wrong authority": {key, nats.RootCAs(filepath.Join(other, "ca.crt"))},
		"a password":      {ca, nats.UserInfo("worker", "worker")},
	} {
		if nc, err := client.Connect(s.url(), opts...); err == nil {
			nc.Close()
			t.Errorf("%s: let in", name)
		} else if name == "no key" && !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
