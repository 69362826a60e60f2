package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

// A set is complete, its secrets are its owner's alone and in no output, and it is never written over.
func TestKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "set")
	var out bytes.Buffer
	if code := run(t.Context(), []string{"keys", dir, "--json", "--host", "nats.example.org,10.0.0.1"}, &out, os.Stderr, nil); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	var report keysReport
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	made := make(map[string][]byte)
	for _, f := range report.Files {
		data, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		made[f.Path] = data
		info, err := os.Stat(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]fs.FileMode{true: 0o600, false: 0o644}[f.Secret]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", f.Path, info.Mode(), want)
		}
		if f.Secret {
			for line := range strings.Lines(string(data)) {
				if !strings.HasPrefix(line, "-----") && strings.Contains(out.String(), strings.TrimSpace(line)) {
					t.Errorf("%s is in the output", f.Path)
				}
			}
		}
	}
	for role, public := range report.Users {
		pair, err := nkeys.FromSeed(bytes.TrimSpace(made[filepath.Join(dir, role+".nk")]))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pair.PublicKey(); err != nil || got != public || !nkeys.IsValidPublicUserKey(public) {
			t.Errorf("%s has %s, %v; the server knows %s", role, got, err, public)
		}
	}

	// One file that is there already is enough to write nothing.
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	if code := run(t.Context(), []string{"keys", dir}, io.Discard, io.Discard, nil); code != exitUsage {
		t.Errorf("a second time: exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "ca.crt")); err == nil {
		t.Error("a file of the refused set was left")
	}
	if data, err := os.ReadFile(filepath.Join(dir, "worker.nk")); err != nil || !bytes.Equal(data, made[filepath.Join(dir, "worker.nk")]) {
		t.Error("a seed was written over")
	}
}

// A later set may be signed by the authority of an earlier one, whose clients trust it then.
func TestKeysOfOneAuthority(t *testing.T) {
	t.Parallel()
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, args := range [][]string{{"keys", first}, {"keys", second, "--ca-from", first}} {
		if code := run(t.Context(), args, io.Discard, os.Stderr, nil); code != 0 {
			t.Fatalf("%v: exit code %d", args, code)
		}
	}
	ca, _, err := loadAuthority(first)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := loadAuthority(second)
	if err != nil || !again.Equal(ca) {
		t.Errorf("another authority, %v", err)
	}
	for _, args := range [][]string{
		{"keys", t.TempDir(), "--ca-from", t.TempDir()},
		{"keys", t.TempDir(), "--days", "0"},
		{"keys", t.TempDir(), "--store-dir", `a"b`},
	} {
		if code := run(t.Context(), args, io.Discard, io.Discard, nil); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}
