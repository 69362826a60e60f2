package window

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// dumb is the window as one would write it without a thought for speed: maps of what is known about every sequence
// number, and loops over all of them.
type dumb struct {
	floor, taken, fed uint64
	state             map[uint64]string // after floor … fed
	job               map[uint64]string // of floor+1 … fed
	limit, out, lead  uint64
	ended             bool
}

func (d *dumb) want() (n int) {
	for seq := d.fed + 1; seq <= max(d.head()+d.limit, d.out) && !d.ended; seq++ {
		n++
	}
	return n
}

// head is what the furthest reader has, of what is fed.
func (d *dumb) head() (head uint64) {
	for head = d.taken; head < d.lead && head < d.fed; head++ {
	}
	return head
}

func (d *dumb) feed(e Entry) uint64 {
	if d.ended {
		return 0
	}
	d.fed++
	d.state[d.fed], d.job[d.fed] = string(e.Next), string(e.Job)
	return d.fed
}

func (d *dumb) credit(taken uint64) bool {
	moved := false
	for d.taken < taken && d.taken < d.fed {
		d.taken++
		moved = true
	}
	return moved
}

// find lists all positions that fit and chooses the one that is best.
func (d *dumb) find(state string) (best uint64, ok bool) {
	head := d.taken + 1
	rank := func(position uint64) uint64 { // the smaller the better
		switch {
		case position == head:
			return 0
		case position > head:
			return position - head
		}
		return 1<<32 + head - position
	}
	for seq, s := range d.state {
		if s == state && (!ok || rank(seq+1) < rank(best)) {
			best, ok = seq+1, true
		}
	}
	return best, ok
}

func (d *dumb) seek(position uint64) (skipped []uint64) {
	if _, ok := d.state[position-1]; !ok || position == 0 {
		return nil
	}
	for seq := d.taken + 1; seq < position; seq++ {
		skipped = append(skipped, seq)
	}
	d.taken = position - 1
	return skipped
}

// droppable tries every floor.
func (d *dumb) droppable(retain int) uint64 {
	best := d.floor
	for floor := range d.state {
		if floor <= d.taken && d.taken-floor >= uint64(max(retain, 0)) {
			best = max(best, floor)
		}
	}
	return best
}

func (d *dumb) drop(floor uint64) {
	if _, ok := d.state[floor]; !ok || floor > d.taken {
		return
	}
	d.floor = floor
	maps.DeleteFunc(d.state, func(seq uint64, _ string) bool { return seq < floor })
	maps.DeleteFunc(d.job, func(seq uint64, _ string) bool { return seq <= floor })
}

func (d *dumb) missing(done func(uint64) bool) (missing []uint64) {
	for seq := range d.job {
		if seq > d.taken && !done(seq) {
			missing = append(missing, seq)
		}
	}
	slices.Sort(missing)
	return missing
}

// compare asks both everything, in and out of range.
func compare(t *rapid.T, w *Window, d *dumb) {
	if w.Floor() != d.floor || w.Taken() != d.taken || w.Fed() != d.fed || w.Limit() != int(d.limit) || w.Want() != d.want() {
		t.Fatalf("floor %d, taken %d, fed %d, limit %d, want %d; not %d, %d, %d, %d, %d",
			w.Floor(), w.Taken(), w.Fed(), w.Limit(), w.Want(), d.floor, d.taken, d.fed, d.limit, d.want())
	}
	for seq := uint64(0); seq < max(d.fed, d.taken)+3; seq++ {
		state, known := d.state[seq]
		if got := w.StateAfter(seq); string(got) != state || !known && got != nil {
			t.Fatalf("StateAfter(%d) = %q, want %q", seq, got, state)
		}
		job, held := d.job[seq]
		if e, ok := w.Entry(seq); ok != held || string(e.Job) != job || held && string(e.Next) != state {
			t.Fatalf("Entry(%d) = %+v, %v; want %q, %q, %v", seq, e, ok, state, job, held)
		}
	}
}

func TestAgainstDumb(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Few states, so that they come back, and the empty one among them.
		states := rapid.SampledFrom([]string{"", "a", "b", "c", "d"})
		floor := rapid.Uint64Range(0, 3).Draw(t, "floor")
		taken := rapid.Uint64Range(0, 8).Draw(t, "taken")
		first := states.Draw(t, "state")
		out := rapid.Uint64Range(0, 12).Draw(t, "out")
		w := New(floor, []byte(first), taken)
		w.FedBefore(out)
		d := &dumb{
			floor: floor, taken: max(floor, taken), fed: floor, limit: 1, out: out,
			state: map[uint64]string{floor: first}, job: map[uint64]string{},
		}
		caughtUp := false
		near := func(t *rapid.T, what string) uint64 {
			return rapid.Uint64Range(0, max(d.taken, d.fed)+3).Draw(t, what)
		}
		feed := func(t *rapid.T) {
			e := Entry{Next: []byte(states.Draw(t, "next")), Job: fmt.Append(nil, "job ", d.fed+1)}
			if got, want := w.Feed(e), d.feed(e); got != want {
				t.Fatalf("Feed = %d, want %d", got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"feed": feed, // more than is wanted, too
			"fill": func(t *rapid.T) {
				for w.Want() > 0 {
					feed(t)
				}
			},
			"credit": func(t *rapid.T) {
				to := near(t, "to")
				if got, want := w.Credit(to), d.credit(to); got != want {
					t.Fatalf("Credit(%d) = %v, want %v", to, got, want)
				}
			},
			"find and seek": func(t *rapid.T) {
				state := states.Draw(t, "state")
				position, ok := w.Find([]byte(state))
				if want, wantOK := d.find(state); position != want || ok != wantOK {
					t.Fatalf("Find(%q) = %d, %v; want %d, %v", state, position, ok, want, wantOK)
				}
				if ok && rapid.Bool().Draw(t, "seek") {
					seek(t, w, d, position)
					if string(w.StateAfter(w.Taken())) != state {
						t.Fatalf("the head is not where %q was found", state)
					}
				}
			},
			"seek": func(t *rapid.T) { seek(t, w, d, near(t, "position")) },
			"drop": func(t *rapid.T) {
				floor := near(t, "floor")
				w.Drop(floor)
				d.drop(floor)
			},
			"retain": func(t *rapid.T) {
				retain := rapid.IntRange(-1, 5).Draw(t, "retain")
				floor := w.Droppable(retain)
				if want := d.droppable(retain); floor != want {
					t.Fatalf("Droppable(%d) = %d, want %d", retain, floor, want)
				}
				w.Drop(floor)
				d.drop(floor)
				if w.Floor() != floor {
					t.Fatalf("the floor is %d and not the droppable %d", w.Floor(), floor)
				}
			},
			"limit": func(t *rapid.T) {
				limit := rapid.IntRange(-1, 6).Draw(t, "limit")
				w.SetLimit(limit)
				d.limit = uint64(max(limit, 1))
			},
			"lead": func(t *rapid.T) {
				d.lead = near(t, "lead")
				w.Lead(d.lead)
				if got, want := w.Head(), d.head(); got != want {
					t.Fatalf("Head = %d, want %d", got, want)
				}
			},
			"end": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "die") == 0 {
					w.End()
					d.ended = true
				}
			},
			"missing": func(t *rapid.T) {
				odd := func(seq uint64) bool { return seq%2 == 1 }
				if got, want := w.Missing(odd), d.missing(odd); !slices.Equal(got, want) {
					t.Fatalf("Missing = %v, want %v", got, want)
				}
			},
			"": func(t *rapid.T) {
				compare(t, w, d)
				caughtUp = caughtUp || w.Fed() >= w.Taken()
				if w.Floor() > w.Taken() || w.Floor() > w.Fed() || caughtUp && w.Taken() > w.Fed() {
					t.Fatalf("floor %d, taken %d, fed %d", w.Floor(), w.Taken(), w.Fed())
				}
			},
		})
	})
}

func seek(t *rapid.T, w *Window, d *dumb, position uint64) {
	from, to := w.Seek(position)
	var skipped []uint64
	for seq := from; seq < to; seq++ {
		skipped = append(skipped, seq)
	}
	if want := d.seek(position); !slices.Equal(skipped, want) {
		t.Fatalf("Seek(%d) skips %v, want %v", position, skipped, want)
	}
}

// Dropped entries hold megabytes of jobs: the array that they were in must not keep them.
func TestDropLetsGo(t *testing.T) {
	t.Parallel()
	w := New(0, nil, 0)
	for range 4 {
		w.Feed(Entry{Next: []byte("s"), Job: []byte("job")})
	}
	w.Credit(3)
	w.Drop(3)
	for i, e := range w.entries[:4][1:] {
		if e.Job != nil || e.Next != nil {
			t.Errorf("entry %d behind the last is kept", i)
		}
	}
}

// The scripts in testdata are read as: a command, then lines beginning with "> " that say what came of it.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(script))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(script) {
				t.Errorf("%s gives\n%s", file, got)
			}
		})
	}
}

// play runs the commands of a script; sN is the state after sequence number N unless a script names another.
func play(t *testing.T, script string) string {
	var w *Window
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "> ") {
			continue
		}
		fmt.Fprintln(&out, line)
		if line == "" || line[0] == '#' {
			continue
		}
		words := strings.Fields(line)
		num := func(i int) uint64 {
			n, err := strconv.ParseUint(words[i], 10, 32)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return n
		}
		switch words[0] {
		case "new": // new FLOOR TAKEN
			w = New(num(1), []byte("s"+words[1]), num(2))
		case "limit": // limit N
			w.SetLimit(int(num(1)))
		case "fill": // fill: feed what is wanted
			for w.Want() > 0 {
				w.Feed(Entry{Next: fmt.Append(nil, "s", w.Fed()+1), Job: fmt.Append(nil, "job ", w.Fed()+1)})
			}
		case "feed": // feed STATE…
			for _, state := range words[1:] {
				fmt.Fprintf(&out, "> fed as %d\n", w.Feed(Entry{Next: []byte(state), Job: fmt.Append(nil, "job ", w.Fed()+1)}))
			}
		case "end":
			w.End()
		case "credit": // credit TAKEN
			fmt.Fprintf(&out, "> moved %v\n", w.Credit(num(1)))
		case "find": // find STATE
			position, ok := w.Find([]byte(words[1]))
			fmt.Fprintf(&out, "> position %d, held %v\n", position, ok)
			continue
		case "seek": // seek POSITION
			from, to := w.Seek(num(1))
			fmt.Fprintf(&out, "> skips [%d, %d)\n", from, to)
		case "retain": // retain N: drop all that the trainer has but N
			w.Drop(w.Droppable(int(num(1))))
		case "drop": // drop FLOOR
			w.Drop(num(1))
		case "missing": // missing DONE…
			missing := w.Missing(func(seq uint64) bool { return slices.Contains(words[1:], strconv.FormatUint(seq, 10)) })
			fmt.Fprintf(&out, "> publish again %v\n", missing)
			continue
		case "held": // held: every entry
			for seq := w.Floor(); seq <= w.Fed(); seq++ {
				e, _ := w.Entry(seq)
				if !bytes.Equal(e.Next, w.StateAfter(seq)) && seq > w.Floor() {
					t.Fatalf("two states after %d", seq)
				}
				fmt.Fprintf(&out, "> %d: %s, then %s\n", seq, cmp.Or(string(e.Job), "dropped"), w.StateAfter(seq))
			}
			continue
		default:
			t.Fatalf("unknown command %q", line)
		}
		fmt.Fprintf(&out, "> floor %d, taken %d, fed %d, want %d\n", w.Floor(), w.Taken(), w.Fed(), w.Want())
	}
	return out.String()
}

// A record that is wrong about what is taken fills nothing: of what is fed again, as much is kept as has room.
func TestFedAgainIsBounded(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	w := New(0, []byte{0}, 1<<20)
	job := make([]byte, size)
	for n := range 3 * MaxBytes / size {
		if w.Want() == 0 {
			t.Fatalf("nothing is fed after %d, and the trainer is at %d", n, w.Taken())
		}
		w.Feed(Entry{Next: []byte{byte(n)}, Job: job})
		if w.bytes > MaxBytes || w.StateAfter(w.Floor()) == nil {
			t.Fatalf("%d bytes are held after %d", w.bytes, n)
		}
	}
	if w.Floor() == 0 || w.Fed() != 3*MaxBytes/size {
		t.Errorf("floor %d, fed %d", w.Floor(), w.Fed())
	}
	if w.StateAfter(w.Floor())[0] != byte(w.Floor()-1) {
		t.Errorf("state %v after %d", w.StateAfter(w.Floor()), w.Floor())
	}
}
