package mutant_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/mutant"
)

var (
	shellFlag = flag.Bool("mutants.shell", false, "build every mutant of the shell and have the tests catch it")
	onlyFlag  = flag.String("mutants.only", "", "with -mutants.shell: those mutants alone whose names match")
)

const (
	// mostSurvivors is how many mutants the tests may leave alive.
	mostSurvivors = 3
	// testTime is the time of all tests of one package; a mutant that keeps them from ending is caught by it.
	testTime = 4 * time.Minute
	// oneTime is that of one test by itself.
	oneTime = time.Minute
	// tries is how often tests are run that may fail because the machine is busy.
	tries = 3
)

// found is what became of a mutant.
type found struct {
	Mutant  string  `json:"mutant"`
	File    string  `json:"file"`
	Caught  bool    `json:"caught"`
	Package string  `json:"package,omitempty"` // the package that caught it
	Test    string  `json:"test,omitempty"`    // the test that did; empty for a panic or the end of time
	Why     string  `json:"why,omitempty"`     // the reason for which it is known to survive
	Seconds float64 `json:"seconds"`
}

// TestShellMutantsApply keeps the list of mutants from rotting.
func TestShellMutantsApply(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, m := range slices.Concat(shell, ranks, sharers) {
		if names[m.Name] {
			t.Errorf("two mutants are named %q", m.Name)
		}
		names[m.Name] = true
		if _, err := m.Apply(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		if !hasTest(t, path.Dir(m.Edits[0].File), m.by) {
			t.Errorf("%s: its package has no %s", m.Name, m.by)
		}
	}
	for name := range survivors {
		if !names[name] {
			t.Errorf("there is no mutant %q that could survive", name)
		}
	}
	if len(survivors) > mostSurvivors {
		t.Errorf("%d survivors are explained; at most %d", len(survivors), mostSurvivors)
	}
}

// hasTest reports whether a package has a test. Of one that plays scripts, the name of the script is part of the
// test's.
func hasTest(t *testing.T, folder, test string) bool {
	t.Helper()
	test, script, plays := strings.Cut(test, "/")
	if _, err := os.Stat(filepath.Join(mutant.Root, folder, "testdata", script+".txt")); plays && err != nil {
		return false
	}
	files, err := filepath.Glob(filepath.Join(mutant.Root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}

// TestShellMutants builds the product with one safeguard of the shell removed at a time. A test must fail: the one that
// is named for it, or else another of its package, or of the service in one process.
func TestShellMutants(t *testing.T) {
	if !*shellFlag {
		t.Skip("takes a build and a run of tests for each; run it with -args -mutants.shell")
	}
	only, err := regexp.Compile(*onlyFlag)
	if err != nil {
		t.Fatal(err)
	}
	h := &hunter{dir: t.TempDir(), whole: make(map[string]string), passes: make(map[string]bool)}
	caught, alive := 0, 0
	began := time.Now()
	for _, m := range slices.Concat(shell, ranks, sharers) {
		if !only.MatchString(m.Name) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			f := h.hunt(t, &m)
			if f.Caught {
				caught++
			} else {
				alive++
				f.Why = survivors[m.Name]
				if f.Why == "" {
					t.Error("caught by no test, and not known for it")
				}
			}
			printLine(t, f)
		})
	}
	if alive > mostSurvivors {
		t.Errorf("%d mutants survive; at most %d", alive, mostSurvivors)
	}
	printLine(t, struct {
		Mutants  int     `json:"mutants"`
		Caught   int     `json:"caught"`
		Survived int     `json:"survived"`
		Seconds  float64 `json:"seconds"`
	}{caught + alive, caught, alive, time.Since(began).Seconds()})
}

// hunter has mutants caught by tests, one after the other.
type hunter struct {
	dir    string
	whole  map[string]string // the test binaries without a mutant, by folder
	passes map[string]bool   // by folder and test: it passes without a mutant, by itself
}

// hunt has the tests of the mutant's own package try first, and then those of the service in one process.
func (h *hunter) hunt(t *testing.T, m *guardedMutant) found {
	t.Helper()
	began := time.Now()
	f := found{Mutant: m.Name, File: m.Edits[0].File}
	own, by := path.Dir(f.File), m.by
	for _, folder := range slices.Compact([]string{own, "embedded"}) {
		exe, err := m.Build(t.Context(), folder, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if f.Test, f.Caught = h.catch(t, exe, folder, by); f.Caught {
			f.Package = folder
			break
		}
		by = "" // it is the first folder's
	}
	f.Seconds = time.Since(began).Seconds()
	return f
}

// catch returns the test of a folder that catches the mutant in exe.
func (h *hunter) catch(t *testing.T, exe, folder, by string) (test string, caught bool) {
	t.Helper()
	if by != "" && h.fails(t, exe, folder, by) {
		return by, true
	}
	for range tries {
		failed, by := runTests(t, exe, folder, ".", testTime)
		if !failed || by == "" { // a panic or the end of time is no test's
			return "", failed
		}
		by, _, _ = strings.Cut(by, "/")
		if h.fails(t, exe, folder, by) {
			return by, true
		}
		t.Logf("%s fails beside others, and by itself it does not, or not because of the mutant", by)
	}
	return "", false
}

// fails reports whether a test fails by itself with the mutant in exe, and passes without: on a busy machine a test may
// be late.
func (h *hunter) fails(t *testing.T, exe, folder, test string) bool {
	t.Helper()
	match := "^" + strings.ReplaceAll(test, "/", "$/^") + "$"
	if failed, _ := runTests(t, exe, folder, match, oneTime); !failed {
		return false
	}
	if h.whole[folder] == "" {
		whole, err := new(mutant.Mutant).Build(t.Context(), folder, h.dir)
		if err != nil {
			t.Fatal(err)
		}
		h.whole[folder] = whole
	}
	key := folder + "." + test
	for range tries {
		if h.passes[key] {
			break
		}
		failed, _ := runTests(t, h.whole[folder], folder, match, oneTime)
		h.passes[key] = !failed
	}
	return h.passes[key]
}

// runTests runs those tests of a package whose names match, and ends them when one has failed or the time is over.
func runTests(t *testing.T, exe, folder, match string, limit time.Duration) (failed bool, by string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit+10*time.Second)
	defer cancel()
	tests := exec.CommandContext(ctx, exe,
		"-test.v", "-test.failfast", "-test.run", match, "-test.timeout", limit.String())
	tests.Dir = filepath.Join(mutant.Root, folder)
	out, err := tests.StdoutPipe()
	if err == nil {
		err = tests.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for by == "" && lines.Scan() {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "--- FAIL: "); ok {
			by, _, _ = strings.Cut(rest, " ")
		}
	}
	if by != "" || lines.Err() != nil {
		cancel()
	}
	err = tests.Wait()
	return by != "" || err != nil, by
}

func printLine(t *testing.T, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("mutants: %s\n", data)
}
