package top

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Endless is a height for as many lines as it takes.
const Endless = 0

// minWidth is the least width that is drawn for; on a narrower screen the rest is cut off.
const minWidth = 60

// Render draws the model as lines that are at most so wide. With a height there are exactly so many, the last of them
// with the keys; with Endless everything is there and no keys.
func (m *Model) Render(width, height int, color bool) []string {
	v := &view{Model: m, width: max(width, minWidth)}
	v.rows = m.sorted()
	events, batchers, workers := min(max(len(m.events), 1), 5), max(len(v.rows), 1), max(len(m.status.Workers), 1)
	parts := m.fit(height)
	if height != Endless {
		left := height - m.lines(parts, height)
		least := min(events, max(1, left/5))
		if !parts.events {
			least = 0
		}
		batchers = min(batchers, max(1, left-least-min(workers, max(1, left/2))))
		workers = min(workers, max(1, left-least-batchers))
		events = min(events, max(1, left-batchers-workers))
	}
	v.head()
	v.line().add(bad, v.complaint())
	v.batcherTable(batchers)
	gap := func() {
		if parts.gaps {
			v.blank()
		}
	}
	gap()
	if parts.batcher {
		v.batcher(parts.shares, m.rankLines(height))
		gap()
	}
	v.workerTable(workers, height != Endless)
	if parts.events {
		gap()
		v.eventTable(events)
	}

	out := make([]string, 0, max(len(v.lines), height))
	for _, l := range v.lines {
		out = append(out, l.render(width, color))
	}
	if height == Endless {
		return out
	}
	for len(out) < height {
		out = append(out, "")
	}
	out = out[:height]
	out[height-1] = m.footer().render(width, color)
	return out
}

// parts are those of the picture that a screen has room for.
type parts struct{ gaps, shares, events, batcher bool }

// fit gives up part after part until the tables have a row each: batchers and workers are what is looked for.
func (m *Model) fit(height int) parts {
	p := parts{true, true, true, true}
	for _, part := range []*bool{&p.gaps, &p.shares, &p.events, &p.batcher} {
		if height == Endless || height >= m.lines(p, height)+3 {
			break
		}
		*part = false
	}
	return p
}

// lines are those of the picture but for the rows of the three tables: head and complaint, titles, keys.
func (m *Model) lines(p parts, height int) int {
	n := 2 + 1 + 1 + 1
	if p.batcher {
		n += 2 // title, what it waits for
		if m.chosen().Progress != nil {
			n++
		}
		if p.shares {
			n += shareRows
		}
		if fleet.Shared(m.chosen()) {
			n += 1 + m.rankLines(height)
			if p.shares {
				n++
			}
		}
	}
	if p.events {
		n++
	}
	if p.gaps {
		n += 4
	}
	return n
}

// chosen is the batcher that is looked at.
func (m *Model) chosen() schema.Status {
	return find(m.status.Batchers, func(b schema.Status) bool { return b.Batcher == m.selected })
}

// view is one rendering under way.
type view struct {
	*Model
	width int
	rows  []schema.Status
	lines []*line
}

func (v *view) line() *line {
	l := new(line)
	v.lines = append(v.lines, l)
	return l
}

func (v *view) blank() { v.line() }

// head has the server, the sum of all, and how old the picture is.
func (v *view) head() {
	l := v.line().add(bold, "jetbatch").add(dim, "  "+v.server).add(plain, "  ")
	switch {
	case v.failure != "" && v.heard.IsZero():
		l.add(bad, "no answer yet")
	case v.failure != "":
		l.add(bad, fmt.Sprintf("no answer for %v", v.at.Sub(v.heard).Round(time.Second)))
	case v.heard.IsZero():
		l.add(dim, "…")
	default:
		slots, running := 0, 0
		for _, w := range v.status.Workers {
			slots += w.Slots
			running += w.Running
		}
		if v.width >= 90 {
			l.add(plain, legible.Count(len(v.status.Coordinators), "coordinator")+"  ")
		}
		l.add(plain, fmt.Sprintf("%s, %d of %s busy", legible.Count(len(v.status.Workers), "worker"), running, legible.Count(slots, "slot")))
	}
	clock := v.at.Format("15:04:05")
	if v.paused {
		clock = "PAUSED " + clock
	}
	if v.at.IsZero() {
		return
	}
	l.to(v.width - len(clock))
	style := dim
	if v.paused {
		style = warn
	}
	l.add(style, clock)
}

// complaint is why there is no answer.
func (v *view) complaint() string {
	if v.failure == "" {
		return ""
	}
	return "  " + v.failure
}

// batcherTable has a row per batcher, the chosen one marked.
func (v *view) batcherTable(rows int) {
	wide := v.width >= 110
	name := min(max(14, (v.width-62)/3), 40)
	spark := v.width - name - 57
	if wide {
		spark -= 25
	}
	shared := wide && slices.ContainsFunc(v.rows, fleet.Shared)
	if shared {
		spark -= ranksWidth
	}
	apart := shared && v.width >= spreadFrom
	if apart {
		spark -= spreadWidth + slowestWidth
	}
	spark = min(max(spark, 6), 60)
	title := v.line()
	column := func(s sorting, text string, width int, right bool) {
		style := dim
		if v.order == s {
			style, text = bold, text+"▾"
		}
		if right {
			title.right(style, text, width)
		} else {
			title.left(style, text, width)
		}
	}
	title.add(plain, "  ")
	column(byName, "BATCHER", name, false)
	title.left(dim, " PHASE", 9)
	if wide {
		title.right(dim, "TAKEN", 11).right(dim, "EPOCH", 14)
	}
	if shared {
		title.right(dim, "RANKS", ranksWidth)
	}
	if apart {
		title.right(dim, "SPREAD", spreadWidth).right(dim, "SLOWEST", slowestWidth)
	}
	column(byRate, "BATCHES/S", 11, true)
	title.add(plain, " ").left(dim, "", spark)
	column(byBytes, "MB/S", 8, true)
	title.add(plain, "  ")
	column(byWindow, "WINDOW", 17, false)
	column(byWait, "WAIT", 7, true)

	if len(v.rows) == 0 && v.heard.IsZero() {
		v.blank()
	} else if len(v.rows) == 0 {
		v.line().add(dim, "  none: a batcher is there when a trainer opens it")
	}
	first := 0
	for i, b := range v.rows {
		if b.Batcher == v.selected {
			first = min(max(0, i-rows+1), max(0, len(v.rows)-rows)) // the chosen one is always to be seen
		}
	}
	for i, b := range v.rows[first:min(first+rows, len(v.rows))] {
		l := v.line()
		mark, style := "  ", plain
		if b.Batcher == v.selected {
			mark, style = "▸ ", bold
		}
		more := ""
		if last := first + i + 1; i == rows-1 && last < len(v.rows) {
			more = fmt.Sprintf(" +%d", len(v.rows)-last)
		}
		l.add(blue, mark).left(style, cut(b.Batcher, name-len(more))+more, name).left(phaseStyle(b), " "+string(b.Phase), 9)
		if wide {
			l.right(plain, grouped(b.Total), 11).right(plain, epoch(b.Progress), 14)
		}
		if shared {
			l.right(ranksStyle(b), rankCount(b), ranksWidth)
		}
		if apart {
			apart, slowest := spread(b)
			l.right(plain, apart, spreadWidth).right(plain, slowest, slowestWidth)
		}
		batches, bytes := v.pace(b)
		l.right(plain, decimal(batches), 11).add(plain, " ")
		l.add(blue, sparkline(v.batchers[b.Batcher].rates(v.heard, spark)))
		l.right(plain, decimal(bytes/1e6), 8).add(plain, "  ")
		full, rest := gauge(windowUse(b), 8)
		ahead := max(b.Fed, b.Taken) - b.Taken
		l.add(blue, full).add(dim, rest).left(plain, fmt.Sprintf(" %d/%d", ahead, b.Window), 9)
		share, known := v.share(b.Batcher)
		l.right(shareStyle(share), percent(share, known), 7)
	}
}

func phaseStyle(b schema.Status) style {
	switch {
	case b.Phase == schema.PhaseFailed:
		return bad
	case b.Phase == schema.PhaseRunning && b.IdleFor > 0:
		return warn
	case b.Phase == schema.PhaseRunning:
		return good
	}
	return dim
}

func shareStyle(share float64) style {
	switch {
	case share >= 0.2:
		return bad
	case share >= 0.02:
		return warn
	}
	return plain
}

// batcher shows the chosen one: where its trainer's time goes, and what it waits for.
func (v *view) batcher(shares bool, rankLines int) {
	b := v.chosen()
	title := v.line()
	if b.Batcher == "" {
		for range shareRows + 1 {
			v.blank()
		}
		return
	}
	title.add(bold, b.Batcher).add(dim, fmt.Sprintf("  %s@%d  %s taken", b.Dataset, b.Version, grouped(b.Total)))
	title.add(dim, "  "+legible.Count(b.Workers, "worker"))
	if b.Desired > 0 {
		style := dim
		if b.Desired > b.Workers {
			style = warn
		}
		title.add(style, fmt.Sprintf(", %d wanted", b.Desired))
	}
	for _, x := range []struct {
		n    uint64
		what string
	}{{uint64(b.Restarts), "stores lost"}, {b.Reissued, "reissued"}, {b.Backups, "backups"}} {
		if x.n > 0 {
			title.add(warn, fmt.Sprintf("  %s: %s", x.what, grouped(x.n)))
		}
	}
	if shares {
		v.shares(b)
	}
	v.ranks(b, rankLines)
	if place := fleet.Place(b.Progress); place != "" {
		v.line().add(dim, "  progress          ").add(plain, place)
	}
	l := v.line()
	switch what := v.status.WaitingFor(b); {
	case b.Error != nil:
		l.add(bad, "  "+what)
	case what != "":
		l.add(dim, "  waiting for       ").add(warn, what)
	default:
		l.add(dim, "  waiting for       nothing")
	}
}

// countsWidth is that of a worker's columns between its name and its longest job.
const countsWidth = 57

// workerTable has a row per worker; pages turns it over where there are too many.
func (v *view) workerTable(rows int, pages bool) {
	workers := v.status.Workers
	first := 0
	if pages && len(workers) > rows {
		last := (len(workers) - 1) / rows
		v.page = min(v.page, last)
		first = min(v.page*rows, len(workers)-rows)
	}
	// What is left is for the name, and for what it is at.
	name := min(max(14, (v.width-70)/2), 36)
	timed := v.width >= wideWorkers
	if timed {
		name = min(name, 20)
	}
	counts := countsWidth
	if timed {
		counts += timesWidth
	}
	most := min(max(11, v.width-name-counts), 32)
	title := v.line()
	text := "WORKER"
	if pages && len(workers) > rows {
		text = fmt.Sprintf("WORKER %d–%d of %d", first+1, first+rows, len(workers))
	}
	title.left(dim, "  "+text, name+2).left(dim, "  BUSY", 18).right(dim, "JOBS/S", 7)
	if timed {
		title.right(dim, "A JOB", 10).left(dim, " SLOW", timesWidth-10)
	}
	title.right(dim, "DONE", 10).right(dim, "RETRIED", 8).
		right(dim, "FAILED", 8).add(dim, "  ").add(dim, "LONGEST JOB")
	serves := v.width-name-counts-most >= 12
	if serves {
		title.to(name+counts+most).add(dim, "  SERVES")
	}
	if len(workers) == 0 && v.heard.IsZero() {
		v.blank()
	} else if len(workers) == 0 {
		v.line().add(warn, "  none: start some with \"jetbatch worker\"")
	}
	for _, w := range workers[first:min(first+rows, len(workers))] {
		l := v.line().left(plain, "  "+w.Worker, name+2).add(plain, "  ")
		if w.Slots == 0 {
			l.left(warn, fmt.Sprintf("drains, %d left", w.Running), 16)
		} else {
			full, rest := gauge(float64(w.Running)/float64(w.Slots), 8)
			l.add(blue, full).add(dim, rest).left(plain, fmt.Sprintf(" %d/%d", w.Running, w.Slots), 8)
		}
		rate, known := v.workers[w.Worker].rate()
		if known {
			l.right(plain, decimal(rate), 7)
		} else {
			l.right(dim, "–", 7)
		}
		if timed {
			v.times(l, w)
		}
		l.right(plain, grouped(w.Done), 10).right(nonzero(w.Retried, warn), grouped(w.Retried), 8).
			right(nonzero(w.Failed, bad), grouped(w.Failed), 8).add(plain, "  ").add(plain, at(w.Oldest, most))
		if serves {
			l.to(name+counts+most).add(dim, "  "+strings.Join(wire.KindNames(w.Kinds), " "))
		}
	}
}

// From this width on a worker's row says what its jobs took in the last minute, in so many columns.
const (
	wideWorkers = 130
	timesWidth  = 28
)

// times says what a worker's jobs take to materialize, and at what it is slower than others.
func (v *view) times(l *line, w schema.WorkerStatus) {
	lately := schema.WorkerStatus{Spent: v.workers[w.Worker].spent()}
	mean, known := fleet.PerJob(lately, func(s schema.Spent) schema.Sum { return s.Materialize })
	text := "–"
	if known {
		text = milliseconds(mean, 1)
	}
	l.right(plain, text, 10)
	text = ""
	if s, slow := v.slow[w.Worker]; slow {
		text = fmt.Sprintf(" %.1f x %s", float64(s.Mean)/float64(s.Others), s.Stage)
	}
	l.left(bad, text, timesWidth-10)
}

// at is the job that a worker has been at for longest; where there is no room for more, for how long.
func at(r *schema.Running, width int) string {
	if r == nil {
		return "–"
	}
	long := duration(r.For)
	job := fmt.Sprintf(" %s  %s", grouped(r.Seq), long)
	if room := width - len(job); room >= 5 {
		return cut(r.Batcher, room) + job
	}
	return long
}

func nonzero(n uint64, s style) style {
	if n == 0 {
		return dim
	}
	return s
}

// eventTable has what happened, the latest first.
func (v *view) eventTable(rows int) {
	v.line().add(dim, "  EVENTS")
	if len(v.events) == 0 {
		v.line().add(dim, "  none")
	}
	for _, e := range v.events[:min(rows, len(v.events))] {
		at := "before  "
		if !e.At.IsZero() {
			at = e.At.In(v.at.Location()).Format("15:04:05")
		}
		style := plain
		if e.Bad {
			style = bad
		}
		v.line().add(dim, "  "+at+"  ").add(plain, e.Who).add(dim, ": ").add(style, e.Text)
	}
}

func (m *Model) footer() *line {
	l := new(line)
	for _, k := range [...][2]string{{"q", "quit"}, {"p", "pause"}, {"↑↓", "batcher"}, {"←→", "order"}, {"PgUp PgDn", "workers"}} {
		what := k[1]
		if k[0] == "p" && m.paused {
			what = "go on"
		}
		l.add(bold, "  "+k[0]).add(dim, " "+what)
	}
	return l
}
