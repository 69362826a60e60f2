package schema

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// MaxState is the most bytes that [State.Data] may hold: 16 KiB.
const MaxState = 16 << 10

// MaxOrigin is the most bytes that [State.Origin] may hold.
const MaxOrigin = 64

// State is a position in a data set: where the next batch comes from. It is what a trainer saves with its checkpoint.
// The zero State is the data set's first one.
//
// Dataset and Version say which definition the state belongs to; the service fills them in, and refuses a state of
// another data set or version. Data is the canonical encoding of the author's state.
//
// Origin says which parameters and data the position counts in: a digest of the data set's parameters and of its
// fingerprint, in hexadecimal. The service fills it in, and refuses a state of another origin. It is empty where it is
// not known: in a state that the trainer encoded itself, or that was saved before states had an origin. It is no part
// of the position: states that differ in it alone are equal.
type State struct {
	Dataset string
	Version uint32
	Origin  string
	Data    []byte
}

// NewState encodes v, the author's state, leaving Dataset, Version and Origin to the service. It decodes what it
// encoded, and refuses with [ErrStateNotCanonical] a value that does not come back as the same bytes, or that holds a
// map whose keys are not strings. What v keeps in unexported fields is not seen, unless v encodes itself. More than
// [MaxState] bytes are [ErrStateTooLarge].
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

// Equal reports whether s and o are the same position of the same data set and version, whatever their Origin: a state
// of unknown origin is found where it is held.
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

// The first field of a state's text: without and with an origin.
const (
	stateTextPrefix  = "jb1"
	originTextPrefix = "jb2"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// MarshalText returns s as one printable token without spaces,
//
//	jb2:<data set>:<version>:<origin>:<data, base64url>:<checksum>
//	jb1:<data set>:<version>:<data, base64url>:<checksum>
//
// the second where the origin is not known. The data set's name and the origin are escaped as in a URL query; the
// checksum is the CRC-32C of everything before its colon, in hexadecimal.
func (s State) MarshalText() ([]byte, error) {
	if err := s.checkSize(); err != nil {
		return nil, err
	}
	text := make([]byte, 0, 32+len(s.Dataset)+len(s.Origin)+base64.RawURLEncoding.EncodedLen(len(s.Data)))
	if s.Origin == "" {
		text = append(text, stateTextPrefix+":"...)
	} else {
		text = append(text, originTextPrefix+":"...)
	}
	text = append(text, url.QueryEscape(s.Dataset)...)
	text = append(text, ':')
	text = strconv.AppendUint(text, uint64(s.Version), 10)
	text = append(text, ':')
	if s.Origin != "" {
		text = append(text, url.QueryEscape(s.Origin)...)
		text = append(text, ':')
	}
	text = base64.RawURLEncoding.AppendEncode(text, s.Data)
	return fmt.Appendf(text, ":%08x", crc32.Checksum(text, castagnoli)), nil
}

func (s State) checkSize() error {
	switch {
	case len(s.Data) > MaxState:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrStateTooLarge, len(s.Data), MaxState)
	case len(s.Origin) > MaxOrigin:
		return fmt.Errorf("%w: an origin of %d bytes, at most %d", ErrStateTooLarge, len(s.Origin), MaxOrigin)
	}
	return nil
}

// UnmarshalText reads what [State.MarshalText] wrote; white space around it does not matter. Any other text is refused
// with an error that wraps [ErrBadStateText].
func (s *State) UnmarshalText(text []byte) error {
	token := string(bytes.TrimSpace(text))
	parts := strings.Split(token, ":")
	var fields int
	switch parts[0] {
	case stateTextPrefix:
		fields = 5
	case originTextPrefix:
		fields = 6
	default:
		return fmt.Errorf("%w: it does not begin with %q or %q: give the whole token that was saved",
			ErrBadStateText, originTextPrefix+":", stateTextPrefix+":")
	}
	if len(parts) != fields {
		return fmt.Errorf("%w: %d fields, not %d: it was cut short, or runs into another; copy the whole token again",
			ErrBadStateText, len(parts), fields)
	}
	sum := fmt.Sprintf("%08x", crc32.Checksum([]byte(token[:strings.LastIndexByte(token, ':')]), castagnoli))
	if parts[fields-1] != sum {
		return fmt.Errorf("%w: the checksum is wrong: a character was changed or lost; copy the whole token again",
			ErrBadStateText)
	}
	origin := ""
	if fields == 6 {
		origin = parts[3]
	}
	got, err := parseState(parts[1], parts[2], origin, parts[fields-2])
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

func parseState(dataset, version, origin, data string) (State, error) {
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
	from, err := url.QueryUnescape(origin)
	if err != nil {
		return State{}, fmt.Errorf("origin: %w", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(data)
	if err != nil {
		return State{}, fmt.Errorf("data: %w", err)
	}
	s := State{Dataset: name, Version: uint32(v), Origin: from}
	if len(raw) > 0 {
		s.Data = raw
	}
	return s, nil
}

// EncodeMsgpack writes [dataset, version, data, origin], or [dataset, version, data] where the origin is not known.
// Without it the library would send the text form.
func (s State) EncodeMsgpack(enc *msgpack.Encoder) error {
	if err := s.checkSize(); err != nil {
		return err
	}
	fields := 3
	if s.Origin != "" {
		fields = 4
	}
	if err := enc.EncodeArrayLen(fields); err != nil {
		return err
	}
	if err := enc.EncodeString(s.Dataset); err != nil {
		return err
	}
	if err := enc.EncodeUint(uint64(s.Version)); err != nil {
		return err
	}
	var err error
	if len(s.Data) == 0 {
		err = enc.EncodeNil() // nil and empty are the same state, so they are the same bytes
	} else {
		err = enc.EncodeBytes(s.Data)
	}
	if err != nil || s.Origin == "" {
		return err
	}
	return enc.EncodeString(s.Origin)
}

// DecodeMsgpack reads what [State.EncodeMsgpack] wrote.
func (s *State) DecodeMsgpack(dec *msgpack.Decoder) error {
	n, err := dec.DecodeArrayLen()
	if err != nil {
		return err
	}
	if n != 3 && n != 4 {
		return fmt.Errorf("state: %d fields, not 3 or 4", n)
	}
	var got State
	if got.Dataset, err = dec.DecodeString(); err != nil {
		return err
	}
	version, err := dec.DecodeUint64() // DecodeUint32 cuts a larger one off
	if err != nil {
		return err
	}
	if version > math.MaxUint32 {
		return fmt.Errorf("state: version %d has more than 32 bits", version)
	}
	got.Version = uint32(version)
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
	if n == 4 {
		if got.Origin, err = dec.DecodeString(); err != nil {
			return err
		}
		if got.Origin == "" {
			return errors.New("state: an origin that is empty")
		}
		if err := got.checkSize(); err != nil {
			return err
		}
	}
	*s = got
	return nil
}
