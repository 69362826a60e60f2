package owner

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parts are the parts of an owner, each above those that it may know.
var parts = []string{
	"Owner", "seats", "sharing", "stops", "readers", "roster", "recovery", "feeder", "generation", "jobs", "requests", "answers", "watch", "ranks",
	"reader", "ledger", "ending", "datasets", "iterator", "lateness", "room",
}

// TestPartsPointDown holds the owner's parts to one direction: a part has no field of one above it. It holds them
// small, too: a type that grows beyond these bounds is to be split where its state falls apart.
func TestPartsPointDown(t *testing.T) {
	t.Parallel()
	const mostOfOwner, most = 35, 25
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	methods, known := make(map[string]int), make(map[string]bool)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv != nil {
					methods[nameOf(n.Recv.List[0].Type)]++
				}
			case *ast.TypeSpec:
				fields, is := n.Type.(*ast.StructType)
				at := slices.Index(parts, n.Name.Name)
				if !is || at < 0 {
					break
				}
				known[n.Name.Name] = true
				for _, f := range fields.Fields.List {
					if to := slices.Index(parts, nameOf(f.Type)); to >= 0 && to <= at {
						t.Errorf("%s knows %s, which is above it", parts[at], parts[to])
					}
				}
			}
			return true
		})
	}
	for _, part := range parts {
		bound := most
		if part == "Owner" {
			bound = mostOfOwner
		}
		if !known[part] || methods[part] == 0 || methods[part] > bound {
			t.Errorf("%s: known %v, %d methods, want 1 to %d", part, known[part], methods[part], bound)
		}
	}
}

// nameOf is the name of a type, or of what a pointer points to.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return nameOf(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
