package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// trainBatcher is the batcher that trainers of this tier take from.
const trainBatcher = "train"

// system is the whole service as processes.
type system struct {
	t            testing.TB
	brokers      []*member
	addrs        []string // of the brokers
	coordinators []*member
	workers      []*member
	trainer      *member
	trainers     []*member // of ranks, in the place of trainer

	mu     sync.Mutex
	made   map[uint64]int // executions, by position
	direct bool           // members connect without proxies
}

// member is a role with the link that it connects through.
type member struct {
	s    *system
	name string
	role string
	runs int // of the role: every process has a name of its own
	env  []string
	dir  string // of a broker's store
	host machine
	ails ailment // of the host
	link *proxy  // nil for brokers, and in a system without proxies
	line func([]byte)
	proc *proctest.Process

	served *proxy // before what a worker serves; nil as link is

	started time.Time // of proc
}

// newSystem starts one broker, and coordinators and workers of 2 slots behind proxies.
func newSystem(t testing.TB, coordinators, workers int) *system {
	t.Helper()
	s := &system{t: t, made: make(map[uint64]int)}
	addr, dir := proctest.FreeAddr(t), t.TempDir()
	s.addBroker(proctest.ServerConfig{Addr: addr, Dir: dir, Name: "broker"})
	s.populate(coordinators, workers)
	return s
}

func (s *system) addBroker(cfg proctest.ServerConfig) {
	m := &member{s: s, name: cfg.Name, role: "server", env: []string{cfg.Env()}, dir: cfg.Dir}
	s.addrs = append(s.addrs, cfg.Addr)
	s.brokers = append(s.brokers, m)
	m.start()
}

func (s *system) populate(coordinators, workers int, env ...string) {
	for i := range coordinators {
		s.coordinators = append(s.coordinators, s.add(fmt.Sprintf("coordinator-%d", i), "coordinator", nil, env...))
	}
	for i := range workers {
		own, served := env, (*proxy)(nil)
		if !s.direct {
			addr := proctest.FreeAddr(s.t)
			served = newProxy(s.t, addr)
			own = append([]string{proctest.DirectEnv + "=" + addr, proctest.DialEnv + "=" + served.listener.Addr().String()}, env...)
		}
		m := s.add(fmt.Sprintf("worker-%d", i), "worker", s.count, own...)
		m.served = served
		s.workers = append(s.workers, m)
	}
}

// add starts a role.
func (s *system) add(name, role string, line func([]byte), env ...string) *member {
	m := &member{s: s, name: name, role: role, line: line, host: newMachine(s.t)}
	m.env = append([]string{hostEnv + "=" + string(m.host)}, env...)
	if !s.direct {
		m.link = newProxy(s.t, s.addrs[0])
	}
	m.start()
	return m
}

func (s *system) url() string { return "nats://" + strings.Join(s.addrs, ",nats://") }

func (m *member) start() {
	url := m.s.url()
	if m.link != nil {
		url = m.link.url()
	}
	m.runs++
	m.started = time.Now()
	env := append([]string{proctest.URLEnv + "=" + url, proctest.NameEnv + "=" + m.process()}, m.env...)
	if m.line != nil {
		m.proc = proctest.StartLines(m.s.t, m.role, m.line, env...)
	} else {
		m.proc = proctest.Start(m.s.t, m.role, env...)
	}
}

// process is the name of the present process.
func (m *member) process() string { return fmt.Sprintf("%s-%d", m.name, m.runs) }

// restart starts the role again if it is gone.
func (m *member) restart() {
	if m.ended() {
		m.start()
	}
}

func (m *member) ended() bool {
	select {
	case <-m.proc.Ended():
		return true
	default:
		return false
	}
}

// count takes what workers say about what they materialize.
func (s *system) count(line []byte) {
	at, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 64)
	if err != nil {
		return // cut off by a kill
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made[at]++
}

// torn is how many transfers from workers were broken off or stalled midway.
func (s *system) torn() (n int) {
	for _, m := range s.workers {
		if m.served != nil {
			n += m.served.tornOff()
		}
	}
	return n
}

// recomputed is how many executions there were beyond the first of each position.
func (s *system) recomputed() int { return s.recomputedIn(0, math.MaxUint64) }

// recomputedIn is recomputed of the positions in (from, to].
func (s *system) recomputedIn(from, to uint64) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, times := range s.made {
		if from < at && at <= to {
			n += times - 1
		}
	}
	return n
}

// connect connects to the brokers themselves, once one answers.
func (s *system) connect(ctx context.Context) (*nats.Conn, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		nc, err := client.Connect(s.url())
		if err == nil {
			return nc, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// admin calls f with JetStream on a connection of its own.
func (s *system) admin(limit time.Duration, f func(context.Context, jetstream.JetStream) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	nc, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return f(ctx, js)
}

// open opens a batcher in this process, behind a proxy of its own.
func (s *system) open(t *testing.T, cfg client.Config) (*client.Batcher[schema.Batch], *proxy) {
	t.Helper()
	var link *proxy
	url := s.url()
	if !s.direct {
		link = newProxy(t, s.addrs[0])
		url = link.url()
	}
	ctx, cancel := context.WithTimeout(t.Context(), openTimeout)
	defer cancel()
	boot, err := s.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	boot.Close()
	nc, err := client.Connect(url, nats.IgnoreDiscoveredServers())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	cfg.Name, cfg.Dataset = trainBatcher, sequenceName
	b, err := openPatiently(ctx, nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // the broker may be gone by then
	return b, link
}

// leaks waits until nothing is left of what was stopped, and says what still is.
func (s *system) leaks(limit time.Duration) (left []string) {
	err := s.admin(limit, func(ctx context.Context, js jetstream.JetStream) error {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			look, cancel := context.WithTimeout(ctx, patience) // nobody answers what is asked while there is no leader
			found, err := leftBehind(look, js)
			cancel()
			if err == nil && len(found) == 0 {
				left = nil
				return nil
			}
			if err == nil {
				left = found
			}
			select {
			case <-ctx.Done():
				return err
			case <-tick.C:
			}
		}
	})
	if err != nil {
		left = append(left, err.Error())
	}
	return left
}

func leftBehind(ctx context.Context, js jetstream.JetStream) (left []string, err error) {
	streams := js.StreamNames(ctx)
	for name := range streams.Name() {
		if _, _, ok := topology.ParseResultsStream(name); ok {
			left = append(left, "stream "+name)
		}
	}
	if err := streams.Err(); err != nil {
		return nil, err
	}
	jobs, err := js.Stream(ctx, topology.JobsStream)
	if err != nil {
		return nil, err
	}
	consumers := jobs.ConsumerNames(ctx)
	for name := range consumers.Name() {
		left = append(left, "consumer "+name)
	}
	if n := jobs.CachedInfo().State.Msgs; n > 0 {
		left = append(left, fmt.Sprintf("%d jobs", n))
	}
	return left, consumers.Err()
}

// course is a run of trainers, one after the other, from the start to the end of the data.
type course struct {
	s   *system
	cfg trainerConfig

	mu      sync.Mutex
	number  int // of the present trainer
	state   schema.State
	taken   int
	last    *trainerLine // of the present trainer; nil while it runs
	wrong   []string     // violations by any trainer
	classes map[string]int
	longest time.Duration // wait
	crew    *crew         // the ranks, in the place of one trainer; nil for none
	news    chan struct{} // something of the above changed
}

func newCourse(s *system, cfg trainerConfig) *course {
	cfg.Batcher = trainBatcher
	return &course{s: s, cfg: cfg, classes: make(map[string]int), news: make(chan struct{}, 1)}
}

// start starts a trainer at the last state that was reported, as from a checkpoint.
func (c *course) start() {
	if c.crew != nil {
		c.crew.begin()
		return
	}
	c.mu.Lock()
	c.number++
	n, cfg := c.number, c.cfg
	cfg.State, c.last = c.state, nil
	c.mu.Unlock()
	m := c.s.trainer
	if m == nil {
		m = &member{s: c.s, name: "trainer", role: "trainer"}
		if !c.s.direct {
			m.link = newProxy(c.s.t, c.s.addrs[0])
		}
		c.s.trainer = m
	}
	m.env = []string{trainerEnvOf(c.s.t, &cfg)}
	m.line = func(line []byte) { c.hear(n, line) }
	m.start()
}

func trainerEnvOf(t testing.TB, cfg *trainerConfig) string {
	t.Helper()
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return trainerEnv + "=" + string(data)
}

// hear takes a line of the trainer of that number. Of one that was replaced only what is wrong counts.
func (c *course) hear(number int, data []byte) {
	var line trainerLine
	if err := json.Unmarshal(data, &line); err != nil {
		return // cut off by a kill
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		select {
		case c.news <- struct{}{}:
		default:
		}
	}()
	if line.Violation != "" {
		c.wrong = append(c.wrong, line.Error)
		c.classes[line.Violation]++
	}
	if c.longest = max(c.longest, line.Wait); c.crew != nil {
		c.crew.hear(number, &line)
		return
	}
	if number != c.number {
		return
	}
	if line.Done || line.Error != "" {
		c.last = &line
		return
	}
	if !bytes.Equal(line.Prev.Data, c.state.Data) {
		c.wrong = append(c.wrong, fmt.Sprintf("label %d follows %v, the checkpoint is %v", line.Label, line.Prev, c.state))
		c.classes[testset.Stale]++
	}
	c.state = line.Next
	c.taken++
}

// snapshot is how far the course is.
func (c *course) snapshot() (taken int, last *trainerLine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crew != nil {
		return c.crew.taken(), c.crew.end()
	}
	return c.taken, c.last
}

// wipe removes what a broker stored. It must not run.
func (m *member) wipe() {
	if err := os.RemoveAll(filepath.Join(m.dir, "jetstream")); err != nil {
		m.s.t.Fatal(err)
	}
}
