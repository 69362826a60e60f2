package schema

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// MaxState is the most bytes that [State.Data] may hold: 16 KiB.
const MaxState = 16 << 10

// State is a position in a data set: where the next batch comes from. It is what a trainer saves with its checkpoint.
// The zero State is the data set's first one.
//
// Dataset and Version say which definition the state belongs to; the service fills them in, and refuses a state of
// another data set or version. Data is the canonical encoding of the author's state.
type State struct {
	Dataset string
	Version uint32
	Data    []byte
}

// NewState encodes v, the author's state, leaving Dataset and Version to the service. It decodes what it encoded, and
// refuses with [ErrStateNotCanonical] a value that does not come back as the same bytes, or that holds a map whose
// keys are not strings. What v keeps in unexported fields is not seen, unless v encodes itself. More than [MaxState]
// bytes are [ErrStateTooLarge].
func NewState(v any) (State, error) {
	data, foreignKeys, err := msgp.MarshalKeys(v)
	if err != nil {
		return State{}, fmt.Errorf("%w: %w", ErrStateNotCanonical, err)
	}
	if len(data) > MaxState {
		return State{}, fmt.Errorf("%w: %d bytes, at most %d: keep a generator and an index, not the data",
			ErrStateTooLarge, len(data), MaxState)
	}
	if foreignKeys {
		return State{}, fmt.Errorf("%w: %T holds a map whose keys are not strings: use strings, or a sorted slice",
			ErrStateNotCanonical, v)
	}
	if v == nil {
		return State{Data: data}, nil
	}
	fresh := reflect.New(reflect.TypeOf(v))
	if err := msgp.Unmarshal(data, fresh.Interface()); err != nil {
		return State{}, fmt.Errorf("%w: it cannot be decoded again: %w", ErrStateNotCanonical, err)
	}
	again, err := msgp.Marshal(fresh.Elem().Interface())
	if err != nil {
		return State{}, fmt.Errorf("%w: it cannot be encoded again: %w", ErrStateNotCanonical, err)
	}
	if !bytes.Equal(data, again) {
		return State{}, fmt.Errorf("%w: %T decodes to a value that encodes to other bytes", ErrStateNotCanonical, v)
	}
	return State{Data: data}, nil
}

// Decode decodes Data into the value that v points to, which should be zero: slices are reused and maps are filled.
// Unknown fields are ignored. Errors wrap [ErrMalformed] when the bytes are at fault and [ErrDecode] when they do not
// fit the type; neither ever wraps io.EOF.
func (s State) Decode(v any) error { return msgp.Unmarshal(s.Data, v) }

// Equal reports whether s and o are the same position of the same data set and version.
func (s State) Equal(o State) bool {
	return s.Dataset == o.Dataset && s.Version == o.Version && bytes.Equal(s.Data, o.Data)
}

// IsZero reports whether s is the zero State, the data set's first.
func (s State) IsZero() bool { return s.Dataset == "" && s.Version == 0 && len(s.Data) == 0 }

// Clone returns a copy that shares nothing with s.
func (s State) Clone() State {
	s.Data = bytes.Clone(s.Data)
	return s
}

// String returns a short form for people, such as "ecg@2#1f3a9c0b (41 bytes)". Use [State.MarshalText] to save one.
func (s State) String() string {
	if s.IsZero() {
		return "start"
	}
	return fmt.Sprintf("%s@%d#%08x (%d bytes)", s.Dataset, s.Version, crc32.Checksum(s.Data, castagnoli), len(s.Data))
}

const stateTextPrefix = "jb1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// MarshalText returns s as one printable token without spaces,
//
//	jb1:<data set>:<version>:<data, base64url>:<checksum>
//
// with the data set's name escaped as in a URL query and the CRC-32C of everything before its colon, in hexadecimal.
func (s State) MarshalText() ([]byte, error) {
	if len(s.Data) > MaxState {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrStateTooLarge, len(s.Data), MaxState)
	}
	text := make([]byte, 0, 32+len(s.Dataset)+base64.RawURLEncoding.EncodedLen(len(s.Data)))
	text = append(text, stateTextPrefix+":"...)
	text = append(text, url.QueryEscape(s.Dataset)...)
	text = append(text, ':')
	text = strconv.AppendUint(text, uint64(s.Version), 10)
	text = append(text, ':')
	text = base64.RawURLEncoding.AppendEncode(text, s.Data)
	return fmt.Appendf(text, ":%08x", crc32.Checksum(text, castagnoli)), nil
}

// UnmarshalText reads what [State.MarshalText] wrote; white space around it does not matter. Any other text is refused
// with an error that wraps [ErrBadStateText].
func (s *State) UnmarshalText(text []byte) error {
	token := string(bytes.TrimSpace(text))
	parts := strings.Split(token, ":")
	if parts[0] != stateTextPrefix {
		return fmt.Errorf("%w: it does not begin with %q: give the whole token that was saved",
			ErrBadStateText, stateTextPrefix+":")
	}
	if len(parts) != 5 {
		return fmt.Errorf("%w: %d fields, not 5: it was cut short, or runs into another; copy the whole token again",
			ErrBadStateText, len(parts))
	}
	sum := fmt.Sprintf("%08x", crc32.Checksum([]byte(token[:strings.LastIndexByte(token, ':')]), castagnoli))
	if parts[4] != sum {
		return fmt.Errorf("%w: the checksum is wrong: a character was changed or lost; copy the whole token again",
			ErrBadStateText)
	}
	got, err := parseState(parts[1], parts[2], parts[3])
	if err != nil {
		return fmt.Errorf("%w: %w: it was not written by MarshalText; take the state from the trainer's checkpoint",
			ErrBadStateText, err)
	}
	// One state has one text: a token that reads like another spelling of it was not written here.
	if back, err := got.MarshalText(); err != nil || string(back) != token {
		return fmt.Errorf("%w: not the canonical spelling; take the token from where it was saved", ErrBadStateText)
	}
	*s = got
	return nil
}

func parseState(dataset, version, data string) (State, error) {
	if base64.RawURLEncoding.DecodedLen(len(data)) > MaxState {
		return State{}, fmt.Errorf("%w: more than %d bytes", ErrStateTooLarge, MaxState)
	}
	name, err := url.QueryUnescape(dataset)
	if err != nil {
		return State{}, fmt.Errorf("data set: %w", err)
	}
	v, err := strconv.ParseUint(version, 10, 32)
	if err != nil {
		return State{}, fmt.Errorf("version: %w", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(data)
	if err != nil {
		return State{}, fmt.Errorf("data: %w", err)
	}
	s := State{Dataset: name, Version: uint32(v)}
	if len(raw) > 0 {
		s.Data = raw
	}
	return s, nil
}

// EncodeMsgpack writes [dataset, version, data]. Without it the library would send the text form.
func (s State) EncodeMsgpack(enc *msgpack.Encoder) error {
	if len(s.Data) > MaxState {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrStateTooLarge, len(s.Data), MaxState)
	}
	if err := enc.EncodeArrayLen(3); err != nil {
		return err
	}
	if err := enc.EncodeString(s.Dataset); err != nil {
		return err
	}
	if err := enc.EncodeUint(uint64(s.Version)); err != nil {
		return err
	}
	if len(s.Data) == 0 {
		return enc.EncodeNil() // nil and empty are the same state, so they are the same bytes
	}
	return enc.EncodeBytes(s.Data)
}

// DecodeMsgpack reads what [State.EncodeMsgpack] wrote.
func (s *State) DecodeMsgpack(dec *msgpack.Decoder) error {
	n, err := dec.DecodeArrayLen()
	if err != nil {
		return err
	}
	if n != 3 {
		return fmt.Errorf("state: %d fields, not 3", n)
	}
	var got State
	if got.Dataset, err = dec.DecodeString(); err != nil {
		return err
	}
	if got.Version, err = dec.DecodeUint32(); err != nil {
		return err
	}
	size, err := dec.DecodeBytesLen()
	if err != nil {
		return err
	}
	if size > MaxState {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrStateTooLarge, size, MaxState)
	}
	if size > 0 {
		got.Data = make([]byte, size)
		if err := dec.ReadFull(got.Data); err != nil {
			return err
		}
	}
	*s = got
	return nil
}
