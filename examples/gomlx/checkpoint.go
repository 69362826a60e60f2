package main

import (
	"bufio"
	"encoding/gob"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"

	"github.com/jetbatch/jetbatch/schema"
)

// Checkpoint is all that a run needs to go on, in one file: model and data can never be of different steps.
type Checkpoint struct {
	Steps int
	Data  schema.State // where the data go on; it says nothing of how many ranks there are
	Curve Curve
	Paths []string // of the variables, whose tensors follow in the file

	variables map[string]*tensors.Tensor
}

// LoadVariable gives a model.Store the value of a variable when the graph that uses it is built.
func (c *Checkpoint) LoadVariable(_ *model.Store, path string) (*tensors.Tensor, bool) {
	t, ok := c.variables[path]
	return t, ok
}

// DeleteVariable forgets a value.
func (c *Checkpoint) DeleteVariable(_ *model.Store, path string) error {
	delete(c.variables, path)
	return nil
}

// Load reads a file; none is the beginning of a run.
func (c *Checkpoint) Load(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := gob.NewDecoder(bufio.NewReader(f))
	if err := in.Decode(c); err != nil {
		return err
	}
	c.variables = map[string]*tensors.Tensor{}
	for _, p := range c.Paths {
		if c.variables[p], err = tensors.GobDeserialize(in); err != nil {
			return err
		}
	}
	return nil
}

// Save writes a file with the variables of n.
func (c *Checkpoint) Save(path string, n *Network) error {
	c.Paths = nil
	variables := n.variables()
	for _, v := range variables {
		c.Paths = append(c.Paths, v.Path())
	}
	return replace(path, func(w io.Writer) error {
		out := gob.NewEncoder(w)
		if err := out.Encode(c); err != nil {
			return err
		}
		for _, v := range variables {
			value, err := v.Value()
			if err != nil {
				return err
			}
			if err := value.GobSerialize(out); err != nil {
				return err
			}
		}
		return nil
	})
}

// replace writes a file whole or leaves the old one, whenever the process is killed or the power fails. One process at
// a time does.
func replace(path string, write func(io.Writer) error) error {
	f, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
