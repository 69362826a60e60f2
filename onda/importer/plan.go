package importer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/zeebo/xxh3"

	"github.com/jetbatch/jetbatch/onda"
)

// material is what a file has, whatever its format.
type material struct {
	files []string // that it is made of
	// identity tells recordings of one name apart: the header.
	identity  []byte
	stretches []stretch
	notes     []note
	// start is when the recording began, if the file says it; first is when its first sample was taken, after start.
	start time.Time
	first time.Duration
}

// stretch is samples without a gap.
type stretch struct {
	start    time.Duration // after the first sample of the recording
	channels []channel
	// blocks reads the samples from the first on: of every channel in turn, as the bits of the sample type.
	blocks func(context.Context) iter.Seq2[[][]int64, error]
}

// channel is one channel of a stretch.
type channel struct {
	label string
	encoding
	// samples are left when skip are passed over at the beginning.
	samples, skip int64
	// invalid, if there is one, marks a missing sample.
	invalid *int64
}

// encoding is what the channels of one signal share.
type encoding struct {
	unit               string
	rate               float64
	resolution, offset float64
	sampleType         string
}

// note is an annotation, from the start of the recording.
type note struct {
	onset, duration time.Duration
	text            string
}

// recording is a plan for one file.
type recording struct {
	Recording
	*material
	size   int64
	stamp  string // of its files
	groups [][]group
}

// group is one signal to write: channels of a stretch.
type group struct {
	path     string
	channels []int
	width    int // bytes of a sample
	bytes    int64
	decode   bool // to float32
}

type planner struct {
	Config
	names *lookup
}

func newPlanner(cfg Config) (*planner, error) {
	if cfg.Names == nil {
		names, err := DefaultNames()
		if err != nil {
			return nil, err
		}
		cfg.Names = names
	}
	cfg.OnBad = cmp.Or(cfg.OnBad, OnBadRefuse)
	cfg.Annotator = cmp.Or(cfg.Annotator, "atr")
	if cfg.Lasting == nil {
		cfg.Lasting = []string{"+"}
	}
	if cfg.OnBad != OnBadRefuse && cfg.OnBad != OnBadDrop {
		return nil, fmt.Errorf("%w: on_bad %q is neither %q nor %q", ErrImport, cfg.OnBad, OnBadRefuse, OnBadDrop)
	}
	names, err := cfg.Names.lookup()
	return &planner{cfg, names}, err
}

// read reads a file by what it begins with, or is called.
func (p *planner) read(name string) (*material, error) {
	if strings.EqualFold(filepath.Ext(name), ".hea") {
		return p.readWFDB(name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	var head [4]byte
	n, _ := f.ReadAt(head[:], 0) // what cannot be read is refused below
	if begin := string(head[:n]); begin == "RIFF" || begin == "RF64" || begin == "BW64" {
		return readWAV(f, info.Size())
	}
	return readEDF(f, info.Size())
}

// plan makes a recording of every file, in the order of their names.
func (p *planner) plan(ctx context.Context, names []string) (plans []*recording, bad []Bad, err error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	var apart []*recording // annotations alone
	t := taken{paths: map[string]bool{}, ids: map[uuid.UUID]*recording{}}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		r, err := p.planFile(name, naming{})
		if err == nil && len(r.Signals) > 0 {
			r, err = p.apart(r, &t)
		}
		switch {
		case err != nil:
			bad = append(bad, Bad{name, err})
		case len(r.Signals) == 0:
			apart = append(apart, r)
		default:
			plans = append(plans, r)
		}
	}
	for _, labels := range apart {
		if err := attach(labels, plans); err != nil {
			bad = append(bad, Bad{labels.File, err})
		}
	}
	if p.Label != "" {
		for _, r := range plans {
			if err := r.labelAll(p.Label); err != nil {
				return nil, nil, err
			}
		}
	}
	return plans, bad, nil
}

// naming tells a recording from another whose file has the same name, as those of several subjects have in folders of
// their own.
type naming struct {
	content []byte // digest of the files, where headers are alike, too
	stem    string // of the paths of samples; by default the name of the file
}

// taken are identifiers and paths that recordings have.
type taken struct {
	paths map[string]bool
	ids   map[uuid.UUID]*recording
}

func (t *taken) path(r *recording) bool {
	return slices.ContainsFunc(r.Signals, func(s onda.Signal) bool { return t.paths[s.Path] })
}

// apart gives r an identifier and paths that no recording before it has. A copy of another recording is an error.
func (p *planner) apart(r *recording, t *taken) (*recording, error) {
	var n naming
	var err error
	if other := t.ids[r.ID]; other != nil {
		var before []byte
		if before, err = contentOf(other.files); err == nil {
			n.content, err = contentOf(r.files)
		}
		switch {
		case err != nil:
			return nil, err
		case bytes.Equal(before, n.content):
			return nil, fmt.Errorf("%w: it is the same recording as %s", ErrImport, other.File)
		}
		if r, err = p.planFile(r.File, n); err != nil {
			return nil, err
		}
	}
	if t.path(r) {
		n.stem = base(r.File) + "-" + r.ID.String()[:8]
		if r, err = p.planFile(r.File, n); err != nil {
			return nil, err
		}
	}
	if other := t.ids[r.ID]; other != nil || t.path(r) {
		return nil, fmt.Errorf("%w: another file has its name and header, and cannot be told from it", ErrImport)
	}
	t.ids[r.ID] = r
	for _, s := range r.Signals {
		t.paths[s.Path] = true
	}
	return r, nil
}

// contentOf is a digest of what files hold.
func contentOf(files []string) ([]byte, error) {
	sum := xxh3.New()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		if _, err = io.Copy(sum, f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	digest := sum.Sum128().Bytes()
	return digest[:], nil
}

// labelAll gives a recording without labels one over each of its stretches.
func (r *recording) labelAll(label string) error {
	if len(r.Spans) > 0 {
		return nil
	}
	var notes []note
	at := 0
	for _, groups := range r.groups {
		span := r.Signals[at].Span
		for _, s := range r.Signals[at : at+len(groups)] {
			span.Start, span.Stop = max(span.Start, s.Span.Start), min(span.Stop, s.Span.Stop)
		}
		at += len(groups)
		notes = append(notes, note{span.Start, span.Duration(), label})
	}
	return r.annotate(notes, 0)
}

func base(name string) string {
	name = filepath.Base(name)
	return strings.TrimSuffix(name, filepath.Ext(name))
}

func (p *planner) planFile(name string, n naming) (*recording, error) {
	m, err := p.read(name)
	if err != nil {
		return nil, err
	}
	r := &recording{material: m, Recording: Recording{
		File: name, ID: uuid.NewSHA1(uuid.Nil, append([]byte(base(name)+"\x00"), m.identity...)),
	}}
	if n.content != nil {
		r.ID = uuid.NewSHA1(r.ID, n.content)
	}
	if r.stamp, r.size, err = stampOf(m.files); err != nil {
		return nil, err
	}
	if err := p.signals(r, inUTF8(cmp.Or(n.stem, base(name)))); err != nil {
		return nil, err
	}
	if len(r.Signals) > 0 {
		err = r.annotate(m.notes, -m.first)
	}
	return r, err
}

// stampOf says of files which they are and when they were changed, and how large they are together.
func stampOf(files []string) (string, int64, error) {
	var out strings.Builder
	size := int64(0)
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return "", 0, err
		}
		size += info.Size()
		fmt.Fprintf(&out, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
	}
	return out.String(), size, nil
}

// inUTF8 is a text of a file as tables have it. Bytes that are no UTF-8 are Latin-1, in which many programs write µV.
func inUTF8(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	runes := make([]rune, len(text))
	for i := range len(text) {
		runes[i] = rune(text[i])
	}
	return string(runes)
}

// annotate adds notes, moved by shift. One that begins before the first sample is cut to it, or left out. A note that
// no table can hold is an error, and none is added then.
func (r *recording) annotate(notes []note, shift time.Duration) error {
	spans, events := r.Spans, r.Events
	for _, n := range notes {
		at, stop := n.onset+shift, n.onset+shift+n.duration
		if at < 0 && (n.duration == 0 || stop <= 0) {
			continue
		}
		a := onda.Annotation{
			Recording: r.ID, Label: inUTF8(n.text), Span: onda.Span{Start: max(0, at), Stop: stop},
			ID: uuid.NewSHA1(r.ID, binary.BigEndian.AppendUint64(nil, uint64(len(spans)+len(events)))),
		}
		if n.duration == 0 {
			a.Span.Stop++ // an instant; spans of no length are none
		}
		if err := a.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrImport, err)
		}
		if n.duration > 0 {
			spans = append(spans, a)
		} else {
			events = append(events, a)
		}
	}
	slices.SortStableFunc(spans, func(a, b onda.Annotation) int { return cmp.Compare(a.Span.Start, b.Span.Start) })
	r.Spans, r.Events = spans, events
	return nil
}

// signals puts channels of one type, rate, unit and scale together.
func (p *planner) signals(r *recording, stem string) error {
	type key struct {
		kind string
		encoding
		skip int64
	}
	sensors := map[key]string{}
	count := map[string]int{}
	for n, part := range r.stretches {
		var keys []key
		channels := map[key][]int{}
		names := map[key][]string{}
		for i, c := range part.channels {
			if err := c.check(); err != nil {
				return err
			}
			kind, name := p.names.of(inUTF8(c.label))
			k := key{kind, c.encoding, c.skip}
			k.unit = inUTF8(k.unit)
			if p.Merge && c.whole() {
				k.resolution, k.offset, k.sampleType = 1, 0, "float32"
			}
			if channels[k] == nil {
				keys = append(keys, k)
			}
			channels[k], names[k] = append(channels[k], i), append(names[k], unique(name, names[k]))
		}
		var groups []group
		for _, k := range keys {
			if sensors[k] == "" {
				sensors[k] = k.kind
				if count[k.kind]++; count[k.kind] > 1 {
					sensors[k] = fmt.Sprintf("%s_%d", k.kind, count[k.kind])
				}
			}
			path := fmt.Sprintf("samples/%s.%s.lpcm", stem, sensors[k])
			if len(r.stretches) > 1 {
				path = fmt.Sprintf("samples/%s.%s.%d.lpcm", stem, sensors[k], n+1)
			}
			samples := part.channels[channels[k][0]].samples
			s := onda.Signal{
				Recording: r.ID, SensorType: k.kind, SensorLabel: sensors[k], Channels: names[k],
				Unit: k.unit, Resolution: k.resolution, Offset: k.offset, SampleType: k.sampleType, SampleRate: k.rate,
				Path: path, Format: "lpcm",
				Span: onda.Span{Start: part.start, Stop: part.start + onda.TimeOf(k.rate, samples)},
			}
			if err := s.Validate(); err != nil {
				return fmt.Errorf("%w: %w", ErrImport, err)
			}
			r.Signals = append(r.Signals, s)
			width := widths[k.sampleType]
			groups = append(groups, group{
				path: path, channels: channels[k], width: width, bytes: samples * int64(width*len(names[k])),
				decode: k.sampleType != part.channels[channels[k][0]].sampleType,
			})
		}
		r.groups = append(r.groups, groups)
	}
	return nil
}

// whole reports whether samples are whole numbers.
func (c *channel) whole() bool { return !strings.HasPrefix(c.sampleType, "float") }

// bits are those of a sample as it is written.
func (c *channel) bits(v int64, decode bool) uint64 {
	switch {
	case !decode:
		return uint64(v)
	case c.invalid != nil && v == *c.invalid:
		return uint64(math.Float32bits(float32(math.NaN())))
	}
	return uint64(math.Float32bits(float32(float64(float64(v)*c.resolution) + c.offset)))
}

// check refuses what no row of a table can say.
func (c *channel) check() error {
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	if !(c.rate >= 1e-9 && c.rate <= 1e9) || !finite(c.resolution) || !finite(c.offset) || c.resolution == 0 {
		return fmt.Errorf("%w: channel %q has %v Hz, resolution %v, offset %v", ErrImport, c.label, c.rate, c.resolution,
			c.offset)
	}
	return nil
}

// widths are the bytes of a sample.
var widths = map[string]int{"uint8": 1, "int8": 1, "int16": 2, "int32": 4, "float32": 4, "float64": 8}

// unique is a name that is not in the list.
func unique(name string, taken []string) string {
	out := name
	for n := 2; slices.Contains(taken, out); n++ {
		out = fmt.Sprintf("%s_%d", name, n)
	}
	return out
}
