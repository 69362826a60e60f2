package onda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

const (
	// maxTableBytes bounds a table's file.
	maxTableBytes = 1 << 30
	// What compressed buffers grow to is stated by the file itself. It may be
	// maxTableRatio times the file and a bit, up to maxTableMemory.
	maxTableMemory = 4 << 30
	maxTableRatio  = 1024
	minTableMemory = 64 << 20
)

// ReadSignals reads an onda.signal@2 table, in Arrow IPC file or stream
// format, uncompressed or with lz4 or zstd. The group column is "recording"
// if empty. Columns are found by name, further ones are ignored. Damaged
// tables are ErrTable, rows that cannot be read as a signal ErrSignal.
func ReadSignals(ctx context.Context, src Source, name, groupColumn string) ([]Signal, error) {
	var signals []Signal
	err := withTable(ctx, src, name, func(t *table) (err error) {
		signals, err = t.signals(groupColumn)
		return err
	})
	return signals, err
}

// ReadAnnotations reads an onda.annotation@1 table like [ReadSignals]. The
// label of a row is its value in the label column: text, or an integer, a
// boolean or a UUID written out.
func ReadAnnotations(ctx context.Context, src Source, name, labelColumn, groupColumn string) ([]Annotation, error) {
	var annotations []Annotation
	err := withTable(ctx, src, name, func(t *table) (err error) {
		annotations, err = t.annotations(labelColumn, groupColumn)
		return err
	})
	return annotations, err
}

// columns names the columns of a table, in order.
func columns(ctx context.Context, src Source, name string) ([]string, error) {
	var names []string
	err := withTable(ctx, src, name, func(t *table) error {
		for _, f := range t.schema.Fields() {
			names = append(names, f.Name)
		}
		return nil
	})
	return names, err
}

func withTable(ctx context.Context, src Source, name string, use func(*table) error) error {
	data, err := readAll(ctx, src, name)
	if err != nil {
		return err
	}
	return guard(name, func() error {
		t, release, err := parseTable(name, data)
		if err != nil {
			return err
		}
		defer release()
		return use(t)
	})
}

func readAll(ctx context.Context, src Source, name string) ([]byte, error) {
	obj, err := src.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer obj.Close()
	if obj.Size() > maxTableBytes {
		return nil, &TableError{File: name, Row: -1, Err: fmt.Errorf("%d bytes, the limit is %d", obj.Size(), maxTableBytes)}
	}
	data := make([]byte, obj.Size())
	if n, err := obj.ReadAt(data, 0); n < len(data) {
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
			err = &TableError{File: name, Row: -1, Err: fmt.Errorf("malformed: %v", r)}
		}
	}()
	return f()
}

// parseTable reads every record of an Arrow file or stream. It may panic;
// callers use guard.
func parseTable(name string, data []byte) (*table, func(), error) {
	size := int64(len(data))
	alloc := &boundedAllocator{
		Allocator: memory.DefaultAllocator,
		limit:     min(maxTableMemory, minTableMemory+maxTableRatio*size),
	}
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
// bytes in all, before the runtime tries and the process dies of it.
type boundedAllocator struct {
	memory.Allocator
	limit int64
	taken atomic.Int64
}

func (b *boundedAllocator) take(size int) {
	if size < 0 || b.taken.Add(int64(size)) > b.limit {
		panic(fmt.Sprintf("buffers of more than %d bytes", b.limit))
	}
}

func (b *boundedAllocator) Allocate(size int) []byte {
	b.take(size)
	return b.Allocator.Allocate(size)
}

func (b *boundedAllocator) Reallocate(size int, old []byte) []byte {
	b.take(size - min(size, len(old)))
	return b.Allocator.Reallocate(size, old)
}

func (t *table) groups(column string) ([]string, error) {
	if column == "" {
		column = columnRecording
	}
	return collect(t, column, textAt)
}

const (
	columnRecording = "recording"
	columnID        = "id"
	columnSpan      = "span"
)

func (t *table) signals(groupColumn string) ([]Signal, error) {
	recordings, err := collect(t, columnRecording, uuidAt)
	if err != nil {
		return nil, err
	}
	signals := make([]Signal, len(recordings))
	for i, id := range recordings {
		signals[i].Recording = id
	}
	groups, err := t.groups(groupColumn)
	if err != nil {
		return nil, err
	}
	channels, err := collect(t, "channels", stringsAt)
	if err != nil {
		return nil, err
	}
	spans, err := collect(t, columnSpan, spanAt)
	if err != nil {
		return nil, err
	}
	for i := range signals {
		signals[i].Group, signals[i].Channels, signals[i].Span = groups[i], channels[i], spans[i]
	}
	for _, c := range signalTexts {
		values, err := collect(t, c.name, stringAt)
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			*c.field(&signals[i]) = v
		}
	}
	for _, c := range signalNumbers {
		values, err := collect(t, c.name, floatAt)
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			*c.field(&signals[i]) = v
		}
	}
	for i := range signals {
		if err := signals[i].validate(); err != nil {
			return nil, &TableError{File: t.file, Row: i, Err: err}
		}
	}
	return signals, nil
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
	recordings, err := collect(t, columnRecording, uuidAt)
	if err != nil {
		return nil, err
	}
	ids, err := collect(t, columnID, uuidAt)
	if err != nil {
		return nil, err
	}
	spans, err := collect(t, columnSpan, spanAt)
	if err != nil {
		return nil, err
	}
	labels, err := collect(t, labelColumn, textAt)
	if err != nil {
		return nil, err
	}
	groups, err := t.groups(groupColumn)
	if err != nil {
		return nil, err
	}
	annotations := make([]Annotation, len(recordings))
	for i := range annotations {
		annotations[i] = Annotation{
			Recording: recordings[i], ID: ids[i], Span: spans[i], Label: labels[i], Group: groups[i],
		}
	}
	return annotations, nil
}
