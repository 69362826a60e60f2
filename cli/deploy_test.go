package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/jetbatch/jetbatch/deploy"
)

const kubernetes = "../deploy/kubernetes"

// The servers' configuration in Kubernetes is a ConfigMap that includes what "jetbatch keys" writes, which is a secret:
// together they are a cluster with TLS, users and JetStream.
func TestKubernetesServers(t *testing.T) {
	t.Parallel()
	set := t.TempDir()
	if code := run(t.Context(), []string{"keys", filepath.Join(set, "keys")}, io.Discard, os.Stderr, nil); code != 0 {
		t.Fatalf("keys: exit code %d", code)
	}
	secret, config := filepath.Join(set, "secret"), filepath.Join(set, "config")
	if err := os.Rename(filepath.Join(set, "keys", "nats"), secret); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(config, 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(kubernetes, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "nats.conf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	// The container's working directory is the secret; a test has none of its own.
	main := filepath.Join(secret, "nats.conf")
	if text, err = os.ReadFile(main); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server.crt", "server.key"} {
		text = bytes.Replace(text, fmt.Appendf(nil, "%q", name), fmt.Appendf(nil, "%q", filepath.Join(secret, name)), 1)
	}
	if err := os.WriteFile(main, text, 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(filepath.Join(config, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if !opts.JetStream || opts.StoreDir != "/data" || opts.TLSConfig == nil || len(opts.Nkeys) != len(deploy.Roles) {
		t.Errorf("JetStream %v in %q, TLS %v, %d users; want the configuration of jetbatch keys", opts.JetStream, opts.StoreDir, opts.TLSConfig != nil, len(opts.Nkeys))
	}
	if c := opts.Cluster; c.Name != "jetbatch" || c.Port != 6222 || !c.NoAdvertise || len(opts.Routes) != 3 {
		t.Errorf("cluster %+v with routes %v", c, opts.Routes)
	}
}

// A variable that no command reads would be ignored in silence.
func TestKubernetesVariables(t *testing.T) {
	t.Parallel()
	known := flagVariables(t)
	files, err := filepath.Glob("../deploy/[ko]*/*.yaml") // kubernetes, overlay
	if err != nil || !slices.Contains(files, "../deploy/overlay/trainer.yaml") {
		t.Fatal(files, err)
	}
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`name: (JETBATCH_[A-Z_]+)`).FindAllSubmatch(text, -1) {
			found++
			if name := string(match[1]); !known[name] {
				t.Errorf("%s: no flag reads %s", file, name)
			}
		}
	}
	if found == 0 {
		t.Error("the manifests set nothing")
	}
}

// What "jetbatch keys" makes, in the folders that the pages name, is neither committed nor copied into an image's
// layer.
func TestKeysStayOut(t *testing.T) {
	t.Parallel()
	set := filepath.Join(t.TempDir(), "set")
	if code := run(t.Context(), []string{"keys", set}, io.Discard, os.Stderr, nil); code != 0 {
		t.Fatalf("keys: exit code %d", code)
	}
	text, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Fields(regexp.MustCompile(`(?m)^#.*$`).ReplaceAllString(string(text), ""))
	var committed []string
	for _, dir := range []string{"keys", "keys/set", "next", "elsewhere"} {
		err := filepath.WalkDir(set, func(file string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			below, err := filepath.Rel(set, file)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name := path.Join(dir, filepath.ToSlash(below))
			if secret := info.Mode().Perm() == 0o600; !secret {
				return nil
			}
			committed = append(committed, name)
			if !dockerIgnores(t, ignored, name) {
				t.Errorf(".dockerignore lets %s into an image", name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(committed) == 0 {
		t.Fatal("no secrets were made")
	}
	if _, err := os.Stat("../.git"); err != nil {
		t.Skip(".gitignore is not tried: this is no git repository")
	}
	git := exec.CommandContext(t.Context(), "git", append([]string{"-C", "..", "check-ignore", "--no-index"}, committed...)...)
	out, err := git.Output()
	if listed := strings.Fields(string(out)); len(listed) != len(committed) {
		t.Errorf("git ignores %v of %v: %v", listed, committed, err)
	}
}

// dockerIgnores reads the patterns that .dockerignore has: names from the root, and "**/" before a name anywhere.
func dockerIgnores(t *testing.T, patterns []string, name string) bool {
	t.Helper()
	for _, pattern := range patterns {
		base, anywhere := strings.CutPrefix(pattern, "**/")
		candidate := path.Base(name)
		if !anywhere {
			candidate, _, _ = strings.Cut(name, "/")
		}
		if matched, err := path.Match(base, candidate); err != nil {
			t.Fatal(err)
		} else if matched {
			return true
		}
	}
	return false
}

// Every image can be given by digest: it is a variable in Compose's files and an argument of the Dockerfiles.
func TestImagesAreVariables(t *testing.T) {
	t.Parallel()
	found := 0
	for glob, forms := range map[string]struct{ image, variable string }{
		"../docker-compose.yml":                {`(?m)^\s+image: (.+)$`, `^\$\{[A-Z_]+:-[a-z0-9/.:-]+\}$`},
		"../deploy/compose.*.yml":              {`(?m)^\s+image: (.+)$`, `^\$\{[A-Z_]+:-[a-z0-9/.:-]+\}$`},
		"../Dockerfile":                        {`(?m)^FROM (\S+)`, `^(\$\{[A-Z_]+\}|scratch)$`},
		"../examples/customdataset/Dockerfile": {`(?m)^FROM (\S+)`, `^(\$\{[A-Z_]+\}|scratch)$`},
	} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatal(glob, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range regexp.MustCompile(forms.image).FindAllStringSubmatch(string(text), -1) {
				found++
				if !regexp.MustCompile(forms.variable).MatchString(match[1]) {
					t.Errorf("%s: image %s is no variable", file, match[1])
				}
			}
		}
	}
	if found < 8 {
		t.Errorf("%d images were found", found)
	}
}

// Compose builds nothing: "up --build" would build the stock image over a user's own, and a misspelt tag out of stock
// source. .ci/run compose tries both.
func TestComposeBuildsNothing(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../deploy/compose.*.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../docker-compose.yml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^\s+build:`).Match(text) {
			t.Errorf("%s builds an image", file)
		}
	}
}

// flagVariables are the variables that flags are read from.
func flagVariables(t *testing.T) map[string]bool {
	t.Helper()
	var g grammar
	parser, err := kong.New(&g, kong.Name("jetbatch"), kong.DefaultEnvars("JETBATCH"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	err = kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				known[name] = true
			}
		}
		return next(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// The variables of Compose's files and those of flags do not mix: one that a flag reads means the same in Compose, and
// goes into the container under its own name. A variable that is set for Compose changes no flag, and the other way
// round.
func TestComposeVariables(t *testing.T) {
	t.Parallel()
	known := flagVariables(t)
	files, err := filepath.Glob("../deploy/compose.*.yml")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range append(files, "../docker-compose.yml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			for _, match := range regexp.MustCompile(`\$\{([A-Z_]+)`).FindAllStringSubmatch(line, -1) {
				found++
				if name := match[1]; known[name] && !strings.HasPrefix(strings.TrimSpace(line), name+": ") {
					t.Errorf("%s: %s is the variable of a flag, too: %s", file, name, strings.TrimSpace(line))
				}
			}
		}
	}
	if found == 0 {
		t.Error("the files have no variables")
	}
	main, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`(?m)^#   ([A-Z_0-9]+)`).FindAllStringSubmatch(string(main), -1) {
		passed := regexp.MustCompile(`(?m)^ +` + match[1] + `:$`).Match(main) // on to the container under its own name
		if !passed && !strings.Contains(string(main), "${"+match[1]) {
			t.Errorf("%s is documented and does nothing", match[1])
		}
	}
}

// An image says which version it was built of, by way of the Dockerfile's GOFLAGS: there is no shell for a flag.
func TestImageSaysItsVersion(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`(?m)^ENV GOFLAGS="(.*)"$`).FindSubmatch(file)
	if flags == nil {
		t.Fatal("the Dockerfile has no GOFLAGS")
	}
	binary := filepath.Join(t.TempDir(), "jetbatch")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", binary, "../cmd/jetbatch")
	build.Env = append(os.Environ(), "GOFLAGS="+strings.ReplaceAll(string(flags[1]), "${VERSION}", "v9.9.9-1-gabc"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), binary, "version").Output(); err != nil ||
		!strings.Contains(string(out), "(github.com/jetbatch/jetbatch v9.9.9-1-gabc)") {
		t.Errorf("%s, %v", out, err)
	}
}
