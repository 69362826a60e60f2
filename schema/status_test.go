package schema

import "testing"

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
