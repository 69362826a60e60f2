package kind

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a description, so that it fits the bucket and an error's text.
const (
	maxParts = 64  // of parameters, and of parts of a fingerprint
	maxText  = 256 // bytes of a name, or of a value
)

// Fingerprint is what an author's data set says of its data; the zero value says nothing.
type Fingerprint struct {
	Digest string
	Parts  []Part
	// Summary is a line about the data, for people.
	Summary string
	// Ignore names parameters that change neither order nor content.
	Ignore []string
}

// Part is a name and a short text.
type Part struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Origin is what the positions of an opened data set count in. Digest tells origins apart; the rest tells people how
// two of them differ.
type Origin struct {
	Digest string `json:"digest"` // of data, parameters and parts, in full length
	Data   string `json:"data"`   // digest of the fingerprint; empty if the data set has none
	Params []Part `json:"params,omitempty"`
	Parts  []Part `json:"parts,omitempty"`

	Summary string `json:"summary,omitempty"` // of the data, for people; no part of the digest
}

// OriginOf is the origin of a data set that was opened with these parameters.
func (k *Kind) OriginOf(ctx context.Context, inst Instance, params json.RawMessage) (Origin, error) {
	var print Fingerprint
	var err error
	if f, ok := inst.(Fingerprinter); ok {
		if print, err = f.Fingerprint(ctx); err != nil {
			return Origin{}, fmt.Errorf("fingerprint: %w", err)
		}
	}
	if len(print.Parts) > 0 && print.Digest == "" {
		return Origin{}, errors.New("a fingerprint without a digest")
	}
	if k.NormalFunc != nil {
		if params, err = k.NormalFunc(params); err != nil {
			return Origin{}, err
		}
	}
	o := Origin{Params: partsOf(params)}
	o.Params = slices.DeleteFunc(o.Params, func(p Part) bool { return slices.Contains(print.Ignore, p.Name) })
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", print.Digest)
	for _, p := range o.Params {
		fmt.Fprintf(sum, "%q %q\n", p.Name, p.Value)
	}
	o.Digest = hex.EncodeToString(sum.Sum(nil)[:16])
	if print.Digest != "" {
		data := sha256.Sum256([]byte(print.Digest))
		o.Data = hex.EncodeToString(data[:16])
	}
	o.Params, o.Parts, o.Summary = bounded(o.Params), bounded(print.Parts), clip(print.Summary)
	return o, nil
}

// partsOf lists the members of parameters in their normal form by name; any other value is one part.
func partsOf(params json.RawMessage) []Part {
	fields, ok := members(params)
	if !ok && len(params) > 0 && string(params) != "null" {
		fields = map[string]json.RawMessage{"parameters": params}
	}
	var parts []Part
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		parts = append(parts, Part{name, string(fields[name])})
	}
	return parts
}

// bounded cuts what is too much for a description. What is cut is not lost on the digest.
func bounded(parts []Part) []Part {
	parts = slices.Clone(parts[:min(len(parts), maxParts)])
	for i := range parts {
		parts[i].Name, parts[i].Value = clip(parts[i].Name), clip(parts[i].Value)
	}
	return parts
}

func clip(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= maxText {
		return text
	}
	sum := sha256.Sum256([]byte(text)) // so that long values that differ at their ends differ still
	end := maxText - 16
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "… " + hex.EncodeToString(sum[:4])
}

// Differences names what another origin had otherwise, old and new. was is nil where nothing is known of it but that it
// differs.
func (o Origin) Differences(was *Origin) []string {
	if was == nil {
		return append([]string{"what it was is not known any more"}, o.now()...)
	}
	if was.Digest == o.Digest {
		return nil
	}
	list := differences("parameter ", was.Params, o.Params)
	parts := differences("", others(was.Parts), others(o.Parts))
	if files := fileDifferences(was.Parts, o.Parts); len(files) > 0 {
		parts = append(slices.DeleteFunc(parts, func(d string) bool { return d == "files differ" }), files...)
	}
	if len(parts) == 0 && was.Data != o.Data {
		parts = []string{"the fingerprint of the data differs"}
	}
	if list = append(list, parts...); len(list) == 0 {
		list = []string{"parameters beyond the first " + fmt.Sprint(maxParts) + " differ"}
	}
	return list
}

// now describes an origin by itself.
func (o Origin) now() []string {
	var list []string
	for _, p := range o.Params {
		list = append(list, fmt.Sprintf("parameter %s is %s", p.Name, shown(p.Value)))
	}
	for _, p := range others(o.Parts) {
		list = append(list, fmt.Sprintf("%s is %s", p.Name, shown(p.Value)))
	}
	return list
}

func differences(what string, was, is []Part) []string {
	find := func(parts []Part, name string) (string, bool) {
		i := slices.IndexFunc(parts, func(p Part) bool { return p.Name == name })
		if i < 0 {
			return "", false
		}
		return parts[i].Value, true
	}
	var list []string
	for _, p := range was {
		value, ok := find(is, p.Name)
		switch {
		case !ok:
			list = append(list, fmt.Sprintf("%s%s was %s and is not set", what, p.Name, shown(p.Value)))
		case isDigest(p.Value) && isDigest(value) && value != p.Value:
			list = append(list, fmt.Sprintf("%s%s differ", what, p.Name))
		case value != p.Value:
			list = append(list, fmt.Sprintf("%s%s was %s and is %s", what, p.Name, shown(p.Value), shown(value)))
		}
	}
	for _, p := range is {
		if _, ok := find(was, p.Name); !ok {
			list = append(list, fmt.Sprintf("%s%s was not set and is %s", what, p.Name, shown(p.Value)))
		}
	}
	return list
}

// shown is a value for people: JSON text without its quotes.
func shown(value string) string {
	var text string
	if json.Unmarshal([]byte(value), &text) == nil && text != "" && !strings.ContainsAny(text, " ,;") {
		return text
	}
	return value
}

// isDigest reports whether a value says nothing to people.
func isDigest(value string) bool {
	return len(value) >= 16 && strings.Trim(value, "0123456789abcdef") == "" && strings.ContainsAny(value, "abcdef")
}
