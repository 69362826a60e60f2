package kind

import (
	"fmt"
	"slices"
	"strings"
)

// The names of parts that are a file, and a range of files. Their values are digests.
const (
	fileName  = "file "
	rangeName = "files "
)

const maxFiles = 8 // named in an error

func isFile(p Part) bool {
	return (strings.HasPrefix(p.Name, fileName) || strings.HasPrefix(p.Name, rangeName)) && isDigest(p.Value)
}

// others are the parts that are no files.
func others(parts []Part) []Part {
	return slices.DeleteFunc(slices.Clone(parts), isFile)
}

// fileDifferences names the files in which two origins differ, or the ranges that have them; nothing where the parts do
// not say which files these are.
func fileDifferences(was, is []Part) []string {
	files := func(parts []Part) []Part {
		return slices.DeleteFunc(slices.Clone(parts), func(p Part) bool { return !isFile(p) })
	}
	was, is = files(was), files(is)
	if len(was) == 0 || len(is) == 0 {
		return nil
	}
	ranged := func(p Part) bool { return strings.HasPrefix(p.Name, rangeName) }
	var list []string
	if slices.ContainsFunc(was, ranged) || slices.ContainsFunc(is, ranged) {
		// The ranges cover every path, so that those of now have what changed, also where theirs are other bounds.
		for _, p := range is {
			if !slices.Contains(was, p) {
				list = append(list, p.Name+" differ")
			}
		}
		if len(list) == len(is) {
			return nil
		}
	} else {
		list = singleDifferences(was, is)
	}
	if more := len(list) - maxFiles; more > 0 {
		list = append(list[:maxFiles], fmt.Sprintf("and %d more", more))
	}
	return list
}

func singleDifferences(was, is []Part) []string {
	has := func(parts []Part, name string) bool {
		return slices.ContainsFunc(parts, func(p Part) bool { return p.Name == name })
	}
	var list []string
	for _, p := range was {
		if !has(is, p.Name) {
			list = append(list, p.Name+" is gone")
		} else if !slices.Contains(is, p) {
			list = append(list, p.Name+" changed")
		}
	}
	for _, p := range is {
		if !has(was, p.Name) {
			list = append(list, p.Name+" is new")
		}
	}
	return list
}
