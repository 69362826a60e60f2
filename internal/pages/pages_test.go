package pages

import (
	"slices"
	"strings"
	"testing"
)

const sample = `# Page

~~~sh
echo one
~~~

<!-- sh docker
echo hidden
-->
<!-- not run: it never ends -->

~~~sh
sleep inf
~~~

~~~console nats
$ echo 12 a b-abcdefgh
12 a b-abcdefgh
$ echo nothing; false
~~~

<!-- from a/b.go -->
~~~go
x := 1
~~~

~~~
figure
~~~
`

func blocks(t *testing.T) []Block {
	t.Helper()
	got, err := Blocks(strings.ReplaceAll(sample, "~~~", "```"))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	want := []Block{
		{Line: 4, Lang: "sh", Text: "echo one"},
		{Line: 8, Lang: "sh", Needs: "docker", Text: "echo hidden"},
		{Line: 13, Lang: "sh", Reason: "it never ends", Text: "sleep inf"},
		{Line: 17, Lang: "console", Needs: "nats", Text: "$ echo 12 a b-abcdefgh\n12 a b-abcdefgh\n$ echo nothing; false"},
		{Line: 24, Lang: "go", From: "a/b.go", Text: "x := 1"},
		{Line: 28, Text: "figure"},
	}
	if got := blocks(t); !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for _, bad := range []string{"```sh\necho", "```sh docker nats\n```"} {
		if _, err := Blocks(bad); err == nil {
			t.Errorf("%q has no error", bad)
		}
	}
}

func TestScript(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		needs   []string
		lines   string // "@" lines of the script, by line of the page
		console int
	}{
		{nil, "4", 0},
		{[]string{"docker"}, "4 8", 0},
		{[]string{"nats"}, "4 17", 2},
	} {
		script := Script(blocks(t), tc.needs)
		var lines []string
		for line := range strings.Lines(script) {
			if at, ok := strings.CutPrefix(line, "echo '@ "); ok {
				lines = append(lines, at[:strings.Index(at, "'")])
			}
		}
		if got := strings.Join(lines, " "); got != tc.lines {
			t.Errorf("needs %v: blocks at %s, want %s", tc.needs, got, tc.lines)
		}
		if got := len(ConsoleIn(blocks(t), tc.needs)); got != tc.console {
			t.Errorf("needs %v: %d console commands, want %d", tc.needs, got, tc.console)
		}
	}
}

func TestDiffer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, page, printed string
		same                bool
	}{
		{"equal", "a\nb", "a\nb\n", true},
		{"numbers, times and names", "took 12 batches in 1.5s, worker-1-abcdefgh 3.4 KiB", "took 9,000 batches in 350ms, worker-1-zzzzzzzz 0 B", true},
		{"columns", "A   B", "A B", true},
		{"another word", "all is well", "all is not well", false},
		{"a line more", "a", "a\nb", false},
		{"a line less", "a\nb", "a", false},
		{"left out", "a\n…\nd", "a\nb\nc\nd", true},
		{"left out at the end", "a\n…", "a\nb", true},
		{"left out and missing", "a\n…\ne", "a\nb\nc\nd", false},
		{"left out within", "state jb2:x… of…", "state jb2:onda:1:abc of all", true},
	} {
		if got := Differ(strings.Split(tc.page, "\n"), strings.Split(tc.printed, "\n")); (got == "") != tc.same {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}
