package cli

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/onda"
)

func model(t *testing.T) (*app, *kong.Node) {
	t.Helper()
	a := &app{out: io.Discard, err: newConsole(io.Discard),
		defs: []dataset.Definition{onda.Definition(), testset.Define("counting", nil)}}
	parser, err := a.parser(new(grammar))
	if err != nil {
		t.Fatal(err)
	}
	return a, parser.Model.Node
}

func TestComplete(t *testing.T) {
	t.Parallel()
	a, root := model(t)
	for line, want := range map[string]string{
		"st":                               "status stop",
		"take --train":                     "--train-time",
		"take --dataset ":                  "onda counting",
		"take --dataset = c":               "counting", // as bash has it
		"take --dataset =":                 "onda counting",
		"take --dataset=o":                 "--dataset=onda",
		"take --verify --log-level de":     "debug",
		"take --log-level debug --log-for": "--log-format",
		"take --batches 3 --state":         "--state-file",
		"take -n 3 --state":                "--state-file",
		"--log-format json sta":            "status",
		"onda ":                            "import describe normalize repack",
		"params c":                         "counting",
		"params counting ":                 "",
		"completion ":                      "bash zsh fish",
		"take --state-file ":               "", // a file
		"stop ":                            "",
		"no such command --log-l":          "--log-level",
		"com":                              "completion", // and not what the scripts ask
	} {
		var words []string
		for _, x := range a.complete(root, strings.Split(line, " ")) {
			words = append(words, x.word)
		}
		if got := strings.Join(words, " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if all := a.complete(root, nil); len(all) < 15 || slices.ContainsFunc(all, func(x completion) bool { return x.help == "" }) {
		t.Errorf("all commands: %v", all)
	}
}

// Every command is in README's table, and it and all its flags are in the manual page.
func TestEveryCommandIsDocumented(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "| command | does |")
	_, root := model(t)
	page := new(manual)
	page.page(root)
	for _, command := range root.Children {
		if command.Hidden {
			continue
		}
		if !strings.Contains(table, "`jetbatch "+command.Name) {
			t.Errorf("jetbatch %s is not in README's table", command.Name)
		}
		if !strings.Contains(page.String(), ".SS jetbatch "+command.Name) {
			t.Errorf("jetbatch %s is not in the manual page", command.Name)
		}
		for _, f := range command.Flags {
			if !f.Hidden && f.Name != "help" && !strings.Contains(page.String(), roff("--"+f.Name)) {
				t.Errorf("jetbatch %s --%s is not in the manual page", command.Name, f.Name)
			}
		}
	}
}
