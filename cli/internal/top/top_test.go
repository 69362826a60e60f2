package top

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

var update = flag.Bool("update", false, "rewrite testdata")

var began = time.Date(2026, 11, 23, 1, 30, 0, 0, time.UTC)

// look is what the coordinators say after n seconds of a made-up service: one batcher that never waits, one that waits
// for its two workers, one that is done.
func look(n int) fleet.Status {
	s := time.Duration(n) * time.Second
	return fleet.Status{
		Coordinators: []fleet.Coordinator{{Coordinator: "c-1", Version: "0.1.0", Kinds: []string{"onda-v1-w2"}}},
		Batchers: []schema.Status{
			{Batcher: "eval-2026-11-22", Phase: schema.PhaseDone, Dataset: "onda", Version: 1, Gen: "a", Taken: 1250, Fed: 1250, Total: 1250},
			{
				Batcher: "train", Phase: schema.PhaseRunning, Dataset: "onda", Version: 1, Gen: "b", Reader: "r", Owner: "c-1",
				Taken: uint64(n * (2 + n%7)), Total: uint64(1000 + n*(2+n%7)), Fed: uint64(n*(2+n%7) + 9), Window: 9, Workers: 2, Slots: 4, Rate: 4.2, ByteRate: 5.5e6,
				Progress: &schema.Progress{Epoch: 3, Epochs: 10, Batch: 41, Batches: 99, Left: 2*time.Hour + 10*time.Minute},
				Timing: schema.Timing{
					Materialize: 3 * s, Queue: s / 2, Iterate: s / 100, Transfer: s / 8, Wait: s / 50, Trainer: s * 49 / 50,
					WaitTransfer: s / 50,
				},
			},
			{
				Batcher: "train-large", Phase: schema.PhaseRunning, Dataset: "images", Version: 3, Gen: "c", Reader: "r2", Owner: "c-1",
				Taken: uint64(n * 2), Total: uint64(n * 2), Fed: uint64(n*2 + 3), Window: 9, Workers: 2, Slots: 4, Rate: 2, ByteRate: 41.9e6, Desired: 5, Restarts: 1,
				Waiting: "batch 31 of generation 01JQZ3V8XK is not committed", Reissued: 12,
				Timing: schema.Timing{
					Materialize: 4 * s, Queue: s, Iterate: s / 100, Transfer: s / 8, Wait: s * 6 / 10, Trainer: s * 4 / 10,
					WaitMaterialize: s * 4 / 10, WaitQueue: s * 2 / 10,
				},
			},
		},
		Workers: []schema.WorkerStatus{
			{Worker: "gpu-box-1", Kinds: []string{"images-v3-w2", "onda-v1-w2"}, Slots: 2, Running: 2, Done: uint64(1000 + 3*n), Retried: 2,
				Oldest: &schema.Running{Batcher: "train-large", Seq: uint64(n*2 + 1), For: 1700 * time.Millisecond}, Spent: spent(3*n, 400)},
			{Worker: "gpu-box-2", Kinds: []string{"images-v3-w2", "onda-v1-w2"}, Slots: 2, Running: 1, Done: uint64(900 + 2*n), Failed: uint64(n / 30), LastError: lastError(n), Spent: spent(2*n, 1100)},
		},
	}
}

func spent(jobs, ms int) []schema.Spent {
	sum := func(ms int) schema.Sum {
		return schema.Sum{Total: time.Duration(jobs*ms) * time.Millisecond, N: uint64(jobs)}
	}
	return []schema.Spent{{Kind: "images-v3-w2", Queue: sum(1), Materialize: sum(ms), Store: sum(2)}}
}

func lastError(n int) string {
	if n < 30 {
		return ""
	}
	return "materialize job 31: open /data/7.lpcm.zst: no such file or directory\n\x1b[2J"
}

func observed(seconds int) *Model {
	m := New("nats://broker:4222")
	for n := range seconds + 1 {
		m.Observe(began.Add(time.Duration(n)*time.Second), look(n), nil)
	}
	return m
}

func TestRender(t *testing.T) {
	t.Parallel()
	many := observed(60)
	crowd := look(61)
	for i := range 40 {
		crowd.Workers = append(crowd.Workers, schema.WorkerStatus{Worker: fmt.Sprintf("node-%02d", i), Slots: 8, Running: i % 9, Done: uint64(i) * 12345,
			Oldest: &schema.Running{Batcher: "a-trial-with-a-name-that-goes-on", Seq: 1234567, For: time.Duration(i) * 7 * time.Second}})
		crowd.Batchers = append(crowd.Batchers, schema.Status{Batcher: fmt.Sprintf("trial-%02d", i), Phase: schema.PhaseRunning, Reader: "r", Window: 17, Fed: uint64(i)})
	}
	many.Observe(began.Add(61*time.Second), crowd, nil)
	press(many, KeyDown, KeyDown, KeyDown, KeyDown, KeyPageDown, KeyRight)
	away := observed(60)
	away.Observe(began.Add(72*time.Second), fleet.Status{}, errors.New("not healthy: no coordinator answers"))
	failed := observed(20)
	end := look(21)
	end.Batchers[1].Phase, end.Batchers[1].Error = schema.PhaseFailed, &schema.Fault{Code: schema.CodePoison, Seq: 5, Message: "it was handed out 7 times"}
	end.Batchers[2].IdleFor = 9 * time.Second
	end.Workers = end.Workers[:1]
	end.Workers[0].Slots = 0
	failed.Observe(began.Add(21*time.Second), end, nil)
	press(failed, KeyPause)
	chosen := observed(60)
	press(chosen, KeyDown)
	ranked, crowded := New("nats://broker:4222"), New("nats://broker:4222")
	for n := range 60 {
		ranked.Observe(began.Add(time.Duration(n)*time.Second), ranks(n), nil)
		crowd := ranks(n)
		for i := 4; i < 12; i++ {
			m := crowd.Batchers[1].Members[1]
			m.Rank, m.Taken = i, m.Taken-uint64(i%5)
			crowd.Batchers[1].Members = append(crowd.Batchers[1].Members, m)
		}
		crowded.Observe(began.Add(time.Duration(n)*time.Second), crowd, nil)
	}
	for _, test := range []struct {
		name          string
		m             *Model
		width, height int
	}{
		{"small", observed(60), 80, 24},
		{"waits", chosen, 80, 24},
		{"large", chosen, 200, 50},
		{"plain", chosen, 100, Endless},
		{"crowd", many, 120, 40},
		{"away", away, 80, 24},
		{"failed", failed, 80, 24},
		{"empty", New("nats://broker:4222"), 80, 24},
		{"tiny", chosen, 40, 10},
		{"least", chosen, 30, 8},
		{"low", chosen, 80, 14},
		{"ranks", ranked, 80, 24},
		{"ranks-large", ranked, 140, Endless},
		{"ranks-low", ranked, 80, 16},
		{"ranks-tall", ranked, 100, 34},
		{"ranks-many", crowded, 100, 34},
	} {
		lines := test.m.Render(test.width, test.height, false)
		if test.height != Endless && len(lines) != test.height {
			t.Errorf("%s: %d lines, want %d", test.name, len(lines), test.height)
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > test.width {
				t.Errorf("%s: a line of %d cells: %s", test.name, n, l)
			}
		}
		golden(t, test.name, strings.Join(lines, "\n")+"\n")
		colored := test.m.Render(test.width, test.height, true)
		if got := strip(strings.Join(colored, "\n") + "\n"); got != strings.Join(lines, "\n")+"\n" {
			t.Errorf("%s: the colours change the text:\n%s", test.name, got)
		}
	}
}

// ranks is look with four ranks that take the second batcher, one of which is behind and was not heard lately.
func ranks(n int) fleet.Status {
	s := look(n)
	b := &s.Batchers[1]
	b.World, b.Heard, b.Spread, b.Slowest = "run-1", 3, 9, 2
	b.Timing.WaitRanks, b.Timing.Wait = b.Timing.Trainer/4, b.Timing.Wait+b.Timing.Trainer/4
	for i, behind := range []uint64{0, 1, 9, 0} {
		m := schema.MemberStatus{Rank: i, Reader: "r", Taken: b.Taken + 9 - behind, Silent: time.Second}
		b.Members = append(b.Members, m)
	}
	b.Members[2].Silent = 14 * time.Second
	b.Waiting = "rank 2 is at batch 475, heard 14s ago"
	return s
}

func press(m *Model, keys ...Key) {
	for _, k := range keys {
		m.Key(k)
	}
}

// strip removes SGR sequences, and nothing else, so that a test sees any other.
func strip(s string) string {
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return s
		}
		j := strings.IndexByte(s[i:], 'm')
		s = s[:i] + s[i+j+1:]
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs; -update rewrites it:\n%s", path, diff)
	}
}

// What is observed while paused is not shown, and not lost.
func TestPause(t *testing.T) {
	t.Parallel()
	m, plain := observed(10), observed(20)
	before := m.Render(80, 24, false)
	press(m, KeyPause)
	for n := 11; n <= 20; n++ {
		m.Observe(began.Add(time.Duration(n)*time.Second), look(n), nil)
	}
	if got := m.Render(80, 24, false); !slices.Equal(got[1:23], before[1:23]) {
		t.Errorf("the picture moved:\n%s", strings.Join(got, "\n"))
	}
	press(m, KeyPause)
	if diff := cmp.Diff(plain.Render(80, 24, false), m.Render(80, 24, false)); diff != "" {
		t.Error(diff)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	m := observed(0)
	if len(m.Events()) != 0 {
		t.Errorf("the first look: %+v", m.Events())
	}
	s := look(1)
	s.Workers[1].LastError = "out of memory"
	for n := range 3 { // said again, it is no news
		m.Observe(began.Add(time.Duration(n)*time.Second), s, nil)
	}
	press(m, KeyPause)
	m.Tell([]wire.Event{
		{At: began.Add(-time.Hour), Name: "c-1", What: "came"},
		{At: began.Add(time.Minute), Name: "gpu-box-1", What: "died", Why: "silent for 4s\n", Bad: true},
	})
	if len(m.Events()) != 1 {
		t.Errorf("while paused: %+v", m.Events())
	}
	press(m, KeyPause)
	var got []string
	for _, e := range m.Events() {
		got = append(got, e.Who+": "+e.Text)
	}
	want := []string{"gpu-box-1: died: silent for 4s", "gpu-box-2: out of memory", "c-1: came"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	late := New("")
	late.Observe(began, look(40), nil)
	if e := late.Events(); len(e) != 1 || !e[0].At.IsZero() {
		t.Errorf("what was there before: %+v", e)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	m := observed(10)
	order := func() (names []string) {
		for _, b := range m.sorted() {
			names = append(names, b.Batcher)
		}
		return names
	}
	for _, want := range [][]string{
		{"eval-2026-11-22", "train", "train-large"}, // name
		{"train", "train-large", "eval-2026-11-22"}, // batches/s
		{"train-large", "train", "eval-2026-11-22"}, // MB/s
		{"train", "train-large", "eval-2026-11-22"}, // window
		{"train-large", "train", "eval-2026-11-22"}, // wait
		{"eval-2026-11-22", "train", "train-large"},
	} {
		if got := order(); !slices.Equal(got, want) {
			t.Errorf("order %d: %v, want %v", m.order, got, want)
		}
		press(m, KeyRight)
	}
	press(m, KeyLeft, KeyLeft)
	if m.order != byWait {
		t.Errorf("order %d after going back", m.order)
	}
	press(m, KeyUp, KeyUp)
	if m.selected != "train-large" {
		t.Errorf("chosen %s", m.selected)
	}
	if !m.Key(KeyQuit) {
		t.Error("q does not quit")
	}
}

// The minute's parts add up to what was taken in it, whenever the looks were.
func TestRates(t *testing.T) {
	t.Parallel()
	track := new(track)
	at, taken := began, uint64(0)
	for i := range 300 {
		track.add(at, schema.Status{Gen: "g", Taken: taken})
		at = at.Add(time.Duration(100+i*37%900) * time.Millisecond)
		taken += 2
	}
	now := track.samples[len(track.samples)-1].at
	if n := len(track.samples); n < 60 || n > 600 || now.Sub(track.samples[1].at) > span {
		t.Errorf("%d samples over %v", n, now.Sub(track.samples[0].at))
	}
	for _, n := range []int{1, 7, 60} {
		sum := 0.0
		for _, r := range track.rates(now, n) {
			sum += r * 60 / float64(n)
		}
		if whole := track.rate(now.Add(-span), now) * 60; math.Abs(sum-whole) > 0.1 {
			t.Errorf("%d parts add up to %f, the whole is %f", n, sum, whole)
		}
	}
	track.add(now.Add(time.Second), schema.Status{Gen: "h", Taken: 1})
	if r := track.rate(now, now.Add(time.Second)); r != 0 {
		t.Errorf("%f batches/s over a change of generation", r)
	}
	if r := track.rate(now.Add(time.Hour), now.Add(2*time.Hour)); r != -1 {
		t.Errorf("%f batches/s to come", r)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]Key{
		"q":                      {KeyQuit},
		"\x03":                   {KeyQuit},
		"\x1b[A\x1bOBjk":         {KeyUp, KeyDown, KeyDown, KeyUp},
		"\x1b[1;5A\x1b[Cp":       {KeyRight, KeyPause}, // with Ctrl it is another key
		"\x1b[5~\x1b[6~\x1b[24~": {KeyPageUp, KeyPageDown},
		"xyz\xff\x1b\x1b[D":      {KeyLeft},
		"\x1b[200~q":             {KeyQuit},
	} {
		var whole, split Keys
		if got := whole.Read([]byte(in)); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
		var got []Key
		for _, b := range []byte(in) {
			got = append(got, split.Read([]byte{b})...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, byte by byte: %v, want %v", in, got, want)
		}
	}
}

func TestNarrow(t *testing.T) {
	t.Parallel()
	if got := narrow("a\x1b[2J\u0301é漢\n–…█"); got != "a·[2J·é··–…█" {
		t.Errorf("%q", got)
	}
	if got := sparkline([]float64{-1, 0, 1, 2}); got != " ▁▅█" {
		t.Errorf("%q", got)
	}
	if got := bar(0.5, 3); got != "█▌ " {
		t.Errorf("%q", got)
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// FuzzKeys reads anything as what a terminal sends, cut at any place:
//   - the keys are those of the whole, wherever it is cut;
//   - what is kept for the next read is the beginning of one sequence, however long the input is.
func FuzzKeys(f *testing.F) {
	for _, seed := range []string{"q", "\x1b[A\x1b[B", "\x1bOC", "\x1b[5~p", "\x1b", "\x1b[", "x\x1b[200~jk", "\xff\x1b[\x1b[A"} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var whole, parts Keys
		want := whole.Read(data)
		at := max(0, min(cut, len(data)))
		got := append(parts.Read(data[:at]), parts.Read(data[at:])...)
		if !slices.Equal(got, want) {
			t.Errorf("%q is %v, cut at %d %v", data, want, at, got)
		}
		if len(whole.rest) >= maxSequence {
			t.Errorf("of %q, %q is kept", data, whole.rest)
		}
	})
}
