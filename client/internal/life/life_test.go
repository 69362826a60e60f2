package life

import (
	"errors"
	"io"
	"testing"

	"github.com/jetbatch/jetbatch/schema"
)

var (
	errFirst  = errors.New("first")
	errSecond = errors.New("second")
	errStop   = errors.New("stopped")
	aFault    = &schema.Fault{Code: schema.CodePoison}
)

// roads lead to every state that differs from the others.
var roads = map[string]func() *Life{
	"idle":          func() *Life { return new(Life) },
	"seated":        func() *Life { l := new(Life); l.Sit(); return l },
	"silent":        func() *Life { l := new(Life); l.Sit(); l.Suspect(Doubt{"a", Silent}); return l },
	"moved":         func() *Life { l := new(Life); l.Sit(); l.Suspect(Doubt{"b", Moved}); return l },
	"stored":        func() *Life { l := new(Life); l.Sit(); l.Suspect(Doubt{"c", Stored}); return l },
	"ended":         func() *Life { l := new(Life); l.Sit(); l.End(errFirst, aFault); return l },
	"at the end":    func() *Life { l := new(Life); l.Sit(); l.End(io.EOF, nil); return l },
	"closed":        func() *Life { l := new(Life); l.Sit(); l.Close(); return l },
	"closed, ended": func() *Life { l := new(Life); l.End(errFirst, nil); l.Close(); return l },
}

// TestTransitions walks every event from every state.
func TestTransitions(t *testing.T) {
	t.Parallel()
	type outcome struct {
		news  bool
		state State
		doubt Weight
		err   error
	}
	same := func(state State, doubt Weight, err error) outcome { return outcome{false, state, doubt, err} }
	for event, test := range map[string]struct {
		do   func(*Life) bool
		want map[string]outcome
	}{
		"Sit": {(*Life).Sit, map[string]outcome{
			"idle": {true, Seated, 0, nil}, "seated": {true, Seated, 0, nil}, "silent": {true, Seated, 0, nil},
			"moved": {true, Seated, 0, nil}, "stored": {true, Seated, 0, nil}, "at the end": {true, Seated, 0, nil},
			"ended": same(Ended, 0, errFirst), "closed": same(Closed, 0, nil), "closed, ended": same(Closed, 0, errFirst),
		}},
		"Suspect moved": {func(l *Life) bool { return l.Suspect(Doubt{"d", Moved}) }, map[string]outcome{
			"idle": same(Idle, 0, nil), "seated": {true, Doubting, Moved, nil}, "silent": {true, Doubting, Moved, nil},
			"moved": same(Doubting, Moved, nil), "stored": same(Doubting, Stored, nil), "at the end": same(Ended, 0, io.EOF),
			"ended": same(Ended, 0, errFirst), "closed": same(Closed, 0, nil), "closed, ended": same(Closed, 0, errFirst),
		}},
		"Settle silent": {func(l *Life) bool { l.Settle(Silent); return false }, map[string]outcome{
			"idle": same(Idle, 0, nil), "seated": same(Seated, 0, nil), "silent": same(Seated, 0, nil),
			"moved": same(Doubting, Moved, nil), "stored": same(Doubting, Stored, nil), "at the end": same(Ended, 0, io.EOF),
			"ended": same(Ended, 0, errFirst), "closed": same(Closed, 0, nil), "closed, ended": same(Closed, 0, errFirst),
		}},
		"End": {func(l *Life) bool { return l.End(errSecond, nil) }, map[string]outcome{
			"idle": {true, Ended, 0, errSecond}, "seated": {true, Ended, 0, errSecond}, "silent": {true, Ended, 0, errSecond},
			"moved": {true, Ended, 0, errSecond}, "stored": {true, Ended, 0, errSecond}, "at the end": {true, Ended, 0,
				errSecond},
			"ended": same(Ended, 0, errFirst), "closed": same(Closed, 0, nil), "closed, ended": same(Closed, 0, errFirst),
		}},
		"Stop": {func(l *Life) bool { l.Stop(errStop); return false }, map[string]outcome{
			"idle": same(Ended, 0, errStop), "seated": same(Ended, 0, errStop), "silent": same(Ended, 0, errStop),
			"moved": same(Ended, 0, errStop), "stored": same(Ended, 0, errStop), "at the end": same(Ended, 0, errStop),
			"ended": same(Ended, 0, errStop), "closed": same(Closed, 0, nil), "closed, ended": same(Closed, 0, errFirst),
		}},
		"Revive": {(*Life).Revive, map[string]outcome{
			"idle": same(Idle, 0, nil), "seated": same(Seated, 0, nil), "silent": same(Doubting, Silent, nil),
			"moved": same(Doubting, Moved, nil), "stored": same(Doubting, Stored, nil), "at the end": {true, Idle, 0, nil},
			"ended": {true, Idle, 0, nil}, "closed": same(Closed, 0, nil), "closed, ended": same(Closed, 0, errFirst),
		}},
		"Close": {(*Life).Close, map[string]outcome{
			"idle": {true, Closed, 0, nil}, "seated": {true, Closed, 0, nil}, "silent": {true, Closed, 0, nil},
			"moved": {true, Closed, 0, nil}, "stored": {true, Closed, 0, nil}, "at the end": {true, Closed, 0, io.EOF},
			"ended": {true, Closed, 0, errFirst}, "closed": same(Closed, 0, nil), "closed, ended": same(Closed, 0, errFirst),
		}},
	} {
		for from, make := range roads {
			want, ok := test.want[from]
			if !ok {
				t.Errorf("%s from %s: the table says nothing", event, from)
				continue
			}
			l := make()
			news := test.do(l)
			if got := (outcome{news, l.State(), l.Doubt().Weight, l.Err()}); got != want {
				t.Errorf("%s from %s: %+v, want %+v", event, from, got, want)
			}
			if l.State() != Doubting && l.Doubt() != (Doubt{}) {
				t.Errorf("%s from %s: a doubt %+v of a handle that is %v", event, from, l.Doubt(), l.State())
			}
		}
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	for from, make := range roads {
		want := from == "seated" || from == "silent" || from == "moved" || from == "stored" || from == "at the end"
		if l := make(); l.Begun() != want {
			t.Errorf("%s: holds %v", from, l.Begun())
		}
	}
}

// TestFaultGoesWithItsRun has the fault that the owner is told of forgotten with the run that it ended.
func TestFaultGoesWithItsRun(t *testing.T) {
	t.Parallel()
	l := roads["ended"]()
	if l.Fault() != aFault {
		t.Fatalf("fault %v", l.Fault())
	}
	stopped := *l
	if stopped.Stop(errStop); stopped.Fault() != nil {
		t.Error("it outlives Stop")
	}
	if l.Revive(); l.Fault() != nil {
		t.Error("it outlives Revive")
	}
}

func TestRepairsAreCounted(t *testing.T) {
	t.Parallel()
	l := roads["moved"]()
	expect := func(repairs, damages int) {
		t.Helper()
		if r, d := l.Repair(); r != repairs || d != damages {
			t.Errorf("%d, %d; want %d, %d", r, d, repairs, damages)
		}
	}
	expect(1, 0)
	l.Suspect(Doubt{"damaged", Stored})
	expect(2, 1)
	expect(3, 1) // the seat was not given before: nothing was looked up
	l.Sit()      // which is no progress
	l.Suspect(Doubt{"damaged", Stored})
	expect(4, 2)
	l.Progress()
	expect(1, 1)
}
