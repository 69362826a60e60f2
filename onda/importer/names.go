package importer

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Names says which type of sensor a channel is of, and how it is called, by what files call it. Upper and lower case
// are alike, and so are ":" and "-" between electrodes. Keys are types of sensors.
//
// A label is looked up as a whole among the channels; then by its first word among the labels of types, so that
// "EEG Fpz-Cz" is fpz-cz of eeg; then by its electrodes, so that "C3-A2" is c3-a2 of eeg. What is not found is of type
// "unknown".
type Names map[string]Sensor

// Sensor is what the files call one type of sensor.
type Sensor struct {
	// Labels are the words that its channels have in front.
	Labels []string `json:"labels,omitempty"`
	// Channels gives to each name the others that files have for it.
	Channels map[string][]string `json:"channels,omitempty"`
	// References are electrodes that come second, as a2 in c3-a2, and are no channel by themselves.
	References []string `json:"references,omitempty"`
}

//go:embed names.json
var namesJSON []byte

// DefaultNames is the table that is built in: labels as EDF+ has them, electrodes of the 10-10 system, leads of ECG.
func DefaultNames() (Names, error) {
	return ReadNames(bytes.NewReader(namesJSON))
}

// ReadNames reads a table as JSON. Unknown fields are refused.
func ReadNames(r io.Reader) (Names, error) {
	var names Names
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&names); err != nil {
		return nil, fmt.Errorf("%w: table of names: %w", ErrImport, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: table of names: more than one value", ErrImport)
	}
	return names, nil
}

// With is the table with the entries of another added. What the other says of a name wins.
func (n Names) With(more Names) Names {
	out := Names{}
	taken := map[string]bool{} // names that more speaks of
	for _, s := range more {
		for name, others := range s.Channels {
			taken[fold(name)] = true
			for _, o := range others {
				taken[fold(o)] = true
			}
		}
	}
	for kind, s := range n {
		kept := Sensor{Labels: slices.Clone(s.Labels), References: s.References, Channels: map[string][]string{}}
		for name, others := range s.Channels {
			if taken[fold(name)] {
				continue
			}
			kept.Channels[name] = slices.DeleteFunc(slices.Clone(others), func(o string) bool { return taken[fold(o)] })
		}
		out[kind] = kept
	}
	for kind, s := range more {
		have := out[kind]
		if have.Channels == nil {
			have.Channels = map[string][]string{}
		}
		for name, others := range s.Channels {
			have.Channels[name] = others
		}
		have.Labels = append(have.Labels, s.Labels...)
		have.References = slices.Concat(have.References, s.References)
		for other, o := range out {
			if other != kind {
				o.Labels = slices.DeleteFunc(o.Labels, func(l string) bool { return containsFold(s.Labels, l) })
				out[other] = o
			}
		}
		out[kind] = have
	}
	return out
}

func containsFold(list []string, text string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return fold(l) == fold(text) })
}

// fold is a name as it is compared.
func fold(name string) string {
	return strings.ReplaceAll(strings.ToLower(strings.Join(strings.Fields(name), " ")), ":", "-")
}

// lookup is a table turned around.
type lookup struct {
	labels   map[string]string            // type by label
	channels map[string]map[string]string // name by type and other name
	second   map[string]map[string]bool   // by type
}

// lookup refuses a table that says two things of one name.
func (n Names) lookup() (*lookup, error) {
	l := &lookup{map[string]string{}, map[string]map[string]string{}, map[string]map[string]bool{}}
	for _, kind := range slices.Sorted(maps.Keys(n)) {
		s := n[kind]
		if kind == "" || clean(kind) != kind {
			return nil, fmt.Errorf("%w: table of names: %q is no type of sensor: lower case, digits and _", ErrImport, kind)
		}
		for _, label := range s.Labels {
			if other, ok := l.labels[fold(label)]; ok && other != kind {
				return nil, fmt.Errorf("%w: table of names: %q is a label of %s and of %s", ErrImport, label, other, kind)
			}
			l.labels[fold(label)] = kind
		}
		names := map[string]string{}
		for name, others := range s.Channels {
			for _, o := range append([]string{name}, others...) {
				if other, ok := names[fold(o)]; ok && other != name {
					return nil, fmt.Errorf("%w: table of names: %q of %s is %s and %s", ErrImport, o, kind,
						min(name, other), max(name, other))
				}
				names[fold(o)] = name
			}
		}
		l.channels[kind] = names
		l.second[kind] = map[string]bool{}
		for _, r := range s.References {
			l.second[kind][fold(r)] = true
		}
	}
	return l, nil
}

// of is the type and the name of a channel by its label in the file.
func (l *lookup) of(label string) (kind, name string) {
	whole := fold(label)
	if kind, name, ok := l.only(func(kind string) (string, bool) {
		name, ok := l.channels[kind][whole]
		return name, ok
	}); ok {
		return kind, name
	}
	first, rest, _ := strings.Cut(whole, " ")
	if kind, ok := l.labels[whole]; ok {
		return kind, clean(whole)
	}
	if kind, ok := l.labels[first]; ok {
		if name, ok := l.channels[kind][rest]; ok {
			return kind, name
		}
		name, _ := l.electrodes(kind, rest)
		return kind, name
	}
	if kind, name, ok := l.only(func(kind string) (string, bool) { return l.electrodes(kind, whole) }); ok {
		return kind, name
	}
	return "unknown", cmp.Or(clean(label), "channel")
}

// only is the one type that find finds a name in.
func (l *lookup) only(find func(kind string) (string, bool)) (kind, name string, ok bool) {
	for k := range l.channels {
		if n, found := find(k); found {
			if ok {
				return "", "", false
			}
			kind, name, ok = k, n, true
		}
	}
	return kind, name, ok
}

// electrodes is a label of one or two of them by their names, and whether these are known.
func (l *lookup) electrodes(kind, label string) (string, bool) {
	parts := strings.Split(label, "-")
	known := len(parts) <= 2
	for i, part := range parts {
		part = strings.TrimSpace(part)
		name, ok := l.channels[kind][part]
		known = known && (ok || i == 1 && l.second[kind][part])
		parts[i] = cmp.Or(name, clean(part))
	}
	return strings.Join(parts, "-"), known
}

// clean is a label in lower case, with an underscore for every rune but letters, digits and usual marks.
func clean(label string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-+:./()", r) {
			return unicode.ToLower(r)
		}
		return '_'
	}, strings.TrimSpace(label))
}
