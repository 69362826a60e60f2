package jetbatch_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// The tests at the root run every role as a process of its own.
func TestMain(m *testing.M) {
	proctest.Main(map[string]proctest.Role{
		"server":      proctest.ServerRole,
		"coordinator": proctest.CoordinatorRole(numbersDefinition()),
		"worker":      proctest.WorkerRole(numbersDefinition()),
		"trainer":     trainer,
		"rank":        rank,

		"coordinator-v2": proctest.CoordinatorRole(numbersDefinition().WithVersion(2)),
		"worker-v2":      proctest.WorkerRole(numbersDefinition().WithVersion(2)),
	})
	os.Exit(m.Run())
}

// trainer holds a batcher until it is killed, and takes nothing.
func trainer(ctx context.Context, log *slog.Logger) error {
	nc, err := client.Connect(os.Getenv(proctest.URLEnv))
	if err != nil {
		return err
	}
	b, err := client.Open[schema.Batch](ctx, nc, client.Config{Name: "train", Dataset: "numbers", Params: testset.Params{}})
	if err != nil {
		return err
	}
	log.Info("holds the batcher")
	<-ctx.Done()
	return b.Close()
}

// numbersDefinition is the data set of these tests.
func numbersDefinition() dataset.Definition { return testset.Define("numbers", nil) }

// cluster is a server with its roles, each a process.
type cluster struct {
	t      *testing.T
	addr   string
	dir    string
	server *proctest.Process

	coordinators []*proctest.Process
}

// startCluster starts a server, a coordinator and workers of 2 slots.
func startCluster(t *testing.T, workers int) *cluster {
	t.Helper()
	c := startEmpty(t)
	c.start("coordinator")
	for range workers {
		c.start("worker")
	}
	return c
}

// startEmpty starts a server alone.
func startEmpty(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, addr: proctest.FreeAddr(t), dir: t.TempDir()}
	c.startServer()
	return c
}

func (c *cluster) url() string { return "nats://" + c.addr }

func (c *cluster) startServer() {
	c.t.Helper()
	c.server = proctest.Start(c.t, "server", proctest.ServerConfig{Addr: c.addr, Dir: c.dir}.Env())
	c.connect().Close()
}

// start starts a coordinator or a worker.
func (c *cluster) start(role string) *proctest.Process {
	c.t.Helper()
	p := proctest.Start(c.t, role, proctest.URLEnv+"="+c.url())
	if strings.HasPrefix(role, "coordinator") {
		c.coordinators = append(c.coordinators, p)
	}
	return p
}

// connect waits for the server.
func (c *cluster) connect() *nats.Conn {
	c.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		var nc *nats.Conn
		if nc, err = client.Connect(c.url()); err == nil {
			c.t.Cleanup(nc.Close)
			return nc
		}
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
	c.t.Fatal(err)
	return nil
}

// open opens a batcher of the data set.
func (c *cluster) open(name string, p testset.Params, change ...func(*client.Config)) *client.Batcher[schema.Batch] {
	c.t.Helper()
	b, err := c.tryOpen(name, p, change...)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *cluster) tryOpen(name string, p testset.Params, change ...func(*client.Config)) (*client.Batcher[schema.Batch], error) {
	c.t.Helper()
	cfg := client.Config{Name: name, Dataset: "numbers", Params: p, Logger: slog.New(slog.NewTextHandler(&testWriter{c.t}, nil))}
	for _, f := range change {
		f(&cfg)
	}
	b, err := client.Open[schema.Batch](within(c.t), c.connect(), cfg)
	if err == nil {
		c.t.Cleanup(func() { _ = b.Close() }) // the server may be gone by then
	}
	return b, err
}

// within is a context for what must not hang.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// oracle fails a test where a trainer takes what the single-process reference does not yield.
type oracle struct {
	*testset.Oracle
	t *testing.T
}

func newOracle(t *testing.T, p testset.Params, from schema.State) *oracle {
	t.Helper()
	o, err := testset.NewOracle(numbersDefinition(), p, from)
	if err != nil {
		t.Fatal(err)
	}
	return &oracle{o, t}
}

// take takes n batches from where the oracle is and fails the test at the first difference.
func (o *oracle) take(b *client.Batcher[schema.Batch], n int) {
	o.t.Helper()
	for range n {
		o.one(b)
	}
}

func (o *oracle) one(b *client.Batcher[schema.Batch]) schema.Step[schema.Batch] {
	o.t.Helper()
	got, err := b.Take(within(o.t), o.State)
	if err := o.Check(got, err); err != nil {
		o.t.Fatalf("after %d batches: %v", o.Taken, err)
	}
	got.Release()
	return got
}

// eof checks that both end here.
func (o *oracle) eof(b *client.Batcher[schema.Batch]) {
	o.t.Helper()
	got, err := b.Take(within(o.t), o.State)
	if err := o.Check(got, err); err != io.EOF {
		o.t.Fatalf("got %v, want io.EOF", err)
	}
}

// eventually waits until ok or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

type testWriter struct{ t *testing.T }

func (w *testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
