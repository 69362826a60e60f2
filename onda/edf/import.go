package edf

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/jetbatch/jetbatch/onda"
)

// ErrImport is returned for files that cannot be imported together, and for a place that cannot be written to.
var ErrImport = errors.New("edf: cannot import")

// ImportConfig configures [Import].
type ImportConfig struct {
	// Files to import: EDF, EDF+ and BDF. Required.
	Files []string
	// Out is the folder to make, which must not exist. Required, unless DryRun is set.
	Out string
	// DryRun reads headers and annotations and writes nothing. Defaults to false.
	DryRun bool
	// Progress hears of samples that were written, in bytes of the files, from the calling goroutine. Defaults to none.
	Progress func(done, total int64)
}

// Summary lists the recordings of an import.
type Summary struct {
	Recordings []Imported
}

// Imported is one recording.
type Imported struct {
	ID   uuid.UUID
	File string
	// Labels is the file with its annotations, if these are in one of their own.
	Labels  string
	Signals []onda.Signal
	// Spans are annotations with a duration, Events those without.
	Spans, Events []onda.Annotation
}

// The tables that an import writes beside the samples.
const (
	signalTable = "onda.signals.arrow"
	spanTable   = "onda.annotations.arrow"
	eventTable  = "events.onda.annotations.arrow"
)

// Import writes an Onda data set: one signal for the channels of a file that share kind, rate, unit and scale, and one
// for each stretch of a discontinuous file; annotations that have a duration, and, in a table of their own, those that
// have none. A file that has annotations only, such as a hypnogram, belongs to the recording whose file's name begins
// most like its own.
//
// Channels are named by their labels in lower case without the kind in front: "EEG Fpz-Cz" is "fpz-cz" of sensor type
// "eeg". A recording's UUID comes from the file's name and header, so that importing again gives the same. Samples are
// copied as they are. On any error nothing is left behind.
func Import(ctx context.Context, cfg ImportConfig) (Summary, error) {
	if len(cfg.Files) == 0 {
		return Summary{}, fmt.Errorf("%w: no files", ErrImport)
	}
	plans, err := plan(cfg.Files)
	if err != nil {
		return Summary{}, err
	}
	var out Summary
	for _, p := range plans {
		out.Recordings = append(out.Recordings, p.Imported)
	}
	if cfg.DryRun {
		return out, nil
	}
	if _, err := os.Lstat(cfg.Out); cfg.Out == "" || err == nil {
		return Summary{}, fmt.Errorf("%w: %q exists, or is no name", ErrImport, cfg.Out)
	}
	// Beside the place where it ends up, to be renamed there.
	if err := os.MkdirAll(filepath.Dir(cfg.Out), 0o755); err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrImport, err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(cfg.Out), ".import-")
	if err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrImport, err)
	}
	err = write(ctx, dir, plans, cfg.Progress)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.Rename(dir, cfg.Out))
	}
	if err != nil {
		return Summary{}, errors.Join(err, os.RemoveAll(dir))
	}
	return out, nil
}

// recording is a plan for one file.
type recording struct {
	Imported
	size   int64
	groups []group
}

// group is one signal to write: channels of a file over some of its records.
type group struct {
	path     string
	channels []int
	from, to int // records
}

// onDisk is a file with its header read.
type onDisk struct {
	name string
	file *os.File
	edf  *File
	size int64
}

func openFile(name string) (*onDisk, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImport, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var parsed *File
	if err == nil {
		parsed, err = Read(f, info.Size())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrImport, name, err), f.Close())
	}
	return &onDisk{name, f, parsed, info.Size()}, nil
}

// plan makes a recording of every file, in the order of their names.
func plan(names []string) ([]*recording, error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	var plans []*recording
	var apart []*recording // annotations alone
	for _, name := range names {
		d, err := openFile(name)
		if err != nil {
			return nil, err
		}
		p, err := planFile(d)
		if err := errors.Join(err, d.file.Close()); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrImport, name, err)
		}
		if len(p.groups) == 0 {
			apart = append(apart, p)
		} else {
			plans = append(plans, p)
		}
	}
	paths := map[string]string{}
	for _, p := range plans {
		for _, g := range p.groups {
			if other, ok := paths[g.path]; ok {
				return nil, fmt.Errorf("%w: %s and %s would both be written as %s", ErrImport, other, p.File, g.path)
			}
			paths[g.path] = p.File
		}
	}
	for _, labels := range apart {
		p, err := partner(labels, plans)
		if err != nil {
			return nil, err
		}
		p.Labels = labels.File
		for _, list := range []struct{ of, add *[]onda.Annotation }{{&p.Spans, &labels.Spans},
			{&p.Events, &labels.Events}} {
			for _, a := range *list.add {
				a.Recording = p.ID
				*list.of = append(*list.of, a)
			}
		}
	}
	return plans, nil
}

// minPrefix of two names say that their files belong together.
const minPrefix = 4

// partner finds the recording that a file of annotations belongs to.
func partner(labels *recording, plans []*recording) (*recording, error) {
	best, most, again := -1, minPrefix-1, false
	for i, p := range plans {
		n := 0
		for a, b := base(p.File), base(labels.File); n < min(len(a), len(b)) && a[n] == b[n]; {
			n++
		}
		switch {
		case n > most:
			best, most, again = i, n, false
		case n == most && best >= 0:
			again = true
		}
	}
	if best < 0 || again || plans[best].Labels != "" {
		return nil, fmt.Errorf("%w: %s has annotations only, and no one recording whose file is named like it",
			ErrImport, labels.File)
	}
	return plans[best], nil
}

func base(name string) string {
	name = filepath.Base(name)
	return strings.TrimSuffix(name, filepath.Ext(name))
}

func planFile(d *onDisk) (*recording, error) {
	p := &recording{size: d.size, Imported: Imported{
		File: d.name,
		ID:   uuid.NewSHA1(uuid.Nil, append([]byte(base(d.name)+"\x00"), d.edf.header...)),
	}}
	notes, onsets, err := d.edf.Annotations()
	if err != nil {
		return nil, err
	}
	begin := time.Duration(0) // the recording counts from its first sample
	if len(onsets) > 0 {
		begin = onsets[0]
	}
	if err := p.planSignals(d.edf, onsets, begin); err != nil {
		return nil, err
	}
	if len(p.groups) == 0 {
		begin = 0 // that of another file
	}
	for i, n := range notes {
		at := n.Onset - begin
		if at < 0 {
			continue // before there are samples
		}
		a := onda.Annotation{
			Recording: p.ID, ID: uuid.NewSHA1(p.ID, binary.BigEndian.AppendUint64(nil, uint64(i))),
			Span: onda.Span{Start: at, Stop: at + n.Duration}, Label: n.Text,
		}
		if n.Duration > 0 {
			p.Spans = append(p.Spans, a)
			continue
		}
		a.Span.Stop++ // an instant; spans of no length are none
		p.Events = append(p.Events, a)
	}
	slices.SortStableFunc(p.Spans, func(a, b onda.Annotation) int { return cmp.Compare(a.Span.Start, b.Span.Start) })
	return p, nil
}

// stretches divides the records of a file where time is missing between them.
func stretches(f *File, onsets []time.Duration) ([][2]int, error) {
	const tolerance = time.Microsecond
	var out [][2]int
	from := 0
	for r := 1; r <= f.Records; r++ {
		if r < f.Records {
			off := onsets[r] - onsets[from] - f.sinceFirst(r-from)
			if off.Abs() <= tolerance {
				continue
			}
			if off < 0 {
				return nil, fmt.Errorf("%w: data record %d begins before the one before it ends", ErrFormat, r)
			}
		}
		out = append(out, [2]int{from, r})
		from = r
	}
	return out, nil
}

// planSignals puts channels of one kind, rate, unit and scale together.
func (p *recording) planSignals(f *File, onsets []time.Duration, begin time.Duration) error {
	parts, err := stretches(f, onsets)
	if err != nil {
		return err
	}
	type key struct {
		kind, unit         string
		perRecord          int
		resolution, offset float64
	}
	var keys []key
	channels := map[key][]int{}
	for i, s := range f.Signals {
		if s.Annotations {
			continue
		}
		k := key{unit: cmp.Or(s.Unit, "unknown"), perRecord: s.PerRecord}
		k.kind, _ = split(s.Label)
		k.resolution = (s.PhysicalMax - s.PhysicalMin) / float64(s.DigitalMax-s.DigitalMin)
		k.offset = s.PhysicalMin - float64(float64(s.DigitalMin)*k.resolution)
		if channels[k] == nil {
			keys = append(keys, k)
		}
		channels[k] = append(channels[k], i)
	}
	sampleType := map[int]string{2: "int16", 3: "int32"}[f.Width]
	count := map[string]int{}
	for _, k := range keys {
		sensor := k.kind
		if count[k.kind]++; count[k.kind] > 1 {
			sensor = fmt.Sprintf("%s_%d", k.kind, count[k.kind])
		}
		for n, part := range parts {
			path := fmt.Sprintf("samples/%s.%s.lpcm", base(p.File), sensor)
			if len(parts) > 1 {
				path = fmt.Sprintf("samples/%s.%s.%d.lpcm", base(p.File), sensor, n+1)
			}
			start := onsets[part[0]] - begin
			p.groups = append(p.groups, group{path: path, channels: channels[k], from: part[0], to: part[1]})
			p.Signals = append(p.Signals, onda.Signal{
				Recording: p.ID, SensorType: k.kind, SensorLabel: sensor, Channels: names(f, channels[k]), Unit: k.unit,
				Resolution: k.resolution, Offset: k.offset, SampleType: sampleType,
				SampleRate: float64(k.perRecord) / f.RecordSeconds, Path: path, Format: "lpcm",
				Span: onda.Span{Start: start, Stop: start + f.sinceFirst(part[1]-part[0])},
			})
		}
	}
	return nil
}

// kinds are the types of sensors that EDF+ puts in front of a label, and those that others do.
var kinds = map[string]string{
	"EEG": "eeg", "ECG": "ecg", "EKG": "ecg", "EOG": "eog", "EMG": "emg", "ERG": "erg", "MEG": "meg", "MCG": "mcg",
	"EP": "ep", "RESP": "resp", "SAO2": "sao2", "SPO2": "spo2", "TEMP": "temp", "LIGHT": "light", "SOUND": "sound",
	"EVENT": "event",
}

// split parts a label into the kind of its sensor and the name of its channel.
func split(label string) (kind, name string) {
	first, rest, _ := strings.Cut(strings.TrimSpace(label), " ")
	if kind, ok := kinds[strings.ToUpper(first)]; ok {
		return kind, cmp.Or(clean(rest), kind)
	}
	return "unknown", cmp.Or(clean(label), "channel")
}

// clean is a label in lower case, with an underscore for every rune but letters, digits and usual marks.
func clean(label string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-+:./()", r) {
			return unicode.ToLower(r)
		}
		return '_'
	}, strings.TrimSpace(label))
}

// names are the channels' names, each once.
func names(f *File, channels []int) []string {
	var out []string
	for _, c := range channels {
		_, name := split(f.Signals[c].Label)
		unique := name
		for n := 2; slices.Contains(out, unique); n++ {
			unique = fmt.Sprintf("%s_%d", name, n)
		}
		out = append(out, unique)
	}
	return out
}

func write(ctx context.Context, dir string, plans []*recording, progress func(done, total int64)) error {
	var signals []onda.Signal
	var spans, events []onda.Annotation
	var done, total int64
	for _, p := range plans {
		signals, spans, events = append(signals, p.Signals...), append(spans, p.Spans...), append(events, p.Events...)
		total += p.size
	}
	if err := os.Mkdir(filepath.Join(dir, "samples"), 0o755); err != nil {
		return fmt.Errorf("%w: %w", ErrImport, err)
	}
	for _, p := range plans {
		if err := p.write(ctx, dir); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrImport, p.File, err)
		}
		if done += p.size; progress != nil {
			progress(done, total)
		}
	}
	return errors.Join(
		create(filepath.Join(dir, signalTable), func(w *bufio.Writer) error {
			return onda.WriteSignals(w, onda.TableFormat{}, signals)
		}),
		create(filepath.Join(dir, spanTable), func(w *bufio.Writer) error {
			return onda.WriteAnnotations(w, onda.TableFormat{}, "label", spans)
		}),
		create(filepath.Join(dir, eventTable), func(w *bufio.Writer) error {
			return onda.WriteAnnotations(w, onda.TableFormat{}, "label", events)
		}))
}

func create(name string, fill func(*bufio.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImport, err)
	}
	w := bufio.NewWriterSize(f, 256<<10)
	return errors.Join(fill(w), w.Flush(), f.Close())
}

func (p *recording) write(ctx context.Context, dir string) error {
	d, err := openFile(p.File)
	if err != nil {
		return err
	}
	defer d.file.Close()
	if uuid.NewSHA1(uuid.Nil, append([]byte(base(d.name)+"\x00"), d.edf.header...)) != p.ID {
		return errors.New("the file has changed")
	}
	for _, g := range p.groups {
		err := create(filepath.Join(dir, filepath.FromSlash(g.path)), func(w *bufio.Writer) error {
			return d.edf.copyGroup(ctx, w, g)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// copyGroup interleaves the channels of a group.
func (f *File) copyGroup(ctx context.Context, w *bufio.Writer, g group) error {
	var record []byte
	var err error
	var sample [4]byte
	width := 2
	if f.Width == 3 {
		width = 4
	}
	for r := g.from; r < g.to; r++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if record, err = f.ReadRecord(r, record); err != nil {
			return err
		}
		for t := range f.Signals[g.channels[0]].PerRecord {
			for _, c := range g.channels {
				v := f.Sample(record[f.Signals[c].at+int64(t*f.Width):])
				binary.LittleEndian.PutUint32(sample[:], uint32(v))
				if _, err := w.Write(sample[:width]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
