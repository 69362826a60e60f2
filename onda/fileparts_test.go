package onda

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jetbatch/jetbatch/dataset"
)

// A change of one file shows in one part, which names the file or a range that has it.
func TestFingerprintNamesFiles(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, fileParts, fileParts + 1, 3 * fileParts} {
		dir := synth(t, SynthConfig{Recordings: n, Duration: 2 * time.Second, Channels: []string{"a"}})
		p := Params{Dir: dir, BatchDuration: Duration(time.Second)}
		print := func() dataset.Fingerprint {
			f, err := open(t, p, Config{}).Fingerprint(t.Context())
			if err != nil || len(f.Parts) > 64 {
				t.Fatalf("%d parts, %v", len(f.Parts), err)
			}
			return f
		}
		was, path := print(), "samples/002.lpcm"
		at := time.Unix(1e9, 0)
		if err := os.Chtimes(filepath.Join(dir, filepath.FromSlash(path)), at, at); err != nil {
			t.Fatal(err)
		}
		is := print()
		got := differing(was, is)
		if is.Digest == was.Digest || len(got) != 2 || got[0] != "files" {
			t.Fatalf("of %d files, %q differ", n, got)
		}
		if n <= fileParts && got[1] != "file "+path || n > fileParts && !covers(got[1], path) {
			t.Errorf("of %d files, %q differs, not that of %s", n, got[1], path)
		}
	}
}

// covers reports whether a range's name has the path in it.
func covers(name, path string) bool {
	if before, ok := strings.CutPrefix(name, "files before "); ok {
		return path < before
	}
	from, ok := strings.CutPrefix(name, "files from ")
	if from, on := strings.CutSuffix(from, " on"); ok && on {
		return path >= from
	}
	from, before, between := strings.Cut(from, " to before ")
	return ok && between && from <= path && path < before
}

// A hundred thousand files have a bounded number of ranges. They cover every path once, in whatever order the files
// come, and stay as they are while some files come and go.
func TestFilePartsOfManyFiles(t *testing.T) {
	t.Parallel()
	for _, n := range []int{fileParts + 1, 1000, 100_000} {
		var paths, values []string
		for i := range n {
			paths, values = append(paths, fmt.Sprintf("samples/%06d.lpcm", i)), append(values, fmt.Sprint(i, "@0"))
		}
		parts := partsOfFiles(paths, values)
		if len(parts) < 8 || len(parts) > fileParts {
			t.Fatalf("%d files have %d parts", n, len(parts))
		}
		for _, path := range []string{"", "a", paths[0], paths[n/2], paths[n-1], "z"} {
			in := 0
			for _, p := range parts {
				if covers(p.Name, path) {
					in++
				}
			}
			if in != 1 {
				t.Errorf("%q is in %d of %d parts", path, in, len(parts))
			}
		}
		slices.Reverse(paths)
		slices.Reverse(values)
		if again := partsOfFiles(paths, values); !slices.Equal(again, parts) {
			t.Errorf("in another order: %v and %v", parts, again)
		}
		// A file at the end is in the last range, or splits it.
		grown, last := partsOfFiles(append(paths, "samples/zzz"), append(values, "1@0")), len(parts)-1
		if len(grown) <= last || !slices.Equal(grown[:last], parts[:last]) || grown[last] == parts[last] {
			t.Errorf("a file at the end changed %v to %v", parts, grown)
		}
	}
}

// A part's name fits its bytes, is a line of text, and is another for every path.
func TestFilePartsOfLongPaths(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("folder/é", 100)
	few := []string{"a b.lpcm", "é.lpcm", "x\n\xff.lpcm",
		long + "1/000.lpcm", long + "2/000.lpcm", strings.Repeat("\xff", 500)}
	many := slices.Clone(few)
	for i := range fileParts {
		many = append(many, fmt.Sprint(long, i), fmt.Sprint(long, i, long))
	}
	for _, paths := range [][]string{few, many} {
		parts := partsOfFiles(paths, make([]string, len(paths)))
		names := map[string]bool{}
		for _, p := range parts {
			names[p.Name] = true
			if len(p.Name) > 256 || len(p.Value) > 256 || !utf8.ValidString(p.Name) || strings.ContainsRune(p.Name, '\n') {
				t.Errorf("%d bytes: %q", len(p.Name), p.Name)
			}
		}
		if len(names) != len(parts) {
			t.Errorf("%d parts have %d names", len(parts), len(names))
		}
		if len(paths) == len(few) && (!names["file a b.lpcm"] || !names["file é.lpcm"]) {
			t.Errorf("names %v", names)
		}
	}
	if parts := partsOfFiles(nil, nil); len(parts) != 0 {
		t.Errorf("no files have %v", parts)
	}
}
