package judge

import "testing"

func TestDecide(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		e    Execution
		want Action
	}{
		{Execution{}, Commit},
		{Execution{Failure: OfJob}, CommitFault},
		{Execution{Failure: Foreign}, ReturnFar},
		{Execution{Failure: Unmarked}, NotStored},
		{Execution{Failure: OfMachine}, Return}, // and no verdict
		{Execution{Lost: true, Cut: Deadline}, Release},
		{Execution{Cut: Deadline, Failure: OfJob}, Return},
		{Execution{Cut: Deadline}, Return}, // a batch that came too late may be the second
		{Execution{Cut: Over}, Ack},
		{Execution{Cut: NoStore, Failure: OfJob}, ReturnLater},
		{Execution{Cut: Leaving, Failure: OfJob}, Return},
	} {
		if got := Decide(test.e); got != test.want {
			t.Errorf("%+v: %d, want %d", test.e, got, test.want)
		}
	}
	for cut := Deadline; cut <= Leaving; cut++ {
		for failure := NoFailure; failure <= OfMachine; failure++ {
			if got := Decide(Execution{Cut: cut, Failure: failure}); got == Commit || got == CommitFault {
				t.Errorf("cut %d with failure %d is committed", cut, failure)
			}
		}
	}
}

func TestWaits(t *testing.T) {
	t.Parallel()
	for n, want := range []int64{50 * ms, 250 * ms, 1250 * ms, 6250 * ms, 10 * s, 10 * s} {
		if got := Backoff(n+1, 0.5); got != want {
			t.Errorf("wait %d is %d, want %d", n+1, got, want)
		}
		if low, high := Backoff(n+1, 0), Backoff(n+1, 1); low != want-want/10 || high != want+want/10 {
			t.Errorf("wait %d is spread from %d to %d", n+1, low, high)
		}
	}
	for n, want := range []int64{1500 * ms, 3 * s, 6 * s, 10 * s, 10 * s} {
		if got := LookAfter(n); got != want {
			t.Errorf("look %d after %d, want %d", n, got, want)
		}
	}
	for n, want := range []int64{1 * s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s} {
		if got := ReopenAfter(n + 1); got != want {
			t.Errorf("opening %d after %d, want %d", n+1, got, want)
		}
	}
	if LookAfter(1000) != 10*s {
		t.Error("a lane that is silent for long is not looked at")
	}
}

func TestSuspectAndMine(t *testing.T) {
	t.Parallel()
	if Suspect(SuspectAfter) || !Suspect(SuspectAfter+1) {
		t.Error("the wrong delivery makes a suspect")
	}
	if !Mine(10, 5, 5, false) || Mine(11, 5, 5, false) || Mine(6, 5, 5, true) {
		t.Error("a job that was not heartbeat is this worker's")
	}
}

func TestSole(t *testing.T) {
	t.Parallel()
	const at = 1000 * s
	for _, c := range []struct {
		what       string
		now, alone int64
		want       bool
	}{
		{"others are there", at + 599*s, 0, false},
		{"others are there, and none tried it", at + 600*s, 0, true},
		{"alone since before", at + 4*s, at - s, false},
		{"alone for long", at + 5*s, at - s, true},
		{"alone since lately", at + 7*s, at + 3*s, false},
		{"alone since lately, for long", at + 8*s, at + 3*s, true},
	} {
		if got := Sole(c.now, at, c.alone); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
