package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/scratch"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/importer"
)

type demoCmd struct {
	Data          string `help:"Folder to use: labelled Onda signals, or EDF, BDF, WFDB or WAVE files with annotations, which are imported to a temporary place. Defaults to small ones that are made up in a temporary folder." type:"path" placeholder:"DIR"`
	Keep          string `help:"Make the data up in this folder and leave it there." type:"path" placeholder:"DIR"`
	Batches       int    `short:"n" help:"How many to take in all." default:"1200"`
	Workers       int    `help:"Workers before the stop; one of them is killed." default:"3"`
	ResumeWorkers int    `help:"Workers after it." default:"5"`
	Slots         int    `help:"Batches that one worker materializes at a time." default:"2"`
	Seed          uint64 `help:"Seed of the data that is made up and of the batches." default:"1"`
	JSON          bool   `name:"json" env:"JETBATCH_JSON" help:"Print one JSON object; the story goes to standard error."`
}

// demoReport is what a demo came to.
type demoReport struct {
	Batches     int      `json:"batches"`   // taken
	Identical   bool     `json:"identical"` // all of them, and the states after them, to the reference
	Difference  string   `json:"difference,omitempty"`
	ResumedAt   int      `json:"resumed_at"`  // batches taken before the stop
	Generations int      `json:"generations"` // runs of the batcher
	Killed      []string `json:"killed"`      // workers
	Redelivered int      `json:"redelivered"` // batches whose job was handed out more than once
	Workers     [2]int   `json:"workers"`     // before and after the stop
	Bytes       int64    `json:"bytes"`       // of all batches
	Seconds     float64  `json:"seconds"`     // of taking, the time that the killed worker cost included
	BatchesPerS float64  `json:"batches_per_s"`
	MBPerS      float64  `json:"mb_per_s"`
	Dataset     string   `json:"dataset"`
	State       string   `json:"state"` // that it was resumed from

	Timing timingReport `json:"timing"`
}

// Run runs the demo in a temporary folder.
func (c *demoCmd) Run(ctx context.Context, a *app) (err error) {
	switch {
	case c.Batches < 8:
		return fmt.Errorf("%w: --batches is at least 8", errUsage)
	case c.Workers < 2 || c.ResumeWorkers < 1 || c.Slots < 1:
		return fmt.Errorf("%w: --workers is at least 2, since one is killed; --resume-workers and --slots at least 1", errUsage)
	case c.Workers > maxWorkers || c.ResumeWorkers > maxWorkers || c.Slots > wire.MaxSlots:
		return fmt.Errorf("%w: --workers and --resume-workers are at most %d, --slots at most %d", errUsage, maxWorkers, wire.MaxSlots)
	case c.Data != "" && c.Keep != "":
		return fmt.Errorf("%w: --data or --keep, not both", errUsage)
	}
	folder, err := scratch.New("demo")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	dir := folder.Path
	story := a.err
	if !c.JSON {
		story = newConsole(a.out)
	}
	params, err := c.params(ctx, story, dir)
	if err != nil {
		return err
	}
	spool, err := os.Create(filepath.Join(dir, "taken"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()

	d := &demo{cmd: c, app: a, story: story, params: params, dir: dir, spool: spool, gens: make(map[string]bool)}
	report, err := d.run(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	if c.JSON {
		err = printJSON(a.out, report)
	}
	if !report.Identical {
		err = errors.Join(err, fmt.Errorf("%w: %s", errDiffers, report.Difference))
	}
	return err
}

// params chooses the data: given, or made up.
func (c *demoCmd) params(ctx context.Context, story *console, dir string) (onda.Params, error) {
	data := cmp.Or(c.Keep, filepath.Join(dir, "data"))
	if c.Data == "" {
		if err := onda.Synthesize(data, onda.SynthConfig{Seed: c.Seed, Recordings: 8, Duration: 3 * time.Minute}); err != nil {
			return onda.Params{}, err
		}
		story.say("data      8 made-up recordings of 3 minutes, half of them compressed, in %s", data)
	}
	params, err := openData(ctx, story, cmp.Or(c.Data, data), data)
	if err != nil {
		return params, err
	}
	params.BatchSize, params.Seed = 8, c.Seed
	if c.Data != "" {
		story.say("data      %s, %s, labels from column %q of %s", params.Dir, params.Signals, params.LabelColumn, params.Annotations)
		ds, err := onda.New(ctx, params, onda.Config{})
		if err != nil {
			return params, err
		}
		defer ds.Close()
		story.say("          %s", ds.Report())
	}
	story.say("batches   %d random windows of %v each, the labels of every second beside them",
		params.BatchSize, time.Duration(params.BatchDuration))
	return params, nil
}

// openData gives parameters that open a folder: of Onda signals, or of recordings in other formats, which are imported
// to out then. Bad files are left out and named. Where the files have no labels, each recording has one.
func openData(ctx context.Context, story *console, dir, out string) (onda.Params, error) {
	if _, err := os.Stat(dir); err != nil {
		return onda.Params{}, fmt.Errorf("%w: --data: %w", errUsage, err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.signals.arrow"))
	if err == nil && len(tables) > 0 {
		return guessData(ctx, dir)
	}
	files, err := importer.Find([]string{dir})
	if err != nil {
		return onda.Params{}, fmt.Errorf("%w: --data: no table *.signals.arrow in %s, and: %w", errUsage, dir, err)
	}
	cfg := importer.Config{Files: files, Out: out, OnBad: importer.OnBadDrop, Merge: true}
	summary, err := importData(ctx, story, cfg)
	if err != nil {
		return onda.Params{}, err
	}
	story.say("import    %d recordings of %d files to a temporary place, %s", len(summary.Recordings), len(files), out)
	for _, b := range summary.Bad {
		story.say("          without %s: %s", legible.Line(b.File), legible.Line(b.Err.Error()))
	}
	params, err := guessData(ctx, out)
	if !errors.Is(err, onda.ErrParams) {
		return params, err
	}
	cfg.Label = "unlabeled"
	story.say("labels    none here that cover seconds; recordings without any are labelled %q", cfg.Label)
	if err := os.RemoveAll(out); err != nil {
		return params, err
	}
	if _, err := importData(ctx, story, cfg); err != nil {
		return params, err
	}
	return guessData(ctx, out)
}

// importData imports with a progress bar.
func importData(ctx context.Context, story *console, cfg importer.Config) (importer.Summary, error) {
	m := story.bytesMeter("importing")
	defer m.end()
	cfg.Progress = m.set
	return importer.Import(ctx, cfg)
}

// guessData are the parameters that open a folder of Onda signals.
func guessData(ctx context.Context, dir string) (onda.Params, error) {
	params, err := onda.GuessContext(ctx, dir)
	if err != nil {
		return params, fmt.Errorf("%w: --data: %w%s", errUsage, err, importHint(dir))
	}
	params.Dir, err = filepath.Abs(dir)
	return params, err
}

// importHint says what to do about a folder that has recordings in other formats, and else nothing.
func importHint(dir string) string {
	files, err := importer.Find([]string{dir})
	if err != nil {
		return ""
	}
	return fmt.Sprintf("; it has %d recordings in other formats: jetbatch onda import %s --out DIR makes such tables",
		len(files), dir)
}

// findData is openData with a temporary place. remove removes that.
func findData(ctx context.Context, story *console, dir string) (params onda.Params, remove func() error, err error) {
	temporary, err := scratch.New("data")
	if err != nil {
		return params, nil, err
	}
	if params, err = openData(ctx, story, dir, filepath.Join(temporary.Path, "data")); err != nil {
		return params, nil, errors.Join(err, temporary.Close())
	}
	return params, temporary.Close, nil
}

// readBack reads the next n bytes that the demo took.
func readBack(r io.Reader, buf []byte, n int) ([]byte, error) {
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, err
}
