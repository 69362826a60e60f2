package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/onda"
)

type ondaDescribeCmd struct {
	Dir    string `arg:"" help:"Folder of Onda signals." type:"path"`
	Params string `help:"Parameters as JSON, or @FILE with them. Defaults to those that demo would choose." placeholder:"JSON"`
	JSON   bool   `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// describeReport is what there is to say of a folder.
type describeReport struct {
	onda.Description
	// Params that were given, or that were found to open the folder.
	Params *onda.Params `json:"params,omitempty"`
	// Report says what would be dropped with on_bad drop, and why.
	Report *onda.Report `json:"report,omitempty"`
	// Error says why it cannot be opened at all.
	Error string `json:"error,omitempty"`
}

// Run describes a folder.
func (c *ondaDescribeCmd) Run(ctx context.Context, a *app) error {
	p, r, err := c.params(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	if r.Description, err = onda.Describe(ctx, p, onda.Config{}); err != nil {
		return interrupted(ctx, err)
	}
	if r.Error == "" {
		p.OnBad = onda.OnBadDrop
		ds, err := onda.New(ctx, p, onda.Config{Logger: a.log})
		if err != nil {
			r.Error = err.Error()
		} else {
			defer ds.Close()
			report := ds.Report()
			r.Report = &report
		}
	}
	if ctx.Err() != nil {
		return interrupted(ctx, ctx.Err())
	}
	if c.JSON {
		return printJSON(a.out, r)
	}
	_, err = fmt.Fprint(a.out, r)
	return err
}

// params are those given, or those that are guessed. Those of a folder without anything that opens name its first
// table.
func (c *ondaDescribeCmd) params(ctx context.Context) (p onda.Params, r *describeReport, err error) {
	r = &describeReport{}
	given, err := readParams(c.Params)
	if err != nil {
		return p, r, err
	}
	if given != nil {
		if err := json.Unmarshal(given, &p); err != nil {
			return p, r, fmt.Errorf("%w: --params: %w", errUsage, err)
		}
	} else if p, err = onda.GuessContext(ctx, c.Dir); err != nil {
		tables, _ := filepath.Glob(filepath.Join(c.Dir, "*.signals.arrow"))
		if len(tables) == 0 {
			return p, r, fmt.Errorf("%w%s", err, importHint(c.Dir))
		}
		r.Error = err.Error()
		p = onda.Params{Signals: filepath.Base(tables[0])}
	}
	if p.Dir, err = filepath.Abs(c.Dir); err != nil {
		return p, r, err
	}
	if r.Error == "" {
		found := p
		r.Params = &found
	}
	return p, r, nil
}

// String is the description for people.
func (r *describeReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d recordings, %.1f hours\n", r.Recordings, r.Hours)
	for _, s := range r.Sensors {
		fmt.Fprintf(&b, "\n%s/%s: %d recordings, %d signals, %.1f hours\n", legible.Line(s.Type), legible.Line(s.Label),
			s.Recordings, s.Signals, s.Hours)
		fmt.Fprintf(&b, "  Hz        %s\n", counted(s.Rates, s.Signals, 12))
		fmt.Fprintf(&b, "  unit      %s\n", counted(s.Units, s.Signals, 12))
		fmt.Fprintf(&b, "  channels  %s\n", counted(s.Channels, s.Signals, 40))
	}
	b.WriteString("\n")
	for _, l := range r.Labels {
		fmt.Fprintf(&b, "label %-24s %8d annotations, %8.2f hours, in %d recordings\n", legible.Line(l.Label), l.Annotations,
			l.Hours, l.Recordings)
	}
	if r.MissingLabels > 0 {
		fmt.Fprintf(&b, "%d annotations have none\n", r.MissingLabels)
	}
	if r.Unlabeled > 0 {
		fmt.Fprintf(&b, "%d recordings have no label\n", r.Unlabeled)
	}
	if r.Error != "" && r.Unlabeled == r.Recordings {
		b.WriteString("an import with --label NAME gives each recording without labels one\n")
	}
	if r.Report != nil {
		fmt.Fprintf(&b, "\nwith on_bad drop: %s\n", r.Report)
		for _, reason := range r.Report.Reasons {
			fmt.Fprintf(&b, "  %d %s\n", reason.Recordings, legible.Line(reason.What))
			for _, first := range reason.First {
				fmt.Fprintf(&b, "    %s\n", legible.Line(first))
			}
		}
	}
	if r.Error != "" {
		fmt.Fprintf(&b, "\nit cannot be opened: %s\n", legible.Text(r.Error))
	}
	if r.Params != nil {
		text, err := json.Marshal(r.Params)
		if err == nil {
			fmt.Fprintf(&b, "\nparameters: %s\n", legible.Line(string(text)))
		}
	}
	return b.String()
}

// counted are values, and for those that not all signals have, how many do.
func counted[T any](counts []onda.Count[T], all, most int) string {
	var parts []string
	for _, c := range counts[:min(len(counts), most)] {
		text := legible.Line(fmt.Sprint(c.Value))
		if c.Signals < all {
			text += fmt.Sprintf(" (%d)", c.Signals)
		}
		parts = append(parts, text)
	}
	if more := len(counts) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, ", ")
}

type ondaNormalizeCmd struct {
	Params string `help:"Parameters of onda as JSON, or @FILE with them; split.use is the training part." required:"" placeholder:"JSON"`
	Out    string `help:"File to write the parameters to, with normalize in them. Defaults to standard output." type:"path" placeholder:"FILE"`
}

// Run computes a normalization once, and gives the parameters that have it.
func (c *ondaNormalizeCmd) Run(ctx context.Context, a *app) error {
	given, err := readParams(c.Params)
	if err != nil {
		return err
	}
	var p onda.Params
	dec := json.NewDecoder(strings.NewReader(string(given)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return fmt.Errorf("%w: --params: %w", errUsage, err)
	}
	if p.Normalize, err = onda.Normalize(ctx, p, onda.Config{Logger: a.log}, nil); err != nil {
		return interrupted(ctx, err)
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if c.Out == "" {
		_, err = a.out.Write(text)
		return err
	}
	if err := replaceFile(c.Out, text, 0o644); err != nil {
		return fmt.Errorf("%w: --out: %w", errUsage, err)
	}
	_, err = fmt.Fprintf(a.out, "means and scales of %d channels in %s\n", len(p.Normalize.Channels), c.Out)
	return err
}
