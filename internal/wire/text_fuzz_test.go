package wire

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// FuzzEvent reads what is stored as an event, which the server can be made to store: it is refused, or its role and
// name are those of the subject, whatever it says.
func FuzzEvent(f *testing.F) {
	f.Add(EventPrefix+".batcher.train", []byte(`{"what":"began","role":"worker","name":"other"}`))
	f.Add(EventPrefix+".worker.w1", []byte(`{"what":"\u001b[2J"}`))
	f.Add("jetbatch.event", []byte(`null`))
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		e, err := ParseEvent(subject, data, time.Unix(1, 0))
		if err == nil && (EventSubject(e) != subject || !e.At.Equal(time.Unix(1, 0))) {
			t.Errorf("%q: %+v", subject, e)
		}
	})
}

// FuzzDigestText reads digests as text: a digest has one text but for the case of its digits, and no other text is one.
func FuzzDigestText(f *testing.F) {
	f.Add(Sum(nil).String())
	f.Add("00")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDigest(text)
		if err != nil {
			if !errors.Is(err, ErrBadDigest) {
				t.Error(err)
			}
			return
		}
		if again, err := ParseDigest(d.String()); err != nil || again != d || len(text) != len(d.String()) {
			t.Errorf("%q is %v, and that %v, %v", text, d, again, err)
		}
	})
}

// FuzzPayload reads payloads as a type of the author's: they are refused, or come back as they are written.
func FuzzPayload(f *testing.F) {
	type batch struct {
		X []float64      `msgpack:"x"`
		M map[string]int `msgpack:"m"`
		B *batch         `msgpack:"b"`
	}
	data, err := AppendPayload(nil, batch{X: []float64{1}, M: map[string]int{"a": 1}, B: &batch{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if raw, err := DecodePayload[[]byte](payload); err != nil || !bytes.Equal(raw, payload) {
			t.Errorf("bytes: %v", err)
		}
		b, err := DecodePayload[batch](payload)
		if err != nil {
			return
		}
		first, err := AppendPayload(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = DecodePayload[batch](first); err != nil {
			t.Fatal(err)
		}
		if second, err := AppendPayload(nil, b); err != nil || !bytes.Equal(first, second) {
			t.Errorf("% x, again % x, %v", first, second, err)
		}
		if msgp.Check(first) != nil {
			t.Error("what is written is not well formed")
		}
	})
}
