package onda

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/google/uuid"
)

// stringValues are the Arrow types that hold text.
type stringValues interface {
	arrow.Array
	Value(int) string
}

func (c *column) string(a arrow.Array, i int) (string, error) {
	a, i, _, err := c.resolve(a, i)
	if err != nil {
		return "", err
	}
	switch a := a.(type) {
	case *array.String, *array.LargeString, *array.StringView:
		return c.table.keep(a.(stringValues).Value(i))
	}
	return "", fmt.Errorf("type %v is not text", a.DataType())
}

// text is string for columns that name things, such as labels and groups:
// integers, booleans and UUIDs serve too, written out, and floats that are
// whole, as which some writers store integers with gaps.
func (c *column) text(a arrow.Array, i int) (string, error) {
	v, at, _, err := c.resolve(a, i)
	if err != nil {
		return "", err
	}
	switch v := v.(type) {
	case *array.Boolean:
		return c.table.keep(strconv.FormatBool(v.Value(at)))
	case *array.Int8, *array.Int16, *array.Int32, *array.Int64,
		*array.Uint8, *array.Uint16, *array.Uint32, *array.Uint64:
		return c.table.keep(v.ValueStr(at))
	case *array.Float16, *array.Float32, *array.Float64:
		f, err := c.float(v, at)
		if err != nil {
			return "", err
		}
		if math.IsNaN(f) {
			return "", errMissing
		}
		if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return "", fmt.Errorf("%v is not a whole number: labels are text, integers, booleans or UUIDs", f)
		}
		return c.table.keep(strconv.FormatInt(int64(f), 10))
	case *array.FixedSizeBinary:
		id, err := c.uuid(a, i)
		if err != nil {
			return "", err
		}
		// Rows of one recording mostly follow one another.
		if last := &c.table.last; last.text == "" || last.id != id {
			text, err := c.table.keep(id.String())
			if err != nil {
				return "", err
			}
			last.id, last.text = id, text
		}
		return c.table.last.text, nil
	}
	return c.string(a, i)
}

// numbers reports whether the values of a column are numbers.
func (t *table) numbers(name string) bool {
	at := t.schema.FieldIndices(name)
	if len(at) != 1 {
		return false
	}
	for typ := t.schema.Field(at[0]).Type; ; {
		switch outer := typ.(type) {
		case arrow.ExtensionType:
			typ = outer.StorageType()
		case *arrow.DictionaryType:
			typ = outer.ValueType
		default:
			return arrow.IsInteger(typ.ID()) || arrow.IsFloating(typ.ID())
		}
	}
}

// canonicalUUID is the extension type of UUIDs in the byte order of RFC 9562.
const canonicalUUID = "arrow.uuid"

// uuid reads 16 bytes, or text. The bytes are those of arrow.uuid if the
// column says so, and else in reverse order, the little-endian UInt128 that
// Julia's Arrow package writes.
func (c *column) uuid(a arrow.Array, i int) (uuid.UUID, error) {
	a, i, extension, err := c.resolve(a, i)
	if err != nil {
		return uuid.UUID{}, err
	}
	switch a := a.(type) {
	case *array.FixedSizeBinary:
		if a.DataType().(*arrow.FixedSizeBinaryType).ByteWidth != len(uuid.UUID{}) {
			break
		}
		raw := [16]byte(a.Value(i))
		if extension == canonicalUUID {
			return raw, nil
		}
		return reversed(raw), nil
	case *array.String, *array.LargeString, *array.StringView:
		id, err := uuid.Parse(a.(stringValues).Value(i))
		if err != nil {
			return uuid.UUID{}, fmt.Errorf("no UUID: %w", err)
		}
		return id, nil
	}
	return uuid.UUID{}, fmt.Errorf("type %v is not a UUID of 16 bytes", a.DataType())
}

func reversed(b [16]byte) uuid.UUID {
	for i := range len(b) / 2 {
		b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
	}
	return b
}

func (c *column) float(a arrow.Array, i int) (float64, error) {
	a, i, _, err := c.resolve(a, i)
	if err != nil {
		return 0, err
	}
	switch a := a.(type) {
	case *array.Float64:
		return a.Value(i), nil
	case *array.Float32:
		// The number that was meant: 99.9, and not 99.9000015.
		return strconv.ParseFloat(strconv.FormatFloat(float64(a.Value(i)), 'g', -1, 32), 64)
	case *array.Float16:
		return float64(a.Value(i).Float32()), nil
	case *array.Int64:
		return float64(a.Value(i)), nil
	case *array.Int32:
		return float64(a.Value(i)), nil
	case *array.Int16:
		return float64(a.Value(i)), nil
	case *array.Int8:
		return float64(a.Value(i)), nil
	case *array.Uint64:
		return float64(a.Value(i)), nil
	case *array.Uint32:
		return float64(a.Value(i)), nil
	case *array.Uint16:
		return float64(a.Value(i)), nil
	case *array.Uint8:
		return float64(a.Value(i)), nil
	}
	return 0, fmt.Errorf("type %v is not a number", a.DataType())
}

// span reads struct{start, stop}, each a duration or a number of nanoseconds.
func (c *column) span(a arrow.Array, i int) (Span, error) {
	a, i, _, err := c.resolve(a, i)
	if err != nil {
		return Span{}, err
	}
	s, ok := a.(*array.Struct)
	if !ok {
		return Span{}, fmt.Errorf("type %v is not a span", a.DataType())
	}
	start, err := c.nanoseconds(s, "start", i)
	if err != nil {
		return Span{}, err
	}
	stop, err := c.nanoseconds(s, "stop", i)
	if err != nil {
		return Span{}, err
	}
	span := Span{Start: start, Stop: stop}
	return span, span.validate()
}

func (c *column) nanoseconds(s *array.Struct, name string, i int) (time.Duration, error) {
	at, ok := s.DataType().(*arrow.StructType).FieldIdx(name)
	if !ok {
		return 0, fmt.Errorf("no field %q", name)
	}
	field := s.Field(at)
	if i >= field.Len() || field.IsNull(i) {
		return 0, fmt.Errorf("%s is missing", name)
	}
	field, i, _, err := c.resolve(field, i)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	switch field := field.(type) {
	case *array.Duration:
		unit := field.DataType().(*arrow.DurationType).Unit.Multiplier()
		v := time.Duration(field.Value(i))
		if v > maxTime/unit || v < -maxTime/unit {
			return 0, fmt.Errorf("%s is more than %v", name, maxTime)
		}
		return v * unit, nil
	case *array.Int64:
		return time.Duration(field.Value(i)), nil
	case *array.Uint64:
		v := field.Value(i)
		if v > uint64(maxTime) {
			return 0, fmt.Errorf("%s is more than %v", name, maxTime)
		}
		return time.Duration(v), nil
	}
	return 0, fmt.Errorf("%s has type %v, not a duration or 64-bit nanoseconds", name, field.DataType())
}

func (c *column) strings(a arrow.Array, i int) ([]string, error) {
	a, i, _, err := c.resolve(a, i)
	if err != nil {
		return nil, err
	}
	list, ok := a.(array.ListLike)
	if !ok {
		return nil, fmt.Errorf("type %v is not a list", a.DataType())
	}
	from, to := list.ValueOffsets(i)
	values := list.ListValues()
	if from < 0 || from > to || to > int64(values.Len()) {
		return nil, fmt.Errorf("list of values %d to %d of %d", from, to, values.Len())
	}
	if to-from > maxChannels {
		return nil, fmt.Errorf("a list of %d names, at most %d", to-from, maxChannels)
	}
	const header = 16 // of a string
	if err := c.table.budget.take("the lists of "+c.table.file, header*(to-from)); err != nil {
		return nil, err
	}
	out := make([]string, 0, to-from)
	for j := int(from); j < int(to); j++ {
		if values.IsNull(j) {
			return nil, errors.New("an element is missing")
		}
		s, err := c.string(values, j)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}
