package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jetbatch/jetbatch/cli/internal/bench"
)

type benchCmd struct {
	Case       []string `help:"Cases to run; \"list\" says which there are. Defaults to all but the soak." placeholder:"NAME"`
	Rounds     int      `help:"Rounds per figure, of which the median counts." default:"5"`
	Quick      bool     `help:"Fewer and shorter measurements, enough for --gate."`
	Gate       bool     `help:"Exit with 1 if a ratio is worse than it may be: a check that holds on any machine."`
	Data       string   `help:"Folder with labelled Onda signals to use. Defaults to small ones that are made up." type:"path" placeholder:"DIR"`
	CPUProfile string   `name:"cpuprofile" help:"Write a CPU profile of every process into this folder." type:"path" placeholder:"DIR"`
	JSON       bool     `name:"json" env:"JETBATCH_JSON" help:"Print one JSON object per case."`
}

// Run measures and prints case by case.
func (c *benchCmd) Run(ctx context.Context, a *app) (err error) {
	if len(c.Case) == 1 && c.Case[0] == "list" {
		for _, k := range bench.Cases() {
			if _, err := fmt.Fprintf(a.out, "%-8s %s\n", k.Name, k.What); err != nil {
				return err
			}
		}
		return nil
	}
	if c.Rounds < 1 {
		return fmt.Errorf("%w: --rounds is %d", errUsage, c.Rounds)
	}
	if c.CPUProfile != "" {
		if err := os.MkdirAll(c.CPUProfile, 0o755); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "jetbatch-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var failed []string
	err = bench.Run(ctx, bench.Options{
		Cases: c.Case, Rounds: c.Rounds, Quick: c.Quick, Data: c.Data, ProfileDir: c.CPUProfile, TempDir: dir,
		RoleArgs: []string{benchRole}, Stderr: a.err, Log: a.log,
	}, func(r *bench.Report) error {
		failed = append(failed, r.Failed()...)
		if c.JSON {
			return printJSON(a.out, r)
		}
		_, err := fmt.Fprintln(a.out, r)
		return err
	})
	switch {
	case errors.Is(err, bench.ErrNoCase):
		return fmt.Errorf("%w: --case: %w", errUsage, err)
	case err != nil:
		return interrupted(ctx, err)
	case c.Gate && len(failed) > 0:
		return fmt.Errorf("slower than it may be:\n  %s", strings.Join(failed, "\n  "))
	}
	return nil
}

// benchRole is the command by which the benchmark starts its processes.
const benchRole = "bench-role"

type benchRoleCmd struct{}

// Run serves the benchmark that started this process.
func (*benchRoleCmd) Run(ctx context.Context, a *app) error {
	return bench.ServeRole(ctx, os.Stdin, a.out, a.log)
}
