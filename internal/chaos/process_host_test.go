package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/testset"
)

// hostEnv names the folder that is the machine of a role.
const hostEnv = "JETBATCH_CHAOS_HOST"

// machine is the folder that a role's process has for a machine: a mount with the data set in it, and a disk that
// batches are made on. What is wrong with it is wrong with its files, so that the errors are the kernel's.
type machine string

// What a machine has, and what a stale copy of it has.
const (
	newData = "93" // as rightData says
	oldData = "90"
)

func newMachine(t testing.TB) machine {
	t.Helper()
	m := machine(t.TempDir())
	if err := errors.Join(os.Mkdir(m.mount(), 0o700), m.provide(newData)); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m machine) mount() string { return filepath.Join(string(m), "mount") }
func (m machine) data() string  { return filepath.Join(m.mount(), "data") }
func (m machine) cache() string { return filepath.Join(string(m), "cache") }
func (m machine) slow() string  { return filepath.Join(string(m), "slow") }

// provide puts data into the mount.
func (m machine) provide(data string) error { return os.WriteFile(m.data(), []byte(data), 0o600) }

// definition is the data set as the machine has it. made is told of each job that begins; nil for no one.
func (m machine) definition(made func(testset.Job) error) dataset.Definition {
	return testset.Define(sequenceName, &testset.Hooks{
		Open: func(context.Context, testset.Params) error {
			_, err := os.ReadFile(m.data())
			return err
		},
		Data: func(p testset.Params) string {
			data, err := os.ReadFile(m.data())
			switch {
			case rightData(p) == "": // a data set without a fingerprint, of which no stale copy is drawn
				return ""
			case err != nil:
				return err.Error() // it went away since Open
			}
			return string(data)
		},
		Materialize: func(ctx context.Context, _ testset.Params, j testset.Job) error {
			if made != nil {
				if err := made(j); err != nil {
					return err
				}
			}
			if _, err := os.ReadFile(m.data()); err != nil {
				return err
			}
			if err := os.WriteFile(m.cache(), fmt.Append(nil, j.At), 0o600); err != nil {
				return err
			}
			return m.dawdle(ctx)
		},
	})
}

// dawdle waits for as long as the machine is slow.
func (m machine) dawdle(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(m.slow()); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// What can be wrong with a machine. Coordinators make no batches, so a full disk and slowness are nothing to them; what
// their data are is what a run is of that begins there.
var (
	workerAilments      = []ailment{mountAway, diskFull, staleCopy, slowHost}
	coordinatorAilments = []ailment{mountAway}
)

// ail makes a machine ill and returns what mends it.
func (m machine) ail(what ailment) (mend func() error, err error) {
	switch what {
	case mountAway:
		away := m.mount() + ".away"
		return func() error { return os.Rename(away, m.mount()) }, os.Rename(m.mount(), away)
	case diskFull: // writes to it fail with ENOSPC, for root as well
		if err := os.Remove(m.cache()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return func() error { return os.Remove(m.cache()) }, os.Symlink("/dev/full", m.cache())
	case staleCopy:
		return func() error { return m.provide(newData) }, m.provide(oldData)
	case slowHost:
		return func() error { return os.Remove(m.slow()) }, os.WriteFile(m.slow(), nil, 0o600)
	}
	return nil, fmt.Errorf("no ailment %q", what)
}

// sicken makes the machine of a member ill. What a process has opened it goes on with, so a stale copy or a mount that
// is away is met by one that starts.
func (c *course) sicken(m *member, what ailment) (heal func(), err error) {
	if m.ails != "" {
		return nil, fmt.Errorf("%s is ill: %s", m.name, m.ails)
	}
	mend, err := m.host.ail(what)
	if err != nil {
		return nil, err
	}
	m.ails = what
	if what == staleCopy || what == mountAway && m.role == "coordinator" {
		m.proc.Kill()
		<-m.proc.Ended()
		m.start()
	}
	return func() {
		m.ails = ""
		if err := mend(); err != nil {
			c.s.t.Errorf("%s of %s does not end: %v", what, m.name, err)
		}
	}, nil
}

// A run goes on beside a machine that is ill from its first job to its last, while another is whole.
func TestRunGoesOnBesideAnIllMachine(t *testing.T) {
	t.Parallel()
	for _, what := range workerAilments {
		t.Run(string(what), func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, 2, 2)
			p := testset.Params{N: 40, Salt: 2, Delay: time.Millisecond, Jitter: true}
			c := newCourse(s, trainerConfig{Params: p})
			if _, err := c.sicken(s.workers[0], what); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(coordinatorAilments, what) {
				if _, err := c.sicken(s.coordinators[0], what); err != nil {
					t.Fatal(err)
				}
			}
			plan := schedule{params: p}
			c.run(plan).check(t, plan)
		})
	}
}
