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
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

// The tests at the root run every role as a process of its own: this test binary started again with a
// role in its environment, so that kill -9 is kill -9.
const (
	roleEnv  = "JETBATCH_TEST_ROLE"
	urlEnv   = "JETBATCH_TEST_URL"
	dirEnv   = "JETBATCH_TEST_DIR"
	slotsEnv = "JETBATCH_TEST_SLOTS"
	nameEnv  = "JETBATCH_TEST_NAME"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := runRole(role); err != nil {
			fmt.Fprintln(os.Stderr, role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runRole(role string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // the parent holds the other end of stdin: no role outlives a test that was killed
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if role == "server" {
		return runServer(ctx, os.Getenv(urlEnv), os.Getenv(dirEnv))
	}
	nc, err := client.Connect(os.Getenv(urlEnv), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	switch role {
	case "coordinator":
		c, err := coordinator.New(nc, coordinator.Config{Logger: log}, numbersDefinition())
		if err != nil {
			return err
		}
		return c.Run(ctx)
	case "worker":
		slots, err := strconv.Atoi(os.Getenv(slotsEnv))
		if err != nil {
			return err
		}
		w, err := worker.New(nc, worker.Config{Name: os.Getenv(nameEnv), Slots: slots, JobTimeout: 20 * time.Second, Logger: log}, numbersDefinition())
		if err != nil {
			return err
		}
		return w.Run(ctx)
	}
	return fmt.Errorf("unknown role %q", role)
}

func runServer(ctx context.Context, url, dir string) error {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(url, "nats://"))
	if err != nil {
		return err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: p, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return errors.New("server not ready")
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
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
	case j.At == d.PoisonAt && os.Getenv(roleEnv) == "worker":
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
	url    string
	dir    string
	server *process

	coordinators []*process
}

type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser // the role ends when this closes
	log    *lockedBuffer
	waited chan struct{}
}

// startCluster starts a server, a coordinator and workers of 2 slots.
func startCluster(t *testing.T, workers int) *cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, url: "nats://" + l.Addr().String(), dir: t.TempDir()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.startServer()
	c.start("coordinator")
	for range workers {
		c.start("worker")
	}
	return c
}

func (c *cluster) startServer() {
	c.t.Helper()
	c.server = c.start("server")
	c.connect().Close()
}

// start starts a role; extra are further variables of its environment.
func (c *cluster) start(role string, extra ...string) *process {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	p := &process{t: c.t, cmd: exec.Command(exe), log: new(lockedBuffer), waited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleEnv+"="+role, urlEnv+"="+c.url, dirEnv+"="+c.dir, slotsEnv+"=2")
	p.cmd.Env = append(p.cmd.Env, extra...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // killed on purpose, mostly
		close(p.waited)
	}()
	if role == "coordinator" {
		c.coordinators = append(c.coordinators, p)
	}
	c.t.Cleanup(func() {
		p.kill()
		if log := p.log.String(); strings.Contains(log, "DATA RACE") {
			c.t.Errorf("%s: data race:\n%s", role, log)
		}
		if c.t.Failed() {
			c.t.Logf("log of %s %d:\n%s", role, p.cmd.Process.Pid, p.log.tail())
		}
	})
	return p
}

// kill is kill -9 and returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails if it is gone
	<-p.waited
}

// terminate is SIGTERM and waits for the process to end by itself.
func (p *process) terminate() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.waited:
	case <-time.After(40 * time.Second):
		p.t.Fatal("the process did not end after SIGTERM")
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// connect waits for the server.
func (c *cluster) connect() *nats.Conn {
	c.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		var nc *nats.Conn
		if nc, err = client.Connect(c.url); err == nil {
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
	data, err := schema.AppendPayload(nil, b)
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

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) tail() string {
	s := l.String()
	return s[max(0, len(s)-4000):]
}

type testWriter struct{ t *testing.T }

func (w *testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
