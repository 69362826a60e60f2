// Package cli is the jetbatch command with a program's own data sets in it. A whole main function is
//
//	func main() { cli.Main(onda.Definition(), mine) }
//
// and the same binary is then coordinator, worker and every tool around them. Flags, environment variables,
// signals and the process's exit are handled here and nowhere else in the module.
//
// Every flag of every command can be given as an environment variable, JETBATCH_ and its name in capitals, and as a
// key of the file that --config names.
// What a program may read comes on standard output, as JSON with --json; logs and progress go to standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/alecthomas/kong"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/legible"
)

// Main runs the command line of this process over defs and exits. The first interrupt, SIGTERM or SIGHUP ends the
// command in good order, the second at once. A process that nobody reads from any more goes on: a worker without its
// log has work, and a trainer has a state to save. "jetbatch --help" lists the exit codes.
func Main(defs ...dataset.Definition) {
	ctx, stop := untilSignal(context.Background())
	context.AfterFunc(ctx, stop) // with no handler left, the next signal kills
	unsetEmpty()
	// Sizes follow what the process tries to stay under: nine tenths of its container's limit, unless GOMEMLIMIT says
	// otherwise. Where there are no containers, there is no limit to be found.
	_, _ = memlimit.Set()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, defs))
}

// untilSignal returns a context that ends with the signal that ends a command. A write to a pipe without a reader is an
// error from here on and no signal.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE)
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	return signal.NotifyContext(ctx, signals...)
}

// unsetEmpty removes variables of this program's that are there but empty, as container tools leave those that were not
// given. Numbers could not be read from them.
func unsetEmpty() {
	for _, v := range os.Environ() {
		if name, value, _ := strings.Cut(v, "="); value == "" && strings.HasPrefix(name, "JETBATCH_") {
			_ = os.Unsetenv(name) // the name came from the environment, so it is a good one
		}
	}
}

// grammar is the command line, for kong.
type grammar struct {
	Config    configFile `help:"File with values for flags: a JSON object whose keys are flags, or commands with objects of flags. Flags and variables win." placeholder:"FILE"`
	LogLevel  string     `help:"Least level that is logged: debug, info, warn or error. Defaults to info for the services and to warn elsewhere." enum:"debug,info,warn,error,auto" default:"auto" placeholder:"LEVEL"`
	LogFormat string     `help:"Form of the log, on standard error: text or json." enum:"text,json" default:"text" placeholder:"FORMAT"`

	Demo        demoCmd        `cmd:"" help:"Show it all in a few seconds, on data made up here or on yours: a killed worker, a stop, a resumption, and the proof that nothing changed."`
	Up          upCmd          `cmd:"" help:"Run everything in this process: a NATS server on a port, a coordinator and workers."`
	Coordinator coordinatorCmd `cmd:"" help:"Run a coordinator until a signal comes."`
	Worker      workerCmd      `cmd:"" help:"Run a worker until a signal comes; what it runs then is finished first."`
	Take        takeCmd        `cmd:"" help:"Take batches as a trainer does, show the pace, keep the place in a file."`
	Audit       auditCmd       `cmd:"" help:"Make a share of the batches again, on other workers, and compare; say who made which batch. Exits with 3 if they differ."`
	Show        showCmd        `cmd:"" help:"Look at one batch of any state, of a folder, a data set or a batcher: tensors in a terminal, traces with labels as SVG or PNG."`
	Status      statusCmd      `cmd:"" help:"Show batchers and workers."`
	Ls          lsCmd          `cmd:"" help:"List batchers by name, those that nobody feeds among them."`
	Stop        stopCmd        `cmd:"" help:"End the run of a batcher, whoever takes from it; its trainer is told. Its record stays until its idle timeout."`
	Rm          rmCmd          `cmd:"" help:"Delete a batcher: its record and what is prepared. Of one that runs it says what would be lost, and wants --force."`
	Events      eventsCmd      `cmd:"" help:"Show what happened: workers that came, left or died, runs that began, failed or were taken over; when and why."`
	Top         topCmd         `cmd:"" help:"Keep an eye on it: batchers, where their trainers' time goes, workers and the last errors. It only reads."`
	Health      healthCmd      `cmd:"" help:"Exit with 0 if NATS, JetStream and, if asked for, a role answer; else with 4."`
	Check       checkCmd       `cmd:"" help:"Say what is wrong with a deployment, and what to do. Exits with 1 if something does not work."`
	Keys        keysCmd        `cmd:"" help:"Make keys, certificates and the server's configuration for a new deployment in which no role can do another's work."`
	Bench       benchCmd       `cmd:"" help:"Measure a data set on a deployment, or in this process, beside the plain loop in one process: the pace, what a trainer waits for, and large batches straight from workers and through NATS. Exits with 3 if the two do not come to the same state."`
	Params      paramsCmd      `cmd:"" help:"Show the parameters of a data set: type, unit, default and meaning of each."`
	Onda        ondaCmd        `cmd:"" help:"Make data sets for onda."`
	Bridge      bridgeCmd      `cmd:"" help:"Serve a trainer in another language, which starts this command: see docs/PYTHON.md."`
	Completion  completionCmd  `cmd:"" help:"Print a script that has a shell complete commands, flags and their values."`
	Complete    completeCmd    `cmd:"" hidden:"" passthrough:""`
	Man         manCmd         `cmd:"" help:"Print the manual page: jetbatch man >jetbatch.1"`
	Version     versionCmd     `cmd:"" help:"Show versions."`
}

const description = `Batches made in parallel elsewhere, taken strictly in order here.

Every flag can be given as an environment variable, as its help says, and as a key of the file that --config names.

Exit codes: 0 all is well; 1 it failed; 2 the command line, the parameters or the state are wrong; 3 a batch differs from the reference; 4 NATS or a role does not answer, or not in time, or refuses; 5 another process has the batcher; 130 ended by a signal before it was done.`

// app is what the commands share.
type app struct {
	out  io.Writer // results
	err  *console  // logs, progress and errors
	log  *slog.Logger
	defs []dataset.Definition

	config string // path of the file with flags, once it is read
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, defs []dataset.Definition) int {
	a := &app{out: forPeople(stdout), err: newConsole(stderr), defs: defs}
	err := a.run(ctx, args)
	code := exitCode(err)
	if err != nil && code != exitInterrupted && !errors.Is(err, syscall.EPIPE) {
		fmt.Fprintf(a.err, "jetbatch: %s\n", legible.Text(err.Error()))
	}
	return code
}

func (a *app) run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var g grammar
	parsed, err := a.parse(&g, args)
	if parsed == nil || err != nil {
		return err
	}
	if g.LogFormat == "json" {
		a.err.w = forMachines(a.err.w)
	}
	a.log = g.logger(a.err, parsed.Command())
	parsed.BindTo(ctx, (*context.Context)(nil))
	return fromVariables(parsed, parsed.Run(a))
}

// fromVariables adds to an error about flags which of them variables gave: nobody sees those on the command line.
func fromVariables(parsed *kong.Context, err error) error {
	if !errors.Is(err, errUsage) {
		return err
	}
	given := make(map[*kong.Flag]bool)
	for _, p := range parsed.Path {
		given[p.Flag] = given[p.Flag] || !p.Resolved
	}
	for _, f := range parsed.Flags() {
		named := strings.Contains(err.Error()+" ", "--"+f.Name+" ") || strings.Contains(err.Error(), "--"+f.Name+":")
		for _, name := range f.Envs {
			if _, set := os.LookupEnv(name); set && named && !given[f] {
				err = fmt.Errorf("%w; --%s is that of the variable %s", err, f.Name, name)
				break
			}
		}
	}
	return err
}

// parser is the structure of the command line.
func (a *app) parser(g *grammar, more ...kong.Option) (*kong.Kong, error) {
	return kong.New(g, append(more,
		kong.Name("jetbatch"), kong.Description(description), kong.DefaultEnvars("JETBATCH"),
		kong.Writers(a.out, a.err), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Bind(a),
	)...)
}

// parse reads a command line into g. It returns nil after --help, whose text is then written.
func (a *app) parse(g *grammar, args []string) (*kong.Context, error) {
	exited := false
	parser, err := a.parser(g, kong.Exit(func(int) { exited = true }))
	if err != nil {
		return nil, err // a mistake in the grammar
	}
	parsed, err := parser.Parse(args)
	if exited {
		return nil, nil
	}
	var write *fs.PathError
	if errors.As(err, &write) && write.Op == "write" { // of the help: the command line is as it should be
		return nil, err
	}
	if err != nil && a.config != "" {
		err = fmt.Errorf("%w (with %s)", err, a.config)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w; see jetbatch --help", errUsage, err)
	}
	return parsed, checkArgs(parsed)
}

func (g *grammar) logger(w io.Writer, command string) *slog.Logger {
	level := slog.LevelWarn
	switch {
	case g.LogLevel != "auto":
		_ = level.UnmarshalText([]byte(g.LogLevel)) // kong let only levels through
	case command == "up" || command == "coordinator" || command == "worker":
		level = slog.LevelInfo
	case command == "demo", command == "bench":
		level = slog.LevelError // the worker that is killed, or is the only one, is part of it
	}
	opts := &slog.HandlerOptions{Level: level}
	if g.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(legible.JSONWriter(w), opts))
	}
	return slog.New(slog.NewTextHandler(w, opts)) // a text handler quotes unprintable characters
}
