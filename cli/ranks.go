package cli

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/schema"
)

// writeRanks writes the ranks of every batcher that several take together, and the readers of one that they share, the
// slowest first.
func writeRanks(w io.Writer, batchers []schema.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range batchers {
		if !fleet.Shared(b) {
			continue
		}
		what := "RANK"
		if fleet.Readers(b) {
			what = "READER"
			fmt.Fprintf(t, "\nREADERS OF %s, %d DETACHED\n", legible.Line(b.Batcher), b.Detached)
		} else {
			fmt.Fprintf(t, "\nRANKS OF %s, WORLD %s\n", legible.Line(b.Batcher), legible.Line(b.World))
		}
		fmt.Fprintln(t, what+"\tTAKEN\tBEHIND\tHEARD\tTRAINER\tWAITING FOR")
		for _, m := range fleet.BySlowest(b) {
			fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\n", fleet.Label(m), m.Taken, fleet.Behind(b, m), fleet.Heard(m),
				cmp.Or(legible.Line(m.Reader), "-"), cmp.Or(oneLine(fleet.Waiting(m), maxWaiting), "-"))
		}
	}
	return t.Flush()
}
