package onda

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/zeebo/xxh3"

	"github.com/jetbatch/jetbatch/dataset"
)

// Bounds of what a fingerprint says of single files. A description keeps 64 parts with 256 bytes of each name, and the
// tables and the report need some of the parts.
const (
	fileParts    = 56
	onePath      = 240 // bytes of a path, in a name that has one
	eachOfTwo    = 112 // and in a name that has two
	shortPathSum = 8   // hexadecimal digits that tell apart paths that were cut
)

// partsOfFiles says in a bounded number of parts which files have which values, so that an error can name those that
// changed. Few files have a part each. Many are in ranges of their sorted paths, which cover every path there can be.
//
// A range begins at a path whose hash has enough leading zeros. A file that comes or goes so changes the range that it
// is in, or splits or joins two, and leaves the others alone; ranges of equal length would all move. The order of the
// files does not matter.
func partsOfFiles(paths, values []string) []dataset.Part {
	order := make([]int, len(paths))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(paths[a], paths[b]) })
	var parts []dataset.Part
	if len(paths) <= fileParts {
		for _, i := range order {
			name := "file " + shortPath(paths[i], onePath)
			parts = append(parts, dataset.Part{Name: name, Value: digest([]byte(values[i]))})
		}
		return parts
	}
	var begins [65]int // how many paths have a hash of so many leading zeros
	zeros := func(path string) int { return bits.LeadingZeros64(xxh3.HashString(path)) }
	for _, path := range paths {
		begins[zeros(path)]++
	}
	level := len(begins) - 1
	for n := begins[level]; level > 0 && n+begins[level-1] < fileParts; level-- {
		n += begins[level-1]
	}
	from, sum := "", xxh3.New()
	end := func(name string) {
		all := sum.Sum128().Bytes()
		parts = append(parts, dataset.Part{Name: name, Value: fmt.Sprintf("%x", all)})
		sum.Reset()
	}
	for _, i := range order {
		if path := paths[i]; zeros(path) >= level {
			next := shortPath(path, eachOfTwo)
			if from == "" {
				end("files before " + next)
			} else {
				end("files from " + from + " to before " + next)
			}
			from = next
		}
		fmt.Fprintf(sum, "%q %s\n", paths[i], values[i])
	}
	if from != "" { // else every file is in one range, of which the digest of all says enough
		end("files from " + from + " on")
	}
	return parts
}

// shortPath is a path for people, in so many bytes: its beginning, its end, and a digest in the place of what is cut.
// What cannot be printed is quoted.
func shortPath(path string, limit int) string {
	text := strconv.Quote(path)
	if text[1:len(text)-1] == path {
		text = path
	}
	if len(text) <= limit {
		return text
	}
	half := (limit - shortPathSum - len("……")) / 2
	head, tail := half, len(text)-half
	for !utf8.RuneStart(text[head]) {
		head--
	}
	for !utf8.RuneStart(text[tail]) {
		tail++
	}
	return text[:head] + "…" + digest([]byte(path))[:shortPathSum] + "…" + text[tail:]
}
