// Package bench measures the service beside the least that the machine can do at all.
//
// Every figure has a floor: a program as lean as raw nats.go, or raw TCP, allows that moves the same bytes with the same
// guarantees of the store. The two take turns in one run, each in processes of its own, and what counts is the ratio: on
// another machine, or beside other load, both change together. A figure is the median of its rounds.
//
// The package starts this very program again for each role: see [ServeRole]. It never judges a figure by itself alone.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// Options of a run.
type Options struct {
	Cases      []string // names; defaults to all but the soak
	Rounds     int      // per figure; defaults to 5
	Quick      bool     // fewer and shorter measurements, for a check by ratios
	Data       string   // folder with labelled Onda signals; made up where empty
	ProfileDir string   // for a CPU profile of every process; none where empty
	TempDir    string   // for what is made up
	RoleArgs   []string // the arguments with which this program calls ServeRole
	Stderr     io.Writer
	Log        *slog.Logger

	tiny bool // for tests: of Quick, a small part
}

// A Case is a group of figures.
type Case struct {
	Name string
	What string // one line for people
	run  func(ctx context.Context, b *bench) (*Report, error)
	long bool // not among those that run by default
}

// Cases are all there are, in the order in which they run.
func Cases() []Case {
	return []Case{
		{Name: "small", What: smallWhat, run: small},
		{Name: "sizes", What: sizesWhat, run: sizes},
		{Name: "scale", What: scaleWhat, run: scale},
		{Name: "latency", What: latencyWhat, run: latency},
		{Name: "fanout", What: fanoutWhat, run: fanout},
		{Name: "onda", What: ondaWhat, run: ondaWindows},
		{Name: "soak", What: soakWhat, run: soak, long: true},
	}
}

// ErrNoCase is returned for a name that no case has.
var ErrNoCase = errors.New("no such case")

// Run runs the cases and gives each report to done as soon as it is there.
func Run(ctx context.Context, opts Options, done func(*Report) error) error {
	cases, err := choose(opts.Cases)
	if err != nil {
		return err
	}
	for _, c := range cases {
		report, err := c.measure(ctx, opts)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.Name, err)
		}
		report.Case, report.What, report.Quick = c.Name, c.What, opts.Quick
		report.judge()
		if err := done(report); err != nil {
			return err
		}
	}
	return nil
}

func choose(names []string) ([]Case, error) {
	all := Cases()
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(c Case) bool { return c.long }), nil
	}
	var chosen []Case
	for _, name := range names {
		i := slices.IndexFunc(all, func(c Case) bool { return c.Name == name })
		if i < 0 {
			var known []string
			for _, c := range all {
				known = append(known, c.Name)
			}
			return nil, fmt.Errorf("%w: %q; there are %s", ErrNoCase, name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// bench is one case under way.
type bench struct {
	opts    Options
	current string // case
	sides   []*side
}

func (c Case) measure(ctx context.Context, opts Options) (_ *Report, err error) {
	b := &bench{opts: opts, current: c.Name}
	defer func() { err = errors.Join(err, b.close()) }()
	return c.run(ctx, b)
}

// close ends the processes of all sides.
func (b *bench) close() error {
	var errs []error
	for _, s := range b.sides {
		errs = append(errs, s.end())
	}
	return errors.Join(errs...)
}

// quick is one of two numbers.
func (b *bench) quick(quick, normal int) int {
	switch {
	case b.opts.tiny && quick > 0:
		return max(1, quick/20)
	case b.opts.Quick:
		return quick
	}
	return normal
}
