//go:build linux

package process_test

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/bridge/process"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/msgp"
)

// BenchmarkPythonJob is what a job costs in a process of Python, its way there and back included. The data set is that
// of python/benchmark/sized.py, whose own work is to fill an array. The median does not count what other programs on
// the machine take from a few of the jobs.
//
//	go test -run '^$' -bench PythonJob ./bridge/process
func BenchmarkPythonJob(b *testing.B) {
	python := cmp.Or(os.Getenv("JETBATCH_PYTHON_INTERPRETER"), "python3")
	if err := exec.Command(python, "-c", "import numpy, msgpack").Run(); err != nil {
		b.Skipf("%s has no numpy or msgpack: %v", python, err)
	}
	folder, err := filepath.Abs("../../python")
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv("PYTHONPATH", folder+string(os.PathListSeparator)+filepath.Join(folder, "benchmark"))
	s, err := process.Open(b.Context(), process.Config{
		Name: "sized", Command: []string{python, "-m", "jetbatch.serve", "sized:Sized"}, Slots: 1,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20, 20 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			params := fmt.Appendf(nil, `{"size":%d}`, size)
			inst, release, err := kind.Of(s.Definition()).Acquire(b.Context(), params)
			if err != nil {
				b.Fatal(err)
			}
			defer release()
			var scratch []byte
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				_, scratch, err = inst.Materialize(b.Context(), msgp.AppendUint(nil, 7), scratch)
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "ns/median")
			b.SetBytes(int64(size))
		})
	}
}
