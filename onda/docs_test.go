package onda

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// The page has every parameter.
func TestParamsAreOnThePage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/ONDA.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Parameters\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for field := range reflect.TypeFor[Params]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !strings.Contains(table, "`"+name+"`") {
			t.Errorf("docs/ONDA.md: no parameter %s", name)
		}
	}
}
