package wav

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func chunk(name string, body []byte) []byte {
	b := append([]byte(name), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(body)))
	b = append(b, body...)
	if len(body)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

func format(tag, channels, rate, bits int) []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint16(b, uint16(tag))
	binary.LittleEndian.PutUint16(b[2:], uint16(channels))
	binary.LittleEndian.PutUint32(b[4:], uint32(rate))
	binary.LittleEndian.PutUint16(b[12:], uint16(channels*bits/8))
	binary.LittleEndian.PutUint16(b[14:], uint16(bits))
	return chunk("fmt ", b)
}

func riff(chunks ...[]byte) []byte {
	return chunk("RIFF", slices.Concat(append([][]byte{[]byte("WAVE")}, chunks...)...))
}

func u32(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func TestRead(t *testing.T) {
	t.Parallel()
	data := riff(format(1, 2, 16000, 16), chunk("junk", []byte("odd")), chunk("data", make([]byte, 40)),
		chunk("cue ", u32(2, 1, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 3)),
		chunk("LIST", slices.Concat([]byte("adtl"), chunk("labl", append(u32(1), "dog\x00"...)),
			chunk("ltxt", append(u32(2, 4, 0, 0, 0), "cat"...)))))
	f, err := Read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Channels != 2 || f.Rate != 16000 || f.Bits != 16 || f.Float || f.Samples != 10 ||
		!slices.Equal(f.Marks, []Mark{{3, 4, "cat"}, {7, 0, "dog"}}) {
		t.Errorf("%+v", f)
	}
	// A writer to a pipe does not know how long the samples are.
	data = riff(format(3, 1, 8000, 64), chunk("data", make([]byte, 24)))
	copy(data[len(data)-28:], u32(unknown))
	if f, err := Read(bytes.NewReader(data), int64(len(data))); err != nil || !f.Float || f.Samples != 3 {
		t.Errorf("%+v, %v", f, err)
	}
	// One that died left zeros in both places; where the file's length is there, zero samples are zero.
	data = riff(format(1, 1, 8000, 16), chunk("data", make([]byte, 24)))
	copy(data[4:], u32(0))
	copy(data[len(data)-28:], u32(0))
	if f, err := Read(bytes.NewReader(data), int64(len(data))); err != nil || f.Samples != 12 {
		t.Errorf("%+v, %v", f, err)
	}
	data = riff(format(1, 1, 8000, 16), chunk("data", nil), chunk("LIST", []byte("INFOISFT\x04\x00\x00\x00Lavf")))
	if f, err := Read(bytes.NewReader(data), int64(len(data))); err != nil || f.Samples != 0 {
		t.Errorf("%+v, %v", f, err)
	}
	// A long one says it elsewhere.
	data = riff(chunk("ds64", u32(0, 0, 16, 0, 0, 0, 0)), format(1, 1, 8000, 24), chunk("data", make([]byte, 16)))
	copy(data, "RF64")
	copy(data[len(data)-20:], u32(unknown))
	if f, err := Read(bytes.NewReader(data), int64(len(data))); err != nil || f.Samples != 5 {
		t.Errorf("%+v, %v", f, err)
	}
	extensible := format(formatExt, 1, 8000, 32)
	extensible = chunk("fmt ", append(extensible[8:], 0, 0, 32, 0, 0, 0, 0, 0, 3, 0))
	data = riff(extensible, chunk("data", make([]byte, 8)))
	if f, err := Read(bytes.NewReader(data), int64(len(data))); err != nil || !f.Float || f.Samples != 2 {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	samples := chunk("data", make([]byte, 8))
	for want, data := range map[string][]byte{
		"the header takes": nil, "neither RIFF": []byte("RIFX\x04\x00\x00\x00WAVE"), "no format": riff(samples),
		"or no samples": riff(format(1, 1, 8000, 8)), "format 0x2": riff(format(2, 1, 8000, 8), samples),
		"0 channels": riff(format(1, 0, 8000, 8), samples), "at 0 Hz": riff(format(1, 1, 0, 8), samples),
		"12 bits":               riff(format(1, 2, 8000, 12), samples),
		"two chunks of samples": riff(format(1, 1, 8000, 8), samples, samples),
		"and the file holds":    riff(format(1, 1, 8000, 8), samples[:12]),
		`chunk "cue "`:          riff(format(1, 1, 8000, 8), samples, append([]byte("cue "), u32(99)...)),
	} {
		_, err := Read(bytes.NewReader(data), int64(len(data)))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// Whatever the bytes are: a typed error, or a file whose samples and marks lie inside of it.
func FuzzRead(f *testing.F) {
	f.Add(riff(format(1, 2, 16000, 16), chunk("data", make([]byte, 8)), chunk("cue ", u32(1, 1, 0, 0, 0, 0, 1)),
		chunk("LIST", append([]byte("adtl"), chunk("labl", append(u32(1), 'x'))...))))
	f.Add(riff(chunk("ds64", u32(0, 0, 8, 0)), format(3, 1, 1, 32), chunk("data", make([]byte, 8))))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			if !errors.Is(err, ErrFormat) || errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return
		}
		if file.At+file.Samples*int64(file.Frame()) > int64(len(data)) {
			t.Fatalf("%+v", file)
		}
		for _, m := range file.Marks {
			if m.Sample < 0 || m.Length < 0 || m.Sample+m.Length > file.Samples {
				t.Fatalf("%+v", m)
			}
		}
	})
}
