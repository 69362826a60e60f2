package onda

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
)

// SynthConfig configures [Synthesize].
type SynthConfig struct {
	// Recordings to write. Defaults to 6.
	Recordings int
	// Duration of each, rounded down to whole seconds; later ones are a few
	// seconds longer, so that they differ. Defaults to 2 minutes.
	Duration time.Duration
	// SampleRate in samples per second. Defaults to 128.
	SampleRate int
	// Channels of every recording. Defaults to "lead_0" and "lead_1".
	Channels []string
	// Seed of everything that is random. Defaults to 0.
	Seed uint64
}

// The labels of a synthesized data set.
const (
	synthBurst = "burst"
	synthRest  = "rest"
)

// Synthesize writes a small labelled data set into the folder dir, which it
// makes: a table of signals, a table of annotations in its column "label", and
// samples, every other recording compressed. Each second is labelled "burst",
// with large waves, or "rest", with small ones, so that there is something to
// learn. Equal configurations give equal bytes, and Params with nothing but
// Dir open the result.
func Synthesize(dir string, cfg SynthConfig) error {
	cfg.Recordings = cmp.Or(cfg.Recordings, 6)
	cfg.Duration = cmp.Or(cfg.Duration, 2*time.Minute)
	cfg.SampleRate = cmp.Or(cfg.SampleRate, 128)
	if len(cfg.Channels) == 0 {
		cfg.Channels = []string{"lead_0", "lead_1"}
	}
	if cfg.Recordings < 0 || cfg.Duration < time.Second || cfg.SampleRate < 1 || cfg.SampleRate > 1e6 {
		return fmt.Errorf("%w: cannot synthesize %d recordings of %v at %d Hz", ErrParams, cfg.Recordings, cfg.Duration, cfg.SampleRate)
	}
	samples := filepath.Join(dir, "samples")
	if err := os.MkdirAll(samples, 0o755); err != nil {
		return fmt.Errorf("onda: synthesize: %w", err)
	}
	d := seeded(cfg.Seed).dice()
	var signals []Signal
	var annotations []Annotation
	for i := range cfg.Recordings {
		seconds := int(cfg.Duration/time.Second) + i%4
		labels := synthLabels(d, seconds)
		s := Signal{
			Recording: d.uuid(), SensorType: "ecg", SensorLabel: "ecg", Channels: cfg.Channels,
			Unit: "millivolt", Resolution: 0.005, SampleType: "int16", SampleRate: float64(cfg.SampleRate),
			Path: fmt.Sprintf("samples/%03d.lpcm", i), Format: formatLPCM,
			Span: Span{0, time.Duration(seconds) * time.Second},
		}
		raw := synthSamples(d, labels, cfg.SampleRate, len(cfg.Channels))
		if i%2 == 1 {
			s.Path, s.Format = s.Path+".zst", formatZstd
			var err error
			if raw, err = compress(raw); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(s.Path)), raw, 0o644); err != nil {
			return fmt.Errorf("onda: synthesize: %w", err)
		}
		signals = append(signals, s)
		annotations = append(annotations, synthAnnotations(d, s.Recording, labels)...)
	}
	return writeTables(dir, signals, annotations)
}

func writeTables(dir string, signals []Signal, annotations []Annotation) error {
	var s, a bytes.Buffer
	if err := WriteSignals(&s, TableFormat{}, signals); err != nil {
		return err
	}
	if err := WriteAnnotations(&a, TableFormat{}, "label", annotations); err != nil {
		return err
	}
	for name, data := range map[string][]byte{"onda.signals.arrow": s.Bytes(), "onda.annotations.arrow": a.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("onda: synthesize: %w", err)
		}
	}
	return nil
}

func compress(raw []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("onda: compress: %w", err)
	}
	defer enc.Close()
	return enc.EncodeAll(raw, nil), nil
}

// uuid draws a random (version 4) UUID.
func (d dice) uuid() uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], d.pcg.Uint64())
	binary.BigEndian.PutUint64(id[8:], d.pcg.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// synthLabels labels each second: stretches of both labels, of 1 to 8 seconds.
func synthLabels(d dice, seconds int) []string {
	labels := make([]string, 0, seconds+8)
	for label := synthRest; len(labels) < seconds; {
		for range 1 + d.below(8) {
			labels = append(labels, label)
		}
		if label == synthRest {
			label = synthBurst
		} else {
			label = synthRest
		}
	}
	return labels[:seconds]
}

// synthSamples makes triangle waves with noise, interleaved. It is integer
// arithmetic throughout: a sine differs in its last bit between machines.
func synthSamples(d dice, labels []string, rate, channels int) []byte {
	raw := make([]byte, 0, len(labels)*rate*channels*2)
	for second, label := range labels {
		amplitude, period := 200, 64
		if label == synthBurst {
			amplitude, period = 1000, 16
		}
		for t := range rate {
			for c := range channels {
				phase := (second*rate + t + 7*c) % period
				wave := amplitude * (4*min(phase, period-phase) - period) / period
				raw = binary.LittleEndian.AppendUint16(raw, uint16(int16(wave+d.below(101)-50)))
			}
		}
	}
	return raw
}

// synthAnnotations writes labels as run-length encoded spans.
func synthAnnotations(d dice, recording uuid.UUID, labels []string) []Annotation {
	var out []Annotation
	for i, label := range labels {
		stop := time.Duration(i+1) * time.Second
		if n := len(out); n > 0 && out[n-1].Label == label {
			out[n-1].Span.Stop = stop
			continue
		}
		out = append(out, Annotation{
			Recording: recording, ID: d.uuid(), Span: Span{stop - time.Second, stop}, Label: label,
		})
	}
	return out
}
