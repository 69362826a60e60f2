package kind_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/internal/kind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger counts what is opened and closed, by parameters.
type ledger struct {
	mu     sync.Mutex
	opened map[string]int
	closed []string
	hold   map[string]chan struct{} // an opening waits until its channel is closed
	fail   map[string]error         // an opening fails as long as this is set
	data   string                   // what is opened now, for its fingerprint; empty for none
}

func newLedger() *ledger {
	return &ledger{opened: map[string]int{}, hold: map[string]chan struct{}{}, fail: map[string]error{}}
}

func (l *ledger) kind() *kind.Kind {
	return &kind.Kind{Name: "numbers", Version: 1, OpenFunc: l.open}
}

func (l *ledger) open(ctx context.Context, params json.RawMessage) (kind.Instance, error) {
	key := string(params)
	l.mu.Lock()
	l.opened[key]++
	hold := l.hold[key]
	l.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fail[key]; err != nil {
		return nil, err
	}
	return &numbers{ledger: l, key: key}, nil
}

func (l *ledger) opens(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opened[key]
}

func (l *ledger) closes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.closed)
}

// numbers is an Instance that only opens and closes.
type numbers struct {
	kind.Instance
	ledger *ledger
	key    string
}

func (n *numbers) Fingerprint(context.Context) (kind.Fingerprint, error) {
	n.ledger.mu.Lock()
	defer n.ledger.mu.Unlock()
	if n.ledger.data == "" {
		return kind.Fingerprint{}, nil
	}
	return kind.Fingerprint{Digest: n.ledger.data, Parts: []kind.Part{{Name: "recordings", Value: n.ledger.data}}}, nil
}

func (n *numbers) Close() error {
	n.ledger.mu.Lock()
	defer n.ledger.mu.Unlock()
	n.ledger.closed = append(n.ledger.closed, n.key)
	return errors.New("nobody hears this")
}

func acquire(t *testing.T, k *kind.Kind, params string) (kind.Instance, func()) {
	t.Helper()
	inst, release, err := k.Acquire(t.Context(), json.RawMessage(params))
	if err != nil {
		t.Fatalf("Acquire(%s): %v", params, err)
	}
	return inst, release
}

func TestAcquireOpensOncePerParams(t *testing.T) {
	t.Parallel()
	l := newLedger()
	k := l.kind()
	var wg sync.WaitGroup
	instances := make([]kind.Instance, 64)
	releases := make([]func(), len(instances))
	for i := range instances {
		wg.Go(func() {
			var err error
			// Two parameter sets; one of them with white space that means nothing.
			params := []string{`{"n":1}`, `{"n":2}`, ` { "n": 2 } `}[i%3]
			if instances[i], releases[i], err = k.Acquire(t.Context(), json.RawMessage(params)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range l.opened {
		total += n
	}
	if total != 2 {
		t.Fatalf("opened %v, want each of two parameter sets once", l.opened)
	}
	for i, inst := range instances {
		if inst != instances[i%3] || instances[1] != instances[2] || instances[0] == instances[1] {
			t.Fatalf("caller %d has another instance than its fellows", i)
		}
	}
	for _, release := range releases {
		release()
		release() // twice is once
	}
	if got := l.closes(); len(got) != 0 {
		t.Fatalf("closed %v though there is room to keep them", got)
	}
	k.CloseIdle()
	k.CloseIdle()
	if got := l.closes(); len(got) != 2 {
		t.Fatalf("closed %v, want both, once", got)
	}
}

func TestIdleBoundClosesTheOldest(t *testing.T) {
	t.Parallel()
	l := newLedger()
	k := l.kind()
	_, kept := acquire(t, k, "0")
	for i := 1; i <= 4; i++ {
		_, release := acquire(t, k, fmt.Sprint(i))
		release()
	}
	_, again := acquire(t, k, "1") // not the oldest any more once it is released
	again()
	if got := l.closes(); len(got) != 0 {
		t.Fatalf("closed %v with four idle", got)
	}
	_, release := acquire(t, k, "5")
	release()
	if got := l.closes(); !slices.Equal(got, []string{"2"}) {
		t.Fatalf("closed %v, want only 2, the one idle for longest", got)
	}
	kept()
	if got := l.closes(); !slices.Equal(got, []string{"2", "3"}) {
		t.Fatalf("closed %v, want 2 and 3", got)
	}
	_, release = acquire(t, k, "2") // closed, so opened anew
	defer k.CloseIdle()
	defer release()
	if n := l.opens("2"); n != 2 {
		t.Fatalf("2 was opened %d times, want twice", n)
	}
}

func TestCloseIdleLeavesUsedAlone(t *testing.T) {
	t.Parallel()
	l := newLedger()
	k := l.kind()
	_, release := acquire(t, k, "1")
	k.CloseIdle()
	if got := l.closes(); len(got) != 0 {
		t.Fatalf("closed %v, which is in use", got)
	}
	release()
	k.CloseIdle()
	if got := l.closes(); len(got) != 1 {
		t.Fatalf("closed %v, want it closed once", got)
	}
}

func TestFailedOpenIsRetried(t *testing.T) {
	t.Parallel()
	l := newLedger()
	k := l.kind()
	missing := errors.New("file is missing")
	l.fail["1"] = missing
	for range 2 {
		if _, _, err := k.Acquire(t.Context(), json.RawMessage("1")); !errors.Is(err, missing) || !strings.Contains(err.Error(), "numbers") {
			t.Fatalf("got %v, want the author's error and the data set's name", err)
		}
	}
	delete(l.fail, "1")
	_, release := acquire(t, k, "1")
	release()
	k.CloseIdle()
	if n, closed := l.opens("1"), l.closes(); n != 3 || len(closed) != 1 {
		t.Fatalf("opened %d times, closed %v; want 3 and once", n, closed)
	}
}

func TestPanicInOpen(t *testing.T) {
	t.Parallel()
	calls := 0
	k := &kind.Kind{Name: "numbers", OpenFunc: func(context.Context, json.RawMessage) (kind.Instance, error) {
		if calls++; calls == 1 {
			panic("no such luck")
		}
		runtime.Goexit() // what t.FailNow does
		return nil, nil
	}}
	_, _, err := k.Acquire(t.Context(), nil)
	var p *kind.PanicError
	if !errors.As(err, &p) || !strings.Contains(string(p.Stack), "TestPanicInOpen") || p.Error() != "panic: no such luck" {
		t.Fatalf("got %v, want a PanicError with the stack", err)
	}
	if _, _, err := k.Acquire(t.Context(), nil); err == nil {
		t.Fatal("an open that never returned gave an instance")
	}
}

func TestCancelOfOneWaiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.hold["1"] = make(chan struct{})
		k := l.kind()
		gaveUp := errors.New("gave up")
		ctx, cancel := context.WithCancelCause(t.Context())
		params := []byte("1")
		first, second := make(chan error, 1), make(chan error, 1)
		go func() {
			_, _, err := k.Acquire(ctx, params) // the one that opens
			first <- err
		}()
		synctest.Wait()
		go func() {
			_, release, err := k.Acquire(t.Context(), json.RawMessage("1"))
			if err == nil {
				release()
			}
			second <- err
		}()
		synctest.Wait()
		cancel(gaveUp)
		if err := <-first; !errors.Is(err, gaveUp) {
			t.Fatalf("got %v, want the cause of the cancellation", err)
		}
		params[0] = 'x' // the caller's buffer is the caller's again
		close(l.hold["1"])
		if err := <-second; err != nil {
			t.Fatalf("the other waiter got %v", err)
		}
		if n := l.opens("1"); n != 1 {
			t.Fatalf("opened %d times", n)
		}
		k.CloseIdle()
		if got := l.closes(); len(got) != 1 {
			t.Fatalf("closed %v, want it closed once", got)
		}
		cancelled, cancelNow := context.WithCancelCause(t.Context())
		cancelNow(gaveUp)
		if _, _, err := k.Acquire(cancelled, json.RawMessage("2")); !errors.Is(err, gaveUp) || l.opens("2") != 0 {
			t.Fatalf("a context that is over: %v, %d openings", err, l.opens("2"))
		}
	})
}

// abandon begins to open params and gives up, which leaves an opening that nobody waits for.
func abandon(t *testing.T, k *kind.Kind, params string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := k.Acquire(ctx, json.RawMessage(params))
		done <- err
	}()
	synctest.Wait()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("Acquire: %v", err)
	}
}

func TestAbandonedOpening(t *testing.T) {
	t.Parallel()
	t.Run("is used by the next", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLedger()
			l.hold["1"] = make(chan struct{})
			k := l.kind()
			abandon(t, k, "1")
			close(l.hold["1"])
			synctest.Wait()
			_, release := acquire(t, k, "1")
			release()
			k.CloseIdle()
			if l.opens("1") != 1 || len(l.closes()) != 1 {
				t.Fatalf("opened %d times, closed %v", l.opens("1"), l.closes())
			}
		})
	})
	t.Run("its failure is nobody else's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLedger()
			l.hold["1"], l.fail["1"] = make(chan struct{}), errors.New("not yet")
			k := l.kind()
			abandon(t, k, "1")
			close(l.hold["1"])
			synctest.Wait()
			delete(l.fail, "1")
			_, release := acquire(t, k, "1") // not the error of long ago
			release()
			k.CloseIdle()
		})
	})
	t.Run("is cancelled when there is no room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLedger()
			l.hold["1"] = make(chan struct{})
			k := l.kind()
			abandon(t, k, "1")
			for i := 2; i <= 5; i++ {
				_, release := acquire(t, k, fmt.Sprint(i))
				release() // the fourth discards 1, and must not wait for it
			}
			k.CloseIdle()
			if got := l.closes(); len(got) != 4 {
				t.Fatalf("closed %v, want all but 1, which never opened", got)
			}
		})
	})
	t.Run("is closed when it opens too late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			finish := make(chan struct{})
			l := newLedger()
			k := &kind.Kind{Name: "deaf", OpenFunc: func(context.Context, json.RawMessage) (kind.Instance, error) {
				<-finish // an author who does not look at the context
				return &numbers{ledger: l, key: "1"}, nil
			}}
			abandon(t, k, "1")
			k.CloseIdle()
			close(finish)
			synctest.Wait()
			if got := l.closes(); len(got) != 1 {
				t.Fatalf("closed %v, want it closed once", got)
			}
		})
	})
}

// Reopen opens the data set anew and keeps the instance that there is, unless the data changed.
func TestReopen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		k := l.kind()
		reopen := func() (*kind.Opened, func()) {
			t.Helper()
			time.Sleep(time.Second) // of the bubble: what is open was opened before
			inst, release, err := k.Reopen(t.Context(), json.RawMessage("1"))
			if err != nil {
				t.Fatal(err)
			}
			return inst, release
		}
		bare, release := reopen()
		release()
		again, release := reopen()
		if release(); again != bare || l.opens("1") != 1 {
			t.Fatalf("a data set without a fingerprint was opened %d times", l.opens("1"))
		}
		k.CloseIdle()
		l.data = "93"
		first, releaseFirst := reopen()
		same, releaseSame := reopen()
		if releaseSame(); same != first || l.opens("1") != 3 || len(l.closes()) != 2 {
			t.Fatalf("the data are the same: another instance: %v; %d openings, closed %v", same != first, l.opens("1"), l.closes())
		}
		l.data = "96"
		changed, releaseChanged := reopen()
		current, releaseCurrent := acquire(t, k, "1")
		if changed == first || current != kind.Instance(changed) || len(l.closes()) != 2 {
			t.Fatalf("the data changed, and the old instance is used: closed %v", l.closes())
		}
		releaseFirst()
		if len(l.closes()) != 3 {
			t.Fatalf("closed %v, want the instance that was replaced with its last user", l.closes())
		}
		if got := changed.Origin.Differences(&first.Origin); !slices.Equal(got, []string{"recordings was 93 and is 96"}) {
			t.Errorf("%q", got)
		}
		releaseChanged()
		releaseCurrent()
		k.CloseIdle()
		if len(l.closes()) != 4 {
			t.Fatalf("closed %v", l.closes())
		}
	})
}

// Those who ask at once share one opening, and one that fails or hangs leaves what is open as it is.
func TestReopenTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.data = "93"
		k := l.kind()
		first, release := acquire(t, k, "1")
		time.Sleep(time.Second)
		l.mu.Lock()
		l.hold["1"], l.data = make(chan struct{}), "96"
		l.mu.Unlock()
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				inst, release, err := k.Reopen(t.Context(), json.RawMessage("1"))
				if err != nil || kind.Instance(inst) == first {
					t.Errorf("%v, %v", inst, err)
					return
				}
				release()
			})
		}
		synctest.Wait()
		close(l.hold["1"])
		wg.Wait()
		if l.opens("1") != 2 {
			t.Errorf("12 at once opened it %d times", l.opens("1")-1)
		}
		time.Sleep(time.Second)
		l.mu.Lock()
		l.hold["1"] = make(chan struct{})
		l.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, _, err := k.Reopen(ctx, json.RawMessage("1"))
			gaveUp <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		l.mu.Lock()
		delete(l.hold, "1")
		l.fail["1"] = errors.New("the mount is away")
		l.mu.Unlock()
		if _, _, err := k.Reopen(t.Context(), json.RawMessage("1")); !errors.Is(err, l.fail["1"]) {
			t.Errorf("%v", err)
		}
		opens := l.opens("1")
		_, releaseCurrent := acquire(t, k, "1")
		if l.opens("1") != opens {
			t.Error("an opening that failed lost what was open")
		}
		releaseCurrent()
		release()
		k.CloseIdle()
	})
}
