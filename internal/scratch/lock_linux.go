package scratch

import (
	"errors"
	"os"
	"syscall"
)

// hold opens a file and locks it, unless another process does. A link that somebody put there leads nowhere.
func hold(file string, flag int) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flag, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
