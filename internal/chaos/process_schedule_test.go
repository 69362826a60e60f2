package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"

	"github.com/jetbatch/jetbatch/internal/testset"
)

// fault is one thing that goes wrong.
type fault struct {
	at     int    // batches taken, or patience after the fault before, whichever comes first
	kind   string // "role.what"
	target int    // which of that role
	hold   time.Duration
	seed   uint64 // of what else is chosen by chance
}

func (f fault) String() string {
	return fmt.Sprintf("at %d %s %d for %v", f.at, f.kind, f.target, f.hold)
}

// patience is after how long a fault comes although the trainer got nowhere since the one before.
const patience = 3 * time.Second

// schedule is what happens in one run.
type schedule struct {
	seed         uint64
	coordinators int
	workers      int
	ranks        int // that take each batch together; 1 for a trainer alone
	params       testset.Params
	faults       []fault
}

func (s schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "-chaos.seed=%d: %d coordinators, %d workers, %d ranks, %+v", s.seed, s.coordinators, s.workers, s.ranks, s.params)
	for _, f := range s.faults {
		fmt.Fprintf(&b, "\n  %v", f)
	}
	return b.String()
}

// What can happen to a role, to the broker and to what it stores. Kills are SIGKILL, pauses SIGSTOP and SIGCONT.
var (
	roleFaults = []string{
		"kill", "kill", "pause", "pause", "blackhole", "strand", "mute", "deafen", "reset", "refuse", "latency",
	}
	// What a trainer fetches from a worker, that is: the connection breaks, or stalls for good, after some bytes.
	transferFaults = []string{"tear", "choke"}

	// One rank dies or stands still, or all of them are launched again while the ones before live.
	rankFaults = []string{"kill", "kill", "pause", "pause", "usurp"}

	brokerFaults  = []string{"kill", "kill", "pause", "restart", "wipe", "truncate", "flip"}
	storeFaults   = []string{"results", "jobs", "records", "consumer", "all"}
	clusterFaults = []string{"leader", "leader", "kill", "pause", "quorum", "restart"}
)

// maxHold is above every lease and timeout that a role has, so that each runs out in some schedules.
const maxHold = 8 * time.Second

// newSchedule draws a schedule of one broker.
func newSchedule(seed uint64, batches, faults int, longest time.Duration) schedule {
	r := rand.New(rand.NewPCG(seed, 1))
	s := schedule{seed: seed, coordinators: 1 + r.IntN(2), workers: 1 + r.IntN(3)}
	together := rand.New(rand.NewPCG(seed, 5))
	s.ranks = pick(together, []int{1, 2, 4})
	s.params = testset.Params{N: uint64(batches), Salt: seed, Delay: time.Duration(1000+r.IntN(8000)) * time.Microsecond, Jitter: true, Size: 64 << r.IntN(8)}
	if r.IntN(2) == 0 {
		s.params.BigEvery, s.params.BigSize = 3+r.Uint64N(27), 1300<<10 // three chunks
	}
	if r.IntN(3) == 0 {
		s.params.HoleEvery = 17
	}
	at := 0
	for range faults {
		at += 1 + r.IntN(2*batches/(faults+1))
		f := fault{at: min(at, batches-10), hold: holdTime(r, longest), seed: r.Uint64()}
		switch r.IntN(12) {
		case 0, 1:
			f.kind, f.target = "worker."+pick(r, roleFaults), r.IntN(s.workers)
			switch k := r.IntN(8); {
			case k == 0:
				f.kind = "worker.drain"
			case k < 6 && s.params.BigEvery > 0:
				f.kind = "worker." + pick(r, transferFaults)
			}
		case 2, 3:
			f.kind, f.target = "coordinator."+pick(r, roleFaults), r.IntN(s.coordinators)
		case 4, 5:
			f.kind = "trainer." + pick(r, append([]string{"usurp"}, roleFaults...))
		case 6:
			f.kind = "broker." + pick(r, brokerFaults)
		case 7:
			f.kind = "store." + pick(r, storeFaults)
		case 8, 9, 10:
			f.kind, f.target = "worker."+string(pick(r, workerAilments)), r.IntN(s.workers)
		case 11:
			f.kind, f.target = "coordinator."+string(pick(r, coordinatorAilments)), r.IntN(s.coordinators)
		}
		if s.ranks > 1 {
			if together.IntN(3) == 0 {
				f.kind = "trainer." + pick(together, rankFaults)
			}
			if strings.HasPrefix(f.kind, "trainer.") {
				f.target = together.IntN(s.ranks)
			}
		}
		if rightData(s.params) == "" { // nobody could tell
			f.kind = strings.ReplaceAll(f.kind, string(staleCopy), string(mountAway))
		}
		s.faults = append(s.faults, f)
	}
	return s
}

// newClusterSchedule draws one for a cluster of three brokers.
func newClusterSchedule(seed uint64, batches, faults int, longest time.Duration) schedule {
	r := rand.New(rand.NewPCG(seed, 3))
	s := schedule{seed: seed, coordinators: 2, workers: 2, ranks: 1}
	s.params = testset.Params{N: uint64(batches), Salt: seed, Delay: 2 * time.Millisecond, Jitter: true}
	at := 0
	for range faults {
		at += 1 + r.IntN(2*batches/(faults+1))
		s.faults = append(s.faults, fault{
			at: min(at, batches-10), kind: "cluster." + pick(r, clusterFaults), target: r.IntN(3), hold: holdTime(r, longest), seed: r.Uint64(),
		})
	}
	return s
}

// holdTime is short mostly, and often enough past every lease.
func holdTime(r *rand.Rand, longest time.Duration) time.Duration {
	h := min(longest, 1500*time.Millisecond)
	if r.IntN(3) == 0 {
		h = longest
	}
	return (time.Duration(r.Int64N(int64(h))) + 50*time.Millisecond).Round(10 * time.Millisecond)
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// inject makes the fault happen and returns what ends it.
func (c *course) inject(f fault) (heal func(), err error) {
	role, what, _ := strings.Cut(f.kind, ".")
	r := rand.New(rand.NewPCG(f.seed, 2))
	switch role {
	case "worker":
		if slices.Contains(workerAilments, ailment(what)) {
			return c.sicken(c.s.workers[f.target], ailment(what))
		}
		if m := c.s.workers[f.target]; slices.Contains(transferFaults, what) {
			m.served.set(network{most: 1 + r.IntN(c.cfg.Params.BigSize), stall: what == "choke"})
			return func() { m.served.set(network{}) }, nil
		}
		return c.disturb(c.s.workers[f.target], what)
	case "coordinator":
		if slices.Contains(coordinatorAilments, ailment(what)) {
			return c.sicken(c.s.coordinators[f.target], ailment(what))
		}
		return c.disturb(c.s.coordinators[f.target], what)
	case "trainer":
		if c.crew != nil {
			return c.crew.disturb(c.crew.victim(f.target), what)
		}
		return c.disturb(c.s.trainer, what)
	case "broker":
		return c.breakBroker(c.s.brokers[0], what, r)
	case "store":
		return func() {}, c.s.loseStore(what)
	case "cluster":
		return c.breakCluster(what, f.target, r)
	}
	return nil, fmt.Errorf("no fault %q", f.kind)
}

func (c *course) disturb(m *member, what string) (heal func(), err error) {
	through := func(n network) (func(), error) {
		m.link.set(n)
		return func() { m.link.set(network{}) }, nil
	}
	again := m.restart
	switch {
	case m.role == "trainer" && c.crew != nil:
		again = func() {} // it is started when the others are there
	case m == c.s.trainer:
		again = func() {
			if m.ended() {
				c.start()
			}
		}
	}
	switch proc := m.proc; what {
	case "kill":
		proc.Kill()
		return again, nil
	case "drain":
		proc.Resume()
		m.link.set(network{})
		proc.Terminate()
		return again, nil
	case "pause":
		proc.Pause()
		return proc.Resume, nil
	case "usurp": // another trainer takes over from one that is paused and wakes later
		proc.Pause()
		c.start()
		return proc.Resume, nil
	case "blackhole":
		return through(blackHole)
	case "mute":
		return through(network{up: true})
	case "deafen":
		return through(network{down: true})
	case "latency":
		return through(network{latency: 30 * time.Millisecond})
	case "refuse":
		m.link.reset()
		return through(network{refuse: true})
	case "reset":
		m.link.reset()
		return func() {}, nil
	case "strand":
		m.link.strand()
		return func() {}, nil
	}
	return nil, fmt.Errorf("no fault %q of a role", what)
}

func (c *course) breakBroker(m *member, what string, r *rand.Rand) (heal func(), err error) {
	switch what {
	case "pause":
		m.proc.Pause()
		return m.proc.Resume, nil
	case "restart":
		m.proc.Resume()
		m.proc.Terminate()
		return m.restart, nil
	}
	m.proc.Kill()
	switch what {
	case "kill":
	case "wipe":
		m.wipe()
	case "truncate":
		err = damage(m.dir, r, func(file string, size int64) error { return os.Truncate(file, r.Int64N(size)) })
	case "flip":
		err = damage(m.dir, r, func(file string, size int64) error { return flip(file, r.Int64N(size), byte(1<<r.IntN(8))) })
	default:
		err = fmt.Errorf("no fault %q of a broker", what)
	}
	return m.restart, err
}

// damage calls f for some of the files that a broker left.
func damage(dir string, r *rand.Rand, f func(file string, size int64) error) error {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	for range min(1+r.IntN(3), len(files)) {
		file := files[r.IntN(len(files))]
		info, statErr := os.Stat(file)
		if err = errors.Join(err, statErr); err != nil || info.Size() == 0 {
			continue
		}
		err = f(file, info.Size())
	}
	return err
}

// flip changes one bit of a file.
func flip(file string, at int64, bit byte) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	data[at] ^= bit
	return os.WriteFile(file, data, 0o600)
}

// loseStore deletes from a running broker what the service keeps there.
func (s *system) loseStore(what string) error {
	err := s.admin(patience, func(ctx context.Context, js jetstream.JetStream) error {
		if what == "consumer" {
			return deleteConsumers(ctx, js)
		}
		names := js.StreamNames(ctx)
		for name := range names.Name() {
			_, _, results := topology.ParseResultsStream(name)
			if what == "all" || what == "results" && results || what == "jobs" && name == topology.JobsStream ||
				what == "records" && name == topology.BucketStream {
				if err := js.DeleteStream(ctx, name); err != nil {
					return err
				}
			}
		}
		return names.Err()
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil // a re-seat was faster
	}
	return err
}

func deleteConsumers(ctx context.Context, js jetstream.JetStream) error {
	jobs, err := js.Stream(ctx, topology.JobsStream)
	if err != nil {
		return err
	}
	names := jobs.ConsumerNames(ctx)
	for name := range names.Name() {
		if err := jobs.DeleteConsumer(ctx, name); err != nil {
			return err
		}
	}
	return names.Err()
}
