package dataset_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/testset"
)

// What is below a root is allowed, by whatever way it is named, and nothing else.
func TestRoots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, secret := filepath.Join(dir, "data"), filepath.Join(dir, "data-secret")
	for _, folder := range []string{filepath.Join(root, "eeg"), secret} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"out": secret, "in": filepath.Join(root, "eeg")} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(root, filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	var asked context.Context
	def := testset.Define("rooted", &testset.Hooks{Open: func(ctx context.Context, _ testset.Params) error {
		asked = ctx
		return nil
	}})
	open := func(def dataset.Definition) {
		t.Helper()
		if _, err := kind.Of(def).OpenFunc(t.Context(), json.RawMessage(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	open(def.WithRoots())
	if err := dataset.Allowed(asked, "/etc/shadow"); err != nil {
		t.Errorf("without roots: %v", err)
	}
	rooted := def.WithRoots(root, "s3://bucket/eeg/", "https://host").WithVersion(3)
	open(rooted)
	for place, allowed := range map[string]bool{
		root: true, filepath.Join(root, "eeg"): true, filepath.Join(root, "new"): true, filepath.Join(root, "in"): true,
		filepath.Join(dir, "alias", "eeg"): true, root + "/": true, root + "/eeg/..": true,
		secret: false, filepath.Join(root, "out"): false, filepath.Join(root, "out", "f"): false, dir: false, "/": false,
		root + "/../data-secret": false, "": false, "/etc/shadow": false,
		"s3://bucket/eeg": true, "s3://bucket/eeg/a": true, "s3://bucket/eeg2": false, "s3://bucket": false,
		"s3://other/eeg": false, "https://host": true, "https://host/a": true, "https://host.evil.example/a": false,
		"https://169.254.169.254/latest": false, "http://host/a": false, "file:///etc/shadow": false,
	} {
		err := dataset.Allowed(asked, place)
		if (err == nil) != allowed || err != nil && !errors.Is(err, dataset.ErrOutside) {
			t.Errorf("%q: %v, want allowed %t", place, err, allowed)
		}
	}
	asked = nil
	ref, err := dataset.SequentialOf[map[string]any](t.Context(), def.WithRoots(root), testset.Params{})
	if err == nil {
		_ = ref.Close()
	}
	if asked != nil && dataset.Allowed(asked, secret) == nil {
		t.Error("the loop in one process has no roots")
	}
}
