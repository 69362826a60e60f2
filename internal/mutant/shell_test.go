package mutant_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
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
	// tries is how often all tests of a package are run until a test that fails only beside others is not believed.
	tries = 3
)

// found is what became of a mutant.
type found struct {
	Mutant  string  `json:"mutant"`
	File    string  `json:"file"`
	Caught  bool    `json:"caught"`
	Package string  `json:"package,omitempty"` // the package that caught it
	Test    string  `json:"test,omitempty"`    // the first of its tests that failed; empty for a panic or the end of time
	Why     string  `json:"why,omitempty"`     // the reason for which it is known to survive
	Seconds float64 `json:"seconds"`
}

// TestShellMutantsApply keeps the list of mutants from rotting.
func TestShellMutantsApply(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, m := range shell {
		if names[m.Name] {
			t.Errorf("two mutants are named %q", m.Name)
		}
		names[m.Name] = true
		if _, err := m.Apply(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
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

// TestShellMutants builds the product with one safeguard of the shell removed at a time. The tests of the package, or
// else those of the service in one process, must fail. First they must pass without a mutant: nothing is caught by
// tests that fail in any case.
func TestShellMutants(t *testing.T) {
	if !*shellFlag {
		t.Skip("takes a build and a run of tests for each; run it with -args -mutants.shell")
	}
	only, err := regexp.Compile(*onlyFlag)
	if err != nil {
		t.Fatal(err)
	}
	whole := make(map[string]bool)
	caught, alive := 0, 0
	began := time.Now()
	for _, m := range shell {
		if !only.MatchString(m.Name) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			start := time.Now()
			f := found{Mutant: m.Name, File: m.Edits[0].File}
			for _, folder := range folders(&m) {
				if !whole[folder] {
					if failed, by := fails(t, &mutant.Mutant{}, folder); failed {
						t.Fatalf("%s fails without a mutant: %s", folder, by)
					}
					whole[folder] = true
					start = time.Now()
				}
				if failed, by := fails(t, &m, folder); failed {
					f.Caught, f.Package, f.Test = true, folder, by
					break
				}
			}
			f.Seconds = time.Since(start).Seconds()
			if f.Caught {
				caught++
			} else {
				alive++
				f.Why = survivors[m.Name]
				if f.Why == "" {
					t.Errorf("caught by no test, and not known for it")
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

// folders are those whose tests may catch a mutant: its own, and that of the service in one process.
func folders(m *mutant.Mutant) []string {
	own := path.Dir(m.Edits[0].File)
	if own == "embedded" {
		return []string{own}
	}
	return []string{own, "embedded"}
}

// fails reports whether the tests of a package fail with a mutant in it, and the first test that did. A test that fails
// beside others must fail by itself, too: on a busy machine one may be late without a mutant.
func fails(t *testing.T, m *mutant.Mutant, folder string) (failed bool, by string) {
	t.Helper()
	exe, err := m.Build(t.Context(), folder, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for range tries {
		failed, by = runTests(t, exe, folder, ".")
		if !failed || by == "" {
			return failed, by
		}
		top, _, _ := strings.Cut(by, "/")
		if failed, _ = runTests(t, exe, folder, "^"+top+"$"); failed {
			return true, by
		}
		t.Logf("%s fails beside others, and passes by itself", by)
	}
	return false, ""
}

// runTests runs those tests of a package whose names match, and ends them when one has failed.
func runTests(t *testing.T, exe, folder, match string) (failed bool, by string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTime+10*time.Second)
	defer cancel()
	tests := exec.CommandContext(ctx, exe, "-test.v", "-test.failfast", "-test.run", match, "-test.timeout", testTime.String())
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
