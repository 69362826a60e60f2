package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/jetbatch/jetbatch/internal/wire"
)

type manCmd struct{}

// Run prints the manual page, from the same structure as --help.
func (c *manCmd) Run(a *app) error {
	parser, err := a.parser(new(grammar))
	if err != nil {
		return err
	}
	m := new(manual)
	m.page(parser.Model.Node)
	_, err = io.WriteString(forMachines(a.out), m.String())
	return err
}

// manual is a page in the language of man(7).
type manual struct{ strings.Builder }

// line writes a macro or the text of a line, in which nothing is a macro that was not one.
func (m *manual) line(format string, args ...any) { fmt.Fprintf(&m.Builder, format+"\n", args...) }

// roff is text as it is to be printed.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}

func (m *manual) text(text string) {
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		m.line(".PP\n%s", roff(strings.ReplaceAll(paragraph, "\n", " ")))
	}
}

func (m *manual) page(root *kong.Node) {
	about, exit, _ := strings.Cut(description, "Exit codes: ")
	m.line(`.TH JETBATCH 1 "" "jetbatch %s" "User Commands"`, roff(wire.Release))
	m.line(".SH NAME\njetbatch \\- training batches, made in parallel elsewhere and taken strictly in order")
	m.line(".SH SYNOPSIS\n.B jetbatch\n.I command\n[flags]")
	m.line(".SH DESCRIPTION")
	m.text(strings.TrimSpace(about))
	m.line(".SH FLAGS OF ALL COMMANDS")
	m.flags(root)
	m.line(".SH COMMANDS")
	m.commands(root)
	m.line(".SH EXIT STATUS")
	for code := range strings.SplitSeq(strings.TrimSuffix(exit, "."), "; ") {
		number, means, _ := strings.Cut(code, " ")
		m.line(".TP\n.B %s\n%s", number, roff(means))
	}
	m.line(".SH SEE ALSO\nThe pages in the folder docs of the repository: https://github.com/jetbatch/jetbatch")
}

// commands writes those below a node, and those below them.
func (m *manual) commands(node *kong.Node) {
	for _, child := range node.Children {
		if child.Hidden {
			continue
		}
		if child.Leaf() {
			m.line(".SS jetbatch %s", roff(strings.TrimPrefix(child.Summary(), "jetbatch ")))
			m.text(child.Help)
			for _, p := range child.Positional {
				m.line(".TP\n.I %s\n%s", roff(p.Summary()), roff(p.Help))
			}
			m.flags(child)
		}
		m.commands(child)
	}
}

func (m *manual) flags(node *kong.Node) {
	for _, f := range node.Flags {
		if f.Hidden || f.Name == "help" && node.Parent != nil {
			continue
		}
		name := f.String()
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + strings.TrimPrefix(name, "-"+string(f.Short)+", ")
		}
		m.line(".TP\n.B %s", roff(name))
		text := f.Help
		if len(f.Envs) > 0 {
			text += " (" + strings.Join(f.Envs, ", ") + ")"
		}
		m.line("%s", roff(text))
	}
}
