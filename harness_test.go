package jetbatch_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// The tests at the root run every role as a process of its own.
func TestMain(m *testing.M) {
	proctest.Main(map[string]proctest.Role{
		"server":      proctest.ServerRole,
		"coordinator": proctest.CoordinatorRole(numbersDefinition()),
		"worker":      proctest.WorkerRole(numbersDefinition()),

		"coordinator-v2": proctest.CoordinatorRole(numbersDefinition().WithVersion(2)),
		"worker-v2":      proctest.WorkerRole(numbersDefinition().WithVersion(2)),
	})
	os.Exit(m.Run())
}

// numbers is the data set of these tests: pseudo-random batches with every kind of trouble on request.
type numbers struct{ numbersParams }

type numbersParams struct {
	N         uint64 `json:"n"`                     // batches; 0 for endless
	Size      int    `json:"size,omitempty"`        // float32 values per batch; defaults to 16
	DelayMS   int    `json:"delay_ms,omitempty"`    // of Materialize
	IterErrAt uint64 `json:"iter_err_at,omitempty"` // position at which Next fails
	StallAt   uint64 `json:"stall_at,omitempty"`    // position at which Next never returns
	ErrAt     uint64 `json:"err_at,omitempty"`      // position at which Materialize fails for good
	EOFAt     uint64 `json:"eof_at,omitempty"`      // position at which Materialize fails with io.EOF
	PanicAt   uint64 `json:"panic_at,omitempty"`    // position at which Materialize panics
	PoisonAt  uint64 `json:"poison_at,omitempty"`   // position at which Materialize kills its process
	SkipEvery uint64 `json:"skip_every,omitempty"`  // every so many positions are holes
}

// position is the state: where in the sequence, and a generator to carry along.
type position struct {
	I    uint64 `msgpack:"i"`
	Seed uint64 `msgpack:"seed"`
}

type numbersJob struct {
	At   uint64 `msgpack:"at"`
	Seed uint64 `msgpack:"seed"`
}

func numbersDefinition() dataset.Definition {
	return dataset.Define("numbers", func(_ context.Context, p numbersParams) (*numbers, error) {
		if p.Size < 0 {
			return nil, errors.New("size is negative")
		}
		return &numbers{p}, nil
	})
}

func (d *numbers) Start() (position, error) { return position{Seed: 7}, nil }

func (d *numbers) Next(s position) (numbersJob, position, error) {
	at := s.I + 1
	switch {
	case d.N > 0 && s.I >= d.N:
		return numbersJob{}, position{}, io.EOF
	case at == d.IterErrAt:
		return numbersJob{}, position{}, fmt.Errorf("shard %d is not listed", at)
	case at == d.StallAt:
		select {}
	}
	return numbersJob{at, s.Seed}, position{at, s.Seed*6364136223846793005 + 1442695040888963407}, nil
}

func (d *numbers) Materialize(ctx context.Context, j numbersJob) (schema.Batch, error) {
	if d.DelayMS > 0 {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Duration(d.DelayMS) * time.Millisecond):
		}
	}
	switch {
	case j.At == d.ErrAt:
		return nil, dataset.Permanent(fmt.Errorf("shard %d is corrupt", j.At))
	case j.At == d.EOFAt:
		return nil, dataset.Permanent(io.EOF)
	case j.At == d.PanicAt:
		panic(fmt.Sprintf("bad index at %d", j.At))
	case j.At == d.PoisonAt && proctest.IsRole("worker"):
		os.Exit(3)
	case d.SkipEvery > 0 && j.At%d.SkipEvery == 0:
		return nil, dataset.Skip("every so many")
	}
	n := d.Size
	if n == 0 {
		n = 16
	}
	data := make([]float32, n)
	r := rand.NewPCG(j.Seed, j.At)
	for i := range data {
		data[i] = float32(r.Uint64()>>40) / (1 << 24)
	}
	x, err := schema.NewTensor([]int{1, n}, data)
	if err != nil {
		return nil, err
	}
	y, err := schema.NewTensor([]int{1}, []uint64{j.At})
	if err != nil {
		return nil, err
	}
	return schema.Batch{{Name: "x", Tensor: x}, {Name: "y", Tensor: y}}, nil
}

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

// open opens a batcher of the data set numbers.
func (c *cluster) open(name string, p numbersParams, change ...func(*client.Config)) *client.Batcher[schema.Batch] {
	c.t.Helper()
	b, err := c.tryOpen(name, p, change...)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *cluster) tryOpen(name string, p numbersParams, change ...func(*client.Config)) (*client.Batcher[schema.Batch], error) {
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

// oracle checks what a trainer takes against the single-process reference.
type oracle struct {
	t     *testing.T
	ref   *dataset.Reference[schema.Batch]
	state schema.State // where the trainer is
	taken int
}

func newOracle(t *testing.T, p numbersParams, from schema.State) *oracle {
	return &oracle{t: t, ref: dataset.Sequential(&numbers{p}), state: from}
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
	ctx := within(o.t)
	want, err := o.ref.Take(ctx, o.state)
	if err != nil {
		o.t.Fatalf("reference after %d batches: %v", o.taken, err)
	}
	got, err := b.Take(ctx, o.state)
	if err != nil {
		o.t.Fatalf("Take after %d batches: %v", o.taken, err)
	}
	if !bytes.Equal(encode(o.t, got.Batch), encode(o.t, want.Batch)) {
		o.t.Fatalf("batch %d differs: label %d, want %d", o.taken+1, label(got.Batch), label(want.Batch))
	}
	if !bytes.Equal(got.Next.Data, want.Next.Data) {
		o.t.Fatalf("state after batch %d differs: %v, want %v", o.taken+1, got.Next, want.Next)
	}
	got.Release()
	o.state = got.Next
	o.taken++
	return got
}

// eof checks that both end here.
func (o *oracle) eof(b *client.Batcher[schema.Batch]) {
	o.t.Helper()
	if _, err := o.ref.Take(within(o.t), o.state); err != io.EOF {
		o.t.Fatalf("reference: %v, want io.EOF", err)
	}
	if _, err := b.Take(within(o.t), o.state); err != io.EOF {
		o.t.Fatalf("Take: %v, want io.EOF", err)
	}
}

func encode(t *testing.T, b schema.Batch) []byte {
	t.Helper()
	data, err := wire.AppendPayload(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func label(b schema.Batch) uint64 {
	y, ok := b.Get("y")
	if !ok || len(y.Data) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(y.Data)
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
