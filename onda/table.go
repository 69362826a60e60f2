package onda

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/google/uuid"
)

// table is an Arrow table in memory. Its methods find a column by name and
// convert every row; they may panic on arrays whose buffers contradict their
// lengths, so they are called under [guard] only.
type table struct {
	file    string
	schema  *arrow.Schema
	records []arrow.RecordBatch
	budget  *budget
	digest  string            // of the file
	texts   map[string]string // every text once, however many rows have it
	last    struct {          // the UUID that was written out last
		id   uuid.UUID
		text string
	}
}

func (t *table) fail(column string, row int, format string, args ...any) error {
	return &TableError{File: t.file, Column: column, Row: row, Err: fmt.Errorf(format, args...)}
}

// rows is the number of rows.
func (t *table) rows() (int, error) {
	n := int64(0)
	for _, rec := range t.records {
		if rec.NumRows() < 0 || n > maxTableRows-rec.NumRows() {
			return 0, t.fail("", -1, "more than %d rows", maxTableRows)
		}
		n += rec.NumRows()
	}
	return int(n), nil
}

// maxTableRows keeps counts of rows far from the end of an int. What rows take
// is for the budget to bound.
const maxTableRows = 1 << 40

// makeRows allocates a T for every row of the table, within its budget.
func makeRows[T any](t *table) ([]T, error) {
	n, err := t.rows()
	if n == 0 || err != nil {
		return nil, err
	}
	if err := t.reach(); err != nil {
		return nil, err
	}
	var one T
	if err := t.budget.take(fmt.Sprintf("the %d rows of %s", n, t.file),
		int64(n)*int64(unsafe.Sizeof(one))); err != nil {
		return nil, err
	}
	return make([]T, n), nil
}

// reach reads the recording of the last row of each record. A damaged table can
// state a number of rows that it has no values for: it is told as damaged, and
// not as too large.
func (t *table) reach() error {
	c, err := t.column(columnRecording)
	if err != nil {
		return err
	}
	row := -1
	for _, rec := range t.records {
		if rec.NumRows() == 0 {
			continue
		}
		row += int(rec.NumRows())
		if _, err := get1(c, storage(rec.Column(c.at)), int(rec.NumRows())-1, (*column).uuid); err != nil {
			return &TableError{File: t.file, Column: c.name, Row: row, Err: err}
		}
	}
	return nil
}

// column is a column that is being converted.
type column struct {
	table *table
	name  string
	at    int
	// extension is the name of its extension type, or empty.
	extension string
	// onNull is told of rows without a value, in place of an error.
	onNull func(row int)
}

func (t *table) column(name string) (*column, error) {
	at := t.schema.FieldIndices(name)
	if len(at) != 1 {
		return nil, t.fail(name, -1, "%d columns of this name", len(at))
	}
	field := t.schema.Field(at[0])
	c := &column{table: t, name: name, at: at[0]}
	if i := field.Metadata.FindKey(ipc.ExtensionTypeKeyName); i >= 0 {
		c.extension = field.Metadata.Values()[i]
	}
	if known, ok := field.Type.(arrow.ExtensionType); ok {
		c.extension = known.ExtensionName()
	}
	return c, nil
}

// convert gives every row of c to set, as get reads it. A value of a
// dictionary is read once and shared by its rows.
func convert[T any](c *column, get func(*column, arrow.Array, int) (T, error), set func(row int, v T)) error {
	row := 0
	for _, rec := range c.table.records {
		a := storage(rec.Column(c.at))
		if int64(a.Len()) != rec.NumRows() {
			return c.table.fail(c.name, -1, "%d values for %d rows", a.Len(), rec.NumRows())
		}
		read := get
		if d, ok := a.(*array.Dictionary); ok {
			var err error
			if read, err = ofDictionary(c, d, get); err != nil {
				return err
			}
		}
		for i := range a.Len() {
			v, err := get1(c, a, i, read)
			switch {
			case errors.Is(err, errMissing) && c.onNull != nil:
				c.onNull(row)
			case errors.Is(err, ErrTooLarge):
				return err
			case err != nil:
				return &TableError{File: c.table.file, Column: c.name, Row: row, Err: err}
			default:
				set(row, v)
			}
			row++
		}
	}
	return nil
}

var errMissing = errors.New("value is missing")

func get1[T any](c *column, a arrow.Array, i int, get func(*column, arrow.Array, int) (T, error)) (v T, err error) {
	if a.IsNull(i) {
		return v, errMissing
	}
	return get(c, a, i)
}

// ofDictionary is get for the rows of d: each value of the dictionary is read
// at its first row.
func ofDictionary[T any](c *column, d *array.Dictionary, get func(*column, arrow.Array, int) (T, error)) (
	func(*column, arrow.Array, int) (T, error), error,
) {
	type known struct {
		v    T
		err  error
		read bool
	}
	values := d.Dictionary()
	if err := c.table.budget.take("the dictionary of "+c.name+" in "+c.table.file,
		int64(values.Len())*int64(unsafe.Sizeof(known{}))); err != nil {
		return nil, err
	}
	seen := make([]known, values.Len())
	return func(c *column, _ arrow.Array, i int) (T, error) {
		at := d.GetValueIndex(i)
		if at < 0 || at >= len(seen) {
			return known{}.v, fmt.Errorf("dictionary has no value %d", at)
		}
		k := &seen[at]
		if !k.read {
			k.read = true
			k.v, k.err = get1(c, values, at, get)
		}
		return k.v, k.err
	}, nil
}

// read converts the named column.
func read[T any](t *table, name string, get func(*column, arrow.Array, int) (T, error), set func(row int, v T)) error {
	c, err := t.column(name)
	if err != nil {
		return err
	}
	return convert(c, get, set)
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

// resolve finds the value i of a behind extension types and dictionaries, and
// the name of its extension type.
func (c *column) resolve(a arrow.Array, i int) (arrow.Array, int, string, error) {
	name := c.extension
	for range 8 {
		switch outer := a.(type) {
		case array.ExtensionArray:
			name, a = outer.ExtensionType().ExtensionName(), outer.Storage()
		case *array.Dictionary:
			values, at := outer.Dictionary(), outer.GetValueIndex(i)
			if at < 0 || at >= values.Len() {
				return nil, 0, "", fmt.Errorf("dictionary has no value %d", at)
			}
			a, i = values, at
		default:
			if i >= a.Len() || a.IsNull(i) {
				return nil, 0, "", errMissing
			}
			return a, i, name, nil
		}
	}
	return nil, 0, "", errors.New("types are nested too deeply")
}

// maxText bounds a text of a table: it names something, or is a path, and
// these end at 4096 bytes on most systems.
const maxText = 4096

func checkText(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("a text of %d bytes, at most %d", len(s), maxText)
	}
	return nil
}

// keep copies s, which may point into a record's buffer and would keep all of
// it alive. Equal texts share one copy.
func (t *table) keep(s string) (string, error) {
	if err := checkText(s); err != nil {
		return "", err
	}
	if kept, ok := t.texts[s]; ok {
		return kept, nil
	}
	const entry = 64 // of the map, about
	if err := t.budget.take("the texts of "+t.file, int64(len(s)+entry)); err != nil {
		return "", err
	}
	kept := string(slices.Clone([]byte(s)))
	if t.texts == nil {
		t.texts = map[string]string{}
	}
	t.texts[kept] = kept
	return kept, nil
}
