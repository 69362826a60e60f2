// Package top is the picture that "jetbatch top" shows: a model that is told what the coordinators say and which keys
// are pressed, and its rendering as lines of text. It is pure: time and size are given, nothing is read or written.
package top

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	span      = time.Minute     // what sparklines and shares look back on
	shortSpan = 5 * time.Second // what a pace looks back on
	maxEvents = 50
	maxHeld   = 600 // observations kept while paused
)

// Model is what there is to show. One goroutine uses it.
type Model struct {
	server string
	paused bool
	held   []observation // while paused
	untold []wire.Event  // likewise

	at       time.Time // of the last observation
	heard    time.Time // of the last that had an answer
	failure  string    // why the last had none
	status   fleet.Status
	batchers map[string]*track
	workers  map[string]*pace
	slow     map[string]fleet.Slow // in the last minute, by worker
	events   []Event               // the latest first

	order    sorting
	selected string // batcher
	page     int    // of workers
}

type observation struct {
	at     time.Time
	status fleet.Status
	err    error
}

// Event is something that happened.
type Event struct {
	At   time.Time `json:"at"` // when it was seen; zero for what was there before
	Who  string    `json:"who"`
	Text string    `json:"text"`
	Bad  bool      `json:"bad,omitempty"`
}

// New returns a model without anything to show yet; server is a name for the head line.
func New(server string) *Model {
	return &Model{server: server, batchers: make(map[string]*track), workers: make(map[string]*pace)}
}

// Observe takes what the coordinators said at a time, or why they said nothing. Times grow.
func (m *Model) Observe(at time.Time, s fleet.Status, err error) {
	if m.paused {
		m.held = append(m.held, observation{at, s, err})
		m.held = m.held[max(0, len(m.held)-maxHeld):]
		return
	}
	m.at = at
	if err != nil {
		m.failure = legible.Line(err.Error())
		return
	}
	s.Batchers = fleet.Begun(s.Batchers)
	first := m.heard.IsZero()
	m.failure, m.heard = "", at
	m.watch(at, s, first)
	m.status = s
	m.keep(at, s)
	if !slices.ContainsFunc(s.Batchers, func(b schema.Status) bool { return b.Batcher == m.selected }) {
		rows := m.sorted()
		m.selected = find(rows, func(b schema.Status) bool { return b.Phase == schema.PhaseRunning }).Batcher
		if m.selected == "" && len(rows) > 0 {
			m.selected = rows[0].Batcher
		}
	}
}

// Events are the things that happened, the latest first.
func (m *Model) Events() []Event { return m.events }

// Tell takes what coordinators told, the oldest first.
func (m *Model) Tell(events []wire.Event) {
	if m.paused {
		m.untold = append(m.untold, events...)
		m.untold = m.untold[max(0, len(m.untold)-maxEvents):]
		return
	}
	for _, e := range events {
		text := e.What
		if e.Why != "" {
			text += ": " + e.Why
		}
		m.insert(Event{e.At, legible.Line(e.Name), legible.Line(text), e.Bad})
	}
}

// insert puts an event in its place among the others.
func (m *Model) insert(e Event) {
	i := slices.IndexFunc(m.events, func(x Event) bool { return !x.At.After(e.At) })
	if i < 0 {
		i = len(m.events)
	}
	m.events = slices.Insert(m.events, i, e)
	m.events = m.events[:min(len(m.events), maxEvents)]
}

// watch notes the errors of workers since the last observation, which no coordinator tells.
func (m *Model) watch(at time.Time, s fleet.Status, first bool) {
	when := at
	if first {
		when = time.Time{}
	}
	for _, w := range s.Workers {
		was := find(m.status.Workers, func(x schema.WorkerStatus) bool { return x.Worker == w.Worker })
		if w.LastError != "" && (w.LastError != was.LastError || w.Failed > was.Failed) {
			m.insert(Event{when, w.Worker, legible.Line(w.LastError), true})
		}
	}
}

func find[T any](in []T, is func(T) bool) (found T) {
	if i := slices.IndexFunc(in, is); i >= 0 {
		return in[i]
	}
	return found
}

// keep adds the observation to what is known of the last minute.
func (m *Model) keep(at time.Time, s fleet.Status) {
	tracks, paces := m.batchers, m.workers
	m.batchers, m.workers = make(map[string]*track), make(map[string]*pace)
	for _, b := range s.Batchers {
		t := tracks[b.Batcher]
		if t == nil {
			t = new(track)
		}
		t.add(at, b)
		m.batchers[b.Batcher] = t
	}
	for _, w := range s.Workers {
		p := paces[w.Worker]
		if p == nil {
			p = new(pace)
		}
		p.add(at, w)
		m.workers[w.Worker] = p
	}
	lately := make([]schema.WorkerStatus, len(s.Workers))
	for i, w := range s.Workers {
		lately[i] = schema.WorkerStatus{Worker: w.Worker, Spent: m.workers[w.Worker].spent()}
	}
	m.slow = fleet.Slows(lately)
}

// Key does what a key stands for and reports whether it is the end.
func (m *Model) Key(k Key) (quit bool) {
	rows := m.sorted()
	i := slices.IndexFunc(rows, func(b schema.Status) bool { return b.Batcher == m.selected })
	switch k {
	case KeyQuit:
		return true
	case KeyPause:
		m.paused = !m.paused
		if held := m.held; !m.paused {
			m.held = nil
			for _, o := range held {
				m.Observe(o.at, o.status, o.err)
			}
			untold := m.untold
			m.untold = nil
			m.Tell(untold)
		}
	case KeyUp, KeyDown:
		if len(rows) > 0 {
			step := 1
			if k == KeyUp {
				step = -1
			}
			m.selected = rows[min(max(i+step, 0), len(rows)-1)].Batcher
		}
	case KeyRight:
		m.order = (m.order + 1) % sortings
	case KeyLeft:
		m.order = (m.order + sortings - 1) % sortings
	case KeyPageUp:
		m.page = max(m.page-1, 0)
	case KeyPageDown:
		m.page++ // the picture knows how many there are
	}
	return false
}

// sorting is an order of batchers; the busiest, or the one that waits the most, comes first.
type sorting int

const (
	byName sorting = iota
	byRate
	byBytes
	byWindow
	byWait
	sortings
)

func (m *Model) sorted() []schema.Status {
	rows := slices.Clone(m.status.Batchers)
	value := func(b schema.Status) float64 {
		switch m.order {
		case byRate:
			batches, _ := m.pace(b)
			return batches
		case byBytes:
			_, bytes := m.pace(b)
			return bytes
		case byWindow:
			return windowUse(b)
		case byWait:
			share, _ := m.share(b.Batcher)
			return share
		}
		return 0
	}
	slices.SortStableFunc(rows, func(a, b schema.Status) int {
		return cmp.Or(cmp.Compare(value(b), value(a)), strings.Compare(a.Batcher, b.Batcher))
	})
	return rows
}

// pace is how much the trainer took per second lately: as seen from here, since what the coordinator says is of its
// last word, and a trainer that is gone has none.
func (m *Model) pace(b schema.Status) (batches, bytes float64) {
	t := m.batchers[b.Batcher]
	if t == nil || len(t.samples) < 2 || b.Rate == 0 {
		return b.Rate, b.ByteRate
	}
	batches = t.rate(m.heard.Add(-shortSpan), m.heard)
	return batches, batches * b.ByteRate / b.Rate
}

// share is the part of its time that the batcher's trainer stood still in the last minute.
func (m *Model) share(batcher string) (share float64, known bool) {
	t := m.batchers[batcher]
	if t == nil {
		return 0, false
	}
	timing, _ := t.timing()
	return fleet.WaitShare(timing)
}

func windowUse(b schema.Status) float64 {
	if b.Window == 0 || b.Fed < b.Taken {
		return 0
	}
	return min(float64(b.Fed-b.Taken)/float64(b.Window), 1)
}
