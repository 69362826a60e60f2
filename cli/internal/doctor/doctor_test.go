package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// quiet keeps denials off standard error.
var quiet = nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})

// A machine that leaves jobs to others is named, with what it lacks.
func TestSuspendedWorker(t *testing.T) {
	t.Parallel()
	e := &examination{state: fleet.Status{Workers: []schema.WorkerStatus{
		{Worker: "a", Slots: 2, Kinds: []string{"ecg-v1-w2"}},
		{Worker: "b", Slots: 2, Suspended: []schema.Suspension{{Kind: "ecg-v1-w2", Reason: "cannot open ecg: no such folder /data"}}},
	}}}
	e.workers()
	expect(t, e.findings, Warning, "workers: worker b: cannot open ecg: no such folder /data")
}

// A worker whose memory is too little for the batches that it makes is named, before the kernel kills it.
func TestWorkerMemory(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	of := func(name string, memory int64, slots int, kinds ...string) schema.WorkerStatus {
		return schema.WorkerStatus{Worker: name, Slots: slots, Kinds: kinds, Memory: memory, KeepBytes: memory / 4}
	}
	e := &examination{state: fleet.Status{
		Batchers: []schema.Status{
			{Batcher: "train", Phase: schema.PhaseRunning, Dataset: "ecg", Version: 1, BatchBytes: 6 * mib},
			{Batcher: "small", Phase: schema.PhaseRunning, Dataset: "ecg", Version: 1, BatchBytes: 1},
		},
		Workers: []schema.WorkerStatus{
			of("fits", 230*mib, 2, "ecg-v1-w2"), of("unlimited", 0, 64, "ecg-v1-w2"), of("other", 230*mib, 64, "eeg-v1-w2"),
			of("many", 230*mib, 64, "ecg-v1-w2"), of("tiny", 60*mib, 1, "ecg-v1-w2"),
		},
	}}
	e.workers()
	expect(t, e.findings, Warning, "workers: worker many may use 505.5 MiB, and has 230 MiB: 64 slots with a batch of 6 MiB each, 57.5 MiB kept")
	expect(t, e.findings, Warning, "workers: worker tiny may use 85 MiB, and has 60 MiB: 1 slot with a batch of 6 MiB each, 15 MiB kept")
	for _, name := range []string{"fits", "unlimited", "other"} {
		if found(e.findings, Warning, "worker "+name) {
			t.Errorf("worker %s is well, and is warned of:\n%s", name, list(e.findings))
		}
	}
}

// deployment is one with two coordinators and a worker that say what they would if all were well.
func deployment(nc *nats.Conn) Deployment {
	return Deployment{Conn: nc, Version: wire.Release, Overview: func(context.Context) (fleet.Status, error) {
		return fleet.Merge([]wire.Overview{
			{Coordinator: "c1", Version: wire.Release, Kinds: []string{"onda-v1-w2"}, Workers: []schema.WorkerStatus{{Worker: "w1", Slots: 2, Kinds: []string{"onda-v1-w2"}}}},
			{Coordinator: "c2", Version: wire.Release, Kinds: []string{"onda-v1-w2"}},
		}), nil
	}}
}

// found reports whether a finding has the severity and the words.
func found(findings []Finding, s Severity, words string) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Severity == s && strings.Contains(f.Check+": "+f.Text, words) && (s == OK || s == Note || f.Fix != "")
	})
}

func expect(t *testing.T, findings []Finding, s Severity, words string) {
	t.Helper()
	if !found(findings, s, words) {
		t.Errorf("no %s %q in\n%s", s, words, list(findings))
	}
}

func list(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%s %s: %s → %s\n", f.Severity, f.Check, f.Text, f.Fix)
	}
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// configured applies a server configuration's accounts and users.
func configured(t *testing.T, text string) natstest.Option {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	parsed, err := server.ProcessConfigFile(path)
	must(t, err)
	return func(o *server.Options) {
		o.Accounts, o.Users, o.MaxPayload = parsed.Accounts, parsed.Users, parsed.MaxPayload
	}
}

// A real service has nothing wrong but that it has no spare, and trying every permission leaves no trace in it.
func TestHealthy(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	counting := testset.Define("counting", nil)
	c, err := coordinator.New(s.Connect(), coordinator.Config{Name: "c1"}, counting)
	must(t, err)
	w, err := worker.New(s.Connect(), worker.Config{Name: "w1", Logger: slog.New(slog.DiscardHandler)}, counting)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- c.Run(ctx) }()
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, errors.Join(<-ended, <-ended))
	})
	nc, js := s.JetStream(quiet)
	d := deployment(nc)
	d.Role = "all"
	d.Overview = func(ctx context.Context) (fleet.Status, error) {
		m, err := nc.RequestWithContext(ctx, wire.CoordinatorPrefix+".overview", nil)
		if err != nil {
			return fleet.Status{}, err
		}
		var o wire.Overview
		err = json.Unmarshal(m.Data, &o)
		return fleet.Merge([]wire.Overview{o}), err
	}
	natstest.Eventually(t, "the coordinator hears the worker", func() bool {
		state, err := d.Overview(ctx)
		return err == nil && len(state.Workers) == 1
	})
	findings := Examine(t.Context(), d)
	if Worst(findings) != Note {
		t.Errorf("findings:\n%s", list(findings))
	}
	for _, words := range []string{"server: NATS 2.", "max_payload", "role worker needs", "KV_jetbatch: as it", "jetbatch-jobs: as it", "leases: coordinator c1", "1 worker with"} {
		expect(t, findings, OK, words)
	}
	jobs, err := js.Stream(t.Context(), topology.JobsStream)
	must(t, err)
	bucket, err := js.Stream(t.Context(), topology.BucketStream)
	must(t, err)
	info, err := bucket.Info(t.Context(), jetstream.WithSubjectFilter("$KV.jetbatch."+probe))
	must(t, err)
	if jobs.CachedInfo().State.LastSeq != 0 || len(info.State.Subjects) != 0 {
		t.Errorf("the permission check stored something: %+v, %+v", jobs.CachedInfo().State, info.State)
	}
	if names := js.StreamNames(t.Context()); len(slices.Collect(chanSeq(names.Name()))) != 3 {
		t.Error("the permission check made a stream")
	}
}

func chanSeq[T any](c <-chan T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for v := range c {
			if !yield(v) {
				return
			}
		}
	}
}

func TestNoJetStream(t *testing.T) {
	t.Parallel()
	off := Examine(t.Context(), deployment(natstest.RunInProcess(t, func(o *server.Options) { o.JetStream = false }).Connect(quiet)))
	expect(t, off, Error, "jetstream: JetStream is off")
	account := natstest.RunInProcess(t, configured(t, `accounts { A { users: [{user: a, password: a}] } }`))
	expect(t, Examine(t.Context(), deployment(account.Connect(quiet, nats.UserInfo("a", "a")))), Error, "off for this user's account")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t, configured(t, `
		max_payload: 600KB
		accounts { A {
			jetstream { max_mem: 1MB, max_file: 1MB, max_streams: 2, max_consumers: 1, max_bytes_required: true, mem_max_stream_bytes: 1MB }
			users: [{user: a, password: a}]
		} }`))
	nc, js := s.JetStream(quiet, nats.UserInfo("a", "a"))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "other", Subjects: []string{"other"}, Storage: jetstream.FileStorage, MaxBytes: 1 << 20})
	must(t, err)
	_, err = js.CreateConsumer(t.Context(), "other", jetstream.ConsumerConfig{Durable: "c"})
	must(t, err)
	for range 14 {
		_, err = js.Publish(t.Context(), "other", make([]byte, 64<<10))
		must(t, err)
	}
	d := deployment(nc)
	d.Overview = func(context.Context) (fleet.Status, error) {
		return fleet.Merge([]wire.Overview{{Batchers: []schema.Status{{Batcher: "big", Phase: schema.PhaseRunning, Reader: "r", Window: 9, BatchBytes: 1 << 20, Workers: 1, Slots: 4}}}}), nil
	}
	findings := Examine(t.Context(), d)
	expect(t, findings, Warning, "max_payload: a message is at most 600 KiB")
	expect(t, findings, Warning, "file store is nearly full")
	expect(t, findings, OK, "memory: 0 B of 1 MiB")
	expect(t, findings, Error, "1 of 2 streams are there")
	expect(t, findings, Error, "1 of 1 consumer are there")
	expect(t, findings, Error, "wants a bound on the bytes")
	expect(t, findings, Warning, "a stream in memory may have 1 MiB")
	expect(t, findings, Error, "batcher big may store 15.8 MiB")
	small := natstest.RunInProcess(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	expect(t, Examine(t.Context(), deployment(small.Connect(quiet))), Error, "max_payload: a message is at most 64 KiB")
}

func TestMonitor(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/jsz" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"memory":1000,"storage":99,"config":{"max_memory":100000,"max_storage":100}}`))
	}))
	defer web.Close()
	d := deployment(natstest.RunInProcess(t).Connect(quiet))
	d.Monitor = web.URL + "/"
	findings := Examine(t.Context(), d)
	expect(t, findings, Error, "the server's file store is full")
	expect(t, findings, Warning, "max_memory_store is 97.7 KiB")
	d.Monitor = web.URL + "/nowhere"
	expect(t, Examine(t.Context(), d), Error, "monitor: "+web.URL+"/nowhere/jsz: 404")
}

func TestWrongStreams(t *testing.T) {
	t.Parallel()
	nc, js := natstest.RunInProcess(t).JetStream(quiet)
	jobs := topology.Shared(topology.Config{})[1]
	jobs.Retention, jobs.MaxAge = jetstream.LimitsPolicy, time.Hour
	results := topology.Results("train", "G")
	results.RePublish = nil
	for _, cfg := range []jetstream.StreamConfig{jobs, results, {Name: "log", Subjects: []string{"jetbatch.lane.>"}}, {Name: "innocent", Subjects: []string{"other.>"}}} {
		_, err := js.CreateStream(t.Context(), cfg)
		must(t, err)
	}
	findings := Examine(t.Context(), deployment(nc))
	expect(t, findings, Note, "KV_jetbatch is not there")
	expect(t, findings, Error, "jetbatch-jobs: retention is Limits, not WorkQueue; maximum age is 1h0m0s, not 0s")
	expect(t, findings, Error, "jetbatch-results-train-G: republishing is off, not jetbatch.result.train.G.*.*")
	expect(t, findings, Error, "stream log takes messages")
	if found(findings, Error, "innocent") {
		t.Error("a stream of others is accused")
	}
}

func TestBucket(t *testing.T) {
	t.Parallel()
	nc, js := natstest.RunInProcess(t).JetStream(quiet)
	must(t, topology.Ensure(t.Context(), js, topology.Config{}))
	kv, err := topology.OpenBucket(t.Context(), js)
	must(t, err)
	put := func(key, value string) {
		_, err := kv.PutString(t.Context(), key, value)
		must(t, err)
	}
	put(topology.BatcherKey("old"), `{"wire":99}`)
	put(topology.CoordinatorKey("late"), fmt.Sprint(time.Now().Add(-time.Hour).UnixMilli()))
	put(topology.CoordinatorKey("left"), "0")
	must(t, kv.Purge(t.Context(), topology.CoordinatorKey("left")))
	findings := Examine(t.Context(), deployment(nc))
	expect(t, findings, Error, "records: the record of batcher old is of wire version 99")
	expect(t, findings, OK, "leases: coordinator late renewed its lease")
	expect(t, findings, Warning, "clocks: the clock of coordinator late is 1h0m0")
	if found(findings, OK, "left") || found(findings, Warning, "left") {
		t.Errorf("a lease that was given up is looked at:\n%s", list(findings))
	}
	e := &examination{stale: make(map[string]time.Duration)}
	now := time.Now()
	for _, id := range []string{"dead", "c1"} {
		e.lease(id, &jetstream.RawStreamMsg{Time: now.Add(-12 * time.Second)}, now)
	}
	e.state.Coordinators = []fleet.Coordinator{{Coordinator: "c1"}}
	e.unstored()
	expect(t, e.findings, Warning, "leases: the lease of coordinator dead has stood still for 12s")
	expect(t, e.findings, Error, "store: the server stores nothing: coordinator c1 answers, and could not renew its lease for 12s")
}

// Servers of a cluster that are away or behind, and what the monitoring port says of write errors.
func TestCluster(t *testing.T) {
	t.Parallel()
	three := func(change func(*jetstream.ClusterInfo)) []Finding {
		e := new(examination)
		c := &jetstream.ClusterInfo{Leader: "n1", Replicas: []*jetstream.PeerInfo{{Name: "n2", Current: true}, {Name: "n3", Current: true}}}
		change(c)
		if e.copies("S", &jetstream.StreamInfo{Config: jetstream.StreamConfig{Replicas: 3}, Cluster: c}) != (len(e.findings) == 0) {
			t.Error("all is well, or is it?")
		}
		return e.findings
	}
	if f := three(func(*jetstream.ClusterInfo) {}); len(f) != 0 {
		t.Errorf("all is well: %s", list(f))
	}
	expect(t, three(func(c *jetstream.ClusterInfo) { c.Leader = "" }), Error, "cluster: S has no leader")
	expect(t, three(func(c *jetstream.ClusterInfo) { c.Replicas[1].Offline = true }), Warning,
		"S: 1 server of 3 is away: n3; the next death stops the service")
	dead := func(c *jetstream.ClusterInfo) {
		c.Replicas[1] = &jetstream.PeerInfo{Name: "n3", Active: 5 * time.Second, Lag: 900}
	}
	expect(t, three(dead), Warning, "S: 1 server of 3 is away: n3; the next death stops the service")
	leader := func(c *jetstream.ClusterInfo) { c.Replicas[1] = &jetstream.PeerInfo{Name: "n3", Lag: 154} }
	expect(t, three(leader), Warning, "S: 1 server of 3 is away: n3; the next death stops the service")
	expect(t, three(func(c *jetstream.ClusterInfo) { c.Replicas[0].Lag = 900 }), Warning, "S: a copy is behind: n2 (900 messages)")

	nc, _ := natstest.RunInProcess(t).JetStream(quiet)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"status":"unavailable","error":"JetStream stream 'KV_jetbatch' write error: no space left on device"}`)
			return
		}
		fmt.Fprint(w, `{"config":{"max_memory":8589934592,"max_storage":8589934592},
			"meta_cluster":{"leader":"n1","cluster_size":3,"replicas":[{"name":"n2"},{"name":"n3","offline":true,"active":61000000000}]}}`)
	}))
	defer web.Close()
	d := deployment(nc)
	d.Monitor = web.URL
	findings := Examine(t.Context(), d)
	expect(t, findings, Error, "store: the server stores nothing: JetStream stream 'KV_jetbatch' write error: no space left")
	expect(t, findings, Warning, "cluster: 1 server of 3 is away: n3, for 1m1s")
}

// The doctor stores a message, and so finds a stream that refuses every message.
func TestWriteIsTried(t *testing.T) {
	t.Parallel()
	nc, js := natstest.RunInProcess(t).JetStream(quiet)
	for _, cfg := range topology.Shared(topology.Config{}) {
		if cfg.Name == topology.EventsStream {
			cfg.Discard, cfg.MaxBytes = jetstream.DiscardNew, 1
		}
		_, err := js.CreateStream(t.Context(), cfg)
		must(t, err)
	}
	expect(t, Examine(t.Context(), deployment(nc)), Error, "store: a write is not confirmed: ")
}

func TestFleet(t *testing.T) {
	t.Parallel()
	nc, js := natstest.RunInProcess(t).JetStream(quiet)
	must(t, topology.Ensure(t.Context(), js, topology.Config{}))
	sub, err := nc.Subscribe(wire.StatusPrefix+".w1", func(m *nats.Msg) {
		data, _ := json.Marshal(schema.WorkerStatus{Now: time.Now().Add(-time.Minute)})
		_ = m.Respond(data)
	})
	must(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	d := deployment(nc)
	d.Overview = func(context.Context) (fleet.Status, error) {
		return fleet.Merge([]wire.Overview{
			{Coordinator: "c1", Version: "0.0.9", Kinds: []string{"onda-v1-w2"}, Batchers: []schema.Status{
				{Batcher: "lonely", Phase: schema.PhaseRunning, Reader: "r", Dataset: "onda", Version: 2},
				{Batcher: "narrow", Phase: schema.PhaseRunning, Reader: "r", Dataset: "onda", Version: 1, Window: 3, BatchBytes: 1 << 20, Workers: 2, Slots: 8, Waiting: "batch 7 is not committed"},
				{Batcher: "slow", Phase: schema.PhaseRunning, Reader: "r", Dataset: "onda", Version: 1, Window: 17, BatchBytes: 1, Workers: 2, Slots: 8, Desired: 6, Timing: schema.Timing{Wait: 2, Trainer: 1}},
				{Batcher: "broken", Phase: schema.PhaseFailed, Error: &schema.Fault{Code: schema.CodePoison, Seq: 5}},
			}},
			{Coordinator: "c2", Version: wire.Release, Kinds: []string{"other-v1-w2"}, Workers: []schema.WorkerStatus{
				{Worker: "w1", Kinds: []string{"onda-v1-w2", "onda-v1-w9"}, Slots: 8, Failed: 2},
				{Worker: "w2", Kinds: []string{"onda-v1-w2"}},
			}},
		}), nil
	}
	findings := Examine(t.Context(), d)
	expect(t, findings, Warning, "versions differ: 0.0.9, "+wire.Release)
	expect(t, findings, Error, "they have different data sets: c1 with onda@1; c2 with other@1")
	expect(t, findings, Error, "onda@2: wanted by lonely; no worker serves it")
	expect(t, findings, Warning, "onda@1 (wire 9): served by w1; no coordinator has it")
	expect(t, findings, Note, "jobs have failed on 1 worker")
	expect(t, findings, Warning, "batcher narrow: a window of 3 leaves 5 of 8 slots idle")
	expect(t, findings, Warning, "batcher narrow: the trainer waits: batch 7")
	expect(t, findings, Warning, "batcher slow: the trainer stands still 67 % of its time")
	expect(t, findings, Warning, "worker w2 is listed and does not answer")
	expect(t, findings, Warning, "batcher broken failed: batch 5: poison")
	expect(t, findings, Warning, "the clock of worker w1 is ")
	d.Overview = func(context.Context) (fleet.Status, error) { return fleet.Status{}, errors.New("silence") }
	expect(t, Examine(t.Context(), d), Error, "coordinators: none answers")
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t, configured(t, `
		authorization { users: [
			{user: lane, password: p, permissions: {publish: {deny: "jetbatch.lane.*"}, subscribe: {deny: "jetbatch.report.>"}}}
			{user: inbox, password: p, permissions: {subscribe: {deny: "_INBOX.>"}}}
			{user: blind, password: p, permissions: {publish: {allow: "jetbatch.>"}}}
		] }`))
	look := func(user, role string) []Finding {
		d := deployment(s.Connect(quiet, nats.UserInfo(user, "p")))
		d.Role = role
		began := time.Now()
		findings := Examine(t.Context(), d)
		if took := time.Since(began); took > callTimeout {
			t.Errorf("as %s it took %v: denials were waited for", user, took)
		}
		return findings
	}
	all := look("lane", "all")
	expect(t, all, Error, "role coordinator: this user may not publish to jetbatch.lane.*")
	expect(t, all, Error, "role coordinator: this user may not subscribe to jetbatch.report.*")
	expect(t, all, OK, "role worker needs")
	if n := strings.Count(list(all), "may not"); n != 2 {
		t.Errorf("%d denials:\n%s", n, list(all))
	}
	blind := look("blind", "")
	expect(t, blind, Note, "may not use $JS.API.INFO")
	expect(t, blind, Note, "KV_jetbatch: not looked at")
	if Worst(blind) != Note {
		t.Errorf("what could not be looked at is called wrong:\n%s", list(blind))
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 3 << 30: "3 GiB"} {
		if got := bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for v, want := range map[string][2]int{"2.15.2": {2, 15}, "v2.9.0-beta": {2, 9}, "": {0, 0}, "x.y": {0, 0}} {
		if major, minor := parseVersion(v); [2]int{major, minor} != want {
			t.Errorf("%s: %d.%d", v, major, minor)
		}
	}
}
