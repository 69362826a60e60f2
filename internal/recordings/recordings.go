// Package recordings finds real recordings for tests. They lie outside of this repository, which has no copy: in the
// folder that JETBATCH_TESTDATA names, or in shared/data beside the repository.
package recordings

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Dir is a folder of recordings: "mitbih12", twelve of ECG in Onda form, or "foreign", files of other formats that
// nobody here wrote. Where it is missing the test is skipped.
func Dir(t testing.TB, name string) string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !exists(filepath.Join(root, "go.mod")) {
		root = filepath.Dir(root)
	}
	dirs := []string{filepath.Join(root, "..", "shared", "data")}
	if d := os.Getenv("JETBATCH_TESTDATA"); d != "" {
		dirs = []string{d, filepath.Dir(d)} // it may be one of the folders
	}
	for _, d := range dirs {
		if dir := filepath.Join(d, name); exists(dir) {
			return dir
		}
	}
	t.Skipf("no recordings: %s is neither in ../shared/data nor in JETBATCH_TESTDATA", name)
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// EDF is what an independent decoder reads of an EDF or BDF file.
type EDF struct {
	Records int     `json:"records"`
	Seconds float64 `json:"record_seconds"`
	Signals []struct {
		Label       string     `json:"label"`
		Annotations bool       `json:"annotations"`
		Unit        string     `json:"unit"`
		Rate        float64    `json:"rate"`
		Samples     int        `json:"samples"`
		Physical    [2]float64 `json:"physical"`
		Digital     [2]int     `json:"digital"`
		SHA256      string     `json:"sha256_int32le"`
	} `json:"signals"`
}

// EDFs is what the decoder reads of the files of EDF and BDF in Dir "foreign", by path from there.
func EDFs(t testing.TB) map[string]EDF {
	t.Helper()
	var all map[string]json.RawMessage
	Expected(t, &all)
	out := make(map[string]EDF)
	for name, raw := range all {
		if strings.HasPrefix(name, "edf/") {
			var e EDF
			if err := json.Unmarshal(raw, &e); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			out[name] = e
		}
	}
	return out
}

// Expected decodes all that independent decoders read of the files in Dir "foreign".
func Expected(t testing.TB, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(Dir(t, "foreign"), "expected.json"))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}
