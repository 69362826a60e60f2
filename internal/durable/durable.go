// Package durable gives finished files their place, so that after a crash of the machine either all of them is there or
// nothing is.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Rename moves a file or a folder, both on one file system, once all that is in it is on the disk. When it returns, the
// new name is on the disk, too.
func Rename(from, to string) error {
	return rename(from, to, (*os.File).Sync)
}

func rename(from, to string, sync func(*os.File) error) error {
	// A file before its folder: WalkDir names folders first.
	var paths []string
	if err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) {
			paths = append(paths, path)
		}
		return err
	}); err != nil {
		return err
	}
	for i := len(paths) - 1; i >= 0; i-- {
		if err := syncPath(paths[i], sync); err != nil {
			return err
		}
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncPath(filepath.Dir(to), sync)
}

func syncPath(path string, sync func(*os.File) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = sync(f)
	if info, statErr := f.Stat(); statErr == nil && info.IsDir() && errors.Is(err, syscall.EINVAL) {
		err = nil // this file system has no such thing
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
