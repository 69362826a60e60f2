package jetbatch_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/jetbatch/jetbatch"

// Imports from elsewhere that rules speak of.
const (
	natsServer = "github.com/nats-io/nats-server/..."
	natsAny    = "github.com/nats-io/..."
)

// layers says what each folder may import of this module: dependencies point down, and what is not listed is not
// allowed. A folder stands for the packages below it that have no line of their own.
var layers = map[string][]string{
	"deploy":              {},
	"internal/kind":       {},
	"internal/legible":    {},
	"internal/chaos":      {},
	"internal/legs":       {},
	"internal/lend":       {},
	"internal/direct":     {},
	"internal/durable":    {},
	"internal/golden":     {},
	"internal/metrics":    {},
	"internal/msgp":       {},
	"internal/mutant":     {},
	"internal/natstest":   {},
	"internal/pages":      {},
	"internal/nearest":    {},
	"internal/recordings": {},
	"internal/scratch":    {},
	"internal/proctest":   {"dataset", "client", "coordinator", "worker"},
	"internal/testset":    {"schema", "dataset", "internal/msgp", "internal/wire"},
	"internal/travel":     {"schema", "internal/msgp", "internal/wire"},
	"schema":              {"internal/msgp"},
	"internal/wire":       {"schema", "internal/msgp"},
	"internal/topology":   {"schema", "internal/legible", "internal/wire"},

	"dataset/order": {"dataset"},

	"dataset":     {"schema", "internal/kind", "internal/msgp", "internal/nearest", "internal/travel", "internal/wire"},
	"datasettest": {"schema", "dataset", "internal/msgp", "internal/travel", "internal/wire"},
	"onda":        {"schema", "dataset", "internal/durable"},
	"onda/remote": {"onda"},

	"client/internal":      {"schema", "internal/wire"},
	"coordinator/internal": {"schema", "internal/wire"},
	"worker/internal":      {},

	"client":      {"schema", "internal/direct", "internal/legible", "internal/lend", "internal/metrics", "internal/topology", "internal/wire", "client/internal"},
	"coordinator": {"schema", "dataset", "internal/kind", "internal/legible", "internal/metrics", "internal/topology", "internal/wire", "coordinator/internal"},
	"worker":      {"schema", "dataset", "internal/direct", "internal/kind", "internal/metrics", "internal/topology", "internal/wire", "worker/internal"},

	"bridge":         {"schema", "internal/msgp"},
	"bridge/trainer": {"schema", "client", "bridge", "internal/lend", "internal/msgp", "internal/wire"},
	"bridge/process": {"schema", "dataset", "internal/kind", "bridge", "internal/wire"},

	"embedded": {"schema", "dataset", "internal/scratch", "coordinator", "worker"},
	"cli": {
		"schema", "dataset", "internal/direct", "internal/durable", "internal/kind", "internal/legible", "internal/metrics",
		"internal/msgp", "internal/nearest", "internal/scratch", "internal/topology", "internal/wire", "onda",
		"client", "coordinator", "worker", "embedded", "deploy", "bridge", "bridge/trainer", "bridge/process",
	},
	"cmd":      {"dataset", "onda", "onda/remote", "cli"},
	"python":   {"schema", "dataset", "cli"},
	"bench":    {"schema", "internal/msgp", "internal/scratch", "internal/topology", "internal/wire", "dataset", "onda", "onda/remote", "client", "coordinator", "worker", "embedded"},
	"examples": {"schema", "dataset", "dataset/order", "onda", "client", "embedded", "cli"},
}

// A rule forbids imports of files that are not tests.
type rule struct {
	in     []string // folders, "..." for all of the module
	except []string // folders
	never  []string // import paths, "/..." at the end for all below; folders of this module begin with "./"
	deep   bool     // by way of other packages as well
	why    string
}

var pureCores = []string{"client/internal", "coordinator/internal", "worker/internal"}

var rules = []rule{
	{
		in: []string{"coordinator"}, never: []string{"./worker/...", "./client/..."}, deep: true,
		why: "the roles meet on the wire only, or an upgrade of one would need the other's",
	},
	{
		in: []string{"worker"}, never: []string{"./coordinator/...", "./client/..."}, deep: true,
		why: "the roles meet on the wire only, or an upgrade of one would need the other's",
	},
	{
		in: []string{"client"}, never: []string{"./coordinator/...", "./worker/..."}, deep: true,
		why: "the roles meet on the wire only, or an upgrade of one would need the other's",
	},
	{
		in: []string{"client"}, never: []string{"./dataset/...", "./internal/kind/...", natsServer}, deep: true,
		why: "a trainer names a data set and does not link it, nor a broker",
	},
	{
		in: []string{"..."}, except: []string{"onda/remote", "cmd", "bench"}, never: []string{"github.com/aws/..."}, deep: true,
		why: "the SDK of an object store is for programs that read from one",
	},
	{
		in: []string{"schema", "internal/msgp", "internal/wire", "internal/topology"}, never: []string{natsServer}, deep: true,
		why: "every role links the wire contract",
	},
	{
		in: []string{"..."}, except: []string{"embedded", "bench", "internal/natstest", "internal/proctest"}, never: []string{natsServer},
		why: "a broker inside the process is what embedded is for, and bench has clusters of them; all else is its client",
	},
	{
		in: []string{"coordinator", "worker", "dataset", "onda"}, never: []string{natsServer}, deep: true,
		why: "a role of its own process does not carry a broker",
	},
	{
		in: []string{"coordinator/internal/owner"}, never: []string{"context", "sync", "os", "net", "math/rand", "math/rand/v2", "./internal/topology/...", "./internal/kind/..."},
		why: "the owner takes the time as an argument, and TestOwnerReadsNoClock holds it to that",
	},
	{
		in: pureCores, except: []string{"coordinator/internal/owner"}, never: []string{"context", "time", "sync", "os", "net", "math/rand", "math/rand/v2"},
		why: "same input, same output: a pure core has no clock, no goroutine and no chance in it, and so needs no such thing in its tests",
	},
	{
		in: append([]string{"schema", "internal/msgp", "internal/wire", "dataset", "datasettest", "onda", "bridge/process", "internal/direct", "internal/kind", "internal/travel", "cli/internal/fleet", "cli/internal/top"}, pureCores...), never: []string{natsAny}, deep: true,
		why: "an author's code, the codec, the pure cores and what is shown of them are used and tested without NATS",
	},
	{
		in: []string{"..."}, except: []string{"datasettest", "internal/golden", "internal/natstest", "internal/proctest", "internal/recordings", "internal/testset"},
		never: []string{"testing", "./internal/golden/...", "./internal/mutant/...", "./internal/natstest/...", "./internal/proctest/...", "./internal/recordings/...", "./internal/testset/...", "./datasettest/..."}, deep: true,
		why: "test helpers stay out of binaries",
	},
	{
		in: []string{"..."}, except: []string{"cli", "cmd", "examples/customdataset", "python"}, never: []string{"gonum.org/v1/plot/..."}, deep: true,
		why: "a plotting library belongs to the command, and not to what a trainer or an author links",
	},
	{
		in: []string{"..."}, except: []string{"bench", "cli", "examples", "internal/golden", "internal/proctest"}, never: []string{"flag", "os/signal", "github.com/alecthomas/kong"},
		why: "flags and signals belong to the program: libraries take a Config and a context",
	},
}

// pkg is a package as "go list" describes it.
type pkg struct {
	ImportPath    string
	Imports, Deps []string
}

// folder is the package's folder in the module, "." for its root.
func (p pkg) folder() string {
	return cmp.Or(strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, modulePath), "/"), ".")
}

// TestOwnerReadsNoClock checks that the owner uses package time for its types alone.
func TestOwnerReadsNoClock(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("coordinator/internal/owner/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	clock := regexp.MustCompile(`\btime\.(Now|Since|Until|After|AfterFunc|Sleep|Tick|NewTimer|NewTicker)\b`)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if use := clock.Find(text); use != nil {
			t.Errorf("%s: %s; the time is an argument of Step", file, use)
		}
	}
}

// renames are the files that call os.Rename themselves, and why they may.
var renames = map[string]string{
	"internal/durable/durable.go":  "it brings everything to the disk before and after",
	"onda/importer/write.go":       "within a folder that internal/durable gives its name when all is in it",
	"examples/gomlx/checkpoint.go": "a program of one's own has no internal package",
	"examples/trainer/main.go":     "a program of one's own has no internal package: its test shows that it does the same",
}

// What is finished gets its name by internal/durable, so that after a crash of the machine all of it is there, or
// nothing: an import, a repacked folder, a cached copy, a state file.
func TestNamesAreGivenDurably(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`\b(os|syscall|unix)\.(Rename|Renameat|Link|Symlink)\b`)
	seen := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if use := call.Find(text); use != nil {
			if seen++; renames[filepath.ToSlash(path)] == "" {
				t.Errorf("%s: %s: internal/durable gives names, or say in imports_test.go why not", path, use)
			}
		}
		return err
	})
	if err != nil || seen != len(renames) {
		t.Errorf("%d files rename, %d are listed: %v", seen, len(renames), err)
	}
}

// TestImports checks DESIGN.md's directions of import. To change one, change it there too.
func TestImports(t *testing.T) {
	t.Parallel()
	packages := listPackages(t)
	for _, complaint := range slices.Concat(checkLayers(packages), checkRules(packages)) {
		t.Error(complaint)
	}
}

func listPackages(t *testing.T) []pkg {
	t.Helper()
	// What "go list" reads is unknown to the cache of "go test"; folders that the test itself reads are known to it.
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && len(path) > 1 && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var packages []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) < len(layers)/2 {
		t.Fatalf("go list found %d packages only", len(packages))
	}
	return packages
}

// checkLayers complains of imports inside of the module that layers does not allow.
func checkLayers(packages []pkg) (complaints []string) {
	for _, p := range packages {
		if p.folder() == "." {
			continue // documentation and tests
		}
		layer := layerOf(p.folder())
		if layer == "" {
			complaints = append(complaints, p.folder()+" is in no layer: say in imports_test.go what it may import")
			continue
		}
		for _, path := range p.Imports {
			if !inPackage(path, modulePath) {
				continue
			}
			imported := pkg{ImportPath: path}.folder()
			below := layerOf(imported)
			if below != layer && !slices.Contains(layers[layer], below) {
				complaints = append(complaints, p.folder()+" imports "+imported+": "+layer+" is not above it; see docs/DESIGN.md, or the layers here")
			}
		}
	}
	return complaints
}

// layerOf is the nearest folder above, or the folder itself, that layers knows.
func layerOf(folder string) string {
	for ; folder != "."; folder = path.Dir(folder) {
		if _, ok := layers[folder]; ok {
			return folder
		}
	}
	return ""
}

// checkRules complains of imports that a rule forbids.
func checkRules(packages []pkg) (complaints []string) {
	for _, r := range rules {
		for _, p := range packages {
			if p.folder() == "." || !r.covers(p.folder()) {
				continue
			}
			imports, how := p.Imports, " imports "
			if r.deep {
				imports, how = p.Deps, " imports, maybe by way of others, "
			}
			if i := slices.IndexFunc(imports, r.forbids); i >= 0 { // with one come all that it needs
				complaints = append(complaints, p.folder()+how+imports[i]+": "+r.why)
			}
		}
	}
	return complaints
}

func (r rule) covers(folder string) bool {
	in := func(folders []string) bool {
		return slices.ContainsFunc(folders, func(f string) bool { return f == "..." || inPackage(folder, f) })
	}
	return in(r.in) && !in(r.except)
}

func (r rule) forbids(path string) bool {
	return slices.ContainsFunc(r.never, func(pattern string) bool {
		if own, ok := strings.CutPrefix(pattern, "./"); ok {
			pattern = modulePath + "/" + own
		}
		if root, ok := strings.CutSuffix(pattern, "/..."); ok {
			return inPackage(path, root)
		}
		return path == pattern
	})
}

// inPackage reports whether path is root or below it.
func inPackage(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// The rules themselves: each of these packages breaks one, or none.
func TestImportRulesBite(t *testing.T) {
	t.Parallel()
	own := func(folder string) string { return modulePath + "/" + folder }
	for _, tc := range []struct {
		p    pkg
		want string // a part of the one complaint; empty for none
	}{
		{pkg{ImportPath: own("client"), Imports: []string{own("schema"), "context", "time"}}, ""},
		{pkg{ImportPath: own("client"), Imports: []string{own("dataset")}}, "client is not above it"},
		{pkg{ImportPath: own("client"), Deps: []string{own("internal/kind")}}, "does not link it"},
		{pkg{ImportPath: own("schema"), Imports: []string{own("internal/wire")}}, "schema is not above it"},
		{pkg{ImportPath: own("internal/wire"), Imports: []string{own("schema"), own("internal/msgp")}}, ""},
		{pkg{ImportPath: own("internal/wire"), Deps: []string{"github.com/nats-io/nats.go"}}, "without NATS"},
		{pkg{ImportPath: own("examples/trainer"), Imports: []string{own("internal/wire")}}, "examples is not above it"},
		{pkg{ImportPath: own("coordinator"), Deps: []string{own("client/internal/reorder")}}, "meet on the wire"},
		{pkg{ImportPath: own("coordinator/internal/window"), Imports: []string{"time"}}, "pure core"},
		{pkg{ImportPath: own("coordinator/internal/window"), Imports: []string{"bytes", "timeless"}}, ""},
		{pkg{ImportPath: own("worker/internal/schedule"), Deps: []string{"github.com/nats-io/nats.go"}}, "without NATS"},
		{pkg{ImportPath: own("cli"), Imports: []string{"github.com/nats-io/nats-server/v2/server"}}, "what embedded is for"},
		{pkg{ImportPath: own("embedded"), Imports: []string{"github.com/nats-io/nats-server/v2/server"}}, ""},
		{pkg{ImportPath: own("cmd/jetbatch"), Deps: []string{own("internal/natstest")}}, "out of binaries"},
		{pkg{ImportPath: own("worker"), Imports: []string{"os/signal"}}, "belong to the program"},
		{pkg{ImportPath: own("util")}, "in no layer"},
	} {
		got := slices.Concat(checkLayers([]pkg{tc.p}), checkRules([]pkg{tc.p}))
		if tc.want == "" && len(got) == 0 {
			continue
		}
		if tc.want == "" || len(got) != 1 || !strings.Contains(got[0], tc.want) {
			t.Errorf("%+v: got %q, want one with %q", tc.p, got, tc.want)
		}
	}
}
