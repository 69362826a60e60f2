package onda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/uuid"
)

const (
	// maxTableBytes bounds a table's file, whatever the budget.
	maxTableBytes = 1 << 30
	// maxTableMemory is the budget of one table for those who read it outside
	// of an opening.
	maxTableMemory = 4 << 30
	// What compressed buffers grow to is stated by the file itself. It may be
	// maxTableRatio times the file and a bit.
	maxTableRatio  = 1024
	minTableMemory = 64 << 20
)

// ReadSignals reads an onda.signal@2 table, in Arrow IPC file or stream
// format, uncompressed or with lz4 or zstd. The group column is "recording"
// if empty. Columns are found by name, further ones are ignored. A relative
// file_path counts from the folder that the table is in, and is given from the
// source's root. Damaged tables are ErrTable, rows that cannot be read as a
// signal ErrSignal.
func ReadSignals(ctx context.Context, src Source, name, groupColumn string) ([]Signal, error) {
	t, err := readSignals(ctx, src, &budget{limit: maxTableMemory}, name, groupColumn, "")
	return t.signals, err
}

// signalTable is a table of signals, and beside each the value of a column to
// split by, if there is one.
type signalTable struct {
	signals []Signal
	splitBy []string
	digest  string
}

func readSignals(ctx context.Context, src Source, b *budget, name, groupColumn, splitColumn string) (signalTable,
	error) {
	var out signalTable
	err := withTable(ctx, src, b, name, func(t *table) (err error) {
		out.digest = t.digest
		if out.signals, err = t.signals(groupColumn); err != nil || splitColumn == "" {
			return err
		}
		if out.splitBy, err = makeRows[string](t); err != nil {
			return err
		}
		return read(t, splitColumn, (*column).text, func(row int, v string) { out.splitBy[row] = v })
	})
	if err != nil {
		return signalTable{}, err
	}
	return out, nil
}

// ReadAnnotations reads an onda.annotation@1 table like [ReadSignals]. The
// label of a row is its value in the label column: text, or a whole number, a
// boolean or a UUID written out. A row without a label is ErrTable.
func ReadAnnotations(ctx context.Context, src Source, name, labelColumn, groupColumn string) ([]Annotation, error) {
	var out []Annotation
	err := withTable(ctx, src, &budget{limit: maxTableMemory}, name, func(t *table) (err error) {
		out, err = t.annotations(labelColumn, groupColumn)
		return err
	})
	return out, err
}

// columns names the columns of a table, in order.
func columns(ctx context.Context, src Source, b *budget, name string) ([]string, error) {
	var names []string
	err := withTable(ctx, src, b, name, func(t *table) error {
		for _, f := range t.schema.Fields() {
			names = append(names, f.Name)
		}
		return nil
	})
	return names, err
}

func withTable(ctx context.Context, src Source, b *budget, name string, use func(*table) error) error {
	data, err := readTable(ctx, src, b, name)
	if err != nil {
		return err
	}
	returned := func(size int64) {
		// Else as much again may be allocated before the collector looks.
		if b.give(size); size >= collectBytes {
			runtime.GC()
		}
	}
	return guard(name, func() error {
		defer func() { b.give(int64(len(data))) }()
		alloc := &boundedAllocator{
			Allocator: memory.DefaultAllocator, file: name, budget: b,
			limit: minTableMemory + maxTableRatio*int64(len(data)),
		}
		defer func() { returned(alloc.taken.Load()) }()
		t, release, err := parseTable(name, data, alloc)
		if err != nil {
			return err
		}
		defer release()
		t.budget, t.digest = b, digest(data)
		// The records are a copy.
		size := int64(len(data))
		data = nil
		returned(size)
		return use(t)
	})
}

// collectBytes take longer to allocate and fill than to collect.
const collectBytes = 16 << 20

// readTable reads a file whose first bytes are those of a table.
func readTable(ctx context.Context, src Source, b *budget, name string) ([]byte, error) {
	obj, err := src.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer obj.Close()
	bad := func(err error) ([]byte, error) { return nil, &TableError{File: name, Row: -1, Err: err} }
	if obj.Size() > maxTableBytes {
		return bad(fmt.Errorf("%d bytes, the limit is %d", obj.Size(), maxTableBytes))
	}
	// A table, and not any file that someone names.
	head := make([]byte, min(obj.Size(), sniffBytes))
	if n, err := obj.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("onda: read %s: %w", name, notEOF(err, io.ErrUnexpectedEOF))
	}
	if err := looksLikeArrow(head, obj.Size()); err != nil {
		return bad(err)
	}
	if err := b.take("the file "+name, obj.Size()); err != nil {
		return nil, err
	}
	data := make([]byte, obj.Size())
	if n, err := obj.ReadAt(data, 0); n < len(data) {
		b.give(int64(len(data)))
		return nil, fmt.Errorf("onda: read %s: %w", name, notEOF(err, io.ErrUnexpectedEOF))
	}
	return data, nil
}

// notEOF is err, or instead if err is nil or the bare io.EOF, which must never
// travel as a failure: to an iterator it means the end of the data.
func notEOF(err, instead error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return instead
	}
	return err
}

// guard turns a panic of the Arrow library into a TableError: on buffers that
// contradict their metadata it panics in many places by design.
func guard(name string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if tooLarge, ok := r.(*BudgetError); ok {
				err = tooLarge
				return
			}
			err = &TableError{File: name, Row: -1, Err: fmt.Errorf("malformed: %v", r)}
		}
	}()
	return f()
}

// parseTable reads every record of an Arrow file or stream. It may panic;
// callers use guard.
func parseTable(name string, data []byte, alloc *boundedAllocator) (*table, func(), error) {
	size := int64(len(data))
	opts := []ipc.Option{
		ipc.WithAllocator(alloc),
		// No message is longer than the file; zero would mean no limit.
		ipc.WithMetadataSizeLimit(max(1, size)), ipc.WithBodySizeLimit(max(1, size)),
	}
	t := &table{file: name}
	release := func() {
		for _, r := range t.records {
			r.Release()
		}
	}
	fail := func(err error) (*table, func(), error) {
		release()
		return nil, nil, &TableError{File: name, Row: -1, Err: notEOF(err, io.ErrUnexpectedEOF)}
	}
	if err := verifyArrow(data); err != nil {
		return fail(err)
	}
	if bytes.HasPrefix(data, ipc.Magic) {
		r, err := ipc.NewFileReader(bytes.NewReader(data), opts...)
		if err != nil {
			return fail(err)
		}
		defer r.Close()
		t.schema = r.Schema()
		for i := range r.NumRecords() {
			rec, err := r.RecordBatch(i)
			if err != nil {
				return fail(err)
			}
			rec.Retain()
			t.records = append(t.records, rec)
		}
		return t, release, nil
	}
	r, err := ipc.NewReader(bytes.NewReader(data), opts...)
	if err != nil {
		return fail(err)
	}
	defer r.Release()
	t.schema = r.Schema()
	for r.Next() {
		rec := r.RecordBatch()
		rec.Retain()
		t.records = append(t.records, rec)
	}
	if err := r.Err(); err != nil && !errors.Is(err, io.EOF) {
		return fail(err)
	}
	return t, release, nil
}

// boundedAllocator panics where a table's own lengths ask for more than limit
// bytes in all, or than the budget has, before the runtime tries and the process dies of it.
type boundedAllocator struct {
	memory.Allocator
	file   string
	limit  int64
	budget *budget
	taken  atomic.Int64
}

func (b *boundedAllocator) take(size int) {
	if size < 0 || int64(size) > b.limit-b.taken.Load() {
		panic(fmt.Sprintf("buffers of more than %d bytes", b.limit))
	}
	if err := b.budget.take("the content of "+b.file, int64(size)); err != nil {
		panic(err)
	}
	b.taken.Add(int64(size))
}

func (b *boundedAllocator) Allocate(size int) []byte {
	b.take(size)
	return b.Allocator.Allocate(size)
}

func (b *boundedAllocator) Reallocate(size int, old []byte) []byte {
	b.take(size - min(size, len(old)))
	return b.Allocator.Reallocate(size, old)
}

const (
	columnRecording = "recording"
	columnID        = "id"
	columnSpan      = "span"
)

// groups converts the group column.
func (t *table) groups(name string, set func(row int, v string)) error {
	if name == "" {
		name = columnRecording
	}
	return read(t, name, (*column).text, set)
}

func (t *table) signals(groupColumn string) ([]Signal, error) {
	signals, err := makeRows[Signal](t)
	if err != nil {
		return nil, err
	}
	steps := []error{
		read(t, columnRecording, (*column).uuid, func(row int, v uuid.UUID) { signals[row].Recording = v }),
		t.groups(groupColumn, func(row int, v string) { signals[row].Group = v }),
		read(t, "channels", (*column).strings, func(row int, v []string) { signals[row].Channels = v }),
		read(t, columnSpan, (*column).span, func(row int, v Span) { signals[row].Span = v }),
	}
	for _, c := range signalTexts {
		steps = append(steps, read(t, c.name, (*column).string,
			func(row int, v string) { *c.field(&signals[row]) = v }))
	}
	for _, c := range signalNumbers {
		steps = append(steps, read(t, c.name, (*column).float,
			func(row int, v float64) { *c.field(&signals[row]) = v }))
	}
	for _, err := range steps {
		if err != nil {
			return nil, err
		}
	}
	for i := range signals {
		if err := signals[i].Validate(); err != nil {
			return nil, &TableError{File: t.file, Row: i, Err: err}
		}
		if signals[i].Path, err = beside(t, signals[i].Path); err != nil {
			return nil, err
		}
	}
	return signals, nil
}

// beside gives a file_path of the table from the source's root.
func beside(t *table, file string) (string, error) {
	folder := t.file[:strings.LastIndexAny(t.file, `/\`)+1]
	if folder == "" || strings.Contains(file, "://") || filepath.IsAbs(file) || path.IsAbs(file) {
		return file, nil
	}
	return t.keep(folder + file)
}

// plainColumn is a column of onda.signal@2 that is one field of a Signal.
type plainColumn[T any] struct {
	name  string
	field func(*Signal) *T
}

var (
	signalTexts = []plainColumn[string]{
		{"sensor_type", func(s *Signal) *string { return &s.SensorType }},
		{"sensor_label", func(s *Signal) *string { return &s.SensorLabel }},
		{"sample_unit", func(s *Signal) *string { return &s.Unit }},
		{"sample_type", func(s *Signal) *string { return &s.SampleType }},
		{"file_path", func(s *Signal) *string { return &s.Path }},
		{"file_format", func(s *Signal) *string { return &s.Format }},
	}
	signalNumbers = []plainColumn[float64]{
		{"sample_resolution_in_unit", func(s *Signal) *float64 { return &s.Resolution }},
		{"sample_offset_in_unit", func(s *Signal) *float64 { return &s.Offset }},
		{"sample_rate", func(s *Signal) *float64 { return &s.SampleRate }},
	}
)

func (t *table) annotations(labelColumn, groupColumn string) ([]Annotation, error) {
	rows, err := makeRows[Annotation](t)
	if err != nil {
		return nil, err
	}
	for _, err := range []error{
		read(t, columnRecording, (*column).uuid, func(row int, v uuid.UUID) { rows[row].Recording = v }),
		read(t, columnID, (*column).uuid, func(row int, v uuid.UUID) { rows[row].ID = v }),
		read(t, columnSpan, (*column).span, func(row int, v Span) { rows[row].Span = v }),
		read(t, labelColumn, (*column).text, func(row int, v string) { rows[row].Label = v }),
		t.groups(groupColumn, func(row int, v string) { rows[row].Group = v }),
	} {
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}
