// Package pages reads the blocks of Markdown pages and makes one shell script of the commands of a page. Its test runs
// them: every command that README.md, docs and examples/gomlx show is run as it stands there, and every fragment of Go
// is a part of a file that is compiled.
//
// Blocks in ```sh are commands. Blocks in ```console are commands behind "$ " with what they print. Blocks in ```python
// are run after the file before.py, if there is one. A second word in that line, such as docker, says what the commands
// need beyond jetbatch itself: the parts of .ci/run that have it run them. What readers need not see is an HTML
// comment:
//
//	<!-- sh
//	commands that prepare what the page takes for given
//	-->
//	<!-- not run: a reason -->      the next block is not run
//	<!-- from FILE -->              the next block is a part of that file
package pages

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Block is a fenced block, or a comment with commands.
type Block struct {
	Line   int    // of its first line of text, from 1
	Lang   string // as the fence says: sh, console, go and others; empty for none
	Needs  string // what the commands need; empty for jetbatch alone
	From   string // the file that it is a part of
	Reason string // why it is not run
	Text   string
}

// Commands reports whether the block has commands that are run.
func (b Block) Commands() bool {
	return (b.Lang == "sh" || b.Lang == "console" || b.Lang == "python") && b.Reason == ""
}

var (
	notRun = regexp.MustCompile(`^<!-- not run: (.+) -->$`)
	from   = regexp.MustCompile(`^<!-- from (\S+) -->$`)
)

// Blocks returns the blocks of a page in their order.
func Blocks(page string) (blocks []Block, err error) {
	var next Block // what comments say of the block after them
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		info, end := "", ""
		switch {
		case strings.HasPrefix(line, "```"):
			info, end = line[3:], "```"
		case strings.HasPrefix(line, "<!-- sh") && !strings.Contains(line, "-->"):
			info, end = strings.TrimPrefix(line, "<!-- "), "-->"
		case notRun.MatchString(line):
			next.Reason = notRun.FindStringSubmatch(line)[1]
			continue
		case from.MatchString(line):
			next.From = from.FindStringSubmatch(line)[1]
			continue
		default:
			if strings.TrimSpace(line) != "" {
				next = Block{}
			}
			continue
		}
		length := slices.Index(lines[i+1:], end)
		if length < 0 {
			return nil, fmt.Errorf("line %d: the block does not end", i+1)
		}
		words := strings.Fields(info + " ")
		if len(words) > 2 {
			return nil, fmt.Errorf("line %d: %q is more than a language and a need", i+1, info)
		}
		words = append(words, "", "")
		next.Line, next.Lang, next.Needs = i+2, words[0], words[1]
		if next.Lang == "python" {
			next.Needs = "python"
		}
		next.Text = strings.Join(lines[i+1:i+1+length], "\n")
		blocks = append(blocks, next)
		next = Block{}
		i += length + 1
	}
	return blocks, nil
}

// Shown is one command of a console block and what it is said to print.
type Shown struct {
	Command string
	First   int // line of the page with the first line of the output
	Output  []string
}

// Console returns the commands of a console block.
func (b Block) Console() (commands []Shown) {
	for i, line := range strings.Split(b.Text, "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			commands = append(commands, Shown{Command: command, First: b.Line + i + 1})
		} else if n := len(commands); n > 0 {
			commands[n-1].Output = append(commands[n-1].Output, line)
		}
	}
	return commands
}

// Script is the bash script of those blocks that need nothing, or one of needs. It ends at the first command of an sh
// block that fails, having written "@ LINE" for every block begun to file descriptor 3. What the n-th command of all
// console blocks prints, from 0, goes to the file n in the folder $OUT; such a command may fail.
func Script(blocks []Block, needs []string) string {
	var b strings.Builder
	b.WriteString("set -e\n")
	n := 0
	for _, block := range blocks {
		if !block.Commands() || block.Needs != "" && !slices.Contains(needs, block.Needs) {
			continue
		}
		fmt.Fprintf(&b, "echo '@ %d' >&3\n", block.Line)
		switch block.Lang {
		case "sh":
			b.WriteString(block.Text + "\n")
			continue
		case "python":
			fmt.Fprintf(&b, "touch before.py\n{ cat before.py; cat <<'END'\n%s\nEND\n} | python3 -\n", block.Text)
			continue
		}
		for _, shown := range block.Console() {
			fmt.Fprintf(&b, "set +e\n{ %s\n} >\"$OUT/%d\" 2>&1\nset -e\n", shown.Command, n)
			n++
		}
	}
	return b.String()
}

// ConsoleIn are the commands of console blocks that Script runs, in the order of their numbers.
func ConsoleIn(blocks []Block, needs []string) (all []Shown) {
	for _, block := range blocks {
		if block.Commands() && block.Lang == "console" && (block.Needs == "" || slices.Contains(needs, block.Needs)) {
			all = append(all, block.Console()...)
		}
	}
	return all
}

// volatile are what two runs print differently, in the order in which they are looked for, and what stands for it.
var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`jb2:\S+`), "STATE"},
	{regexp.MustCompile(`#[0-9a-f]{8}\b|\b[0-9a-f]{32}\b`), "DIGEST"},
	{regexp.MustCompile(`\b[0-9A-Z]{26}\b|\b[0-9A-Z]{5,}…[0-9A-Z]*`), "ID"},
	{regexp.MustCompile(`[\w.-]+-[a-z2-7]{8}\b`), "NAME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ][\d:.]+Z?|\b\d\d:\d\d:\d\d\b`), "TIME"},
	{regexp.MustCompile(`\b\d[\d,.]*(\s?(µs|ms|ns|KiB|MiB|GiB|[hmsB])(\d[\d.]*(ms|[ms]))*\b)?`), "0"},
	{regexp.MustCompile(`[▁▂▃▄▅▆▇█▏▎▍▌▋▊▉▰▱]+`), ""},
	{regexp.MustCompile(`0 (iterate|queue|materialize|transfer|ranks|other)\b`), "0"}, // what was waited for most
	{regexp.MustCompile(`; waited for: 0`), ""},
	{regexp.MustCompile(`\s+`), " "},
	{regexp.MustCompile(` - `), " 0 "}, // a figure that is not known yet
	{regexp.MustCompile(` - `), " 0 "}, // and the one beside it
}

// Plain is a line without what differs from run to run: numbers, times, identifiers, the width of columns.
func Plain(line string) string {
	for _, v := range volatile {
		line = v.pattern.ReplaceAllString(line, v.with)
	}
	return strings.TrimSpace(line)
}

// Differ says how what was printed is not what the page shows, or is empty. A line "…" stands for any lines, and "…"
// in a line for any text.
func Differ(page, printed []string) string {
	page, printed = trimmed(page), trimmed(printed)
	at, skipping := 0, false
	for _, want := range page {
		if strings.TrimSpace(want) == "…" {
			skipping = true
			continue
		}
		found := -1
		for i := at; i < len(printed); i++ {
			if matches(want, printed[i]) {
				found = i
				break
			}
			if !skipping {
				break
			}
		}
		if found < 0 {
			return fmt.Sprintf("the page shows\n\t%s\nand not\n\t%s", want, strings.Join(printed[at:], "\n\t"))
		}
		at, skipping = found+1, false
	}
	if !skipping && at < len(printed) {
		return "the page does not show\n\t" + strings.Join(printed[at:], "\n\t")
	}
	return ""
}

func matches(want, got string) bool {
	parts := strings.Split(Plain(strings.ReplaceAll(want, "…", "\x00")), "\x00")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(Plain(got))
}

// progress is a line of a meter, which come as often as it takes.
var progress = regexp.MustCompile(`^\S.* \d+(/\d+)? batches, [\d.]+ batches/s, [\d.]+ MB/s(, .*)?$`)

// trimmed leaves out meters, and empty lines at the end.
func trimmed(lines []string) []string {
	lines = slices.DeleteFunc(slices.Clone(lines), progress.MatchString)
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}
