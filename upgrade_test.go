package jetbatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// overview is what a coordinator says of all that it knows; false when none answers.
func (c *cluster) overview(nc *nats.Conn) (o wire.Overview, ok bool) {
	m, err := nc.RequestWithContext(within(c.t), wire.CoordinatorPrefix+".overview", nil)
	return o, err == nil && json.Unmarshal(m.Data, &o) == nil
}

// serving returns the live workers of a kind and what they made together.
func (c *cluster) serving(nc *nats.Conn, kind string) (workers int, done uint64) {
	o, _ := c.overview(nc)
	for _, w := range o.Workers {
		if slices.Contains(w.Kinds, kind) {
			workers++
			done += w.Done
		}
	}
	return workers, done
}

// Workers of two versions of a data set, and one of a wire version that nobody knows, side by side: each runs what it
// understands and nothing else, and who waits for whom can be seen.
func TestVersionSkew(t *testing.T) {
	t.Parallel()
	old, next, unknown := wire.KindToken("numbers", 1), wire.KindToken("numbers", 2), "numbers-v1-w99"
	c := startCluster(t, 0)
	newer := c.start("worker-v2")
	beat, err := json.Marshal(schema.WorkerStatus{Worker: "from-the-future", Kinds: []string{unknown}, Slots: 4})
	if err != nil {
		t.Fatal(err)
	}
	nc := c.connect()
	eventually(t, "the coordinator hears both", func() bool {
		if err := nc.Publish(wire.WorkerPrefix+".from-the-future", beat); err != nil {
			t.Fatal(err)
		}
		a, _ := c.serving(nc, next)
		b, _ := c.serving(nc, unknown)
		return a == 1 && b == 1
	})

	// Nobody serves version 1 yet. The others take nothing, and the wait has a name.
	p := testset.Params{}
	b := c.open("train", p, func(cfg *client.Config) { cfg.Window = 8 })
	if err := b.Start(within(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the batcher waits for a worker of version 1", func() bool {
		s, err := b.Status(within(t))
		return err == nil && s.Fed > 0 && s.Workers == 0 && strings.Contains(s.Waiting, wire.KindName(old))
	})

	// Upgraded half way: both versions are up, and the run goes on with the old one alone.
	c.start("worker")
	o := newOracle(t, p, schema.State{})
	o.take(b, 60)
	if _, done := c.serving(nc, next); done != 0 {
		t.Fatalf("workers of version 2 ran %d jobs of version 1", done)
	}

	// The old run ends, and all coordinators are replaced. The old worker is still there and has nothing to do.
	if err := b.Stop(within(t)); err != nil {
		t.Fatal(err)
	}
	c.coordinators[0].Terminate()
	c.start("coordinator-v2")
	eventually(t, "the new coordinator hears all", func() bool {
		o, ok := c.overview(nc)
		return ok && slices.Equal(o.Kinds, []string{next}) && len(o.Workers) >= 2
	})
	_, before := c.serving(nc, old)
	b = c.open("after", p)
	for state, n := (schema.State{}), 0; n < 60; n++ {
		step, err := b.Take(within(t), state)
		if err != nil {
			t.Fatal(err)
		}
		if state = step.Next; state.Version != 2 {
			t.Fatalf("state %v, want one of version 2", state)
		}
	}
	eventually(t, "the new worker counts what it made", func() bool {
		_, done := c.serving(nc, next)
		return done >= 60
	})
	if _, after := c.serving(nc, old); after != before {
		t.Fatalf("workers of version 1 ran %d jobs of version 2", after-before)
	}
	newer.Terminate()
}

// Not t.Parallel: it says how long a trainer may be kept waiting.
//
// Every worker and every coordinator is replaced, one by one, each told to stop when its successor is up. No batch is
// lost or differs, and none comes later than the lease.
func TestRollingReplacement(t *testing.T) {
	c := startCluster(t, 2)
	var workers []*proctest.Process
	for range 2 {
		workers = append(workers, c.start("worker"))
	}
	nc, kind := c.connect(), wire.KindToken("numbers", 1)
	// fleet waits until so many workers serve.
	fleet := func(n int) {
		t.Helper()
		eventually(t, "the workers are there", func() bool {
			serving, _ := c.serving(nc, kind)
			return serving == n
		})
	}
	fleet(4)
	p := testset.Params{Delay: 5 * time.Millisecond}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	var longest time.Duration
	take := func(n int) {
		t.Helper()
		for range n {
			longest = max(longest, o.one(b).Timing.Wait)
		}
	}
	take(50)
	longest = 0 // of starting
	// retire ends a role and takes until it has ended, and then some.
	retire := func(p *proctest.Process) {
		t.Helper()
		p.Retire()
		for ended := false; !ended; {
			select {
			case <-p.Ended():
				ended = true
			default:
				take(5)
			}
		}
		take(50)
	}
	for _, w := range workers {
		c.start("worker")
		take(20)
		retire(w)
	}
	for range 2 {
		before := c.coordinators[len(c.coordinators)-1]
		c.start("coordinator")
		take(100)
		retire(before)
	}
	take(100)
	if longest > coordinator.DefaultLease {
		t.Fatalf("a batch came after %v, later than the lease of %v", longest, coordinator.DefaultLease)
	}
	t.Logf("%d batches; the longest wait was %v", o.Taken, longest)
	if s, err := b.Status(within(t)); err != nil || s.Restarts != 0 {
		t.Fatalf("status %+v, %v: want a run that never began again", s, err)
	}
}

// lastRelease is what runs beside the working tree: a tag or a commit. Nothing is tagged yet, so it is the last commit
// of wire version 1, whose digests of large payloads are others than today's.
const lastRelease = "75e15b4d56f76d091138c3ce79e4cfe7e8a9862b"

// release is an earlier state of this repository, built.
type release struct {
	roles   string // its test binary, which runs roles with the data set numbers
	command string // jetbatch
	wire    int    // the version that it speaks
}

// buildLastRelease builds lastRelease in a folder of its own.
func buildLastRelease(t *testing.T) release {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "cat-file", "-e", lastRelease+"^{commit}").CombinedOutput()
	if err != nil {
		t.Skipf("the last release, %s, is not here (a shallow clone, or none): %v %s", lastRelease, err, out)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		if name != "git" {
			cmd.Dir = dir
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
		return out
	}
	archive := filepath.Join(dir, "release.tar")
	run("git", "archive", "--format=tar", "--output="+archive, lastRelease)
	run("tar", "-xf", archive)
	r := release{roles: filepath.Join(dir, "roles.test"), command: filepath.Join(dir, "jetbatch.bin")}
	run("go", "test", "-c", "-o", r.roles, ".")
	run("go", "build", "-o", r.command, "./cmd/jetbatch")
	var version struct {
		Wire int `json:"wire"`
	}
	if err := json.Unmarshal(run(r.command, "version", "--json"), &version); err != nil || version.Wire == 0 {
		t.Fatalf("the last release does not say which wire version it speaks: %v", err)
	}
	r.wire = version.Wire
	return r
}

// startOld starts a role of the last release.
func (c *cluster) startOld(r release, role string) *proctest.Process {
	c.t.Helper()
	cmd := exec.Command(r.roles)
	cmd.Env = append(os.Environ(), proctest.RoleEnv+"="+role, proctest.URLEnv+"="+c.url())
	return proctest.StartCommand(c.t, cmd)
}

// trainOld starts the trainer of the last release, for so many batches of more than one block of a digest.
func (c *cluster) trainOld(r release, name string, batches int) *proctest.Process {
	c.t.Helper()
	return proctest.StartCommand(c.t, exec.Command(r.command, "take", "--server", c.url(), "--name", name,
		"--dataset", "numbers", "--params", `{"n":0,"size":50000}`, "--batches", strconv.Itoa(batches)))
}

// TestBesideLastRelease runs roles of the last release beside today's. Where both speak one wire version they are one
// service. Where not, neither touches what is the other's, and each says why.
func TestBesideLastRelease(t *testing.T) {
	t.Parallel()
	old := buildLastRelease(t)
	oldKind, kind := fmt.Sprintf("numbers-v1-w%d", old.wire), wire.KindToken("numbers", 1)
	p := testset.Params{Size: 50000}
	if old.wire == wire.Version {
		c := startCluster(t, 0)
		c.startOld(old, "worker")
		newOracle(t, p, schema.State{}).take(c.open("train", p), 40)
		return
	}
	t.Run("coordinator of today", func(t *testing.T) {
		t.Parallel()
		c := startCluster(t, 0)
		c.startOld(old, "worker")
		nc := c.connect()
		eventually(t, "the coordinator hears the old worker", func() bool {
			workers, _ := c.serving(nc, oldKind)
			return workers == 1
		})
		trainer := c.trainOld(old, "old", 1)
		says := fmt.Sprintf("the trainer speaks wire version %d and coordinator", old.wire)
		eventually(t, "the old trainer says why it waits", func() bool { return strings.Contains(trainer.Log(), says) })

		b := c.open("train", p)
		if err := b.Start(within(t), schema.State{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the run waits for a worker of its version", func() bool {
			s, err := b.Status(within(t))
			return err == nil && s.Fed > 0 && s.Workers == 0 && strings.Contains(s.Waiting, wire.KindName(kind))
		})
		c.start("worker")
		newOracle(t, p, schema.State{}).take(b, 40)
		if _, done := c.serving(nc, oldKind); done != 0 {
			t.Fatalf("the old worker ran %d jobs", done)
		}
	})
	t.Run("coordinator of the last release", func(t *testing.T) {
		t.Parallel()
		c := startEmpty(t)
		coordinator := c.startOld(old, "coordinator")
		c.startOld(old, "worker")
		worker := c.start("worker")
		nc := c.connect()
		eventually(t, "the coordinator hears both workers", func() bool {
			a, _ := c.serving(nc, oldKind)
			b, _ := c.serving(nc, kind)
			return a == 1 && b == 1
		})
		trainer := c.trainOld(old, "old", 40)
		select {
		case <-trainer.Ended():
		case <-within(t).Done():
			t.Fatalf("the old trainer still takes:\n%s", trainer.Tail())
		}
		if !strings.Contains(trainer.Log(), "40 batches") {
			t.Fatalf("the old trainer did not take 40 batches:\n%s", trainer.Tail())
		}
		if _, done := c.serving(nc, kind); done != 0 {
			t.Fatalf("today's worker ran %d jobs of the old run", done)
		}
		eventually(t, "today's worker says that it leaves jobs to others", func() bool {
			return strings.Contains(worker.Log(), "jobs of another wire version") && strings.Contains(worker.Log(), oldKind)
		})
		refused := func(says string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			cfg := client.Config{Name: "train", Dataset: "numbers", Params: p, Logger: slog.New(slog.DiscardHandler)}
			_, err := client.Open[schema.Batch](ctx, nc, cfg)
			if !errors.Is(err, client.ErrUnavailable) || !strings.Contains(err.Error(), says) {
				t.Fatalf("Open: %v; want that it says %q", err, says)
			}
		}
		refused(fmt.Sprintf("the batcher's coordinator speaks wire version %d and this trainer %d", old.wire, wire.Version))
		coordinator.Terminate()
		c.start("coordinator")
		eventually(t, "today's coordinator hears the worker", func() bool {
			n, _ := c.serving(nc, kind)
			return n == 1
		})
		refused(fmt.Sprintf("the record of batcher train is of wire version %d", old.wire))
	})
}
