package jetbatch_test

import (
	"bytes"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestPublicAPI looks at what a user of the library can see: no exported name stands for, takes, returns or holds a
// type of an internal package, which the user could not name.
func TestPublicAPI(t *testing.T) {
	t.Parallel()
	exports := exportData(t)
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	looked := 0
	for path := range exports {
		if !inPackage(path, modulePath) || isInternal(path) {
			continue
		}
		p, err := imp.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		if p.Name() == "main" {
			continue
		}
		looked++
		for _, complaint := range checkAPI(p) {
			t.Error(complaint)
		}
	}
	if looked < 8 {
		t.Errorf("only %d packages were looked at", looked)
	}
}

// The test itself: a package that has one of each.
func TestPublicAPIBites(t *testing.T) {
	t.Parallel()
	inner := types.NewPackage(modulePath+"/internal/inner", "inner")
	named := types.NewNamed(types.NewTypeName(token.NoPos, inner, "T", nil), types.NewStruct(nil, nil), nil)
	p := types.NewPackage(modulePath+"/outer", "outer")
	outer := types.NewNamed(types.NewTypeName(token.NoPos, p, "Outer", nil), types.NewStruct([]*types.Var{
		types.NewField(token.NoPos, p, "Field", types.NewSlice(types.NewPointer(named)), false),
		types.NewField(token.NoPos, p, "inner", named, true),
	}, nil), nil)
	returns := func(name string) *types.Func {
		results := types.NewTuple(types.NewVar(token.NoPos, p, "", types.NewPointer(named)))
		recv := types.NewVar(token.NoPos, p, "o", outer)
		return types.NewFunc(token.NoPos, p, name, types.NewSignatureType(recv, nil, nil, nil, results, false))
	}
	outer.AddMethod(returns("Method"))
	outer.AddMethod(returns("method"))
	p.Scope().Insert(outer.Obj())
	p.Scope().Insert(types.NewTypeName(token.NoPos, p, "Alias", named))
	p.Scope().Insert(types.NewVar(token.NoPos, p, "Var", types.NewMap(types.Typ[types.String], named)))
	p.Scope().Insert(types.NewVar(token.NoPos, p, "unseen", named))
	p.MarkComplete()
	var got []string
	for _, complaint := range checkAPI(p) {
		name, _, _ := strings.Cut(complaint, ": ")
		got = append(got, name)
	}
	slices.Sort(got)
	want := []string{"outer.Alias", "outer.Outer.Field", "outer.Outer.Method", "outer.Var"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// exportData is where the compiler's description of each package is, by import path.
func exportData(t *testing.T) map[string]string {
	t.Helper()
	const format = "{{.ImportPath}} {{.Export}}"
	cmd := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-f", format, "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	exports := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if path, file, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			exports[path] = file
		}
	}
	return exports
}

func isInternal(path string) bool {
	return slices.Contains(strings.Split(path, "/"), "internal") && inPackage(path, modulePath)
}

// checkAPI complains of what a package shows of internal ones.
func checkAPI(p *types.Package) (complaints []string) {
	look := func(name string, t types.Type) {
		if found := internalIn(t, make(map[types.Type]bool)); found != "" {
			complaints = append(complaints,
				fmt.Sprintf("%s.%s: it shows %s, which users cannot name", p.Name(), name, found))
		}
	}
	for _, name := range p.Scope().Names() {
		object := p.Scope().Lookup(name)
		if !object.Exported() {
			continue
		}
		named, isNamed := object.Type().(*types.Named)
		if _, isType := object.(*types.TypeName); !isType || !isNamed || named.Obj() != object {
			look(name, object.Type()) // a function, a variable, a constant, an alias
			continue
		}
		for m := range named.Methods() {
			if m.Exported() {
				look(name+"."+m.Name(), m.Signature())
			}
		}
		switch under := named.Underlying().(type) {
		case *types.Struct:
			for f := range under.Fields() {
				if f.Exported() {
					look(name+"."+f.Name(), f.Type())
				}
			}
		default:
			look(name, under)
		}
	}
	return complaints
}

// internalIn is a type of an internal package that is named in t; empty if there is none.
func internalIn(t types.Type, seen map[types.Type]bool) string {
	if seen[t] {
		return ""
	}
	seen[t] = true
	first := func(ts ...types.Type) string {
		for _, t := range ts {
			if found := internalIn(t, seen); found != "" {
				return found
			}
		}
		return ""
	}
	switch t := t.(type) {
	case *types.Alias:
		return internalIn(types.Unalias(t), seen)
	case *types.Named:
		if pkg := t.Obj().Pkg(); pkg != nil && isInternal(pkg.Path()) {
			return t.String()
		}
		var args []types.Type
		for a := range t.TypeArgs().Types() {
			args = append(args, a)
		}
		return first(args...)
	case *types.Pointer:
		return internalIn(t.Elem(), seen)
	case *types.Slice:
		return internalIn(t.Elem(), seen)
	case *types.Array:
		return internalIn(t.Elem(), seen)
	case *types.Chan:
		return internalIn(t.Elem(), seen)
	case *types.Map:
		return first(t.Key(), t.Elem())
	case *types.Signature:
		return first(t.Params(), t.Results())
	case *types.Tuple:
		for v := range t.Variables() {
			if found := internalIn(v.Type(), seen); found != "" {
				return found
			}
		}
	case *types.Struct:
		for f := range t.Fields() {
			if found := internalIn(f.Type(), seen); found != "" && f.Exported() {
				return found
			}
		}
	case *types.Interface:
		for m := range t.Methods() {
			if found := internalIn(m.Signature(), seen); found != "" && m.Exported() {
				return found
			}
		}
	}
	return ""
}
