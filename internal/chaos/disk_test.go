package chaos

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// smallDisk mounts a file system of 16 MiB until the test ends.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: a full disk; mounting a small one takes root: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fill leaves no byte on the disk, and returns what makes room again.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // the disk is full on purpose
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// healthz asks a server what the probes of deploy/ ask it.
func healthz(t *testing.T, monitor string) (status int, said string) {
	t.Helper()
	resp, err := http.Get("http://" + monitor + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is read whole
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A broker whose disk is full stores nothing more. Take says so, and when there is room again nothing was lost.
func TestDiskFull(t *testing.T) {
	onlyAtScale(t)
	t.Parallel()
	dir := smallDisk(t)
	s := &system{t: t, made: make(map[uint64]int)}
	monitor := proctest.FreeAddr(t)
	s.addBroker(proctest.ServerConfig{Addr: proctest.FreeAddr(t), Dir: dir, Name: "broker", MaxStore: 64 << 20, Monitor: monitor})
	s.populate(1, 1)
	p := testset.Params{Delay: time.Millisecond, Jitter: true}
	b, _ := s.open(t, client.Config{Params: p, Window: 8})
	o := newOracle(p, schema.State{})
	takes(t, b, o, 50)
	empty := fill(t, dir)
	if what := waited(t, b, o, 10*time.Second); !strings.Contains(what, "no room on its disk") {
		t.Errorf("after %d batches: waited for %q, which does not say that the broker stores nothing", o.Taken, what)
	}
	empty()
	// The server gives JetStream up when its disk is full, until it is started again. The probes that ship ask /healthz.
	if status, said := healthz(t, monitor); status != http.StatusServiceUnavailable || !strings.Contains(said, "write error") {
		t.Errorf("/healthz: %d %s; want the write error", status, said)
	}
	s.brokers[0].proc.Terminate()
	s.brokers[0].restart()
	takes(t, b, o, 50)
}
