package onda

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/ipc"
)

// The Arrow library trusts the lengths in a file's metadata and allocates what
// they say; running out of memory cannot be recovered from. So the metadata is
// walked first, and every offset and length held against the bytes there are.
//
// The layout is that of FlatBuffers, and the tables are those of Schema.fbs,
// Message.fbs and File.fbs of the Arrow format.

// fbKind is how a field of a FlatBuffers table is stored.
type fbKind int

const (
	fbString  fbKind = iota // offset to bytes
	fbTable                 // offset to a table
	fbTables                // offset to a vector of tables
	fbVector                // offset to a vector of scalars or structs
	fbMessage               // the header of a Message, whose table its type names
)

// fbField is a field that points elsewhere. Scalars lie in the table itself and
// need no mention.
type fbField struct {
	slot  int
	kind  fbKind
	table *fbLayout // of fbTable and fbTables
	size  int       // of one element of fbVector
}

type fbLayout struct{ fields []fbField }

var (
	fbKeyValue = &fbLayout{[]fbField{{slot: 0, kind: fbString}, {slot: 1, kind: fbString}}}
	// fbType stands for every type of the union Type but Union. Their scalars
	// need no check, and the text in Timestamp allocates nothing.
	fbType       = &fbLayout{}
	fbUnion      = &fbLayout{[]fbField{{slot: 1, kind: fbVector, size: 4}}}
	fbDictionary = &fbLayout{[]fbField{{slot: 1, kind: fbTable, table: fbType}}}
	fbFieldTable = newFieldLayout()
	fbSchema     = &fbLayout{[]fbField{
		{slot: 1, kind: fbTables, table: fbFieldTable},
		{slot: 2, kind: fbTables, table: fbKeyValue},
		{slot: 3, kind: fbVector, size: 8},
	}}
	fbRecordBatch = &fbLayout{[]fbField{
		{slot: 1, kind: fbVector, size: 16},
		{slot: 2, kind: fbVector, size: 16},
		{slot: 3, kind: fbTable, table: &fbLayout{}},
		{slot: 4, kind: fbVector, size: 8},
	}}
	fbDictionaryBatch = &fbLayout{[]fbField{{slot: 1, kind: fbTable, table: fbRecordBatch}}}
	fbMessageRoot     = &fbLayout{[]fbField{
		{slot: 2, kind: fbMessage},
		{slot: 4, kind: fbTables, table: fbKeyValue},
	}}
	fbFooter = &fbLayout{[]fbField{
		{slot: 1, kind: fbTable, table: fbSchema},
		{slot: 2, kind: fbVector, size: 24},
		{slot: 3, kind: fbVector, size: 24},
		{slot: 4, kind: fbTables, table: fbKeyValue},
	}}
)

const (
	fbFieldTypeSlot   = 2 // the union's type in a Field
	fbMessageTypeSlot = 1 // the same in a Message
	arrowTypeUnion    = 14
	fbSlotFooterDicts = 2
	fbSlotFooterRecs  = 3
	fbMaxDepth        = 64
)

// newFieldLayout ties the knot: a Field has children that are Fields.
func newFieldLayout() *fbLayout {
	l := &fbLayout{}
	l.fields = []fbField{
		{slot: 0, kind: fbString},
		{slot: 3, kind: fbTable, table: fbType},
		{slot: 4, kind: fbTable, table: fbDictionary},
		{slot: 5, kind: fbTables, table: l},
		{slot: 6, kind: fbTables, table: fbKeyValue},
	}
	return l
}

var errMetadata = errors.New("metadata points outside of itself")

// fbWalk checks one FlatBuffer.
type fbWalk struct {
	data   []byte
	budget int // tables that may still be visited: offsets can share them
}

// root checks the whole buffer as a table of layout l and returns its place.
func (w *fbWalk) root(l *fbLayout) (int, error) {
	w.budget = len(w.data)
	at, err := w.follow(0)
	if err != nil {
		return 0, err
	}
	return at, w.table(at, l, 0)
}

// u32 reads four bytes at p as a length or an offset.
func (w *fbWalk) u32(p int) (int, error) {
	if p < 0 || p > len(w.data)-4 {
		return 0, errMetadata
	}
	return int(binary.LittleEndian.Uint32(w.data[p:])), nil
}

// follow gives the place that the offset at p leads to.
func (w *fbWalk) follow(p int) (int, error) {
	off, err := w.u32(p)
	if err != nil || off > len(w.data)-p {
		return 0, errMetadata
	}
	return p + off, nil
}

// vector checks that the vector whose offset is at p, of elements of size
// bytes, lies in the buffer, and gives its first element and its length.
func (w *fbWalk) vector(p, size int) (first, n int, err error) {
	at, err := w.follow(p)
	if err != nil {
		return 0, 0, err
	}
	if n, err = w.u32(at); err != nil || n > (len(w.data)-at-4)/size {
		return 0, 0, errMetadata
	}
	return at + 4, n, nil
}

// slot gives the place of a field of size bytes in the table at p, or -1 if
// the table does not have it.
func (w *fbWalk) slot(p, slot, size int) (int, error) {
	back, err := w.u32(p)
	if err != nil {
		return 0, err
	}
	vtable := p - int(int32(back))
	if vtable < 0 || vtable > len(w.data)-4 {
		return 0, errMetadata
	}
	length := int(binary.LittleEndian.Uint16(w.data[vtable:]))
	// An odd length would make the library see one field more than we do.
	if length < 4 || length%2 != 0 || length > len(w.data)-vtable {
		return 0, errMetadata
	}
	if 4+2*slot+2 > length {
		return -1, nil
	}
	off := int(binary.LittleEndian.Uint16(w.data[vtable+4+2*slot:]))
	if off == 0 {
		return -1, nil
	}
	if p+off > len(w.data)-size {
		return 0, errMetadata
	}
	return p + off, nil
}

func (w *fbWalk) table(p int, l *fbLayout, depth int) error {
	if w.budget--; w.budget < 0 || depth > fbMaxDepth {
		return fmt.Errorf("metadata is nested too deeply: %w", errMetadata)
	}
	union := false
	if l == fbFieldTable {
		at, err := w.slot(p, fbFieldTypeSlot, 1)
		if err != nil {
			return err
		}
		union = at >= 0 && w.data[at] == arrowTypeUnion
	}
	for _, f := range l.fields {
		if union && f.table == fbType {
			f.table = fbUnion
		}
		at, err := w.slot(p, f.slot, 4)
		if err != nil {
			return err
		}
		if at < 0 {
			continue
		}
		if err := w.field(p, at, f, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *fbWalk) field(table, at int, f fbField, depth int) error {
	switch f.kind {
	case fbString:
		_, _, err := w.vector(at, 1)
		return err
	case fbVector:
		_, _, err := w.vector(at, f.size)
		return err
	case fbTable:
		to, err := w.follow(at)
		if err != nil {
			return err
		}
		return w.table(to, f.table, depth+1)
	case fbTables:
		first, n, err := w.vector(at, 4)
		if err != nil {
			return err
		}
		for i := range n {
			to, err := w.follow(first + 4*i)
			if err != nil {
				return err
			}
			if err := w.table(to, f.table, depth+1); err != nil {
				return err
			}
		}
	case fbMessage:
		typ, err := w.slot(table, fbMessageTypeSlot, 1)
		if err != nil || typ < 0 {
			return errMetadata
		}
		layouts := map[byte]*fbLayout{1: fbSchema, 2: fbDictionaryBatch, 3: fbRecordBatch}
		layout, ok := layouts[w.data[typ]]
		if !ok {
			return fmt.Errorf("message of type %d: %w", w.data[typ], errMetadata)
		}
		return w.field(table, at, fbField{kind: fbTable, table: layout}, depth)
	}
	return nil
}

const arrowContinuation = 0xffffffff

// verifyArrow checks the metadata of an Arrow IPC file or stream.
func verifyArrow(data []byte) error {
	if bytes.HasPrefix(data, ipc.Magic) {
		return verifyFile(data)
	}
	return verifyStream(data)
}

func verifyFile(data []byte) error {
	tail := 4 + len(ipc.Magic)
	if len(data) < 2*tail || !bytes.HasSuffix(data, ipc.Magic) {
		return errors.New("the file has no footer")
	}
	end := len(data) - tail
	size := int(binary.LittleEndian.Uint32(data[end:]))
	if size > end {
		return errMetadata
	}
	w := &fbWalk{data: data[end-size : end]}
	root, err := w.root(fbFooter)
	if err != nil {
		return err
	}
	for _, slot := range []int{fbSlotFooterDicts, fbSlotFooterRecs} {
		at, err := w.slot(root, slot, 4)
		if err != nil {
			return err
		}
		if at < 0 {
			continue
		}
		first, n, err := w.vector(at, 24)
		if err != nil {
			return err
		}
		for i := range n {
			// A Block: the offset of a message, and the length of its metadata.
			block := w.data[first+24*i:]
			from := binary.LittleEndian.Uint64(block)
			length := uint64(binary.LittleEndian.Uint32(block[8:]))
			if from > uint64(end) || length > uint64(end)-from {
				return errMetadata
			}
			if _, err := verifyMessage(data[from : from+length]); err != nil {
				return err
			}
		}
	}
	return nil
}

func verifyStream(data []byte) error {
	for len(data) > 0 {
		size, err := verifyMessage(data)
		if err != nil {
			return err
		}
		if size == 0 {
			return nil // end of the stream
		}
		if size > len(data) {
			return errors.New("the stream ends within a message")
		}
		data = data[size:]
	}
	return nil
}

// verifyMessage checks the message that data begins with and returns its
// length with its body, 0 for the mark that ends a stream.
func verifyMessage(data []byte) (int, error) {
	prefix := 4
	if len(data) >= 8 && binary.LittleEndian.Uint32(data) == arrowContinuation {
		prefix = 8
	}
	if len(data) < prefix {
		return 0, errMetadata
	}
	size := int(binary.LittleEndian.Uint32(data[prefix-4:]))
	if size == 0 {
		return 0, nil
	}
	if size > len(data)-prefix {
		return 0, errMetadata
	}
	w := &fbWalk{data: data[prefix : prefix+size]}
	root, err := w.root(fbMessageRoot)
	if err != nil {
		return 0, err
	}
	const bodyLengthSlot = 3
	at, err := w.slot(root, bodyLengthSlot, 8)
	if err != nil {
		return 0, err
	}
	body := uint64(0)
	if at >= 0 {
		body = binary.LittleEndian.Uint64(w.data[at:])
	}
	if body > maxTableBytes {
		return 0, errMetadata
	}
	return prefix + size + int(body), nil
}

// sniffBytes of a file say whether it is a table: enough for the schema of most.
const sniffBytes = 64 << 10

var errNoTable = errors.New("not an Arrow table")

// looksLikeArrow checks the first bytes of a file of so many bytes: those of
// an Arrow file, or of a stream, which begins with its schema.
func looksLikeArrow(head []byte, size int64) error {
	if bytes.HasPrefix(head, ipc.Magic) {
		return nil
	}
	prefix := 4
	if len(head) >= 8 && binary.LittleEndian.Uint32(head) == arrowContinuation {
		prefix = 8
	}
	if len(head) < prefix {
		return errNoTable
	}
	length := int64(binary.LittleEndian.Uint32(head[prefix-4:]))
	if length == 0 || length > size-int64(prefix) {
		return errNoTable
	}
	if length > int64(len(head)-prefix) {
		// A schema of hundreds of columns. Streams of before 2019, without the
		// mark that begins all others, are not told from any file by then.
		if prefix == 4 {
			return errNoTable
		}
		return nil
	}
	const schemaMessage = 1
	w := &fbWalk{data: head[prefix : prefix+int(length)]}
	root, err := w.root(fbMessageRoot)
	if err != nil {
		return errNoTable
	}
	typ, err := w.slot(root, fbMessageTypeSlot, 1)
	if err != nil || typ < 0 || w.data[typ] != schemaMessage {
		return errNoTable
	}
	return nil
}
