package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/onda/edf"
)

type ondaCmd struct {
	Repack ondaRepackCmd `cmd:"" help:"Copy an Onda data set with its lpcm.zst files in small frames (the zstd seekable format), so that any window is read without what lies before it."`
	Import ondaImportCmd `cmd:"" help:"Make an Onda data set of EDF, EDF+ and BDF files, with their annotations as labels."`
}

type ondaImportCmd struct {
	Files  []string `arg:"" help:"Files, or folders whose files that end in .edf and .bdf are taken." type:"path"`
	Out    string   `help:"Folder to make; it must not exist." type:"path" placeholder:"DIR"`
	DryRun bool     `help:"Say what would be written, and write nothing."`
	JSON   bool     `name:"json" env:"JETBATCH_JSON" help:"Print one JSON object."`
}

// importReport is the output of --json.
type importReport struct {
	Out        string           `json:"out,omitempty"`
	Recordings []importedReport `json:"recordings"`
}

type importedReport struct {
	ID      string   `json:"id"`
	File    string   `json:"file"`
	Labels  string   `json:"labels,omitempty"`
	Signals []string `json:"signals"`
	Seconds float64  `json:"seconds"`
	Spans   int      `json:"spans"`
	Events  int      `json:"events"`
}

// Run imports.
func (c *ondaImportCmd) Run(ctx context.Context, a *app) error {
	if c.Out == "" && !c.DryRun {
		return fmt.Errorf("%w: --out or --dry-run is missing", errUsage)
	}
	files, err := recordingsIn(c.Files)
	if err != nil {
		return err
	}
	shown := time.Now()
	summary, err := edf.Import(ctx, edf.ImportConfig{
		Files: files, Out: c.Out, DryRun: c.DryRun,
		Progress: func(done, total int64) {
			if time.Since(shown) > lineEvery {
				shown = time.Now()
				a.err.say("%.0f of %.0f MB", megabytes(done), megabytes(total))
			}
		},
	})
	if err != nil {
		return err
	}
	report := importReport{Recordings: make([]importedReport, len(summary.Recordings))}
	for i, r := range summary.Recordings {
		report.Recordings[i] = importedOf(r)
	}
	if !c.DryRun {
		report.Out = c.Out
	}
	if c.JSON {
		return printJSON(a.out, report)
	}
	for _, r := range report.Recordings {
		fmt.Fprintf(a.out, "%s  %s  %v, %d spans, %d events: %s\n", r.ID, filepath.Base(r.File),
			time.Duration(r.Seconds*float64(time.Second)).Round(time.Second), r.Spans, r.Events,
			strings.Join(r.Signals, "; "))
	}
	if c.DryRun {
		return nil
	}
	fmt.Fprintf(a.out, "%d recordings in %s\n", len(report.Recordings), c.Out)
	return nil
}

func importedOf(r edf.Imported) importedReport {
	out := importedReport{
		ID: r.ID.String(), File: r.File, Labels: r.Labels, Signals: []string{}, Spans: len(r.Spans),
		Events: len(r.Events),
	}
	for _, s := range r.Signals {
		out.Signals = append(out.Signals, fmt.Sprintf("%s, %d channels at %v Hz in %s",
			s.SensorLabel, len(s.Channels), s.SampleRate, s.Unit))
		out.Seconds = max(out.Seconds, s.Span.Stop.Seconds())
	}
	return out
}

// recordingsIn replaces folders by the recordings in them.
func recordingsIn(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		entries, err := os.ReadDir(path)
		if err != nil {
			if info, statErr := os.Stat(path); statErr != nil || info.IsDir() {
				return nil, fmt.Errorf("%w: %w", errUsage, errors.Join(err, statErr))
			}
			files = append(files, path)
			continue
		}
		for _, e := range entries {
			if end := strings.ToLower(filepath.Ext(e.Name())); slices.Contains([]string{".edf", ".bdf"}, end) &&
				!e.IsDir() {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no .edf or .bdf in %s", errUsage, strings.Join(paths, ", "))
	}
	return files, nil
}
