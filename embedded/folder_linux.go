package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// inUse is the file in a temporary folder that its process holds a lock on. The lock goes with the process, however
// that ends.
const inUse = "in-use"

// temporary makes a folder for the server's records, and removes those of processes that were killed.
func temporary() (dir string, lock *os.File, err error) {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "jetbatch-*", inUse)) // the pattern is sound
	for _, file := range left {
		if lock, err := hold(file, 0); err == nil {
			_ = os.RemoveAll(filepath.Dir(file)) // what stays is tried by the next process
			_ = lock.Close()
		}
	}
	if dir, err = os.MkdirTemp("", "jetbatch-"); err != nil {
		return "", nil, err
	}
	if lock, err = hold(filepath.Join(dir, inUse), os.O_CREATE); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, lock, nil
}

// hold opens a file and locks it, unless another process does.
func hold(file string, flag int) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|flag, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
