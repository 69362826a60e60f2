package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
)

type benchCmd struct {
	Server string `help:"NATS server of the deployment to measure; several are separated by commas. Defaults to a service in this process." env:"JETBATCH_SERVER,NATS_URL" placeholder:"URL" group:"NATS"`
	loginFlags
	Dataset   string        `help:"Data set. Defaults to the one in this binary, and to onda with --data." placeholder:"NAME"`
	Params    string        `help:"Its parameters as JSON, or @FILE with them." placeholder:"JSON"`
	Data      string        `help:"Folder with labelled Onda signals, whose parameters are guessed." type:"path" placeholder:"DIR"`
	Batches   int           `short:"n" help:"Batches that are timed in a round; a quarter more go before them." default:"200"`
	Rounds    int           `help:"Rounds, in which the loop and the service take turns; medians count." default:"3"`
	Workers   int           `help:"Workers of the service in this process." default:"1"`
	Slots     int           `help:"Batches that one of these materializes at a time. Defaults to the number of CPUs."`
	Window    int           `help:"Batches in flight at most. Defaults to 2 x worker slots + 1."`
	TrainTime time.Duration `help:"Pretend to train so long on every batch." placeholder:"DURATION"`
	AtLeast   float64       `help:"Exit with 1 if the service makes fewer batches per second than so many times the loop." placeholder:"RATIO"`
	JSON      bool          `name:"json" env:"JETBATCH_JSON" help:"Print one JSON object."`
}

// Run measures and prints the comparison.
func (c *benchCmd) Run(ctx context.Context, a *app) (err error) {
	b := &comparison{cmd: c, app: a}
	if b.params, err = c.choose(ctx, a); err != nil {
		return err
	}
	for _, d := range a.defs {
		if d.Name() == c.Dataset {
			b.def, b.defined = d, true
		}
	}
	if !b.defined && (c.Server == "" || c.AtLeast > 0) {
		return a.notHere(c.Dataset)
	}
	var done func() error
	if b.nc, b.deployment, done, err = c.deployment(ctx, a); err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, done()) }()
	report, err := b.run(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	if c.JSON {
		err = printJSON(a.out, report)
	} else {
		_, err = fmt.Fprint(a.out, report)
	}
	if ratio := report.Service[0].Ratio; err == nil && ratio < c.AtLeast {
		err = fmt.Errorf("the service makes %.2f times the batches of the loop, and not %.2f times", ratio, c.AtLeast)
	}
	return err
}

// choose checks the flags, fills in the data set and returns its parameters.
func (c *benchCmd) choose(ctx context.Context, a *app) (json.RawMessage, error) {
	switch {
	case c.Batches < 4 || c.Rounds < 1 || c.Workers < 1 || c.Workers > maxWorkers:
		return nil, fmt.Errorf("%w: --batches is at least 4, --rounds at least 1, --workers from 1 to %d", errUsage, maxWorkers)
	case checkSlots(c.Slots) != nil:
		return nil, checkSlots(c.Slots)
	case c.Window < 0 || c.TrainTime < 0 || c.AtLeast < 0:
		return nil, fmt.Errorf("%w: --window, --train-time and --at-least are not negative", errUsage)
	case c.Data != "" && (c.Params != "" || cmp.Or(c.Dataset, onda.Name) != onda.Name):
		return nil, fmt.Errorf("%w: --data is of the data set %s, with parameters of its own", errUsage, onda.Name)
	case c.Data != "":
		c.Dataset = onda.Name
		return guessOnda(ctx, c.Data)
	case c.Dataset == "" && len(a.defs) == 1:
		c.Dataset = a.defs[0].Name()
	case c.Dataset == "":
		return nil, fmt.Errorf("%w: which data set? --dataset NAME, or --data DIR", errUsage)
	}
	return readParams(c.Params)
}

func guessOnda(ctx context.Context, dir string) (json.RawMessage, error) {
	params, err := guessData(ctx, dir)
	if err != nil {
		return nil, err
	}
	params.Seed = 1
	return json.Marshal(params)
}

// deployment is what is measured, in words too: the one at --server, or one in this process.
func (c *benchCmd) deployment(ctx context.Context, a *app) (nc *nats.Conn, what string, done func() error, err error) {
	if c.Server != "" {
		f := natsFlags{Server: c.Server, loginFlags: c.loginFlags}
		nc, err := f.connect(ctx, a.log, "jetbatch-bench", 10*time.Second)
		if err != nil {
			return nil, "", nil, err
		}
		return nc, "the service at " + client.Redact(c.Server), func() error { nc.Close(); return nil }, nil
	}
	c.Slots = cmp.Or(c.Slots, runtime.GOMAXPROCS(0))
	cfg := embedded.Config{Workers: c.Workers, Slots: c.Slots, Logger: a.log}
	s, err := embedded.Start(context.WithoutCancel(ctx), cfg, a.defs...)
	if err != nil {
		return nil, "", nil, err
	}
	what = fmt.Sprintf("a service in this process, workers: %d, slots of each: %d", c.Workers, c.Slots)
	return s.Conn(), what, s.Close, nil
}

// comparison is a benchmark under way.
type comparison struct {
	cmd        *benchCmd
	app        *app
	params     json.RawMessage
	def        dataset.Definition
	defined    bool // def is in this binary
	nc         *nats.Conn
	deployment string
}
