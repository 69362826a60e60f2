package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/onda/importer"
)

type ondaCmd struct {
	Import    ondaImportCmd    `cmd:"" help:"Make an Onda data set of EDF, EDF+, BDF, WFDB and WAVE files, with their annotations as labels."`
	Describe  ondaDescribeCmd  `cmd:"" help:"Say what a folder has: recordings, hours, rates, channels, labels, and what would be dropped and why."`
	Normalize ondaNormalizeCmd `cmd:"" help:"Compute mean and scale of every channel over the training part, and give the parameters with them."`
	Repack    ondaRepackCmd    `cmd:"" help:"Copy an Onda data set with its lpcm.zst files in small frames (the zstd seekable format), so that any window is read without what lies before it."`
}

type ondaImportCmd struct {
	Files     []string `arg:"" help:"Files (.edf, .bdf, .wav, and .hea of WFDB), or folders: all in them and below." type:"path"`
	Out       string   `help:"Folder to make; it must not exist. An import that was interrupted goes on." type:"path" placeholder:"DIR"`
	DryRun    bool     `help:"Say what would be written, and write nothing."`
	Names     string   `help:"Table of names of sensors and channels, as JSON, that is laid over the one that is built in: docs/ONDA.md." type:"path" placeholder:"FILE"`
	Annotator string   `help:"Ending of the annotation files of WFDB." default:"atr"`
	Lasting   []string `help:"Symbols of WFDB annotations that last until the next of the same symbol." default:"+"`
	Merge     bool     `help:"Make one signal of channels that differ in scale alone, as those of EDF often do, by decoding them to float32."`
	Label     string   `help:"Label for the whole of a recording that has none." placeholder:"NAME"`
	OnBad     string   `help:"refuse: a bad file ends the import. drop: bad files are left out, and listed." enum:"refuse,drop" default:"refuse" placeholder:"refuse|drop"`
	JSON      bool     `name:"json" env:"JETBATCH_JSON" help:"Print one JSON object."`
}

// importReport is the output of --json.
type importReport struct {
	Out        string           `json:"out,omitempty"`
	Recordings []importedReport `json:"recordings"`
	Bad        []badReport      `json:"bad,omitempty"`
	Resumed    int              `json:"resumed,omitempty"` // recordings that an import before this one wrote
}

type badReport struct {
	File  string `json:"file"`
	Error string `json:"error"`
}

type importedReport struct {
	ID      string   `json:"id"`
	File    string   `json:"file"`
	Labels  string   `json:"labels,omitempty"`
	Signals []string `json:"signals"`
	Seconds float64  `json:"seconds"`
	Spans   int      `json:"spans"`
	Events  int      `json:"events"`
	Missing int64    `json:"missing_samples,omitempty"`
}

// Run imports.
func (c *ondaImportCmd) Run(ctx context.Context, a *app) error {
	if c.Out == "" && !c.DryRun {
		return fmt.Errorf("%w: --out or --dry-run is missing", errUsage)
	}
	files, err := importer.Find(c.Files)
	if err != nil {
		return err
	}
	names, err := importer.DefaultNames()
	if err != nil {
		return err
	}
	if c.Names != "" {
		more, err := readNames(c.Names)
		if err != nil {
			return err
		}
		names = names.With(more)
	}
	m := a.err.bytesMeter("importing")
	summary, err := importer.Import(ctx, importer.Config{
		Files: files, Out: c.Out, DryRun: c.DryRun, Names: names, Annotator: c.Annotator, Lasting: c.Lasting,
		OnBad: c.OnBad, Merge: c.Merge, Label: c.Label, Progress: m.set,
	})
	m.end()
	if err != nil {
		return interrupted(ctx, err)
	}
	report := importReport{Recordings: make([]importedReport, len(summary.Recordings)), Resumed: summary.Resumed}
	for i, r := range summary.Recordings {
		report.Recordings[i] = importedOf(r)
	}
	for _, b := range summary.Bad {
		report.Bad = append(report.Bad, badReport{b.File, b.Err.Error()})
	}
	if !c.DryRun {
		report.Out = c.Out
	}
	if c.JSON {
		return printJSON(a.out, report)
	}
	report.print(a.out)
	return nil
}

func readNames(path string) (importer.Names, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: --names: %w", errUsage, err)
	}
	defer f.Close()
	return importer.ReadNames(f)
}

// print writes a line for each recording, and one for all.
func (r *importReport) print(out io.Writer) {
	for _, rec := range r.Recordings {
		fmt.Fprintf(out, "%s  %s  %v, %d spans, %d events: %s\n", rec.ID, legible.Line(filepath.Base(rec.File)),
			time.Duration(rec.Seconds*float64(time.Second)).Round(time.Second), rec.Spans, rec.Events,
			legible.Line(strings.Join(rec.Signals, "; ")))
		if rec.Missing > 0 {
			fmt.Fprintf(out,
				"  %d samples are marked as missing: they keep the value that says so, or are NaN with --merge\n", rec.Missing)
		}
	}
	for _, b := range r.Bad {
		fmt.Fprintf(out, "left out: %s: %s\n", legible.Line(b.File), legible.Line(b.Error))
	}
	if r.Out == "" {
		return
	}
	resumed := ""
	if r.Resumed > 0 {
		resumed = fmt.Sprintf(", %d of them written before", r.Resumed)
	}
	fmt.Fprintf(out, "%d recordings in %s%s\n", len(r.Recordings), r.Out, resumed)
}

func importedOf(r importer.Recording) importedReport {
	out := importedReport{
		ID: r.ID.String(), File: r.File, Labels: r.Labels, Signals: []string{}, Spans: len(r.Spans),
		Events: len(r.Events), Missing: r.Missing,
	}
	for _, s := range r.Signals {
		out.Signals = append(out.Signals, fmt.Sprintf("%s, %d channels at %v Hz in %s",
			s.SensorLabel, len(s.Channels), s.SampleRate, s.Unit))
		out.Seconds = max(out.Seconds, s.Span.Stop.Seconds())
	}
	return out
}
