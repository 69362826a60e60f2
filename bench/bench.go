package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// options of a run.
type options struct {
	cases      []string // names; defaults to all but the soak
	rounds     int      // per figure; defaults to 5
	gate       bool     // a case that does not pass its gates is measured again, gateTries times in all
	quick      bool     // fewer and shorter measurements, for a check by ratios
	data       string   // folder with labelled Onda signals; made up where empty
	profileDir string   // for a CPU profile of every process; none where empty
	tempDir    string   // for made-up data sets
	roleArgs   []string // the arguments with which this program calls serveRole
	stderr     io.Writer
	log        *slog.Logger

	tiny bool // for tests: of quick, a small part
}

// A benchCase is a group of figures.
type benchCase struct {
	name string
	what string // one line for people
	run  func(ctx context.Context, b *bench) (*Report, error)
	long bool // not among those that run by default
}

// cases are all there are, in the order in which they run.
func cases() []benchCase {
	return []benchCase{
		{name: "small", what: smallWhat, run: small},
		{name: "sizes", what: sizesWhat, run: sizes},
		{name: "valley", what: valleyWhat, run: valley},
		{name: "peers", what: peersWhat, run: peers},
		{name: "scale", what: scaleWhat, run: scale},
		{name: "workers", what: workersWhat, run: workers, long: true},
		{name: "cluster", what: clusterWhat, run: cluster, long: true},
		{name: "latency", what: latencyWhat, run: latency},
		{name: "fanout", what: fanoutWhat, run: fanout},
		{name: "ranks", what: ranksWhat, run: ranks},
		{name: "onda", what: ondaWhat, run: ondaWindows},
		{name: "zst", what: zstWhat, run: zst},
		{name: "labels", what: labelsWhat, run: labels},
		{name: "store", what: storeWhat, run: store},
		{name: "recovery", what: recoveryWhat, run: recovery, long: true},
		{name: "soak", what: soakWhat, run: soak, long: true},
	}
}

// errNoCase is returned for a name that no case has.
var errNoCase = errors.New("no such case")

// run runs the cases and gives each report to done as soon as it is there.
func run(ctx context.Context, opts options, done func(*Report) error) error {
	cases, err := choose(opts.cases)
	if err != nil {
		return err
	}
	for _, c := range cases {
		report, err := c.report(ctx, opts)
		for try := 1; err == nil && opts.gate && len(report.failed()) > 0 && try < gateTries; try++ {
			before := report
			if report, err = c.report(ctx, opts); err == nil {
				report.keepBest(before)
			}
		}
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		if err := done(report); err != nil {
			return err
		}
	}
	return nil
}

// gateTries is how often a case is measured until it passes its gates. A figure that is truly too slow misses its gate
// each time; one that a busy machine made slow does not.
const gateTries = 3

func (c benchCase) report(ctx context.Context, opts options) (*Report, error) {
	share := processorShare()
	report, err := c.measure(ctx, opts)
	if err != nil {
		return nil, err
	}
	share = min(share, processorShare())
	report.Case, report.What, report.Quick = c.name, c.what, opts.quick
	report.judge()
	report.excuse(share)
	return report, nil
}

func choose(names []string) ([]benchCase, error) {
	all := cases()
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(c benchCase) bool { return c.long }), nil
	}
	var chosen []benchCase
	for _, name := range names {
		i := slices.IndexFunc(all, func(c benchCase) bool { return c.name == name })
		if i < 0 {
			var known []string
			for _, c := range all {
				known = append(known, c.name)
			}
			return nil, fmt.Errorf("%w: %q; there are %s", errNoCase, name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// bench is one case under way.
type bench struct {
	opts    options
	current string // case
	sides   []*side
}

func (c benchCase) measure(ctx context.Context, opts options) (_ *Report, err error) {
	b := &bench{opts: opts, current: c.name}
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
	case b.opts.quick:
		return quick
	}
	return normal
}
