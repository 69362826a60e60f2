package kind

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxTries bounds how often Normal reads parameters: a trainer may send any number of members that are zero.
const maxTries = 256

// Normal writes parameters with the members of objects in order. A member at the top whose value is zero is left out
// where the rest is the same to the author; nothing is the same where same is nil.
func Normal(params json.RawMessage, same func(json.RawMessage) bool) json.RawMessage {
	fields, ok := members(params)
	if !ok {
		if same != nil && isZero(params) && same(nil) {
			return nil
		}
		return canonical(params)
	}
	if same != nil {
		zeros := slices.Sorted(maps.Keys(fields))
		zeros = slices.DeleteFunc(zeros, func(name string) bool { return !isZero(fields[name]) })
		tries := maxTries
		leaveOut(fields, zeros, &tries, same)
	}
	for name, value := range fields {
		fields[name] = canonical(value)
	}
	if text, err := json.Marshal(fields); err == nil {
		return text
	}
	return params
}

// leaveOut leaves out all of the named members at once where that is the same, or else halves of them: in most
// parameters every zero is as one that is left out.
func leaveOut(fields map[string]json.RawMessage, names []string, tries *int, same func(json.RawMessage) bool) {
	if len(names) == 0 || *tries == 0 {
		return
	}
	*tries--
	rest := maps.Clone(fields)
	for _, name := range names {
		delete(rest, name)
	}
	if text, err := json.Marshal(rest); err == nil && same(text) {
		for _, name := range names {
			delete(fields, name)
		}
		return
	}
	if half := len(names) / 2; half > 0 {
		leaveOut(fields, names[:half], tries, same)
		leaveOut(fields, names[half:], tries, same)
	}
}

// members are those of a JSON object. A name that Go's strings do not hold, such as half of a surrogate pair, is read
// as another: parameters with one have no members.
func members(params json.RawMessage) (fields map[string]json.RawMessage, ok bool) {
	if json.Unmarshal(params, &fields) != nil || fields == nil {
		return nil, false
	}
	for name := range fields {
		if strings.ContainsRune(name, utf8.RuneError) {
			return nil, false
		}
	}
	return fields, true
}

// canonical writes a value with the members of objects in order, and numbers with their digits. One with text that Go's
// strings do not hold keeps the form that it has.
func canonical(value json.RawMessage) json.RawMessage {
	v, err := decode(value)
	if err != nil {
		return value
	}
	return encode(v, value)
}

func encode(v any, was json.RawMessage) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil || bytes.ContainsRune(text, utf8.RuneError) {
		return was
	}
	return text
}

// decode reads one JSON value, and numbers as they are written.
func decode(value json.RawMessage) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

func isZero(value json.RawMessage) bool {
	if len(value) == 0 {
		return true
	}
	var v any
	if json.Unmarshal(value, &v) != nil {
		return false
	}
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// Exact is the one form of parameters whose author reads them as they were sent: numbers of one value are written as
// one, and those of two values never. No parameters at all are as null.
func Exact(params json.RawMessage) (json.RawMessage, error) {
	if len(params) == 0 {
		return nil, nil
	}
	v, err := decode(params)
	if err != nil || v == nil {
		return nil, err
	}
	return Normal(encode(withNumbers(v), params), nil), nil
}

// withNumbers gives the numbers in v their one form.
func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		return normalNumber(v)
	case []any:
		for i := range v {
			v[i] = withNumbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = withNumbers(v[name])
		}
	}
	return v
}

// normalNumber is the text that float64 has for a number if it is of the same value, and the number's own digits if it
// is not. A number whose exponent nobody counts with keeps its text.
func normalNumber(n json.Number) json.Number {
	value, ok := decimalOf(string(n))
	if !ok {
		return n
	}
	if f, err := strconv.ParseFloat(string(n), 64); err == nil && !math.IsInf(f, 0) {
		if text, err := json.Marshal(f); err == nil {
			if shortest, _ := decimalOf(string(text)); shortest == value {
				return json.Number(text)
			}
		}
	}
	return json.Number(value.String())
}

// decimal is an exact value, digits times 10 to the power of exp. Its digits neither begin nor end with 0.
type decimal struct {
	negative bool
	digits   string
	exp      int64
}

func decimalOf(number string) (d decimal, ok bool) {
	number, d.negative = strings.CutPrefix(number, "-")
	mantissa, exponent := number, ""
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		mantissa, exponent = number[:i], number[i+1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return d, true
	}
	if exponent != "" {
		var err error
		if d.exp, err = strconv.ParseInt(exponent, 10, 32); err != nil {
			return d, false
		}
	}
	d.digits = strings.TrimRight(digits, "0")
	d.exp += int64(len(digits) - len(d.digits) - len(fraction))
	return d, true
}

func (d decimal) String() string {
	text := d.digits
	if d.negative {
		text = "-" + text
	}
	switch {
	case d.exp == 0:
		return text
	case d.exp > 0 && d.exp <= 20: // of an integer that somebody wrote out
		return text + strings.Repeat("0", int(d.exp))
	}
	return text + "e" + strconv.FormatInt(d.exp, 10)
}
