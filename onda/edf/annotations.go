package edf

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Annotation is a text of an EDF+ file.
type Annotation struct {
	// Onset counts from the start that the header states.
	Onset time.Duration
	// Duration is 0 if the file does not say it.
	Duration time.Duration
	// Text is as the file has it: UTF-8 by the specification, Latin-1 by some writers.
	Text string
}

// The bytes that part a time-stamped list of annotations.
const (
	talText     = 0x14
	talDuration = 0x15
)

// maxAnnotations bounds what is held of a file: those of every heart beat in 45 days.
const maxAnnotations = 1 << 22

// Annotations reads the texts of all records, and where each record begins, from the start that the header states. A
// file without them has its records one after the other. More than 4 million are ErrFormat.
func (f *File) Annotations() ([]Annotation, []time.Duration, error) {
	onsets := make([]time.Duration, f.Records)
	var out []Annotation
	var buf []byte
	for r := range f.Records {
		var err error
		onsets[r] = f.Since(r)
		if r > 0 && !f.Discontinuous {
			onsets[r] += onsets[0]
		}
		kept := false // the first list of a record tells its time
		for i := range f.Signals {
			if !f.Signals[i].Annotations {
				continue
			}
			if buf, err = f.ReadRecord(r, buf); err != nil {
				return nil, nil, err
			}
			for list := range bytes.SplitSeq(f.Raw(buf, i), []byte{0}) {
				if len(list) == 0 {
					continue
				}
				if len(out)+bytes.Count(list, []byte{talText}) > maxAnnotations {
					return nil, nil, fmt.Errorf("%w: more than %d annotations", ErrFormat, maxAnnotations)
				}
				onset, duration, texts, err := parseList(list)
				if err != nil {
					return nil, nil, fmt.Errorf("%w: data record %d: %w", ErrFormat, r, err)
				}
				if !kept {
					kept = true
					if r == 0 || f.Discontinuous {
						onsets[r] = onset
					}
				}
				for _, text := range texts {
					if len(text) > 0 {
						out = append(out, Annotation{onset, duration, string(text)})
					}
				}
			}
		}
	}
	return out, onsets, nil
}

// Since is where a record begins, after the first, if all follow one another.
func (f *File) Since(record int) time.Duration {
	return nanoseconds(float64(record) * f.RecordSeconds)
}

// maxSeconds bounds times, so that they fit a time.Duration: 100 years.
const maxSeconds = 100 * 365 * 24 * 3600

func nanoseconds(seconds float64) time.Duration {
	return time.Duration(math.Round(min(seconds, 2*maxSeconds) * 1e9))
}

// parseList parses +onset, a duration perhaps, and texts.
func parseList(list []byte) (onset, duration time.Duration, texts [][]byte, err error) {
	parts := bytes.Split(list, []byte{talText})
	if len(parts) < 2 {
		return 0, 0, nil, fmt.Errorf("a list of annotations without a text: %.40q", list)
	}
	at, length, has := bytes.Cut(parts[0], []byte{talDuration})
	if onset, err = parseSeconds(at); err != nil {
		return 0, 0, nil, err
	}
	if len(at) == 0 || at[0] != '+' && at[0] != '-' {
		return 0, 0, nil, fmt.Errorf("an onset without a sign: %.40q", at)
	}
	if has && len(length) > 0 {
		if duration, err = parseSeconds(length); err != nil {
			return 0, 0, nil, err
		}
		if duration < 0 {
			return 0, 0, nil, fmt.Errorf("a duration of %v", duration)
		}
	}
	return onset, duration, parts[1:], nil
}

func parseSeconds(text []byte) (time.Duration, error) {
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(math.Abs(v) <= maxSeconds) {
		return 0, fmt.Errorf("%.40q is no time", text)
	}
	return nanoseconds(v), nil
}
