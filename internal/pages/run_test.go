package pages

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/jetbatch/jetbatch/cli"
	"github.com/jetbatch/jetbatch/onda"
)

var (
	needsFlag = flag.String("pages.needs", "", "what is there beyond jetbatch, separated by commas: only pages that need one of it are run")
	update    = flag.Bool("pages.update", false, "write what commands print into the pages")
)

// known are the needs, each with the part of .ci/run that has it.
var known = map[string]string{"clone": "demo", "docker": "compose-pages", "gomlx": "gomlx", "nats": "natscli", "python": "python"}

const (
	root     = "../.."
	patience = 5 * time.Minute // for a page
)

// TestMain lets pages run this test binary as jetbatch.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"jetbatch": func() { cli.Main(onda.Definition()) }})
}

// page is a page with its blocks.
type page struct {
	path   string // from the root
	blocks []Block
}

func pagesOf(t *testing.T) (all []page) {
	t.Helper()
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(docs) < 10 {
		t.Fatalf("%d pages: %v", len(docs), err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "examples/gomlx/README.md"} {
		docs = append(docs, filepath.Join(root, filepath.FromSlash(name)))
	}
	for _, name := range docs {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		path, err := filepath.Rel(root, name)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := Blocks(string(text))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, page{filepath.ToSlash(path), blocks})
	}
	return all
}

// No block of commands escapes: it is in a language that is run, needs what some part of CI has, or says why not.
func TestBlocksAreKnown(t *testing.T) {
	t.Parallel()
	programs := []string{"$", "jetbatch", "docker", "go", "nats", "python", "kubectl", "make", "pip"}
	for _, p := range pagesOf(t) {
		for _, b := range p.blocks {
			where := fmt.Sprintf("%s:%d", p.path, b.Line)
			if b.Needs != "" && known[b.Needs] == "" {
				t.Errorf("%s needs %q, which no part of .ci/run has", where, b.Needs)
			}
			first, _, _ := strings.Cut(strings.TrimSpace(b.Text), " ")
			switch {
			case b.Reason != "":
				t.Logf("%s is not run: %s", where, b.Reason)
			case b.Lang == "" && slices.Contains(programs, first):
				t.Errorf("%s has commands: it is sh, console, or says why it is not run", where)
			case b.Lang == "go" && b.From == "" && !strings.HasPrefix(b.Text, "package main\n"):
				t.Errorf("%s is a part of no file, and no whole program", where)
			}
		}
	}
}

// A block that says from which file it is, is in it: lines in one piece, indented as deep as may be.
func TestBlocksAreFromFiles(t *testing.T) {
	t.Parallel()
	for _, p := range pagesOf(t) {
		for _, b := range p.blocks {
			if b.From == "" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(b.From)))
			if err != nil {
				t.Errorf("%s:%d: %v", p.path, b.Line, err)
			} else if !strings.Contains(flat(string(text)), flat(b.Text)) {
				t.Errorf("%s:%d is not in %s", p.path, b.Line, b.From)
			}
		}
	}
}

// flat is text without indentation.
func flat(text string) string {
	var b strings.Builder
	b.WriteString("\n")
	for line := range strings.Lines(text + "\n") {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return b.String()
}

// TestPages runs the commands of every page, each page in a clone of its own, with a free address in the place of the
// usual one. With -pages.needs it runs the pages that need one of these, their other commands included.
func TestPages(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("the pages' commands are not run: there is no bash")
	}
	needs := strings.FieldsFunc(*needsFlag, func(r rune) bool { return r == ',' })
	run := 0
	for _, p := range pagesOf(t) {
		wanted := slices.ContainsFunc(p.blocks, func(b Block) bool {
			return b.Commands() && (b.Needs == "" && len(needs) == 0 || slices.Contains(needs, b.Needs))
		})
		if !wanted {
			continue
		}
		run++
		t.Run(p.path, func(t *testing.T) {
			t.Parallel()
			p.run(t, needs)
		})
	}
	if run == 0 {
		t.Errorf("no page has commands for %v", needs)
	}
}

// run runs one page.
func (p page) run(t *testing.T, needs []string) {
	dir, out := clone(t), t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", Script(p.blocks, needs))
	address := freeAddress(t)
	cmd.Dir = dir
	bin := t.TempDir() // of what a page installs
	cmd.Env = append(os.Environ(), "OUT="+out, "TMPDIR="+t.TempDir(), "GOBIN="+bin, "PATH="+os.Getenv("PATH")+":"+bin,
		"PYTHONPATH="+filepath.Join(dir, "python"),
		"JETBATCH_LISTEN="+address, "JETBATCH_SERVER=nats://"+address, "NATS_URL=nats://"+address)
	at, err := os.Create(filepath.Join(out, "at"))
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	log, err := os.Create(filepath.Join(out, "log")) // a file, so that what runs on holds nothing up
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{at}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	ended(t, cmd.Process.Pid)
	if err != nil {
		begun, _ := os.ReadFile(at.Name())
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("the block %s: %v\n%s", lastLine(begun), err, said)
	}
	var shown []Shown
	for i, s := range ConsoleIn(p.blocks, needs) {
		printed, err := os.ReadFile(filepath.Join(out, strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.ReplaceAll(string(printed), dir, "/home/me"), "\n")
		if difference := Differ(s.Output, lines); difference != "" && *update {
			shown = append(shown, Shown{s.Command, s.First, trimmed(lines)})
			continue
		} else if difference != "" {
			t.Errorf("%s:%d: %s: %s", p.path, s.First, s.Command, difference)
		}
		shown = append(shown, s)
	}
	if *update && len(shown) > 0 {
		p.write(t, shown, ConsoleIn(p.blocks, needs))
	}
}

// write puts what commands print into the page.
func (p page) write(t *testing.T, shown, before []Shown) {
	name := filepath.Join(root, filepath.FromSlash(p.path))
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i := len(shown) - 1; i >= 0; i-- {
		first := before[i].First - 1
		lines = slices.Replace(lines, first, first+len(before[i].Output), shown[i].Output...)
	}
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// clone copies what git knows, or, without git, all.
func clone(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "jetbatch")
	names, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		if err := os.CopyFS(dir, os.DirFS(root)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name := range strings.Lines(string(names)) {
		name = filepath.FromSlash(strings.TrimSuffix(name, "\n"))
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		text, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted and not yet committed
		}
		info, statErr := os.Stat(from)
		if err := errors.Join(err, statErr, os.MkdirAll(filepath.Dir(to), 0o755)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ended ends what a page left running: first as a user would, then for good.
func ended(t *testing.T, group int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	_ = syscall.Kill(-group, syscall.SIGTERM)
	for range 100 {
		if syscall.Kill(-group, 0) != nil {
			return
		}
		<-tick.C
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
}

func lastLine(text []byte) string {
	text = bytes.TrimSpace(text)
	return "at line " + strings.TrimPrefix(string(text[bytes.LastIndexByte(text, '\n')+1:]), "@ ")
}
