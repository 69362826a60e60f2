package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/jetbatch/jetbatch/internal/nearest"
)

// configFile is the flag with a file of values for other flags. On the command line a flag wins over its variable,
// its variable over the file, and the file over the default.
//
// The file is a JSON object. A key is a flag's name and counts for every command that has the flag, or it is a
// command's name, with an object of flags for that command alone, which win. One file can so be shared by all roles.
type configFile string

// BeforeResolve reads the file, if there is one, before kong looks for the values of flags.
func (f configFile) BeforeResolve(ctx *kong.Context, trace *kong.Path, a *app) error {
	path := string(ctx.FlagValue(trace.Flag).(configFile)) // it is the type of this very flag
	if path == "" {
		return nil
	}
	path = kong.ExpandPath(path)
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	a.config = path
	values, err := parseConfig(data)
	if err != nil {
		return err
	}
	ctx.AddResolver(values)
	return nil
}

// configValues are the values of a file, by flag.
type configValues struct {
	shared   map[string]json.RawMessage
	commands map[string]map[string]json.RawMessage // by command
}

// parseConfig reads the file. A key with an object is a command's, unless a flag takes an object; which, Validate and
// Resolve know.
func parseConfig(data []byte) (*configValues, error) {
	object, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	c := &configValues{shared: object, commands: make(map[string]map[string]json.RawMessage)}
	for key, value := range object {
		if value[0] == '{' && key != paramsFlag {
			if c.commands[key], err = parseObject(value); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			delete(c.shared, key)
		}
	}
	return c, nil
}

// paramsFlag is the flag whose value is JSON, and so may be an object in the file. The command of that name has none
// there.
const paramsFlag = "params"

// parseObject reads an object in which no key comes twice.
func parseObject(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, at(data, dec, cmp.Or(err, errors.New("not a JSON object")))
	}
	object := make(map[string]json.RawMessage)
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, at(data, dec, err)
		}
		name := key.(string) // a decoder in an object gives nothing else here
		if _, twice := object[name]; twice {
			return nil, at(data, dec, fmt.Errorf("key %q comes twice", name))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, at(data, dec, err)
		}
		object[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, at(data, dec, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, at(data, dec, errors.New("something follows the object"))
	}
	return object, nil
}

// at adds the line that the decoder has come to.
func at(data []byte, dec *json.Decoder, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:dec.InputOffset()], []byte("\n")), err)
}

// Validate refuses keys that are no flag of any command, or of the command that they are given for, and values that no
// flag can take.
func (c *configValues) Validate(grammar *kong.Application) error {
	all, commands := flagsOf(grammar.Node), make(map[string][]string)
	for _, command := range grammar.Children {
		commands[command.Name] = append(flagsOf(command), all...)
	}
	known := slices.Clone(all)
	for _, flags := range commands {
		known = append(known, flags...)
	}
	if err := checkKeys(c.shared, "", append(known, slices.Collect(maps.Keys(commands))...), commands); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.commands)) {
		if commands[name] == nil {
			if slices.Contains(known, name) {
				return fmt.Errorf("key %q: an object is no value for it", name)
			}
			return unknownKey(name, slices.Collect(maps.Keys(commands)))
		}
		if err := checkKeys(c.commands[name], name+".", commands[name], nil); err != nil {
			return err
		}
	}
	return nil
}

func checkKeys(values map[string]json.RawMessage, prefix string, known []string, commands map[string][]string) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if commands[key] != nil && key != paramsFlag {
			return fmt.Errorf("key %q: a command has an object of flags", key)
		}
		if !slices.Contains(known, key) {
			return unknownKey(prefix+key, prefixed(prefix, known))
		}
		if _, err := flagText(key, values[key]); err != nil {
			return fmt.Errorf("key %q: %w", prefix+key, err)
		}
	}
	return nil
}

func prefixed(prefix string, names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = prefix + n
	}
	return out
}

// flagsOf are the flags that can stand in a file.
func flagsOf(node *kong.Node) (names []string) {
	for _, f := range node.Flags {
		if f.Name != "help" && f.Name != "config" {
			names = append(names, f.Name)
		}
	}
	return names
}

// Resolve returns the value of a flag, unless a variable has it.
func (c *configValues) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	value, ok := c.shared[flag.Name]
	if command := ctx.Selected(); command != nil {
		if own, has := c.commands[command.Name][flag.Name]; has {
			value, ok = own, true
		}
	}
	if !ok {
		return nil, nil
	}
	if value[0] == '[' && !flag.IsSlice() {
		return nil, errors.New("one value, not a list")
	}
	return flagText(flag.Name, value)
}

// flagText is a value as it would be written on the command line.
func flagText(flag string, value json.RawMessage) (string, error) {
	switch {
	case flag == paramsFlag && value[0] == '{':
		return string(value), nil
	case value[0] == '"':
		var text string
		err := json.Unmarshal(value, &text)
		return text, err
	case value[0] == '[':
		var list []json.RawMessage
		if err := json.Unmarshal(value, &list); err != nil {
			return "", err
		}
		texts := make([]string, len(list))
		for i, element := range list {
			var err error
			if texts[i], err = flagText(flag, element); err != nil || element[0] == '[' {
				return "", cmp.Or(err, errors.New("a list in a list"))
			}
		}
		return strings.Join(texts, ","), nil
	case value[0] == '{', string(value) == "null":
		return "", errors.New("neither text nor a number nor true or false")
	}
	return string(value), nil
}

// unknownKey names the known key that is most like it.
func unknownKey(key string, known []string) error {
	return fmt.Errorf("unknown key %q; the nearest known one is %q", key, nearest.Name(key, known))
}
