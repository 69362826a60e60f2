package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// What is wrong with a file is said with the file's name, and with what was meant.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		``:                               `line 1: unexpected EOF`,
		`[]`:                             `not a JSON object`,
		"{\n\"json\": true":              `line 2: unexpected EOF`,
		`{"json": true} {}`:              `something follows the object`,
		`{"json": true, "json": false}`:  `key "json" comes twice`,
		`{"jsn": true}`:                  `unknown key "jsn"; the nearest known one is "json"`,
		`{"tls_ca": "ca.pem"}`:           `unknown key "tls_ca"; the nearest known one is "tls-ca"`,
		`{"password": "secret"}`:         `unknown key "password"; the nearest known one is "password-file"`,
		`{"config": "other.json"}`:       `unknown key "config"`,
		`{"worker": {"replicas": 3}}`:    `unknown key "worker.replicas"`,
		`{"worker": {"slot": 3}}`:        `unknown key "worker.slot"; the nearest known one is "worker.slots"`,
		`{"wroker": {"slots": 3}}`:       `unknown key "wroker"; the nearest known one is "worker"`,
		`{"worker": {"slots": null}}`:    `key "worker.slots": neither text nor a number`,
		`{"worker": 3}`:                  `key "worker": a command has an object of flags`,
		`{"slots": {"worker": 3}}`:       `key "slots": an object is no value for it`,
		`{"version": {"json": "maybe"}}`: `--json: bool value must be true`,
		`{"log-format": ["text"]}`:       `--log-format: one value, not a list`,
		`{"host": [["a"]]}`:              `key "host": a list in a list`,
		`{"log-format": "xml"}`:          `--log-format must be one of "text","json"`,
	} {
		path := filepath.Join(t.TempDir(), "jetbatch.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"version", "--config", path}, &out, &errs, nil)
		if got := errs.String(); code != exitUsage || !strings.Contains(got, want) || !strings.Contains(got, "(with "+path+")") {
			t.Errorf("%s: exit code %d, %s", content, code, got)
		}
		if strings.Contains(errs.String(), "secret") {
			t.Errorf("a value is told: %s", errs.String())
		}
	}
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"version", "--config", "nosuch.json"}, &errs, &errs, nil); code != exitUsage || !strings.Contains(errs.String(), "nosuch.json") {
		t.Errorf("no file: exit code %d, %s", code, errs.String())
	}
}

// Every flag has a variable of its own name, and so a key in the file.
func TestEveryFlagHasAVariable(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(new(grammar), kong.DefaultEnvars("JETBATCH"), kong.Bind(new(app)))
	if err != nil {
		t.Fatal(err)
	}
	nodes := append([]*kong.Node{parser.Model.Node}, parser.Model.Children...)
	for _, node := range nodes {
		for _, f := range node.Flags {
			want := "JETBATCH_" + strings.ReplaceAll(strings.ToUpper(f.Name), "-", "_")
			if f.Name != "help" && (len(f.Envs) == 0 || f.Envs[0] != want) {
				t.Errorf("%s --%s: variables %v, want %s", node.Name, f.Name, f.Envs, want)
			}
			for _, other := range parser.Model.Children {
				// In a file params is always the flag, whose value is an object.
				if f.Name == other.Name && f.Name != paramsFlag {
					t.Errorf("flag --%s has the name of a command: in a file it could be either", f.Name)
				}
			}
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"server":"nats://h:1","worker":{"slots":4},"params":{"dir":"/data"}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			return
		}
		parser, err := kong.New(new(grammar), kong.DefaultEnvars("JETBATCH"), kong.Bind(new(app)))
		if err != nil {
			panic(err)
		}
		_ = c.Validate(parser.Model) // any answer will do, but one
	})
}
