package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jetbatch/jetbatch/dataset"
)

type bridgeCmd struct {
	natsFlags
	processFlags
	Memory int64 `help:"Bound on the batches that the trainer keeps arrays of, beyond two of the largest. Defaults to 1 GiB." placeholder:"BYTES"`
	Beside bool  `help:"Run the service in this process, too, without a port, as long as the trainer lives."`
	Slots  int   `help:"With --beside: batches materialized at a time. Defaults to the number of CPUs."`
}

// processFlags name data sets that run in processes of their own.
type processFlags struct {
	DataRoot      []string `help:"Folders, and beginnings of URLs such as s3://bucket/eeg, that trainers' parameters may have data sets open or keep copies in; several are separated by commas. onda keeps to them; of data sets of your own see dataset.Allowed. Defaults to everything that this process may read." placeholder:"PLACE"`
	Python        []string `help:"Data set in Python, one process for each slot: the class that \"python3 -m jetbatch.serve MODULE:CLASS\" finds. Several are separated by commas." placeholder:"NAME=MODULE:CLASS" group:"Data sets in other processes"`
	Exec          []string `sep:"none" help:"Data set in any language: a command for the shell that starts a process which speaks the protocol of docs/BRIDGE.md." placeholder:"NAME=COMMAND" group:"Data sets in other processes"`
	Interpreter   string   `name:"python-interpreter" env:"JETBATCH_PYTHON_INTERPRETER" help:"Python for --python. Defaults to python3 on PATH." placeholder:"PROGRAM" group:"Data sets in other processes"`
	ProcessMemory int64    `help:"Bound on the data of one such process. Defaults to none." placeholder:"BYTES" group:"Data sets in other processes"`
}

// definitions returns the program's data sets and those of the flags, each with the processes of slots. closing ends
// the processes.
func (f *processFlags) definitions(ctx context.Context, a *app, slots int) (defs []dataset.Definition, closing func(), err error) {
	if f.ProcessMemory < 0 || slots < 0 {
		return nil, nil, fmt.Errorf("%w: --process-memory and --slots are not negative", errUsage)
	}
	commands, err := f.commands()
	defs, closing = a.defs, func() {}
	if err == nil && len(commands) > 0 {
		defs, closing, err = f.start(ctx, a, commands, slots)
	}
	rooted := make([]dataset.Definition, len(defs))
	for i, def := range defs {
		rooted[i] = def.WithRoots(f.DataRoot...)
	}
	return rooted, closing, err
}

// command starts a data set's process.
type command struct {
	name string
	argv []string
}

func (f *processFlags) commands() ([]command, error) {
	var list []command
	for _, v := range f.Python {
		name, class, ok := strings.Cut(v, "=")
		if !ok || !strings.Contains(class, ":") {
			return nil, fmt.Errorf("%w: --python is NAME=MODULE:CLASS, not %q", errUsage, v)
		}
		list = append(list, command{name, []string{cmp.Or(f.Interpreter, "python3"), "-u", "-m", "jetbatch.serve", class}})
	}
	for _, v := range f.Exec {
		name, text, ok := strings.Cut(v, "=")
		if !ok || strings.TrimSpace(text) == "" {
			return nil, fmt.Errorf("%w: --exec is NAME=COMMAND, not %q", errUsage, v)
		}
		list = append(list, command{name, []string{"/bin/sh", "-c", "exec " + text}})
	}
	return list, nil
}
