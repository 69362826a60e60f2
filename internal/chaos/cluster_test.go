package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/topology"
)

const clusterSize = 3

// newCluster starts three brokers, with bucket and jobs on all of them, and roles that know all three.
func newCluster(t testing.TB, coordinators, workers int) *system {
	t.Helper()
	s := &system{t: t, made: make(map[uint64]int), direct: true}
	cfgs := make([]proctest.ServerConfig, clusterSize)
	var routes []string
	for i := range cfgs {
		cfgs[i] = proctest.ServerConfig{
			Addr: proctest.FreeAddr(t), Dir: t.TempDir(), Name: fmt.Sprintf("broker-%d", i), Cluster: proctest.FreeAddr(t),
		}
		routes = append(routes, cfgs[i].Cluster)
	}
	for _, cfg := range cfgs {
		cfg.Routes = routes
		s.addBroker(cfg)
	}
	s.populate(coordinators, workers, proctest.ReplicasEnv+"=3")
	return s
}

// leader is the broker that leads a stream, or the first if nobody says.
func (s *system) leader(name string) (m *member) {
	m = s.brokers[0]
	_ = s.admin(patience, func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		if c := stream.CachedInfo().Cluster; c != nil {
			for i, b := range s.brokers {
				if c.Leader == fmt.Sprintf("broker-%d", i) {
					m = b
				}
			}
		}
		return nil
	})
	return m
}

// consumerLeader is the broker that delivers the jobs of the only generation there is.
func (s *system) consumerLeader(t *testing.T) (m *member) {
	err := s.admin(patience, func(ctx context.Context, js jetstream.JetStream) error {
		jobs, err := js.Stream(ctx, topology.JobsStream)
		if err != nil {
			return err
		}
		consumers := jobs.ListConsumers(ctx)
		for info := range consumers.Info() {
			for i, b := range s.brokers {
				if info.Cluster != nil && info.Cluster.Leader == fmt.Sprintf("broker-%d", i) {
					m = b
				}
			}
		}
		return consumers.Err()
	})
	if err != nil || m == nil {
		t.Fatalf("no server delivers jobs: %v", err)
	}
	return m
}

func (c *course) breakCluster(what string, target int, r *rand.Rand) (heal func(), err error) {
	m := c.s.brokers[target]
	switch what {
	case "leader":
		m = c.s.leader(topology.BucketStream)
		if r.IntN(2) == 0 {
			m.proc.Pause()
			return m.proc.Resume, nil
		}
		m.proc.Kill()
		return m.restart, nil
	case "kill":
		m.proc.Kill()
		return m.restart, nil
	case "pause":
		m.proc.Pause()
		return m.proc.Resume, nil
	case "restart":
		m.proc.Resume()
		m.proc.Terminate()
		return m.restart, nil
	case "quorum": // one is left
		other := c.s.brokers[(target+1)%clusterSize]
		m.proc.Kill()
		other.proc.Kill()
		return func() { m.restart(); other.restart() }, nil
	}
	return nil, fmt.Errorf("no fault %q of a cluster", what)
}

// The same with a cluster of three brokers, one of which may lead, or two of which fail.
func TestClusterSchedules(t *testing.T) {
	t.Parallel()
	f := newFigures("cluster")
	t.Cleanup(f.print)
	for _, seed := range seeds(scale(1, 4, 20)) {
		plan := newClusterSchedule(seed, scale(100, 500, 500), scale(1, 5, 5), scale(time.Second, maxHold, maxHold))
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			t.Log(plan)
			s := newCluster(t, plan.coordinators, plan.workers)
			o := newCourse(s, trainerConfig{Params: plan.params}).run(plan)
			o.check(t, plan)
			f.add(o)
		})
	}
}
