package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/jetbatch/jetbatch/internal/durable"
	"github.com/jetbatch/jetbatch/schema"
)

// startToken is what stands for the data set's first state where a state can be given.
const startToken = "start"

// loadState reads a state from a file; a file that is not there, or says start, is the zero state. One that is empty is
// not: it may have been a state before the disk was full.
func loadState(path string) (schema.State, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return schema.State{}, nil
	}
	if err != nil {
		return schema.State{}, fmt.Errorf("%w: state file: %w", errUsage, err)
	}
	var state schema.State
	switch string(bytes.TrimSpace(data)) {
	case startToken:
		return state, nil
	case "":
		return state, fmt.Errorf("%w: state file %s is empty; to begin at the first state delete it, or write %q into it",
			errUsage, path, startToken)
	}
	if err := state.UnmarshalText(data); err != nil {
		return schema.State{}, fmt.Errorf("state file %s: %w", path, err)
	}
	return state, nil
}

// checkStateFile reports at once why a state could not be saved later: there is no folder, or no right to write there.
func checkStateFile(path string) error {
	path, err := stateTarget(path)
	if err != nil {
		return fmt.Errorf("%w: state file: %w", errUsage, err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%w: the state could not be saved: %w", errUsage, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = createBeside(path); err == nil {
			defer os.Remove(f.Name())
		}
	}
	if err != nil {
		return fmt.Errorf("%w: the state could not be saved: %w", errUsage, err)
	}
	return f.Close()
}

// stateTarget is the file that path is, or is a link to, whether it is there or not.
func stateTarget(path string) (string, error) {
	const most = 32 // links; more are a circle
	for range most {
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", fmt.Errorf("%s: more than %d links", path, most)
}

// createBeside makes a new file in the folder of path.
func createBeside(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
}

// saveState replaces the file in one step.
func saveState(path string, state schema.State) error {
	text, err := state.MarshalText()
	if err == nil {
		err = replaceFile(path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("state not saved: %w", err)
	}
	return nil
}

// replaceFile replaces a file in one step, so that after a crash it has the content before or this one, whole. A link
// stays a link, and a file keeps its mode; mode is that of a new one. A file that cannot be replaced, since it alone is
// mounted, or is a device or a pipe, is written into.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	before, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if before != nil && !before.IsDir() && !before.Mode().IsRegular() {
		return os.WriteFile(path, data, 0) // what /dev/stdout leads to has no name of its own
	}
	if path, err = stateTarget(path); err != nil {
		return err
	}
	f, err := createBeside(path)
	if err != nil {
		if before != nil {
			return overwrite(path, data) // the folder is not for this user to write to, the file is
		}
		return err
	}
	if before != nil {
		mode = before.Mode().Perm()
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = durable.Rename(f.Name(), path)
		if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
			err = overwrite(path, data)
			_ = os.Remove(f.Name()) // it has served
			return err
		}
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error that matters is the one before
	}
	return err
}

// overwrite writes into the file that is there. It is never empty: after a crash it has the content before, this one,
// or one whose checksum does not match.
func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	return errors.Join(err, f.Sync(), f.Close())
}
