package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/alecthomas/kong"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/worker"
)

// refusal checks that an error of the command line is one that says how to go on: typed, legible, not much longer than
// what was given.
func refusal(t *testing.T, given string, err error, kinds ...error) {
	t.Helper()
	typed := len(kinds) == 0
	for _, kind := range kinds {
		typed = typed || errors.Is(err, kind)
	}
	text := legible.Text(err.Error())
	illegible := func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }
	if !typed || strings.ContainsFunc(text, illegible) || len(text) > 10*len(given)+1<<10 {
		t.Errorf("%q: %q", given, text)
	}
}

// FuzzFlags reads drawn command lines, variables and configuration files; arguments and variables are separated by
// zeros, as the system keeps them. It runs no command, but makes what a command would make of its flags.
//
//   - Nothing panics. What is refused, is with errUsage, by one legible line.
//   - A flag wins over its variable, and a variable over the file: what all three give is the flag's.
//   - Of what is read, a role is made, or it is refused with an error of its own: no number of it is out of bounds.
func FuzzFlags(f *testing.F) {
	for _, seed := range [][3]string{
		{"worker\x00--name\x00w1\x00--slots=4\x00--server\x00nats://h:4222,tls://[::1]:4222"},
		{"worker", "JETBATCH_SLOTS=99999999999999999999\x00JETBATCH_NAME=w 1", `{"worker":{"slots":3},"name":"w"}`},
		{"worker\x00--slots=16385"}, {"worker\x00--slots=-1"}, {"worker\x00--job-timeout=-1s\x00--keep-bytes=-1"},
		{"worker\x00--direct=:\x00--direct-advertise=h", "", `{"keep-bytes": 1e300}`},
		{"take\x00--name\x00train\x00--dataset\x00onda\x00--params\x00{\"dir\":\"d\"}\x00--window\x00-1\x00--no-json"},
		{"take\x00--name=t\x00--dataset=d", "JETBATCH_WINDOW=9223372036854775807", `{"take":{"retain":-2,"params":{"a":1}}}`},
		{"coordinator\x00--stall\x005s\x00--log-level=debug\x00--log-format\x00json", "JETBATCH_LEASE=1h", `{"lease":"2s"}`},
		{"coordinator\x00--replicas=-3"}, {"coordinator\x00--replicas=6\x00--lease=-1ns\x00--name=a b"},
		{"coordinator", "", `{"coordinator":{"replicas":[1,2]}}`}, {"coordinator", "", `{"replicas":1,"replicas":2}`},
		{"coordinator\x00--data-root=/a,s3://b", "JETBATCH_DATA_ROOT=", `{"data-root":["/x","/y"]}`},
		{"show\x00-o\x00a.svg\x00-o=b.png\x00--data\x00~/d"}, {"audit\x00--share\x001e400"}, {"audit\x00--share\x00NaN"},
		{"keys\x00--\x00-dir"}, {"onda\x00repack\x00.\x00--out\x00"}, {"version\x00--config\x00cli.go"},
		{"up\x00--server\x00nats://user:password@h"}, {"status", "JETBATCH_SERVER=nats://user:password@h", `{"server":"x"}`},
		{"--help"}, {"top\x00--help\x00--looks"}, {"nosuch"}, {"-"}, {""}, {"version", "", `[`}, {"version", "", `{"a":{}}`},
		{"version\x00--config=/dev/null"}, {"bench\x00--batches=-1", "JETBATCH_JSON=maybe"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	log := slog.New(slog.DiscardHandler)
	nc := natstest.RunInProcess(f).Connect()
	over, end := context.WithCancel(context.Background())
	end()
	file := filepath.Join(f.TempDir(), "jetbatch.json")
	f.Fuzz(func(t *testing.T, line, variables, config string) {
		if len(line)+len(variables)+len(config) > 4<<10 ||
			strings.Contains(strings.ToLower(line+variables), "config") && strings.Contains(line+variables, "/") {
			t.Skip("long, or a file out of this folder that would be read: it may never end")
		}
		args := strings.Split(line, "\x00")
		for _, v := range strings.Split(variables, "\x00") {
			name, value, ok := strings.Cut(v, "=")
			if !ok || !strings.HasPrefix(name, "JETBATCH_") || strings.ContainsRune(name, 0) {
				continue
			}
			t.Setenv(name, value)
		}
		if config != "" {
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append([]string{"--config", file}, args...)
		}
		a, g := &app{out: io.Discard, err: newConsole(io.Discard), log: log}, new(grammar)
		parsed, err := a.parse(g, args)
		given := line + variables + config + file
		if err != nil {
			refusal(t, given, err, errUsage)
			return
		}
		if parsed == nil {
			return // help
		}
		checkPrecedence(t, parsed, args)
		switch o := new(observer); parsed.Command() {
		case "coordinator":
			c := g.Coordinator.config("c1", a, o)
			if _, err := coordinator.New(nc, c, wide); err != nil {
				refusal(t, given, err)
			} else if c.Replicas < 0 || c.Replicas > 5 || c.Lease < 0 || c.ReaderLease < 0 || c.Stall < 0 {
				t.Errorf("%q makes a coordinator: %+v", given, c)
			}
		case "worker":
			c := g.Worker.config("w1", a, o)
			if _, err := worker.New(nc, c, wide); err != nil {
				refusal(t, given, err, worker.ErrConfig, wire.ErrBadName)
			} else if c.Slots < 0 || c.Slots > wire.MaxSlots || c.JobTimeout < 0 || c.DrainTimeout < 0 || c.KeepBytes < 0 {
				t.Errorf("%q makes a worker: %+v", given, c)
			}
		case "take":
			params := json.RawMessage(g.Take.Params)
			b, err := client.Open[[]byte](over, nc, g.Take.config(params, a, o))
			if err == nil {
				t.Errorf("%q: a batcher without a service: %v", given, b.Close())
			} else if !errors.Is(err, context.Canceled) {
				refusal(t, given, err, client.ErrBadConfig)
			}
		}
	})
}

// checkPrecedence checks that the log's format, which every command has, is the command line's where that has one.
func checkPrecedence(t *testing.T, parsed *kong.Context, args []string) {
	t.Helper()
	want := ""
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, "--log-format="); ok {
			want = value
		}
	}
	for _, p := range parsed.Path {
		if p.Flag != nil && p.Flag.Name == "log-format" && !p.Resolved && want != "" && p.Flag.Target.String() != want {
			t.Errorf("%q: --log-format is %q", args, p.Flag.Target)
		}
	}
}

// FuzzConfigFile reads drawn files: what it takes is an object in which each key is a flag, or a command with flags,
// and it is taken again when its values are written anew.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"worker":{"slots":4},"server":"nats://h","json":true}`, `{"params":{"a":[1,{}]}}`, `{"params":3}`,
		`{"version":{}}`, `{"listen-http":[":1"]}`, `{"python":["a=b:c","d=e:f"]}`, `{"a":1,"a":2}`, `{"slots":1e999}`, "\xff",
		`{"take":{"params":{"b":null}}}`, `{"data-root":[]}`, `{"log-level":"\u001b[2J"}`, `{"slots":{}}`, ` { } x`, `{"a"`,
	} {
		f.Add(seed)
	}
	parser, err := kong.New(new(grammar), kong.DefaultEnvars("JETBATCH"), kong.Bind(new(app)))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConfig([]byte(text))
		if err == nil {
			err = c.Validate(parser.Model)
		}
		if err != nil {
			refusal(t, text, err)
			return
		}
		all := make(map[string]any)
		for key, value := range c.shared {
			all[key] = value
		}
		for key, value := range c.commands {
			all[key] = value
		}
		again, err := json.Marshal(all)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if c, err = parseConfig(again); err == nil {
			err = c.Validate(parser.Model)
		}
		if err != nil {
			t.Errorf("%q, written anew: %q: %v", text, again, err)
		}
	})
}
