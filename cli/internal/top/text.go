package top

import (
	"fmt"
	"strconv"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

// duration is for what is looked at every second.
func duration(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f min", d.Minutes())
}

// decimal has three digits or so.
func decimal(v float64) string {
	switch {
	case v >= 1000:
		return grouped(uint64(v + 0.5))
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// grouped writes a number with a comma every three digits.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func percent(share float64, known bool) string {
	if !known {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*share)
}

func milliseconds(d time.Duration, batches uint64) string {
	ms := float64(d) / float64(time.Millisecond) / float64(batches)
	if 0 < ms && ms < 1 {
		return strconv.FormatFloat(ms, 'f', 2, 64) + " ms"
	}
	return decimal(ms) + " ms"
}

// epoch is where a batcher is, in short.
func epoch(p *schema.Progress) string {
	switch {
	case p == nil || p.Batches == 0:
		return "–"
	case p.Epochs == 0:
		return fmt.Sprintf("%d %3d %%", p.Epoch, 100*p.Batch/p.Batches)
	}
	return fmt.Sprintf("%d/%d %3d %%", p.Epoch, p.Epochs, 100*p.Batch/p.Batches)
}
