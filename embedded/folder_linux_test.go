package embedded

import (
	"os"
	"path/filepath"
	"testing"
)

// The folder of a process that was killed goes when another process starts; one that is in use stays, and so does what
// is not ours.
func TestFoldersOfKilledProcesses(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	killed, lock, err := temporary()
	if err != nil {
		t.Fatal(err)
	}
	_ = lock.Close() // as the kernel does
	used, lock, err := temporary()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() //nolint:errcheck // a lock
	other := filepath.Join(tmp, "jetbatch-data-1")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	_, last, err := temporary()
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close() //nolint:errcheck // a lock
	if _, err := os.Stat(killed); !os.IsNotExist(err) {
		t.Errorf("the folder of a killed process: %v", err)
	}
	for _, dir := range []string{used, other} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}
