package schema

import (
	"errors"
	"testing"
)

func TestDigest(t *testing.T) {
	t.Parallel()
	// The published XXH3-128 values of the empty input and, for the rest, that other bytes give another digest.
	if got := Sum(nil).String(); got != "99aa06d3014798d86001c324468d497f" {
		t.Errorf("Sum(nil) = %s", got)
	}
	d := Sum([]byte("payload"))
	if d == Sum([]byte("Payload")) {
		t.Error("a collision")
	}
	data := mustMarshal(t, struct{ D Digest }{d})
	if len(data) != 1+2+2+16 {
		t.Errorf("% x is not 16 bytes of binary", data)
	}
	var back struct{ D Digest }
	if err := Unmarshal(data, &back); err != nil || back.D != d {
		t.Errorf("%v, %v", back, err)
	}
	if got, err := ParseDigest(d.String()); err != nil || got != d {
		t.Errorf("ParseDigest: %v, %v", got, err)
	}
	for _, s := range []string{"", "00", d.String() + "00", "x" + d.String()[1:]} {
		if got, err := ParseDigest(s); !errors.Is(err, ErrBadDigest) || got != (Digest{}) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}
