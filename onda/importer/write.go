package importer

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/jetbatch/jetbatch/internal/durable"
	"github.com/jetbatch/jetbatch/onda"
)

var errChanged = errors.New("the file has changed meanwhile")

// journal is the file that says which recordings are written whole. It goes when all are.
const journal = "import.journal"

// entry is one line of the journal.
type entry struct {
	Key     uuid.UUID `json:"key"` // of all that the files of a recording depend on
	Missing int64     `json:"missing,omitempty"`
}

// writer writes the recordings of a plan.
type writer struct {
	cfg     Config
	plans   []*recording
	dir     string
	written int

	log  *os.File
	have map[uuid.UUID]entry
}

// run writes everything and renames it to its place.
func (w *writer) run(ctx context.Context, out *Summary) error {
	if err := os.MkdirAll(filepath.Join(w.dir, "samples"), 0o755); err != nil {
		return fmt.Errorf("%w: %w", ErrImport, err)
	}
	if err := w.openJournal(); err != nil {
		return fmt.Errorf("%w: %w", ErrImport, err)
	}
	err := errors.Join(w.recordings(ctx, out), w.log.Close())
	if err == nil {
		err = refused(w.cfg.OnBad, out.Bad)
	}
	if err == nil && len(out.Recordings) == 0 {
		err = fmt.Errorf("%w: no recording is left%s", ErrImport, list(out.Bad))
	}
	if err != nil {
		return err
	}
	if err := errors.Join(w.sweep(out), w.tables(out)); err != nil {
		return err
	}
	err = os.Remove(filepath.Join(w.dir, journal))
	if err == nil {
		err = durable.Rename(w.dir, w.cfg.Out)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImport, err)
	}
	return nil
}

func (w *writer) openJournal() (err error) {
	w.have = map[uuid.UUID]entry{}
	path := filepath.Join(w.dir, journal)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(data)) {
		var e entry
		if json.Unmarshal([]byte(line), &e) == nil { // the last line may be cut
			w.have[e.Key] = e
		}
	}
	if w.log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	_, err = w.log.WriteString("\n") // after a line that is cut
	return err
}

func (w *writer) recordings(ctx context.Context, out *Summary) error {
	var done, total int64
	for _, r := range w.plans {
		total += r.size
	}
	for _, r := range w.plans {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := w.recording(ctx, r, out, func(n int64) {
			if w.cfg.Progress != nil {
				w.cfg.Progress(done+min(n, r.size), total)
			}
		})
		switch {
		case err != nil && ctx.Err() != nil:
			return err
		case err != nil && isWrite(err):
			return fmt.Errorf("%w: %w", ErrImport, err)
		case err != nil:
			out.Bad = append(out.Bad, Bad{r.File, err})
		default:
			w.written++
			out.Recordings = append(out.Recordings, r.Recording)
		}
		if done += r.size; w.cfg.Progress != nil {
			w.cfg.Progress(done, total)
		}
	}
	return nil
}

// writeError is an error of the place that is written to, for which no recording is to blame.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

func isWrite(err error) bool {
	var w *writeError
	return errors.As(err, &w)
}

func writing(err error) error {
	if err == nil {
		return nil
	}
	return &writeError{err}
}

// key is that of all that the files of a recording depend on.
func (r *recording) key() (uuid.UUID, error) {
	rows, err := json.Marshal(r.Signals)
	return uuid.NewSHA1(r.ID, append([]byte(r.stamp), rows...)), err
}

// recording writes the samples of one recording, unless an import before this one has.
func (w *writer) recording(ctx context.Context, r *recording, out *Summary, progress func(int64)) error {
	key, err := r.key()
	if err != nil {
		return err
	}
	if e, ok := w.have[key]; ok && w.whole(r) {
		r.Missing = e.Missing
		out.Resumed++
		return nil
	}
	if err := r.unchanged(); err != nil {
		return err
	}
	done := int64(0)
	for i, part := range r.stretches {
		if err := w.stretch(ctx, r, part, r.groups[i], func(n int64) { done += n; progress(done) }); err != nil {
			return err
		}
	}
	if err := r.unchanged(); err != nil {
		return err
	}
	line, err := json.Marshal(entry{key, r.Missing})
	if err == nil {
		_, err = w.log.Write(append(line, '\n'))
	}
	return writing(errors.Join(err, w.log.Sync()))
}

func (r *recording) unchanged() error {
	stamp, _, err := stampOf(r.files)
	if err == nil && stamp != r.stamp {
		err = errChanged
	}
	return err
}

// whole reports whether all files of a recording are there in their length.
func (w *writer) whole(r *recording) bool {
	for _, groups := range r.groups {
		for _, g := range groups {
			info, err := os.Stat(w.path(g))
			if err != nil || info.Size() != g.bytes {
				return false
			}
		}
	}
	return true
}

func (w *writer) path(g group) string { return filepath.Join(w.dir, filepath.FromSlash(g.path)) }

// sink is a file of samples that is written.
type sink struct {
	group
	file *os.File
	buf  *bufio.Writer
	skip int64
	n    int64
}

// stretch writes all signals of a stretch while it is read once.
func (w *writer) stretch(
	ctx context.Context, r *recording, part stretch, groups []group, progress func(int64),
) (err error) {
	sinks := make([]*sink, 0, len(groups))
	defer func() {
		for _, s := range sinks {
			s.file.Close()
			os.Remove(s.file.Name()) // it has another name if all went well
		}
	}()
	for _, g := range groups {
		f, err := os.CreateTemp(filepath.Join(w.dir, "samples"), ".part-")
		if err != nil {
			return writing(err)
		}
		sinks = append(sinks, &sink{
			group: g, file: f, buf: bufio.NewWriterSize(f, 128<<10), skip: part.channels[g.channels[0]].skip,
		})
	}
	for block, err := range part.blocks(ctx) {
		if err != nil {
			return err
		}
		n := int64(0)
		for _, s := range sinks {
			if err := s.write(part.channels, block); err != nil {
				return writing(err)
			}
			for _, c := range s.channels {
				n += int64(len(block[c]) * s.width)
				if invalid := part.channels[c].invalid; invalid != nil {
					for _, v := range block[c] {
						if v == *invalid {
							r.Missing++
						}
					}
				}
			}
		}
		progress(n)
	}
	for _, s := range sinks {
		if s.n != s.bytes {
			return fmt.Errorf("%w: %d of %d bytes of %s", io.ErrUnexpectedEOF, s.n, s.bytes, s.group.path)
		}
		err := errors.Join(s.buf.Flush(), s.file.Chmod(0o644), s.file.Sync(), os.Rename(s.file.Name(), w.path(s.group)))
		if err != nil {
			return writing(err)
		}
	}
	return nil
}

// write interleaves the channels of a block.
func (s *sink) write(channels []channel, block [][]int64) error {
	var sample [8]byte
	n := len(block[s.channels[0]])
	from := int(min(s.skip, int64(n)))
	s.skip -= int64(from)
	for t := from; t < n; t++ {
		for _, c := range s.channels {
			binary.LittleEndian.PutUint64(sample[:], channels[c].bits(block[c][t], s.decode))
			if _, err := s.buf.Write(sample[:s.width]); err != nil {
				return err
			}
		}
	}
	s.n += int64((n - from) * s.width * len(s.channels))
	return nil
}

// sweep removes files that are of no recording of the plan: those of an import that was cut short and had others.
func (w *writer) sweep(out *Summary) error {
	var keep []string
	for _, r := range out.Recordings {
		for _, s := range r.Signals {
			keep = append(keep, filepath.Base(s.Path))
		}
	}
	slices.Sort(keep)
	entries, err := os.ReadDir(filepath.Join(w.dir, "samples"))
	for _, e := range entries {
		if _, found := slices.BinarySearch(keep, e.Name()); !found && err == nil {
			err = os.Remove(filepath.Join(w.dir, "samples", e.Name()))
		}
	}
	return err
}

// tables writes the rows of what was imported.
func (w *writer) tables(out *Summary) error {
	var signals []onda.Signal
	var spans, events []onda.Annotation
	for _, r := range out.Recordings {
		signals, spans, events = append(signals, r.Signals...), append(spans, r.Spans...), append(events, r.Events...)
	}
	return errors.Join(
		w.table(signalTable, func(out io.Writer) error { return onda.WriteSignals(out, onda.TableFormat{}, signals) }),
		w.table(spanTable, func(out io.Writer) error {
			return onda.WriteAnnotations(out, onda.TableFormat{}, "label", spans)
		}),
		w.table(eventTable, func(out io.Writer) error {
			return onda.WriteAnnotations(out, onda.TableFormat{}, "label", events)
		}))
}

func (w *writer) table(name string, fill func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(w.dir, name))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImport, err)
	}
	out := bufio.NewWriterSize(f, 256<<10)
	return errors.Join(fill(out), out.Flush(), f.Close())
}
