package nearest

import "testing"

func TestName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"batch_sise": "batch_size", "batchsize": "batch_size", "seed": "seed", "Seeds": "seed", "": "dir",
	} {
		if got := Name(name, []string{"batch_size", "dir", "seed"}); got != want {
			t.Errorf("nearest to %q: %q, want %q", name, got, want)
		}
	}
	if got := Name("any", nil); got != "" {
		t.Errorf("of none: %q", got)
	}
}
