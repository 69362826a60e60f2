package window

import "testing"

// A window of large jobs is full when its bytes are, whatever its limit, and a job is fed in any case when nothing is
// in flight. What is kept for look-ups has half of the bytes.
func TestBytes(t *testing.T) {
	t.Parallel()
	const each = 1 << 20
	entry := func() Entry { return Entry{Next: []byte("s"), Job: make([]byte, each-entryBytes-1)} }
	w := New(0, []byte("s"), 0)
	w.SetLimit(1 << 14)
	if room := w.Room(); room != MaxBytes {
		t.Fatalf("room for %d bytes in an empty window", room)
	}
	fill := func() {
		for w.Want() > 0 {
			w.Feed(entry())
		}
	}
	fill()
	if n := w.Fed(); n != MaxBytes/each || w.Room() != 0 {
		t.Fatalf("%d jobs of 1 MiB are held, with room for %d bytes", n, w.Room())
	}

	// All but one are taken, and all of them are to be kept.
	w.Credit(w.Fed() - 1)
	const most = 1 << 14
	floor := w.Droppable(most)
	if kept := w.Taken() - floor; kept != MaxBytes/each/2 {
		t.Fatalf("%d taken jobs of 1 MiB are kept", kept)
	}
	w.Drop(floor)
	fill()
	if held := w.Fed() - w.Floor(); held != MaxBytes/each {
		t.Fatalf("%d jobs of 1 MiB are held after dropping", held)
	}

	// Nothing can be dropped, since the record does not say so yet, and the trainer has all.
	w.Credit(w.Fed())
	if w.Want() == 0 || w.Room() != 1 {
		t.Fatal("the head cannot make progress")
	}
	w.Feed(entry())
	if w.Want() != 0 {
		t.Fatal("more than the head is fed beyond the bound")
	}

	// Small ones are kept as many as asked for.
	w = New(0, []byte("s"), 0)
	w.SetLimit(100)
	for w.Want() > 0 {
		w.Feed(Entry{Next: []byte("s"), Job: []byte("j")})
	}
	w.Credit(100)
	if floor := w.Droppable(60); floor != 40 {
		t.Fatalf("small jobs may be dropped up to %d", floor)
	}
}
