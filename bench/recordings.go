package main

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"github.com/jetbatch/jetbatch/onda"
)

// madeUp says which recordings a case reads: alike, of int16, in millivolt.
type madeUp struct {
	recordings int
	length     time.Duration
	channels   int
	rate       int
	stretches  int  // of labels, in each recording
	oneFrame   bool // lpcm.zst of one frame each, as zstd makes it; else lpcm
}

const (
	signalTable = "onda.signals.arrow"
	labelTable  = "onda.annotations.arrow"
)

// write makes a folder of the recordings.
func (m madeUp) write(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "samples"), 0o755); err != nil {
		return err
	}
	signals, err := m.tables(dir)
	if err != nil {
		return err
	}
	for i, s := range signals {
		if err := m.samples(filepath.Join(dir, filepath.FromSlash(s.Path)), uint64(i)); err != nil {
			return err
		}
	}
	return nil
}

// tables writes the tables alone.
func (m madeUp) tables(dir string) ([]onda.Signal, error) {
	signals := make([]onda.Signal, 0, m.recordings)
	labels := make([]onda.Annotation, 0, m.recordings*m.stretches)
	names := make([]string, m.channels)
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	ending := "lpcm"
	if m.oneFrame {
		ending = "lpcm.zst"
	}
	stretch := m.length / time.Duration(m.stretches)
	for i := range m.recordings {
		s := onda.Signal{
			SensorType: "eeg", SensorLabel: "eeg", Channels: names, Unit: "millivolt", Resolution: 0.001,
			SampleType: "int16", SampleRate: float64(m.rate), Path: fmt.Sprintf("samples/%d.%s", i, ending), Format: ending,
			Span: onda.Span{Stop: m.length},
		}
		binary.BigEndian.PutUint64(s.Recording[:], uint64(i+1)*0x9e3779b97f4a7c15)
		signals = append(signals, s)
		for j := range m.stretches {
			at := time.Duration(j) * stretch
			labels = append(labels, onda.Annotation{
				Recording: s.Recording, ID: uuid.NewSHA1(s.Recording, binary.BigEndian.AppendUint64(nil, uint64(j))),
				Span: onda.Span{Start: at, Stop: at + stretch}, Label: fmt.Sprintf("stage %d", j%5),
			})
		}
	}
	return signals, errors.Join(os.MkdirAll(dir, 0o755),
		writeFile(filepath.Join(dir, signalTable), func(w io.Writer) error {
			return onda.WriteSignals(w, onda.TableFormat{}, signals)
		}),
		writeFile(filepath.Join(dir, labelTable), func(w io.Writer) error {
			return onda.WriteAnnotations(w, onda.TableFormat{}, "label", labels)
		}))
}

// samples writes one file: a slow wave in every channel, with as much noise as an amplifier has, which halves the file.
func (m madeUp) samples(path string, seed uint64) error {
	return writeFile(path, func(out io.Writer) error {
		var enc *zstd.Encoder
		if m.oneFrame {
			var err error
			if enc, err = zstd.NewWriter(out, zstd.WithEncoderConcurrency(1)); err != nil {
				return err
			}
			out = enc
		}
		n := int(m.length.Seconds()) * m.rate
		line := make([]byte, 2*m.channels)
		var err error
		for t := 0; t < n && err == nil; t++ {
			for c := range m.channels {
				seed = seed*6364136223846793005 + 1442695040888963407
				wave := (t + 37*c) % 512
				binary.LittleEndian.PutUint16(line[2*c:], uint16(4*min(wave, 512-wave)+int(seed>>60)))
			}
			_, err = out.Write(line)
		}
		if enc != nil {
			err = errors.Join(err, enc.Close())
		}
		return err
	})
}

func writeFile(path string, fill func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(cmp.Or(fill(out), out.Flush()), f.Close())
}
