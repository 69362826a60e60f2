// Package mutant builds the tests of a package with one safeguard of the product removed. What the tests do not notice
// then is guarded by nothing. It changes no file of the module: the compiler is given other texts in their place.
package mutant

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Mutant is the product with one safeguard removed: mostly in one place, and in two where two roles see to the same.
type Mutant struct {
	Name  string
	Edits []Edit
}

// Edit replaces a text that is there exactly once.
type Edit struct {
	File     string // from the root of the module
	Old, New string
}

// New is a mutant of some edits.
func New(name string, edits ...Edit) Mutant { return Mutant{Name: name, Edits: edits} }

// In is an edit of one file, whose text before is there once.
func In(file, before, after string) Edit { return Edit{File: file, Old: before, New: after} }

// Root is the module's, from the folder of a package that is two levels below it, such as this one.
const Root = "../.."

// Apply returns the files with the safeguard removed, by name from the root. The error says which edit does not fit its
// file any more.
func (m *Mutant) Apply() (map[string]string, error) {
	files := make(map[string]string)
	for _, e := range m.Edits {
		text, ok := files[e.File]
		if !ok {
			data, err := os.ReadFile(filepath.Join(Root, e.File))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return nil, fmt.Errorf("%s has %d times, not once:\n%s", e.File, n, e.Old)
		}
		files[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	return files, nil
}

// Build builds the test binary of a package, named as a folder from the root, with the mutant in it. The binary and the
// changed files are in dir; the error has what the compiler said.
func (m *Mutant) Build(ctx context.Context, folder, dir string) (exe string, err error) {
	files, err := m.Apply()
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for name, text := range files {
		original, err := filepath.Abs(filepath.Join(Root, name))
		if err != nil {
			return "", err
		}
		replace[original] = filepath.Join(dir, fmt.Sprintf("mutant-%d.go", len(replace)))
		if err := os.WriteFile(replace[original], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, data, 0o600); err != nil {
		return "", err
	}
	exe = filepath.Join(dir, strings.ReplaceAll(folder, "/", "-")+".test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-overlay", overlay, "-o", exe, "./"+folder)
	build.Dir = Root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return exe, nil
}
