package onda

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/google/uuid"
)

// table is an Arrow table in memory. Its getters find a column by name and
// convert every row; they may panic on arrays whose buffers contradict their
// lengths, so they are called under [guard] only.
type table struct {
	file    string
	schema  *arrow.Schema
	records []arrow.RecordBatch
}

func (t *table) fail(column string, row int, format string, args ...any) error {
	return &TableError{File: t.file, Column: column, Row: row, Err: fmt.Errorf(format, args...)}
}

// each calls visit with every row of the named column.
func (t *table) each(column string, visit func(a arrow.Array, i int) error) error {
	at := t.schema.FieldIndices(column)
	if len(at) != 1 {
		return t.fail(column, -1, "%d columns of this name", len(at))
	}
	row := 0
	for _, rec := range t.records {
		a := storage(rec.Column(at[0]))
		if int64(a.Len()) != rec.NumRows() {
			return t.fail(column, -1, "%d values for %d rows", a.Len(), rec.NumRows())
		}
		for i := range a.Len() {
			if a.IsNull(i) {
				return t.fail(column, row, "value is missing")
			}
			if err := visit(a, i); err != nil {
				return &TableError{File: t.file, Column: column, Row: row, Err: err}
			}
			row++
		}
	}
	return nil
}

// collect converts every row of a column with get.
func collect[T any](t *table, column string, get func(a arrow.Array, i int) (T, error)) ([]T, error) {
	var out []T
	err := t.each(column, func(a arrow.Array, i int) error {
		v, err := get(a, i)
		out = append(out, v)
		return err
	})
	return out, err
}

// storage looks through extension types: what matters here is how a value is
// laid out, whatever the writer called it.
func storage(a arrow.Array) arrow.Array {
	for {
		ext, ok := a.(array.ExtensionArray)
		if !ok {
			return a
		}
		a = ext.Storage()
	}
}

// stringValues are the Arrow types that hold text.
type stringValues interface {
	arrow.Array
	Value(int) string
}

func stringAt(a arrow.Array, i int) (string, error) {
	switch a := a.(type) {
	case *array.String, *array.LargeString, *array.StringView:
		// Copied, since Value points into the record's buffer and would keep
		// all of it alive.
		return string([]byte(a.(stringValues).Value(i))), nil
	case *array.Dictionary:
		values, at := storage(a.Dictionary()), a.GetValueIndex(i)
		if at < 0 || at >= values.Len() || values.IsNull(at) {
			return "", fmt.Errorf("dictionary has no value %d", at)
		}
		if _, nested := values.(*array.Dictionary); nested {
			return "", errors.New("dictionary of dictionaries")
		}
		return stringAt(values, at)
	}
	return "", fmt.Errorf("type %v is not text", a.DataType())
}

// textAt is stringAt for columns that name things, such as labels and groups:
// integers, booleans and UUIDs serve too, written out.
func textAt(a arrow.Array, i int) (string, error) {
	switch a := a.(type) {
	case *array.Boolean:
		return strconv.FormatBool(a.Value(i)), nil
	case *array.Int8, *array.Int16, *array.Int32, *array.Int64,
		*array.Uint8, *array.Uint16, *array.Uint32, *array.Uint64:
		return a.ValueStr(i), nil
	case *array.FixedSizeBinary:
		id, err := uuidAt(a, i)
		return id.String(), err
	}
	return stringAt(a, i)
}

// uuidAt reads a UUID: 16 bytes in reverse order, the little-endian UInt128
// that Julia's Arrow package writes.
func uuidAt(a arrow.Array, i int) (uuid.UUID, error) {
	fixed, ok := a.(*array.FixedSizeBinary)
	if !ok || fixed.DataType().(*arrow.FixedSizeBinaryType).ByteWidth != len(uuid.UUID{}) {
		return uuid.UUID{}, fmt.Errorf("type %v is not 16 bytes", a.DataType())
	}
	return reversed([16]byte(fixed.Value(i))), nil
}

func reversed(b [16]byte) uuid.UUID {
	for i := range len(b) / 2 {
		b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
	}
	return b
}

func floatAt(a arrow.Array, i int) (float64, error) {
	switch a := a.(type) {
	case *array.Float64:
		return a.Value(i), nil
	case *array.Float32:
		return float64(a.Value(i)), nil
	case *array.Int64:
		return float64(a.Value(i)), nil
	case *array.Int32:
		return float64(a.Value(i)), nil
	}
	return 0, fmt.Errorf("type %v is not a number", a.DataType())
}

// spanAt reads struct{start, stop}, each a duration[ns] or an int64 of
// nanoseconds.
func spanAt(a arrow.Array, i int) (Span, error) {
	s, ok := a.(*array.Struct)
	if !ok {
		return Span{}, fmt.Errorf("type %v is not a span", a.DataType())
	}
	typ := s.DataType().(*arrow.StructType)
	start, err := nanosecondsAt(s, typ, "start", i)
	if err != nil {
		return Span{}, err
	}
	stop, err := nanosecondsAt(s, typ, "stop", i)
	if err != nil {
		return Span{}, err
	}
	span := Span{Start: start, Stop: stop}
	if start < 0 || stop < start || stop > maxTime {
		return Span{}, fmt.Errorf("span %v", span)
	}
	return span, nil
}

func nanosecondsAt(s *array.Struct, typ *arrow.StructType, name string, i int) (time.Duration, error) {
	at, ok := typ.FieldIdx(name)
	if !ok {
		return 0, fmt.Errorf("no field %q", name)
	}
	field := storage(s.Field(at))
	if i >= field.Len() || field.IsNull(i) {
		return 0, fmt.Errorf("%s is missing", name)
	}
	switch field := field.(type) {
	case *array.Duration:
		if unit := field.DataType().(*arrow.DurationType).Unit; unit != arrow.Nanosecond {
			return 0, fmt.Errorf("%s is in %v, not ns", name, unit)
		}
		return time.Duration(field.Value(i)), nil
	case *array.Int64:
		return time.Duration(field.Value(i)), nil
	}
	return 0, fmt.Errorf("%s has type %v", name, field.DataType())
}

func stringsAt(a arrow.Array, i int) ([]string, error) {
	list, ok := a.(array.ListLike)
	if !ok {
		return nil, fmt.Errorf("type %v is not a list", a.DataType())
	}
	from, to := list.ValueOffsets(i)
	values := storage(list.ListValues())
	if from < 0 || from > to || to > int64(values.Len()) {
		return nil, fmt.Errorf("list of values %d to %d of %d", from, to, values.Len())
	}
	out := make([]string, 0, to-from)
	for j := int(from); j < int(to); j++ {
		if values.IsNull(j) {
			return nil, errors.New("an element is missing")
		}
		s, err := stringAt(values, j)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}
