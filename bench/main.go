// Bench is an instrument of this repository: it measures the service beside the least that the machine can do at all.
//
//	go run ./bench                       every figure but the soak: about 10 minutes
//	go run ./bench -case list            which cases there are
//	go run ./bench -quick -gate          exits with 1 if a ratio is worse than it may be
//	go run ./bench -case soak            nothing grows over a million batches
//
// Every figure has a floor: a program as lean as raw nats.go, or raw TCP, allows that moves the same bytes with the
// same guarantees of the store. The two take turns in one run, each in processes of its own, and what counts is the
// ratio: on another machine, or beside other load, both change together. A figure is the median of its rounds, and a
// gate looks at the best of them, in up to three tries. docs/PERFORMANCE.md says what is measured, and what came out.
//
// A user's own data set on a deployment of the user's is measured by "jetbatch bench".
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jetbatch/jetbatch/internal/scratch"
)

// roleArg is the argument with which this program starts itself as a role of a case.
const roleArg = "role"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next signal kills
	// That there is one worker only, and that a trainer goes back, are part of it: no warnings.
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	var err error
	if len(os.Args) == 2 && os.Args[1] == roleArg {
		err = serveRole(ctx, os.Stdin, os.Stdout, log)
	} else {
		err = command(ctx, os.Args[1:], os.Stdout, os.Stderr, log)
	}
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

// command runs the command line and prints case by case.
func command(ctx context.Context, args []string, out, stderr io.Writer, log *slog.Logger) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var (
		names   = flags.String("case", "", "`names`, separated by commas; list says which there are (default all but soak)")
		rounds  = flags.Int("rounds", 5, "rounds per figure, of which the median counts")
		quick   = flags.Bool("quick", false, "fewer and shorter measurements, enough for -gate")
		gate    = flags.Bool("gate", false, "exit with 1 if a ratio is worse than it may be in all rounds of three tries")
		data    = flags.String("data", "", "folder with labelled Onda signals (default small ones that are made up)")
		profile = flags.String("cpuprofile", "", "folder for a CPU profile of every process")
		asJSON  = flags.Bool("json", false, "print one JSON object per case")
	)
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("%w: unexpected %q", errUsage, flags.Arg(0))
	case *rounds < 1:
		return fmt.Errorf("%w: -rounds is %d", errUsage, *rounds)
	case *names == "list":
		for _, k := range cases() {
			if _, err := fmt.Fprintf(out, "%-8s %s\n", k.name, k.what); err != nil {
				return err
			}
		}
		return nil
	}
	opts := options{
		rounds: *rounds, gate: *gate, quick: *quick, data: *data, profileDir: *profile, roleArgs: []string{roleArg},
		stderr: stderr, log: log,
	}
	if *names != "" {
		opts.cases = strings.Split(*names, ",")
	}
	if opts.profileDir != "" {
		if err := os.MkdirAll(opts.profileDir, 0o755); err != nil {
			return err
		}
	}
	temporary, err := scratch.New("bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temporary.Close()) }()
	opts.tempDir = temporary.Path
	var failed []string
	err = run(ctx, opts, func(r *Report) error {
		failed = append(failed, r.failed()...)
		if *asJSON {
			return json.NewEncoder(out).Encode(r)
		}
		_, err := fmt.Fprintln(out, r)
		return err
	})
	if err == nil && *gate && len(failed) > 0 {
		err = fmt.Errorf("slower than it may be:\n  %s", strings.Join(failed, "\n  "))
	}
	return err
}
