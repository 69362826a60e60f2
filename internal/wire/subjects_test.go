package wire

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "A-b_9", "-", "_", strings.Repeat("x", MaxName)} {
		if err := CheckName("batcher", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a.b", "a b", "*", ">", "ä", "a\x00", "a\n", "a/b", "a:b", strings.Repeat("x", MaxName+1)} {
		err := CheckName("batcher", name)
		if !errors.Is(err, ErrBadName) || !strings.Contains(err.Error(), "batcher") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := CheckName("batcher", "aü"); !strings.Contains(err.Error(), "character 'ü' at 1") {
		t.Error(err)
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	kind := KindToken("ecg", 2)
	for got, want := range map[string]string{
		kind:                                    "ecg-v2-w2",
		JobSubject(kind, "train", "G", 7, 0):    "jetbatch.job.ecg-v2-w2.train.G.7.0",
		JobFilter(kind, "train", "G"):           "jetbatch.job.ecg-v2-w2.train.G.>",
		ResultSubject("train", "G", 63):         "jetbatch.result.train.G.0.63",
		ResultSubject("train", "G", 64):         "jetbatch.result.train.G.1.64",
		ChunkSubject("train", "G", 64, "A", 3):  "jetbatch.result.train.G.1.64.A.3",
		StartSubject("train", "G", 64, 1):       "jetbatch.result.train.G.1.64.start.1",
		BlockFilter("train", "G", 1):            "jetbatch.result.train.G.1.>",
		ResultFilter("train", "G"):              "jetbatch.result.train.G.>",
		CommitFilter("train", "G"):              "jetbatch.result.train.G.*.*",
		LiveSubject("train", "G"):               "jetbatch.live.train.G",
		GenesisSubject("train", "G"):            "jetbatch.result.train.G.genesis",
		string(Genesis("G")):                    "G\x00\x02",
		JobSubject("k", "b", "g", 1<<64-1, 1):   "jetbatch.job.k.b.g.18446744073709551615.1",
		ResultSubject("b", "g", math.MaxUint64): "jetbatch.result.b.g.288230376151711743.18446744073709551615",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSameButWire(t *testing.T) {
	t.Parallel()
	for pair, want := range map[[2]string]bool{
		{"ecg-v2-w1", "ecg-v2-w2"}: true, {"ecg-v2-w2", "ecg-v2-w10"}: true, {"a-w1-v1-w1", "a-w1-v1-w2"}: true,
		{"ecg-v2-w2", "ecg-v2-w2"}: false, {"ecg-v1-w1", "ecg-v2-w2"}: false, {"ecg-v2-w2", "eeg-v2-w1"}: false, {"a", "b"}: false,
	} {
		if got := SameButWire(pair[0], pair[1]); got != want {
			t.Errorf("%v: %v", pair, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{
		"", ".", "jetbatch.job", "jetbatch.job.k.b.g.1", "jetbatch.job.k.b.g.1.0.0", "jetbatch.job.k.b.g.0.0", "jetbatch.job.k.b.g.01.0",
		"jetbatch.job.k.b.g.1.00", "jetbatch.job.k.b.g.+1.0", "jetbatch.job.k.b.g.1.-1", "jetbatch.job.k.b.g.1.2147483648", "jetbatch.job.k.b.g.1.17",
		"jetbatch.job.k.b.g.18446744073709551616.0", "jetbatch.job.k..g.1.0", "jetbatch.jobs.k.b.g.1.0", "xjetbatch.job.k.b.g.1.0",
	} {
		if _, _, _, seq, _, err := ParseJobSubject(subject); !errors.Is(err, msgp.ErrMalformed) || seq != 0 {
			t.Errorf("job %q: %d, %v", subject, seq, err)
		}
	}
	for _, subject := range []string{
		"", "7", ".....7", "jetbatch.result.b.g.genesis", "jetbatch.result.b.g.0.0", "jetbatch.result.b.g.0.x", "jetbatch.result.b.g.0.07",
		"jetbatch.result.b.g.1.64.A.3", "jetbatch.job.b.g.0.7", "jetbatch.result.b.g.7",
	} {
		if seq, err := ParseResultSeq(subject); !errors.Is(err, msgp.ErrMalformed) || seq != 0 {
			t.Errorf("result %q: %d, %v", subject, seq, err)
		}
	}
}

// Invariants:
//   - Parsing what was built gives its parts back, for all names that CheckName accepts.
//   - Parsing anything else never panics, and what parses as a job is what building it again gives.
func FuzzSubjects(f *testing.F) {
	f.Add("ecg-v2-w2", "train", "G", uint64(7), 0, "jetbatch.job.k.b.g.1.0")
	f.Add("k", "b", "g", uint64(math.MaxUint64), MaxRun, "jetbatch.result.b.g.1.64")
	f.Add("", "a.b", ">", uint64(0), -1, "jetbatch.live.b.g.1.64")
	f.Fuzz(func(t *testing.T, kind, batcher, gen string, seq uint64, try int, any string) {
		if k, b, g, n, tr, err := ParseJobSubject(any); err == nil && JobSubject(k, b, g, n, tr) != any {
			t.Fatalf("%q is parsed as %s %s %s %d %d", any, k, b, g, n, tr)
		}
		if n, err := ParseResultSeq(any); err == nil && !strings.HasSuffix(any, "."+strconv.FormatUint(n, 10)) {
			t.Fatalf("%q is parsed as %d", any, n)
		}
		if CheckName("kind", kind) != nil || CheckName("batcher", batcher) != nil || CheckName("generation", gen) != nil ||
			seq == 0 || try < 0 || try > MaxRun {
			return
		}
		k, b, g, n, tr, err := ParseJobSubject(JobSubject(kind, batcher, gen, seq, try))
		if err != nil || k != kind || b != batcher || g != gen || n != seq || tr != try {
			t.Fatalf("job: %s %s %s %d %d %v", k, b, g, n, tr, err)
		}
		result := ResultSubject(batcher, gen, seq)
		if n, err := ParseResultSeq(result); err != nil || n != seq {
			t.Fatalf("%s: %d %v", result, n, err)
		}
		for _, subject := range []string{
			ChunkSubject(batcher, gen, seq, "attempt", try), StartSubject(batcher, gen, seq, try), GenesisSubject(batcher, gen),
		} {
			if n, err := ParseResultSeq(subject); err == nil {
				t.Fatalf("%s passes for result %d", subject, n)
			}
		}
	})
}
