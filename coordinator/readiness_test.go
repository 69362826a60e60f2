package coordinator

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// TestReadinessIsAskedOnce has many batchers that begin at once share one question, and one that has lost something ask
// anew.
func TestReadinessIsAskedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r readiness
		asked, answer := 0, make(chan error)
		question := func() error {
			asked++
			return <-answer
		}
		var waiting sync.WaitGroup
		all := func(anew bool, want error) {
			for range 10 {
				waiting.Go(func() {
					if err := r.ask(anew, question); !errors.Is(err, want) {
						t.Errorf("anew %v: %v, not %v", anew, err, want)
					}
				})
			}
			synctest.Wait()
		}
		expect := func(n int) {
			t.Helper()
			if asked != n {
				t.Fatalf("asked %d times, not %d", asked, n)
			}
		}
		all(false, nil)
		expect(1)
		all(true, errGone) // they wait for an answer to a question that begins after they have asked
		expect(1)
		answer <- nil
		synctest.Wait()
		expect(2)
		answer <- errGone
		waiting.Wait()
		all(false, nil) // the last word was no
		expect(3)
		answer <- nil
		waiting.Wait()
		all(false, nil)
		expect(3)
		r.forget()
		all(false, nil)
		expect(4)
		answer <- nil
		waiting.Wait()
	})
}
