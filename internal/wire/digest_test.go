package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/internal/golden"
	"github.com/jetbatch/jetbatch/internal/msgp"
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
	if err := msgp.Unmarshal(data, &back); err != nil || back.D != d {
		t.Errorf("%v, %v", back, err)
	}
	if err := msgp.Unmarshal([]byte{0xc4, 3, 1, 2, 3}, new(Digest)); !errors.Is(err, ErrBadDigest) {
		t.Errorf("3 bytes: %v", err)
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

// What digests are of must not change unnoticed: a trainer of the one version would find the payloads of workers of the
// other damaged. A change of this file is a new [Version].
func TestDigestGolden(t *testing.T) {
	t.Parallel()
	payload := make([]byte, 3*DigestBlock+1000)
	for i := range payload {
		payload[i] = byte(i * i >> 8)
	}
	var lines strings.Builder
	for _, n := range []int{0, 1, 1000, DigestBlock, DigestBlock + 1, 2 * DigestBlock, len(payload)} {
		fmt.Fprintf(&lines, "%7d bytes %v\n", n, Sum(payload[:n]))
	}
	golden.Check(t, "digest", lines.String())
}
