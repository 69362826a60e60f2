package dataset_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
)

// common is embedded in the parameters below.
type common struct {
	Seed uint64 `json:"seed" help:"first number" default:"0"`
}

type described struct {
	common
	Rate    float64           `json:"rate,omitempty" unit:"Hz"`
	Names   []string          `json:"names"`
	By      map[string]int    `json:"by"`
	Split   *struct{ A bool } `json:"split"`
	At      time.Time
	Secret  string `json:"-"`
	private int
}

func (described) ParamsSource() string {
	return `package p
type described struct {
	// Rate of the samples, see [Config],
	// in a second. Defaults to 256.
	Rate float64
	Names []string // that are kept. Defaults to all.
	private int
}`
}

func opened[P any](context.Context, P) (dataset.Funcs[int, int, int], error) {
	return dataset.Funcs[int, int, int]{}, nil
}

func TestDefinitionParams(t *testing.T) {
	t.Parallel()
	want := []dataset.Param{
		{Name: "seed", Type: "whole number from 0", Default: "0", Meaning: "first number"},
		{Name: "rate", Type: "number", Unit: "Hz", Default: "256", Meaning: "of the samples, see Config, in a second."},
		{Name: "names", Type: "list: text", Default: "all", Meaning: "that are kept."},
		{Name: "by", Type: "object: whole number"},
		{Name: "split", Type: "object"},
		{Name: "At", Type: "Time"},
	}
	got := dataset.Define("described", opened[described]).Params()
	if len(got) != len(want) {
		t.Fatalf("%d parameters: %+v", len(got), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	if got := dataset.Define("any", opened[map[string]any]).Params(); got != nil {
		t.Errorf("parameters of a map: %+v", got)
	}
	_ = described{}.private
}

// An unknown parameter is answered with the nearest one and with where to read.
func TestUnknownParam(t *testing.T) {
	t.Parallel()
	_, err := kind.Of(dataset.Define("described", opened[described])).NormalFunc(json.RawMessage(`{"sead":1}`))
	if err == nil || !strings.Contains(err.Error(), `unknown field "sead"; the nearest is "seed", and jetbatch params described shows all`) {
		t.Error(err)
	}
	_, err = kind.Of(dataset.Define("any", opened[struct{}])).NormalFunc(json.RawMessage(`{"sead":1}`))
	if err == nil || strings.Contains(err.Error(), "nearest") {
		t.Errorf("nothing is near where there is none: %v", err)
	}
}
