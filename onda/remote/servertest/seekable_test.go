package servertest

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"

	"github.com/jetbatch/jetbatch/onda"
)

// What onda repacks another implementation reads, and the other way round.
func TestSeekableFormat(t *testing.T) {
	t.Parallel()
	dir, packed := t.TempDir(), filepath.Join(t.TempDir(), "packed")
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := onda.Repack(t.Context(), onda.RepackConfig{From: dir, To: packed, FrameBytes: 5000}); err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	const name = "samples/001.lpcm.zst"
	before, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	content, err := dec.DecodeAll(before, nil)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(packed, name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := seekable.NewReader(file, dec)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 50 {
		from := rand.IntN(len(content) - 100)
		got := make([]byte, 100)
		if _, err := r.ReadAt(got, int64(from)); err != nil || !bytes.Equal(got, content[from:from+100]) {
			t.Fatalf("other content from %d on, %v", from, err)
		}
	}
	if whole, err := io.ReadAll(r); err != nil || !bytes.Equal(whole, content) {
		t.Fatalf("%d bytes of %d, %v", len(whole), len(content), err)
	}

	want := take(t, onda.Params{Dir: dir})
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	var out bytes.Buffer
	w, err := seekable.NewWriter(&out, enc)
	if err != nil {
		t.Fatal(err)
	}
	for from := 0; from < len(content); from += 7001 {
		if _, err := w.Write(content[from:min(from+7001, len(content))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	got := take(t, onda.Params{Dir: dir})
	for i := range want {
		if !bytes.Equal(want[i][0].Tensor.Data, got[i][0].Tensor.Data) {
			t.Errorf("batch %d differs", i)
		}
	}
}
