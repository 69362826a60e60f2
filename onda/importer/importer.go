// Package importer makes Onda data sets of recordings in other formats: EDF, EDF+ and BDF, WFDB and WAVE.
//
// Samples are copied as the integers, or floats, that they are, unless Config.Merge asks for another way. On an error
// nothing is left behind, and an import that was cut short goes on where it was.
package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/jetbatch/jetbatch/onda"
)

// ErrImport is returned for files that cannot be imported together, and for a place that cannot be written to.
var ErrImport = errors.New("import: cannot import")

// The values of Config.OnBad.
const (
	// OnBadRefuse ends the import with a list of all bad files.
	OnBadRefuse = "refuse"
	// OnBadDrop leaves bad files out: [Summary].Bad.
	OnBadDrop = "drop"
)

// Config configures [Import].
type Config struct {
	// Files to import: EDF, EDF+, BDF, WAVE, and the headers (.hea) of WFDB. Required.
	Files []string
	// Out is the folder to make, which must not exist. Required, unless DryRun is set.
	Out string
	// DryRun reads headers and annotations and writes nothing. Defaults to false.
	DryRun bool
	// Names of sensors and channels. Defaults to [DefaultNames].
	Names Names
	// Annotator is the ending of the annotation files of WFDB. Defaults to "atr".
	Annotator string
	// Lasting are the symbols of WFDB annotations that last until the next of the same symbol, or the record's end.
	// Defaults to "+", the change of rhythm.
	Lasting []string
	// Merge makes one signal of the channels that differ in scale alone, as those of EDF files often do, by decoding
	// them to float32; samples that are marked as missing become NaN. Defaults to false: one signal for each scale,
	// with samples as they are.
	Merge bool
	// Label, if set, is that of recordings without an annotation that has a duration: one over each of their stretches.
	// Defaults to none.
	Label string
	// OnBad is "refuse" or "drop". Defaults to "refuse".
	OnBad string
	// Progress hears of samples that were written, in bytes of the files, from the calling goroutine. Defaults to none.
	Progress func(done, total int64)
}

// Summary lists what an import made, or would make.
type Summary struct {
	Recordings []Recording
	// Bad are the files that were left out.
	Bad []Bad
	// Resumed is how many recordings an import before this one had written.
	Resumed int
}

// Bad is a file that cannot be imported.
type Bad struct {
	File string
	Err  error
}

// Recording is one recording.
type Recording struct {
	ID   uuid.UUID
	File string
	// Labels is the file with its annotations, if these are in one of their own.
	Labels  string
	Signals []onda.Signal
	// Spans are annotations with a duration, Events those without.
	Spans, Events []onda.Annotation
	// Missing is how many samples the file marks as missing. They keep the value that says so, unless channels are
	// merged. Known once written.
	Missing int64
}

// The tables that an import writes beside the samples.
const (
	signalTable = "onda.signals.arrow"
	spanTable   = "onda.annotations.arrow"
	eventTable  = "events.onda.annotations.arrow"
)

// Import writes an Onda data set: one signal for the channels of a file that share type of sensor, rate, unit and
// scale, and one for each stretch of a file with gaps; annotations that have a duration, and, in a table of their own,
// those that have none. An EDF file that has annotations only, such as a hypnogram, belongs to the recording whose
// file's name begins most like its own.
//
// A recording's UUID comes from the file's name and header, so that importing again gives the same. Out appears when
// all is written. On an error nothing is left behind, unless ctx ended: then a hidden folder beside Out, from which the
// next Import to the same place goes on with the recordings that are not in it.
func Import(ctx context.Context, cfg Config) (Summary, error) {
	if len(cfg.Files) == 0 {
		return Summary{}, fmt.Errorf("%w: no files", ErrImport)
	}
	p, err := newPlanner(cfg)
	if err != nil {
		return Summary{}, err
	}
	plans, bad, err := p.plan(ctx, cfg.Files)
	if err != nil {
		return Summary{}, err
	}
	if err := refused(cfg.OnBad, bad); err != nil {
		return Summary{}, err
	}
	if len(plans) == 0 {
		return Summary{}, fmt.Errorf("%w: none of %d files has samples that can be imported%s", ErrImport, len(cfg.Files),
			list(bad))
	}
	out := Summary{Bad: bad}
	if cfg.DryRun {
		for _, r := range plans {
			out.Recordings = append(out.Recordings, r.Recording)
		}
		return out, nil
	}
	if _, err := os.Lstat(cfg.Out); cfg.Out == "" || err == nil {
		return Summary{}, fmt.Errorf("%w: %q exists, or is no name", ErrImport, cfg.Out)
	}
	w := &writer{cfg: cfg, plans: plans, dir: partial(cfg.Out)}
	if err := w.run(ctx, &out); err != nil {
		if ctx.Err() != nil {
			return Summary{}, fmt.Errorf("%w: cut short after %d of %d recordings; the same import again goes on from there: %w",
				ErrImport, w.written, len(plans), err)
		}
		return Summary{}, errors.Join(err, os.RemoveAll(w.dir))
	}
	return out, nil
}

// partial is the folder that is written before it is renamed to out.
func partial(out string) string {
	return filepath.Join(filepath.Dir(out), "."+filepath.Base(out)+".import")
}

// refused is the error of bad files, unless these are to be dropped.
func refused(onBad string, bad []Bad) error {
	if len(bad) == 0 || onBad == OnBadDrop {
		return nil
	}
	errs := make([]error, len(bad))
	for i, b := range bad {
		errs[i] = b.Err
	}
	return &refusal{text: fmt.Sprintf("%v: %d bad files, which on_bad %q would leave out%s", ErrImport, len(bad),
		OnBadDrop, list(bad)), errs: errs}
}

// refusal lists what is bad, and unwraps to all of it.
type refusal struct {
	text string
	errs []error
}

func (r *refusal) Error() string   { return r.text }
func (r *refusal) Unwrap() []error { return append([]error{ErrImport}, r.errs...) }

// list is a line for each bad file, up to ten.
func list(bad []Bad) string {
	const most = 10
	var out strings.Builder
	for _, b := range bad[:min(len(bad), most)] {
		fmt.Fprintf(&out, "\n  %s: %v", b.File, b.Err)
	}
	if more := len(bad) - most; more > 0 {
		fmt.Fprintf(&out, "\n  and %d more", more)
	}
	return out.String()
}

// endings are those of files that are looked for in folders.
var endings = []string{".edf", ".bdf", ".hea", ".wav"}

// Find replaces folders by the recordings in them and below, in the order of their names. Segments of a WFDB record are
// no recordings. Folders and files whose names begin with a dot are passed over; links to folders are followed.
func Find(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImport, err)
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		found, err := findIn(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImport, err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no %s in %s", ErrImport, strings.Join(endings, ", "), strings.Join(paths, ", "))
	}
	return files, nil
}

func findIn(dir string) ([]string, error) {
	var files []string
	segments := map[string]bool{}
	walked := map[string]bool{} // links may lead to a folder twice, or round in it
	var walk func(dir string) error
	walk = func(dir string) error {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil || walked[real] {
			return err
		}
		walked[real] = true
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			folder := e.IsDir()
			if e.Type() == os.ModeSymlink {
				info, err := os.Stat(path)
				folder = err == nil && info.IsDir()
			}
			if folder {
				if err := walk(path); err != nil {
					return err
				}
				continue
			}
			if end := strings.ToLower(filepath.Ext(path)); slices.Contains(endings, end) {
				files = append(files, path)
				if end == ".hea" {
					for _, s := range segmentsOf(path) {
						segments[s] = true
					}
				}
			}
		}
		return nil
	}
	err := walk(dir)
	return slices.DeleteFunc(files, func(f string) bool { return segments[f] }), err
}
