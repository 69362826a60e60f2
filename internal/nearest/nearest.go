// Package nearest finds the known name that is most like one that is not known, for errors about misspelt names.
package nearest

import (
	"cmp"
	"slices"
	"strings"
)

// Name is the name of known that is most like name; empty where none is known.
func Name(name string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	return slices.MinFunc(known, func(a, b string) int {
		return cmp.Or(distance(name, a)-distance(name, b), strings.Compare(a, b))
	})
}

// distance is how many letters must be put in, left out or changed to make one of the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
