package jetbatch_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestProgramsInDocsCompile builds every block of Go in README.md and docs that is a whole program, as pasted. The
// first of README.md is one.
func TestProgramsInDocsCompile(t *testing.T) {
	t.Parallel()
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := 0
	for _, path := range append([]string{"README.md"}, docs...) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range goBlocks(string(text)) {
			if !strings.HasPrefix(block, "package main\n") {
				if path == "README.md" && i == 0 {
					t.Errorf("the first block of %s is no whole program", path)
				}
				continue
			}
			programs++
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			// Within this module, so that it is this version of the packages that counts.
			out, err := exec.CommandContext(t.Context(), "go", "vet", filepath.Join(dir, "main.go")).CombinedOutput()
			if err != nil {
				t.Errorf("block %d of %s: %v\n%s", i+1, path, err, out)
			}
		}
	}
	if programs < 2 {
		t.Errorf("%d programs, want those of README.md and docs/WRITING_A_DATASET.md", programs)
	}
}

// TestGoVersionInREADME holds the version of Go that README.md names to that of go.mod.
func TestGoVersionInREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		version, ok := strings.CutPrefix(strings.TrimSpace(line), "go ")
		if !ok {
			continue
		}
		parts := strings.SplitN(version, ".", 3)
		if _, err := strconv.Atoi(parts[0]); err != nil || len(parts) < 2 {
			t.Fatalf("go.mod: %q", line)
		}
		if want := "Go " + parts[0] + "." + parts[1] + " or later"; !strings.Contains(string(readme), want) {
			t.Errorf("README.md does not say %q", want)
		}
		return
	}
	t.Error("go.mod names no version")
}

// goBlocks are the fenced blocks of Go in a page.
func goBlocks(page string) (blocks []string) {
	for {
		_, rest, ok := strings.Cut(page, "\n```go\n")
		if !ok {
			return blocks
		}
		block, after, _ := strings.Cut(rest, "```")
		blocks, page = append(blocks, block), after
	}
}
