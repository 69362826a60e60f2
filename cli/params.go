package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/jetbatch/jetbatch/dataset"
)

type paramsCmd struct {
	Dataset string `arg:"" optional:"" help:"Data set. Defaults to all of this binary."`
	JSON    bool   `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// paramsReport are the parameters of one data set.
type paramsReport struct {
	Dataset string          `json:"dataset"`
	Version uint32          `json:"version"`
	Params  []dataset.Param `json:"params"`
}

// Run shows the parameters of the binary's data sets.
func (c *paramsCmd) Run(a *app) error {
	var reports []paramsReport
	for _, d := range a.defs {
		if c.Dataset == "" || c.Dataset == d.Name() {
			reports = append(reports, paramsReport{d.Name(), d.Version(), d.Params()})
		}
	}
	if len(reports) == 0 {
		return a.notHere(c.Dataset)
	}
	if c.JSON {
		return printJSON(a.out, reports)
	}
	var b strings.Builder
	for i, r := range reports {
		if i > 0 {
			b.WriteString("\n")
		}
		r.print(&b)
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

// notHere is of a data set that this binary has not.
func (a *app) notHere(name string) error {
	var known []string
	for _, d := range a.defs {
		known = append(known, d.Name())
	}
	all := cmp.Or(strings.Join(known, ", "), "none")
	return fmt.Errorf("%w: data set %q is not in this binary, which has: %s", errUsage, name, all)
}

// meaningWidth is the width of a line of what a parameter means.
const meaningWidth = 76

func (r *paramsReport) print(b *strings.Builder) {
	fmt.Fprintf(b, "data set %s, version %d\n\n", r.Dataset, r.Version)
	if len(r.Params) == 0 {
		b.WriteString("it has no parameters that could be listed\n")
		return
	}
	for _, p := range r.Params {
		head := fmt.Sprintf("%-18s %s", p.Name, p.Type)
		if p.Unit != "" {
			head += " in " + p.Unit
		}
		if p.Default != "" {
			head += "; defaults to " + p.Default
		}
		fmt.Fprintln(b, head)
		for _, line := range wrap(p.Meaning, meaningWidth) {
			fmt.Fprintf(b, "    %s\n", line)
		}
	}
}

// wrap breaks text into lines.
func wrap(text string, width int) (lines []string) {
	for _, word := range strings.Fields(text) {
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(word) <= width {
			lines[n-1] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}
