// Package scratch makes temporary folders. One whose process was killed is removed by the next process that makes one:
// each process holds a lock on its own folder, which goes with the process, however that ends.
package scratch

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

const (
	prefix = "jetbatch-"

	// inUse is the file in a folder that its process holds a lock on.
	inUse = "in-use"

	// young is for how long a folder without that file may be one that is just being made.
	young = time.Minute
)

// Folder is a temporary folder of this process alone.
type Folder struct {
	Path string
	lock *os.File // nil where there are no locks
}

// New makes a folder with a name that says what it is for, and removes those of processes that were killed.
func New(name string) (*Folder, error) {
	sweep()
	dir, err := os.MkdirTemp("", prefix+name+"-")
	if err != nil {
		return nil, err
	}
	lock, err := hold(filepath.Join(dir, inUse), os.O_CREATE)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Folder{dir, lock}, nil
}

// Close removes the folder. Twice is fine.
func (f *Folder) Close() error {
	err := remove(f.Path)
	if err == nil && f.lock != nil {
		_ = f.lock.Close() // closed before, or of a file that is gone
	}
	return err
}

// sweep removes the folders of processes that were killed. What stays is tried by the next process.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*-*")) // the pattern is sound
	for _, dir := range left {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue // a link to what is somebody's
		}
		lock, err := hold(filepath.Join(dir, inUse), 0)
		switch {
		case err == nil:
			_ = remove(dir)
			_ = lock.Close()
		case os.IsNotExist(err):
			// Its process was killed before it made the file, or while it removed the folder: then nothing is in there.
			if info, err := os.Lstat(dir); err == nil && time.Since(info.ModTime()) > young {
				_ = os.Remove(dir)
			}
		}
	}
}

// remove removes the file that says whose folder it is last, so that whoever is killed meanwhile leaves a folder that
// the next process removes.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if e.Name() != inUse {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
