package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jetbatch/jetbatch/schema"
)

// loadState reads a state from a file; a file that is not there is the zero state.
func loadState(path string) (schema.State, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return schema.State{}, nil
	}
	if err != nil {
		return schema.State{}, fmt.Errorf("state file: %w", err)
	}
	var state schema.State
	if err := state.UnmarshalText(data); err != nil {
		return schema.State{}, fmt.Errorf("state file %s: %w", path, err)
	}
	return state, nil
}

// saveState replaces the file in one step, so that whoever reads it after a crash finds the state before or this one,
// whole.
func saveState(path string, state schema.State) (err error) {
	text, err := state.MarshalText()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("state not saved: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error that matters is the one before
	}
	return err
}
