package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
)

// otherDataError says that this machine has other parameters or data than those that the run was begun on. A batch that
// it made would be of another sequence.
type otherDataError struct {
	dataset     string
	differences []string // from the run's
}

func (e *otherDataError) Error() string {
	return fmt.Sprintf("has other data of %s than the run: %s", e.dataset, strings.Join(e.differences, "; "))
}

// machineError is a failure for a reason of this machine, which says nothing of the job: the data set could not be
// opened, although the coordinator has opened it, or what it is read from is not to be had here.
type machineError struct {
	dataset string
	cause   error
}

func (e *machineError) Error() string {
	var other *otherDataError
	if errors.As(e.cause, &other) {
		return other.Error()
	}
	return fmt.Sprintf("cannot open %s: %s", e.dataset, lacks(e.cause))
}

func (e *machineError) Unwrap() error { return e.cause }

// lacks says what a machine lacks.
func lacks(err error) string {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return err.Error()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("%s: %v", path.Path, path.Err)
	}
	if folder := missing(path.Path); folder != path.Path || filepath.Ext(folder) == "" {
		return "no such folder " + folder
	}
	return "no such file " + path.Path
}

// missing is the highest part of an absolute path that is not there.
func missing(path string) string {
	if !filepath.IsAbs(path) {
		return path
	}
	for above := filepath.Dir(path); above != path; above = filepath.Dir(above) {
		if _, err := os.Stat(above); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return path
		}
		path = above
	}
	return path
}

// ofMachine reports whether code of a data set that is open failed for want of something that another machine may have:
// space, descriptors, a mount that went away, or the permission to read it. A file alone that is missing may be missing
// everywhere: another worker finds out.
func ofMachine(err error) bool {
	if _, skip := dataset.SkipReason(err); skip {
		return false
	}
	for _, cause := range []error{
		kind.ErrUnopened,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EMFILE, syscall.ENFILE,
		syscall.ESTALE, syscall.ENOTCONN, syscall.ENODEV, syscall.EHOSTDOWN,
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	var path *fs.PathError
	if !errors.As(err, &path) || !filepath.IsAbs(path.Path) ||
		!errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return false
	}
	// A mount that is away leaves an empty folder, or none. A folder with other files in it has lost one.
	folder, err := os.Open(filepath.Dir(path.Path))
	if err != nil {
		return true
	}
	defer folder.Close()
	_, err = folder.Readdirnames(1)
	return err != nil
}
