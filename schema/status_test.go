package schema

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFaultError(t *testing.T) {
	t.Parallel()
	if got := (&Fault{Code: CodePoison}).Error(); got != "poison" {
		t.Error(got)
	}
	if got := (&Fault{Code: CodePoison, Message: "three starts"}).Error(); got != "three starts" {
		t.Error(got)
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	Step[int]{}.Release() // nothing to hand back
	n := 0
	step := Step[int]{Seq: 1}.WithRelease(func() { n++ })
	step.Release()
	if n != 1 || step.Seq != 1 {
		t.Errorf("released %d times, step %+v", n, step)
	}
}

// What is left is at the pace of lately, of the epoch and of the data; without a pace or an end it is not said.
func TestProgressAt(t *testing.T) {
	t.Parallel()
	p := Progress{Epoch: 2, Epochs: 3, Batch: 10, Batches: 100}
	if got := p.At(10); got.EpochLeft != 9*time.Second || got.Left != 19*time.Second {
		t.Errorf("%+v", got)
	}
	if got := p.At(1e-300); got.Left <= 0 {
		t.Errorf("%+v", got)
	}
	if got := p.At(10).At(0); got != p {
		t.Errorf("without a pace: %+v", got)
	}
	for _, p := range []Progress{{Epoch: 1, Batch: 5}, {Epoch: 3, Epochs: 3, Batch: 100, Batches: 100}, {}} {
		if got := p.At(10); got != p {
			t.Errorf("nothing is left of %+v, or it has no end: %+v", p, got)
		}
	}
	if before, all, ok := p.Ends(); before != 110 || all != 300 || !ok {
		t.Error(before, all, ok)
	}
}

// Every duration in the JSON of a status says its unit.
func TestDurationsSayTheirUnit(t *testing.T) {
	t.Parallel()
	var check func(of reflect.Type)
	check = func(of reflect.Type) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
			return
		}
		for f := range of.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Type == reflect.TypeFor[time.Duration]() && !strings.HasSuffix(name, "_ns") {
				t.Errorf("%v.%s is %q in JSON", of, f.Name, name)
			}
			check(f.Type)
		}
	}
	check(reflect.TypeFor[Status]())
	check(reflect.TypeFor[WorkerStatus]())
	if data, err := json.Marshal(Timing{Wait: 1}); err != nil || !strings.Contains(string(data), `"wait_ns":1`) {
		t.Error(string(data), err)
	}
}
