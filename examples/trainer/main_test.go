package main

import (
	"io"
	"path/filepath"
	"testing"

	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
)

// A run that is stopped and resumed ends as one that is not.
func TestResume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{}); err != nil {
		t.Fatal(err)
	}
	params, err := onda.Guess(dir)
	if err != nil {
		t.Fatal(err)
	}
	service, err := embedded.Start(t.Context(), embedded.Config{Workers: 2}, onda.Definition())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	run := func(path string, upto ...int) (c Checkpoint) {
		t.Helper()
		for _, steps := range upto {
			if err := train(t.Context(), service.Conn(), params, path, steps, io.Discard); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.load(path); err != nil {
			t.Fatal(err)
		}
		return c
	}
	whole := run(filepath.Join(t.TempDir(), "whole"), 30)
	parts := run(filepath.Join(t.TempDir(), "parts"), 7, 8, 30)
	if whole.Steps != 30 || whole.Mean != parts.Mean || !whole.Data.Equal(parts.Data) {
		t.Errorf("resumed run ended with %+v, the other with %+v", parts, whole)
	}
}
