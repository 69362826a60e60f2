package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/schema"
)

// console writes lines for a person, and shows progress: as a bar below the lines where a person watches, as a line
// now and then where not. It is safe for concurrent use.
type console struct {
	w        io.Writer
	terminal bool

	mu   sync.Mutex
	bars *mpb.Progress // while a bar is shown
}

func newConsole(w io.Writer) *console {
	w = forMachines(w)
	f, ok := w.(*os.File)
	return &console{w: forPeople(w), terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// Write writes above the bar if there is one.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bars != nil {
		if n, err := c.bars.Write(p); err == nil {
			return n, nil
		}
	}
	return c.w.Write(p)
}

// say writes a line.
func (c *console) say(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

// lineEvery is how often a meter writes a line where nobody watches.
const lineEvery = 5 * time.Second

// barStyle is how bars look.
func barStyle() mpb.BarStyleComposer {
	style := mpb.BarStyle().Lbound(" ").Rbound(" ")
	if unicodeLocale() {
		return style.Filler("━").Tip("╸").Padding("─")
	}
	return style.Filler("=").Tip(">").Padding("-")
}

// meter counts batches. One goroutine uses it.
type meter struct {
	c     *console
	label string
	total int // that were asked for; 0 for all that there are
	bar   *mpb.Bar
	place atomic.Pointer[place] // how far the data are; nil where nobody says

	taken atomic.Uint64
	bytes int64
	began time.Time
	shown time.Time
}

// meter begins to show progress towards total batches, or without end if total is 0.
func (c *console) meter(label string, total int) *meter {
	m := &meter{c: c, label: label, total: total, began: time.Now(), shown: time.Now()}
	if !c.terminal {
		return m
	}
	bars := c.newBars()
	if total > 0 {
		m.bar = bars.New(int64(total), barStyle(), mpb.PrependDecorators(decor.Name(label, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersNoUnit("%d/%d", decor.WC{W: 10}), decor.AverageSpeed(0, "  %.0f batches/s")))
		return m
	}
	bar := barStyle().Build()
	m.bar = bars.MustAdd(0, mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
		p := m.place.Load()
		if p == nil || p.all == 0 {
			return nil
		}
		s.Total, s.Current = int64(p.all), int64(p.at(m.taken.Load()))
		return bar.Fill(w, s)
	}), mpb.PrependDecorators(decor.Name(label, decor.WCSyncSpaceR)), mpb.AppendDecorators(
		decor.Any(func(decor.Statistics) string { return m.count() }, decor.WC{W: 10}),
		decor.AverageSpeed(0, "  %.0f batches/s"),
		decor.Any(func(decor.Statistics) string { return m.where() })))
	return m
}

// place is how far a meter's batches are in the data.
type place struct {
	taken       uint64 // by the meter when that was found out
	before, all uint64 // batches of the data, or of the epoch; all is 0 where there is no end
	text        string
}

// at is where the place is after so many were taken.
func (p *place) at(taken uint64) uint64 { return min(p.before+max(taken, p.taken)-p.taken, p.all) }

// set says how far the data are. It may be called from another goroutine than add.
func (m *meter) set(progress *schema.Progress) {
	if progress == nil {
		return
	}
	p := &place{taken: m.taken.Load(), before: progress.Batch, all: progress.Batches, text: fleet.Place(progress)}
	if before, all, ends := progress.Ends(); ends {
		p.before, p.all = before, all
	}
	m.place.Store(p)
}

// newBars has lines written above the bars that are added to it.
func (c *console) newBars() *mpb.Progress {
	bars := mpb.New(mpb.WithOutput(forMachines(c.w)), mpb.WithWidth(48), mpb.WithRefreshRate(100*time.Millisecond))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bars = bars
	return bars
}

// endBars gives the console back.
func (c *console) endBars() {
	c.mu.Lock()
	bars := c.bars
	c.bars = nil
	c.mu.Unlock()
	bars.Wait()
}

// bytesMeter shows progress in bytes. One goroutine uses it.
type bytesMeter struct {
	c     *console
	label string
	bar   *mpb.Bar
	shown time.Time
}

func (c *console) bytesMeter(label string) *bytesMeter {
	return &bytesMeter{c: c, label: label, shown: time.Now()}
}

// set shows how many bytes are done.
func (m *bytesMeter) set(done, total int64) {
	switch {
	case m.c.terminal && m.bar == nil:
		m.bar = m.c.newBars().New(total, barStyle(), mpb.PrependDecorators(decor.Name(m.label, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersKiloByte("% .1f of % .1f", decor.WC{W: 22}),
				decor.AverageSpeed(decor.SizeB1000(0), "  % .0f"), decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 8})))
		fallthrough
	case m.bar != nil:
		m.bar.SetCurrent(done)
	case time.Since(m.shown) > lineEvery:
		m.shown = time.Now()
		m.c.say("%s %.0f of %.0f MB", m.label, megabytes(done), megabytes(total))
	}
}

// end gives the console back.
func (m *bytesMeter) end() {
	if m.bar == nil {
		return
	}
	if !m.bar.Completed() {
		m.bar.Abort(false)
	}
	m.c.endBars()
}

// add counts one batch.
func (m *meter) add(bytes int) {
	m.taken.Add(1)
	m.bytes += int64(bytes)
	if m.bar != nil {
		m.bar.Increment()
	} else if time.Since(m.shown) > lineEvery {
		m.line()
	}
}

// end shows the last count and gives the console back.
func (m *meter) end() {
	if m.bar == nil {
		m.line()
		return
	}
	if !m.bar.Completed() {
		m.bar.Abort(false)
	}
	m.c.endBars()
}

func (m *meter) line() {
	m.shown = time.Now()
	n := int(m.taken.Load())
	m.c.say("%s %s batches, %s%s", m.label, m.count(), pace(n, m.bytes, time.Since(m.began)), m.where())
}

// count is how many are taken, of how many if so many were asked for.
func (m *meter) count() string {
	if m.total > 0 {
		return fmt.Sprintf("%d/%d", m.taken.Load(), m.total)
	}
	return fmt.Sprint(m.taken.Load())
}

// where is how far the data are.
func (m *meter) where() string {
	if p := m.place.Load(); p != nil {
		return ", " + p.text
	}
	return ""
}

// pace is how fast n batches of so many bytes came, for people.
func pace(n int, bytes int64, in time.Duration) string {
	return fmt.Sprintf("%.1f batches/s, %.1f MB/s", rate(float64(n), in), rate(megabytes(bytes), in))
}

func rate(n float64, in time.Duration) float64 {
	if in <= 0 {
		return 0
	}
	return n / in.Seconds()
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }
