package onda

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/internal/recordings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files is a Source of files in memory.
type files map[string][]byte

func (f files) Open(_ context.Context, path string) (Object, error) {
	data, ok := f[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return memObject{bytes.NewReader(data)}, nil
}

type memObject struct{ *bytes.Reader }

func (memObject) Close() error { return nil }

func realParams(t testing.TB) Params {
	t.Helper()
	return Params{
		Dir: recordings.Dir(t, "mitbih12"), Annotations: "rhythm.onda.annotations.arrow", LabelColumn: "rhythm",
		Encoding: map[string]uint8{"other": 0, "pvc": 1},
	}
}

func synth(t testing.TB, cfg SynthConfig) string {
	t.Helper()
	dir := t.TempDir()
	if err := Synthesize(dir, cfg); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, p Params, cfg Config) *Dataset {
	t.Helper()
	d, err := New(t.Context(), p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func id(n byte) uuid.UUID { return uuid.UUID{6: 0x40, 8: 0x80, 15: n} }

func seconds(from, to float64) Span {
	return Span{time.Duration(from * 1e9), time.Duration(to * 1e9)}
}

// testSignal is a valid signal of 100 s with two channels.
func testSignal(n byte) Signal {
	return Signal{
		Recording: id(n), SensorType: "eeg", SensorLabel: "eeg", Channels: []string{"a", "b"}, Unit: "microvolt",
		Resolution: 0.5, Offset: 1, SampleType: "int16", SampleRate: 10, Path: "a.lpcm", Format: "lpcm",
		Span: seconds(0, 100), Group: id(n).String(),
	}
}

func note(n byte, from, to float64, label string) Annotation {
	return Annotation{Recording: id(n), ID: id(200), Span: seconds(from, to), Label: label, Group: id(n).String()}
}
