package reorder

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/internal/wire"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// dumb is the buffer as one would write it without a thought for speed: a list of all that was added, searched
// from the front for every question.
type dumb struct {
	head    uint64
	state   string
	span    uint64
	entries []*dumbEntry
}

type dumbEntry struct {
	result         *wire.Result
	ready, claimed bool
}

func (d *dumb) find(seq uint64) *dumbEntry {
	for _, e := range d.entries {
		if e.result.Seq == seq {
			return e
		}
	}
	return nil
}

func (d *dumb) add(r *wire.Result, ready bool) bool {
	if r.Seq < d.head || r.Seq >= d.head+d.span || d.find(r.Seq) != nil {
		return false
	}
	d.entries = append(d.entries, &dumbEntry{result: r, ready: ready || r.Kind != wire.KindBatch})
	return true
}

func (d *dumb) drop(keep func(*dumbEntry) bool) {
	d.entries = slices.DeleteFunc(d.entries, func(e *dumbEntry) bool { return !keep(e) })
}

func (d *dumb) look() Outcome {
	e := d.find(d.head)
	switch {
	case e == nil:
		return Waiting
	case string(e.result.Prev) != d.state:
		return Broken
	case e.result.Kind == wire.KindHole:
		return Hole
	case e.result.Kind == wire.KindError:
		return Failed
	case e.result.Kind == wire.KindEnd:
		return End
	case !e.ready:
		return Fetching
	}
	return Batch
}

func (d *dumb) bytes() (n int64) {
	for _, e := range d.entries {
		if e.ready || e.claimed {
			n += int64(e.result.Size)
		}
	}
	return n
}

func (d *dumb) claim(limit, together int64) (run []*wire.Result) {
	var before, sum int64
	for seq := d.head; seq < d.head+d.span; seq++ {
		e := d.find(seq)
		if e == nil || e.ready || e.claimed {
			continue
		}
		size := int64(e.result.Size)
		if seq != d.head && d.bytes()+before+size > limit || len(run) > 0 && sum+size > together {
			return run
		}
		if len(run) > 0 && (run[0].Direct == nil || e.result.Direct == nil || run[0].Direct.Address != e.result.Direct.Address) {
			before += size
			continue
		}
		e.claimed = true
		sum += size
		run = append(run, e.result)
	}
	return run
}

func (d *dumb) firstError() *wire.Result {
	var first *wire.Result
	for _, e := range d.entries {
		if e.result.Kind == wire.KindError && (first == nil || e.result.Seq < first.Seq) {
			first = e.result
		}
	}
	return first
}

func (d *dumb) missing(window int) (missing []uint64) {
	end := d.head + uint64(window)
	for _, e := range d.entries {
		end = max(end, e.result.Seq+1)
	}
	for seq := d.head; seq < min(end, d.head+d.span); seq++ {
		e := d.find(seq)
		if e == nil {
			missing = append(missing, seq)
		} else if e.result.Kind == wire.KindEnd {
			break
		}
	}
	return missing
}

// ahead follows the states from the head on.
func (d *dumb) ahead(state string) (found *wire.Result, missing uint64) {
	at, met := d.state, false
	for seq := d.head; seq < d.head+d.span; seq++ {
		met = met || at == state
		e := d.find(seq)
		if e == nil {
			return nil, seq
		}
		if string(e.result.Prev) != at || e.result.Kind == wire.KindError || e.result.Kind == wire.KindEnd {
			return nil, 0
		}
		if !e.ready {
			return nil, seq
		}
		if met && e.result.Kind == wire.KindBatch {
			return e.result, 0
		}
		at = string(e.result.Next)
	}
	return nil, 0
}

// record is what the iterator's nth step gives: states are named after the step that they precede.
func record(seq uint64, kind wire.Kind, size int) *wire.Result {
	return &wire.Result{
		Seq: seq, Kind: kind, Size: uint64(size),
		Prev: []byte(stateAt(seq)), Next: []byte(stateAt(seq + 1)),
	}
}

func stateAt(seq uint64) string { return "s" + strconv.FormatUint(seq, 10) }

func TestAgainstDumb(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		span := rapid.IntRange(1, 12).Draw(t, "span")
		// Each value that was kept goes once, by Advance or to Let.
		kept, gone := 0, map[int]int{}
		b := Buffer[int]{Let: func(value int) { gone[value]++ }}
		b.Reset(1, []byte(stateAt(1)), span)
		d := &dumb{head: 1, state: stateAt(1), span: uint64(span)}
		var claimed []*wire.Result
		seqs := rapid.Uint64Range(1, 20)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				kind := rapid.SampledFrom([]wire.Kind{
					wire.KindBatch, wire.KindBatch, wire.KindBatch, wire.KindHole, wire.KindError, wire.KindEnd,
				}).Draw(t, "kind")
				size := 0
				if kind == wire.KindBatch {
					size = rapid.IntRange(0, 10).Draw(t, "size")
				}
				r := record(seqs.Draw(t, "seq"), kind, size)
				if rapid.IntRange(0, 9).Draw(t, "stray") == 0 {
					r.Prev = []byte("elsewhere")
				}
				if at := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "at"); at != "" {
					r.Direct = &wire.Direct{Address: at}
				}
				ready := rapid.Bool().Draw(t, "ready")
				want := d.add(r, ready)
				if got := b.Add(r, kept+1, ready); got != want {
					t.Fatalf("Add(%d) = %v, want %v", r.Seq, got, want)
				}
				if want {
					kept++
				}
			},
			"advance": func(t *rapid.T) {
				outcome := d.look()
				want := outcome == Batch || outcome == Hole
				if want {
					d.state = string(d.find(d.head).result.Next)
					d.drop(func(e *dumbEntry) bool { return e.result.Seq != d.head })
					d.head++
				}
				e, _ := b.Look()
				if got := b.Advance(); got != want {
					t.Fatalf("Advance = %v, want %v", got, want)
				}
				if want {
					gone[e.Value]++
				}
			},
			"claim": func(t *rapid.T) {
				limit := rapid.Int64Range(0, 30).Draw(t, "limit")
				together := rapid.Int64Range(0, 20).Draw(t, "together")
				want := d.claim(limit, together)
				var got []*wire.Result
				for _, e := range b.Claim(limit, together) {
					got = append(got, e.Result)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("Claim(%d, %d) = %v, want %v", limit, together, got, want)
				}
				claimed = append(claimed, got...)
			},
			"fill": func(t *rapid.T) {
				if len(claimed) == 0 {
					t.Skip("nothing is claimed yet: rapid draws another action")
				}
				r := claimed[rapid.IntRange(0, len(claimed)-1).Draw(t, "which")]
				e := d.find(r.Seq)
				want := e != nil && e.result == r && e.claimed
				if want {
					e.ready, e.claimed = true, false
				}
				value := 0
				if e != nil {
					value = b.held[r.Seq].Value
				}
				if got := b.Fill(r, value); got != want {
					t.Fatalf("Fill(%d) = %v, want %v", r.Seq, got, want)
				}
			},
			"forget": func(t *rapid.T) {
				r := record(seqs.Draw(t, "seq"), wire.KindBatch, 0)
				e := d.find(r.Seq)
				want := e != nil && rapid.Bool().Draw(t, "the held one")
				if want {
					r = e.result
					d.drop(func(e *dumbEntry) bool { return e.result != r })
				}
				if got := b.Forget(r); got != want {
					t.Fatalf("Forget(%d) = %v, want %v", r.Seq, got, want)
				}
			},
			"drop": func(t *rapid.T) {
				seq := seqs.Draw(t, "seq")
				want := d.find(seq) != nil
				d.drop(func(e *dumbEntry) bool { return e.result.Seq != seq })
				if got := b.Drop(seq); got != want {
					t.Fatalf("Drop(%d) = %v, want %v", seq, got, want)
				}
			},
			"seek": func(t *rapid.T) {
				seq := seqs.Draw(t, "seq")
				d.head, d.state = seq, stateAt(seq)
				d.drop(func(e *dumbEntry) bool { return e.result.Seq >= seq && e.result.Seq < seq+d.span })
				b.Seek(seq, []byte(stateAt(seq)))
			},
			"clear": func(t *rapid.T) {
				d.drop(func(*dumbEntry) bool { return false })
				b.Clear()
			},
			"reset": func(t *rapid.T) {
				seq := seqs.Draw(t, "seq")
				d.head, d.state = seq, stateAt(seq)
				d.drop(func(*dumbEntry) bool { return false })
				b.Reset(seq, []byte(stateAt(seq)), span)
			},
			"": func(t *rapid.T) {
				for value, n := range gone {
					if n != 1 {
						t.Fatalf("value %d went %d times", value, n)
					}
				}
				if len(gone)+b.Len() != kept {
					t.Fatalf("%d values went and %d are held, of %d", len(gone), b.Len(), kept)
				}
				if e, got := b.Look(); got != d.look() || (got != Waiting && e.Result.Seq != d.head) {
					t.Fatalf("Look = %v, want %v", got, d.look())
				}
				if b.Head() != d.head || string(b.State()) != d.state || b.Len() != len(d.entries) || b.Bytes() != d.bytes() {
					t.Fatalf("head %d, state %s, %d held, %d bytes; want %d, %s, %d, %d",
						b.Head(), b.State(), b.Len(), b.Bytes(), d.head, d.state, len(d.entries), d.bytes())
				}
				if got, _ := b.FirstError(); got != d.firstError() {
					t.Fatalf("FirstError = %v, want %v", got, d.firstError())
				}
				for seq := uint64(1); seq < 20; seq++ {
					e, missing := b.Ahead([]byte(stateAt(seq)))
					if want, lacks := d.ahead(stateAt(seq)); e.Result != want || missing != lacks {
						t.Fatalf("Ahead(%d) = %v, %d, want %v, %d", seq, e.Result, missing, want, lacks)
					}
				}
				for _, window := range []int{1, 3, 40} {
					if got, want := b.Missing(window), d.missing(window); !slices.Equal(got, want) {
						t.Fatalf("Missing(%d) = %v, want %v", window, got, want)
					}
				}
			},
		})
	})
}

// TestScripts runs the files of testdata: a line is a command, the lines below it that begin with "> " are
// what it gave. Rewrite them with -update.
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

func play(t *testing.T, script string) string {
	var b Buffer[string]
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
		case "reset": // reset POSITION SPAN
			b.Reset(num(1), []byte(stateAt(num(1))), int(num(2)))
		case "seek": // seek POSITION
			held := b.Len()
			b.Seek(num(1), []byte(stateAt(num(1))))
			fmt.Fprintf(&out, "> dropped %d\n", held-b.Len())
		case "add": // add SEQ KIND [SIZE [apart | ADDRESS]] | add SEQ stray
			kinds := map[string]wire.Kind{"hole": wire.KindHole, "error": wire.KindError, "end": wire.KindEnd}
			r := record(num(1), kinds[words[2]], 0)
			if len(words) > 3 {
				r.Size = num(3)
			}
			if words[2] == "stray" {
				r.Prev = []byte("elsewhere")
			}
			if len(words) > 4 && words[4] != "apart" {
				r.Direct = &wire.Direct{Address: words[4]}
			}
			fmt.Fprintf(&out, "> %v\n", b.Add(r, "", len(words) < 5))
		case "ahead": // ahead: follow the states from the head on, without taking
			state := b.State()
			for {
				e, missing := b.Ahead(state)
				if e.Result == nil {
					fmt.Fprintf(&out, "> missing %d\n", missing)
					break
				}
				fmt.Fprintf(&out, "> batch %d\n", e.Result.Seq)
				state = e.Result.Next
			}
		case "take": // take: all that the head allows
			for {
				e, outcome := b.Look()
				if outcome == Waiting {
					fmt.Fprintf(&out, "> waiting for %d\n", b.Head())
				} else {
					fmt.Fprintf(&out, "> %v %d\n", outcome, e.Result.Seq)
				}
				if !b.Advance() {
					break
				}
			}
		case "claim": // claim LIMIT [TOGETHER]
			together := uint64(0)
			if len(words) > 2 {
				together = num(2)
			}
			run := b.Claim(int64(num(1)), int64(together))
			for _, e := range run {
				fmt.Fprintf(&out, "> fetch %d\n", e.Result.Seq)
			}
			if len(run) == 0 {
				fmt.Fprintln(&out, "> nothing")
			}
		case "fill": // fill SEQ
			e := b.held[num(1)]
			fmt.Fprintf(&out, "> %v\n", e != nil && b.Fill(e.Result, "payload"))
		case "drop": // drop SEQ
			fmt.Fprintf(&out, "> %v\n", b.Drop(num(1)))
		case "missing": // missing WINDOW
			fmt.Fprintf(&out, "> %v\n", b.Missing(int(num(1))))
		case "held":
			fmt.Fprintf(&out, "> %d records, %d bytes\n", b.Len(), b.Bytes())
		case "error":
			if r, ok := b.FirstError(); ok {
				fmt.Fprintf(&out, "> %d\n", r.Seq)
			} else {
				fmt.Fprintln(&out, "> none")
			}
		default:
			t.Fatalf("unknown command %q", line)
		}
	}
	return out.String()
}
