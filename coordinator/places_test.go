package coordinator

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

func message(data []byte) *nats.Msg { return &nats.Msg{Subject: "jetbatch.any.any", Data: data} }

// TestPlaces: no batcher and no reader takes the places of others, slow requests take none of all's, and the same
// request takes one.
func TestPlaces(t *testing.T) {
	t.Parallel()
	var p places
	late := func(*flight, *waiter) {}
	enter := func(id, batcher, reader string) (*flight, string) {
		t.Helper()
		f, fault := p.enter(message([]byte(id)), plan{id, "it is busy", []bound{
			{"batcher/" + batcher, maxShare, "batcher " + batcher}, {"reader/" + reader, maxAsked, "trainer " + reader}}}, late)
		if fault != nil {
			return nil, fault.Message
		}
		return f, ""
	}
	var flights []*flight
	for i := range maxShare {
		f, why := enter(fmt.Sprint("hung", i), "hung", fmt.Sprint("r", i))
		if f == nil {
			t.Fatal(why)
		}
		flights = append(flights, f)
	}
	if _, why := enter("one more", "hung", "r"); !strings.Contains(why, "batcher hung has 8 requests under way") {
		t.Errorf("one more: %q", why)
	}
	for i := range maxAsked {
		if _, why := enter(fmt.Sprint("greedy", i), fmt.Sprint("b", i), "greedy"); why != "" {
			t.Fatal(why)
		}
	}
	if _, why := enter("one more", "b", "greedy"); !strings.Contains(why, "trainer greedy") {
		t.Errorf("one more: %q", why)
	}
	if f, why := enter("hung0", "hung", "r0"); f != nil || why != "" {
		t.Errorf("a repetition did not join: %v, %q", f, why)
	}
	if n := len(flights[0].asked); n != 2 {
		t.Errorf("%d messages wait for the first", n)
	}
	for range maxJoined - 2 {
		if _, why := enter("hung0", "hung", "r0"); why != "" {
			t.Fatal(why)
		}
	}
	if _, why := enter("hung0", "hung", "r0"); !strings.Contains(why, "it is busy since") {
		t.Errorf("one more repetition: %q", why)
	}
	for i := 0; p.taken < maxRequests; i++ {
		if _, why := enter(fmt.Sprint("x", i), fmt.Sprint("x", i), fmt.Sprint("x", i)); why != "" {
			t.Fatal(why)
		}
	}
	if _, why := enter("neighbour", "neighbour", "n"); !strings.Contains(why, "256 requests") {
		t.Errorf("all places are taken: %q", why)
	}
	p.slow(flights[0])
	p.slow(flights[0])
	if _, why := enter("neighbour", "neighbour", "n"); why != "" {
		t.Errorf("one is slow: %q", why)
	}
	if _, why := enter("one more", "hung", "r"); why == "" {
		t.Error("a slow one gave its batcher's place back")
	}
	for _, f := range flights {
		p.leave(f)
		f.land()
	}
	if p.taken != maxRequests-maxShare+1 {
		t.Errorf("%d places are taken", p.taken)
	}
	if f, why := enter("hung0", "hung", "r0"); f == nil {
		t.Errorf("after it was carried out: %q", why)
	}
}

// TestSlowRequestsAreAnswered: a message whose request is not carried out in time hears what takes so long, once.
func TestSlowRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p places
		said := make(chan string, 10)
		late := func(f *flight, w *waiter) {
			p.slow(f)
			if f.give(w) {
				said <- f.pending().Message
			}
		}
		enter := func() *flight {
			f, fault := p.enter(message(nil), plan{"id", "data set d of batcher b is being opened", nil}, late)
			if fault != nil {
				t.Fatal(fault)
			}
			return f
		}
		f := enter()
		time.Sleep(12 * time.Second) // of the bubble's clock
		enter()                      // joins
		time.Sleep(answerWithin + time.Millisecond)
		if len(said) != 2 {
			t.Fatalf("%d answers", len(said))
		}
		for _, want := range []string{"since 1.5s", "since 13.5s"} {
			if got := <-said; !strings.Contains(got, "data set d of batcher b is being opened "+want) {
				t.Errorf("%q", got)
			}
		}
		enter()
		p.leave(f)
		if n := len(f.land()); n != 1 || p.taken != 0 || len(p.shares) != 0 || len(p.joint) != 0 {
			t.Errorf("%d wait for the answer; %d places, %d shares, %d to join", n, p.taken, len(p.shares), len(p.joint))
		}
		time.Sleep(time.Minute)
		if len(said) != 0 {
			t.Errorf("after the answer: %q", <-said)
		}
	})
}
