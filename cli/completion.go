package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" help:"Shell that the script is for: bash, zsh or fish." enum:"bash,zsh,fish"`
}

// Run prints what the shell reads. It asks this program what may come next, so that it never is of another version.
func (c *completionCmd) Run(a *app) error {
	_, err := io.WriteString(a.out, completionScripts[c.Shell])
	return err
}

var completionScripts = map[string]string{
	"bash": `# jetbatch completion bash >/etc/bash_completion.d/jetbatch, or: source <(jetbatch completion bash)
_jetbatch() {
	local line
	COMPREPLY=()
	while IFS= read -r line; do
		COMPREPLY+=("${line%%$'\t'*}")
	done < <("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -o nosort -F _jetbatch jetbatch
`,
	"zsh": `#compdef jetbatch
# jetbatch completion zsh >"${fpath[1]}/_jetbatch", or: source <(jetbatch completion zsh)
_jetbatch() {
	local -a found
	local word help
	while IFS=$'\t' read -r word help; do
		found+=("${word//:/\\:}:$help")
	done < <("${words[1]}" complete "${(@)words[2,CURRENT]}" 2>/dev/null)
	if (( $#found )); then _describe -V jetbatch found; else _files; fi
}
if [ "$funcstack[1]" = "_jetbatch" ]; then _jetbatch "$@"; else compdef _jetbatch jetbatch; fi
`,
	"fish": `# jetbatch completion fish >~/.config/fish/completions/jetbatch.fish, or: jetbatch completion fish | source
function __jetbatch
	set -l words (commandline -opc)
	set -l last (commandline -ct)
	set -l found ($words[1] complete $words[2..-1] "$last" 2>/dev/null)
	if test (count $found) -gt 0
		printf '%s\n' $found
	else
		__fish_complete_path (commandline -ct)
	end
end
complete -c jetbatch -f -a '(__jetbatch)'
`,
}

// completeCmd is what the scripts ask. It is no command for people.
type completeCmd struct {
	Words []string `arg:"" optional:""`
}

// Run prints what may stand in the place of the last word, a line each, with what it means behind a tab. Nothing stands
// for a file, or for text that is anybody's choice.
func (c *completeCmd) Run(a *app) error {
	parser, err := a.parser(new(grammar))
	if err != nil {
		return err
	}
	for _, x := range a.complete(parser.Model.Node, c.Words) {
		if _, err := fmt.Fprintf(a.out, "%s\t%s\n", x.word, x.help); err != nil {
			return err
		}
	}
	return nil
}

// completion is a word that may come next.
type completion struct{ word, help string }

// complete returns the words that can stand in the place of the last one. Bash gives --flag=value as three words.
func (a *app) complete(node *kong.Node, words []string) []completion {
	last := ""
	if n := len(words); n > 0 && words[n-1] != "=" {
		last, words = words[n-1], words[:n-1]
	}
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "=" })
	var value *kong.Value // that the next word is
	place := 0            // among the arguments
	for _, w := range words {
		switch flag := findFlag(node, w); {
		case value != nil:
			value = nil
		case flag != nil:
			if !flag.IsBool() && !strings.Contains(w, "=") {
				value = flag.Value
			}
		case strings.HasPrefix(w, "-"):
		case findChild(node, w) != nil:
			node = findChild(node, w)
		default:
			place++
		}
	}
	var found []completion
	add := func(word, help string) {
		if strings.HasPrefix(word, last) {
			found = append(found, completion{word, firstSentence(help)})
		}
	}
	switch flag := findFlag(node, last); {
	case value != nil:
		a.values(value, "", add)
	case flag != nil && strings.Contains(last, "="):
		a.values(flag.Value, "--"+flag.Name+"=", add)
	case strings.HasPrefix(last, "-"):
		for n := node; n != nil; n = n.Parent {
			for _, f := range n.Flags {
				if !f.Hidden {
					add("--"+f.Name, f.Help)
				}
			}
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				add(child.Name, child.Help)
			}
		}
		if place < len(node.Positional) {
			a.values(node.Positional[place], "", add)
		}
	}
	return found
}

// values adds what a flag or an argument can be, where that is one of a few words.
func (a *app) values(v *kong.Value, prefix string, add func(word, help string)) {
	switch {
	case v.Enum != "":
		for _, word := range v.EnumSlice() {
			add(prefix+word, "")
		}
	case v.Name == "dataset":
		for _, d := range a.defs {
			add(prefix+d.Name(), "")
		}
	}
}

// findFlag returns the flag that a word is, of a command or of those above it.
func findFlag(node *kong.Node, word string) *kong.Flag {
	name, _, _ := strings.Cut(word, "=")
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

func findChild(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

// firstSentence is short enough for a line beside a word.
func firstSentence(text string) string {
	text, _, _ = strings.Cut(text, ". ")
	return strings.TrimSuffix(text, ".")
}
