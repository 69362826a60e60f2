package cli

import (
	"bytes"
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

// noClaim marks a paragraph of docs/SECURITY.md that says nothing of jetbatch.
const noClaim = "<!-- no claim about jetbatch -->"

// Of sections 2 to 5 of docs/SECURITY.md, every paragraph, every item and every row of a table names a test that tries
// to break it; TestEveryPermission sees to it that the tests are there. A paragraph that ends in a colon is what its
// list or its table says, and the table of what roles may is that of its paragraph.
func TestEverySentence(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "\n## 2. ")
	_, text, _ = strings.Cut(text, "\n")
	text, _, found := strings.Cut(text, "\n## 6. ")
	if !found {
		t.Fatal("sections 2 to 5 are not there")
	}
	claims := 0
	for _, block := range strings.Split(text, "\n\n") {
		var parts []string
		switch {
		case strings.HasPrefix(block, "|"):
			rows := strings.Split(block, "\n")
			if strings.Contains(rows[0], "| may |") {
				continue
			}
			parts = rows[2:]
		case strings.HasPrefix(block, "- "):
			parts = strings.Split("\n"+block, "\n- ")[1:]
		default:
			parts = []string{block}
		}
		for _, part := range parts {
			last := part[strings.LastIndex(strings.TrimSpace(part), "\n")+1:]
			if part == "" || strings.HasPrefix(last, "#") || strings.HasSuffix(strings.TrimSpace(part), ":") ||
				strings.Contains(part, noClaim) || !strings.Contains(part, " ") {
				continue
			}
			if claims++; !testName.MatchString(part) {
				t.Errorf("without a test:\n%s", part)
			}
		}
	}
	if claims < 80 {
		t.Errorf("%d claims were found", claims)
	}
}

// Every function of internal/wire and internal/msgp that decodes, or parses, what travels is called by a fuzz target.
func TestEveryDecoderIsFuzzed(t *testing.T) {
	t.Parallel()
	var targets bytes.Buffer
	decoders := make(map[string]string) // to its file
	files := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "_test.go") {
			if bytes.Contains(source, []byte("\nfunc Fuzz")) {
				targets.Write(source)
			}
			return nil
		}
		if dir := filepath.ToSlash(filepath.Dir(path)); dir != "../internal/wire" && dir != "../internal/msgp" {
			return nil
		}
		file, err := parser.ParseFile(files, path, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil {
				continue
			}
			for _, verb := range []string{"Decode", "Parse", "Unmarshal"} {
				if strings.HasPrefix(f.Name.Name, verb) {
					decoders[f.Name.Name] = path
				}
			}
		}
		return nil
	})
	if err != nil || len(decoders) < 10 {
		t.Fatalf("%d decoders, %v", len(decoders), err)
	}
	for name, path := range decoders {
		called := strings.Contains(targets.String(), name+"(") || strings.Contains(targets.String(), name+"[")
		if !called {
			t.Errorf("no fuzz target calls %s of %s", name, path)
		}
	}
}

// The server publishes the trace of a message for its sender, where the message says, and there alone where the sender
// may publish.
func TestTraceGoesNowhere(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	s.start("coordinator")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := client.Open[schema.Batch](ctx, s.connect("client"), client.Config{
		Name: "train", Dataset: "wide", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	operator := s.connect("operator")
	traces := make(chan string, 10)
	if _, err := operator.Subscribe("jetbatch.notice.>", func(m *nats.Msg) { traces <- m.Subject }); err != nil {
		t.Fatal(err)
	}
	if err := operator.Flush(); err != nil {
		t.Fatal(err)
	}
	for role, subject := range map[string]string{"worker": "jetbatch.worker.w1", "client": "jetbatch.reader.none"} {
		nc := s.connect(role)
		for _, to := range []string{
			"jetbatch.notice.x", "$KV.jetbatch." + topology.BatcherKey("traced"), "jetbatch.job.wide-v1-w2.train.GEN.1.0",
		} {
			if err := nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"Nats-Trace-Dest": {to}}}); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := operator.Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case subject := <-traces:
		t.Errorf("a trace at %s", subject)
	default:
	}
	m, err := operator.Request("$JS.API.STREAM.MSG.GET.KV_jetbatch",
		[]byte(`{"last_by_subj":"$KV.jetbatch.batcher.traced"}`), 10*time.Second)
	if err != nil || !bytes.Contains(m.Data, []byte("10037")) {
		t.Errorf("the bucket has %s, %v; want no message", m.Data, err)
	}
}

// No secret in a URL on the command line: others can read that.
func TestServerFlagTakesNoSecret(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"nats://user:secretsecret@h:4222", "nats://secretsecret@h", "nats://a,tls://u:secretsecret@b",
	} {
		for _, args := range [][]string{{"status", "--server", url}, {"worker", "--server=" + url}} {
			var out bytes.Buffer
			code := run(t.Context(), args, &out, &out, nil)
			if code != exitUsage || !strings.Contains(out.String(), "command line") {
				t.Errorf("%v: %d, %s", args, code, out.String())
			}
			if strings.Contains(out.String(), "secretsecret") {
				t.Errorf("it is told: %s", out.String())
			}
		}
	}
}

// With --data-root, a trainer's parameters open nothing else: not in a coordinator, nor in a worker.
func TestDataRootOfRoles(t *testing.T) {
	t.Parallel()
	dir, secret := t.TempDir(), t.TempDir()
	for _, folder := range []string{dir, secret} {
		if err := onda.Synthesize(folder, onda.SynthConfig{}); err != nil {
			t.Fatal(err)
		}
	}
	for role, flags := range map[string]func(*grammar) *processFlags{
		"coordinator": func(g *grammar) *processFlags { return &g.Coordinator.processFlags },
		"worker":      func(g *grammar) *processFlags { return &g.Worker.processFlags },
		"up":          func(g *grammar) *processFlags { return &g.Up.processFlags },
	} {
		g := new(grammar)
		a := &app{out: io.Discard, err: newConsole(io.Discard), defs: []dataset.Definition{onda.Definition()}}
		if _, err := a.parse(g, []string{role, "--data-root", "s3://bucket/eeg," + dir}); err != nil {
			t.Fatal(err)
		}
		flags := flags(g)
		defs, closing, err := flags.definitions(t.Context(), a, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer closing()
		ref, err := dataset.SequentialOf[schema.Batch](t.Context(), defs[0], onda.Params{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if err := ref.Close(); err != nil {
			t.Error(err)
		}
		_, err = dataset.SequentialOf[schema.Batch](t.Context(), defs[0], onda.Params{Dir: secret})
		if !errors.Is(err, dataset.ErrOutside) {
			t.Errorf("outside of --data-root: %v", err)
		}
	}
}
