package dataset

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"reflect"
	"regexp"
	"strings"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/nearest"
)

// Param describes one parameter of a data set, for people.
type Param struct {
	Name    string `json:"name"`              // as in JSON
	Type    string `json:"type"`              // in words of JSON
	Unit    string `json:"unit,omitempty"`    // of the field's tag unit
	Default string `json:"default,omitempty"` // of the field's tag default, or what its comment says behind "Defaults to"
	Meaning string `json:"meaning,omitempty"` // of the field's tag help, or its comment
}

// ParamsSource is implemented by a type of parameters that can show its own source, so that "jetbatch params" tells
// what the comments of its fields say:
//
//	//go:embed params.go
//	var paramsGo string
//
//	func (Params) ParamsSource() string { return paramsGo }
//
// It is optional; fields may have tags help, unit and default instead, which win.
type ParamsSource interface {
	// ParamsSource is the Go file in which the type is declared.
	ParamsSource() string
}

// Params describes the parameters of the data set, in the order of the fields of the type that Define was given. There
// are none where that is no struct.
func (d Definition) Params() []Param {
	if d.author == nil {
		return nil
	}
	return describe(d.author.params)
}

// describe describes the fields of a type of parameters.
func describe(t reflect.Type) (params []Param) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	comments := make(map[string]string)
	if s, ok := reflect.New(t).Interface().(ParamsSource); ok {
		comments = fieldComments(s.ParamsSource(), t.Name())
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous && name == "":
			params = append(params, describe(f.Type)...)
			continue
		case name == "":
			name = f.Name
		}
		p := Param{Name: name, Type: typeWords(f.Type), Unit: f.Tag.Get("unit")}
		p.Meaning = strings.TrimPrefix(comments[f.Name], f.Name+" ")
		if m := defaultsTo.FindStringSubmatch(p.Meaning); m != nil {
			p.Meaning, p.Default = strings.TrimSpace(m[1]), m[2]
		}
		if help, ok := f.Tag.Lookup("help"); ok {
			p.Meaning = help
		}
		if text, ok := f.Tag.Lookup("default"); ok {
			p.Default = text
		}
		params = append(params, p)
	}
	return params
}

// defaultsTo splits a comment into what comes before "Defaults to", and the default.
var defaultsTo = regexp.MustCompile(`^(.*)Defaults to (.+?)\.?$`)

// docLink is a link of a Go comment, such as [Config] or [json.Marshaler].
var docLink = regexp.MustCompile(`\[([A-Z][A-Za-z.]+|[a-z]+\.[A-Z][A-Za-z.]*)\]`)

// fieldComments are the comments of a struct's fields, each in one line, by the fields' names.
func fieldComments(source, typeName string) map[string]string {
	comments := make(map[string]string)
	file, err := parser.ParseFile(token.NewFileSet(), "", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return comments // the names and types are there without
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if fields, ok := spec.Type.(*ast.StructType); ok && spec.Name.Name == typeName {
			for _, f := range fields.Fields.List {
				text := docLink.ReplaceAllString(f.Doc.Text()+f.Comment.Text(), "$1")
				for _, name := range f.Names {
					comments[name.Name] = strings.Join(strings.Fields(text), " ")
				}
			}
		}
		return false
	})
	return comments
}

// typeWords says in words of JSON what a field takes.
func typeWords(t reflect.Type) string {
	switch pointer := reflect.PointerTo(t); {
	case t.Kind() == reflect.Pointer:
		return typeWords(t.Elem())
	case pointer.Implements(reflect.TypeFor[json.Unmarshaler]()):
		return t.Name()
	case pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return "text: " + t.Name()
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "whole number from 0"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice, reflect.Array:
		return "list: " + typeWords(t.Elem())
	case reflect.Map:
		return "object: " + typeWords(t.Elem())
	}
	return "object"
}

// decodeParams reads the parameters of the data set named. An unknown one is answered with the nearest there is.
func decodeParams(name string, raw json.RawMessage, params any) error {
	if len(raw) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(params); err != nil {
		return fmt.Errorf("%w: %w%s", kind.ErrBadParams, err, advice(name, err, reflect.TypeOf(params)))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one JSON value", kind.ErrBadParams)
	}
	return nil
}

// unknownField is what encoding/json says of a field that there is not; it has no type for that.
var unknownField = regexp.MustCompile(`unknown field "(.*)"`)

// advice says which parameter may have been meant, and where all are to be read.
func advice(name string, err error, t reflect.Type) string {
	match := unknownField.FindStringSubmatch(err.Error())
	var known []string
	for _, p := range describe(t) {
		known = append(known, p.Name)
	}
	if match == nil || len(known) == 0 {
		return ""
	}
	return fmt.Sprintf("; the nearest is %q, and jetbatch params %s shows all", nearest.Name(match[1], known), name)
}
