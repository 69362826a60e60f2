package mutant_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jetbatch/jetbatch/internal/mutant"
)

// hostileSchedules are as many as catch each of the mutants below; the product itself passes them.
const hostileSchedules = "8"

// caughtByHostile are the mutants that TestHostileRoles surely catches: each lacks what a real key alone gets around.
// They show that this test can fail.
var caughtByHostile = []string{
	"forged: a job that the server was made to store is run",
	"forged: a live message may be any stored one",
	"forged: a record is what the server was made to store",
	"forged: a reader need not prove that it is the one it names",
}

// TestHostileMutants has a hostile worker and a hostile trainer with real keys meet the product with one safeguard
// removed.
func TestHostileMutants(t *testing.T) {
	if !*shellFlag {
		t.Skip("takes a build for each; run it with -args -mutants.shell")
	}
	for _, name := range caughtByHostile {
		t.Run(name, func(t *testing.T) {
			m := named(t, name)
			exe, err := m.Build(t.Context(), "cli", t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			tests := exec.CommandContext(t.Context(), exe, "-test.run", "^TestHostileRoles$", "-test.v",
				"-hostile.schedules", hostileSchedules)
			tests.Dir = filepath.Join(mutant.Root, "cli")
			out, err := tests.CombinedOutput()
			if err == nil {
				t.Errorf("not caught:\n%s", out)
			}
			t.Logf("%s", out[:min(len(out), 2000)])
		})
	}
}

func named(t *testing.T, name string) *mutant.Mutant {
	t.Helper()
	for i := range shell {
		if shell[i].Name == name {
			return &shell[i].Mutant
		}
	}
	t.Fatalf("there is no mutant %q", name)
	return nil
}
