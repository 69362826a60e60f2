package cli

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// evil clears a screen by seven and by eight bits, turns the direction of writing, overwrites its line, and begins
// another that could pass for the program's own.
const evil = "\x1b[2J\u009b31m\u202eevil\r\u2066\x7f\nEVILROW"

// fill puts evil into every text of a value, and something into everything else.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(evil)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	}
}

// filled is a JSON answer with evil in every text.
func filled[T any](t *testing.T, changes ...func(*T)) []byte {
	t.Helper()
	var v T
	fill(reflect.ValueOf(&v).Elem())
	for _, change := range changes {
		change(&v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// strangersSay answers in the place of all roles.
func strangersSay(t *testing.T, nc *nats.Conn) {
	t.Helper()
	ping, err := json.Marshal(micro.Ping{ServiceIdentity: micro.ServiceIdentity{
		Name: evil, ID: evil, Metadata: map[string]string{"worker": evil, "coordinator": evil},
	}})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err == nil {
		err = topology.Ensure(t.Context(), js, topology.Config{})
	}
	if err != nil {
		t.Fatal(err)
	}
	kv, err := topology.OpenBucket(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	record := filled(t, func(r *wire.Record) { r.Spec.Dataset = "counting" })
	if _, err := kv.Put(t.Context(), topology.BatcherKey("kept"), record); err != nil {
		t.Fatal(err)
	}
	failing := func(r *wire.SeatReply) { r.Wire, r.Fault.Code = wire.Version, schema.CodeMaterialize }
	for subject, answer := range map[string][]byte{
		wire.CoordinatorPrefix + ".overview": filled(t, func(o *wire.Overview) {
			o.Batchers[0].Phase = schema.PhaseRunning
			o.Batchers = append(o.Batchers, o.Batchers[0])
			o.Batchers[1].Batcher, o.Batchers[1].Error, o.Batchers[1].IdleFor = "second"+evil, nil, 0
		}),
		wire.CoordinatorPrefix + ".seat":   filled(t, failing),
		wire.CoordinatorPrefix + ".manage": filled[wire.ManageReply](t),
		"$SRV.PING.jetbatch-worker":        ping,
	} {
		_, err := nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(answer) }) // whoever asks may have gone
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = js.Publish(t.Context(), wire.EventPrefix+".batcher.a", filled[wire.Event](t))
	if err != nil {
		t.Fatal(err)
	}
}

// Every command that shows a stranger's text shows it so that a terminal finds nothing in it to obey, and no line of
// it can pass for the command's own.
func TestStrangersText(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	strangersSay(t, srv.Connect())
	shows := [][]string{
		{"status"},
		{"status", "--json"},
		{"top", "--looks", "1"},
		{"top", "--looks", "1", "--json"},
		{"ls"},
		{"ls", "--json"},
		{"rm", "a"},
		{"stop", "a"},
		{"events"},
		{"events", "--json"},
		{"check"},
		{"check", "--json"},
		{"health", "--role", "worker"},
		{"health", "--role", "worker", "--json"},
		{"take", "--name", "a", "--dataset", "counting"},
		{"take", "--name", "a", "--dataset", "counting", "--log-format", "json", "--log-level", "debug"},
		{"audit", "--dataset", "counting"},
		{"bench", "--dataset", "counting"},
		{"show", "--batcher", "kept"},
	}
	for _, args := range shows {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			run(t.Context(), append(args, "--server", srv.URL()), &out, &errs, []dataset.Definition{counting})
			all := out.String() + errs.String()
			if !strings.Contains(strings.ToLower(all), "evil") {
				t.Errorf("it shows nothing of what strangers say, so this test shows nothing:\n%s", all)
			}
			for _, r := range all {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("it writes %U:\n%q", r, all)
					break
				}
			}
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "EVILROW") {
					t.Errorf("it writes a line that somebody else began:\n%s", all)
				}
			}
		})
	}

	// Of the others it is said here why they show nothing that a stranger chose.
	others := []string{
		"demo",                        // a service of its own
		"up", "coordinator", "worker", // a log, by the handlers that take shows
		"bridge",                            // a program reads it
		"keys", "params", "onda", "version", // no service
	}
	var g grammar
	parser, err := kong.New(&g, kong.Name("jetbatch"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range parser.Model.Children {
		shown := slices.ContainsFunc(shows, func(args []string) bool { return args[0] == command.Name })
		if shown == slices.Contains(others, command.Name) {
			t.Errorf("%s: to be tried here, or listed with the reason why not", command.Name)
		}
	}
}

// Lines of a log that carry a stranger's text.
func TestStrangersLog(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		g := grammar{LogLevel: "info", LogFormat: format}
		g.logger(&b, "worker").Info(evil, "error", &schema.Fault{Code: evil}, "worker", evil, "all", []string{evil})
		for _, r := range strings.TrimSuffix(b.String(), "\n") {
			if !unicode.IsPrint(r) {
				t.Errorf("%s: %U in %q", format, r, b.String())
				break
			}
		}
	}
}

// Merge and the table take whatever there is, more than one of each.
func TestStrangersTable(t *testing.T) {
	t.Parallel()
	var s fleet.Status
	fill(reflect.ValueOf(&s).Elem())
	var b bytes.Buffer
	if err := writeTable(&b, s); err != nil {
		t.Fatal(err)
	}
	obeyed := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if strings.ContainsFunc(b.String(), obeyed) || strings.Contains(b.String(), "\nEVILROW") {
		t.Errorf("%q", b.String())
	}
}

// A stream that stores what is sent to coordinators answers in their place, and every command that asks them names it.
func TestStrangersStream(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	_, js := srv.JetStream()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "audit", Subjects: []string{wire.CoordinatorPrefix + ".>"}, Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"status"}, {"ls"}, {"stop", "a"}, {"rm", "a"}, {"take", "--name", "a", "--dataset", "counting"}, {"check"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append(args, "--server", srv.URL()), &out, &out, []dataset.Definition{counting})
		if code == exitOK || !strings.Contains(out.String(), "stream audit ") {
			t.Errorf("%v: exit code %d\n%s", args, code, &out)
		}
	}
}
