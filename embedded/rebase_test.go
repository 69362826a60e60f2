package embedded_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

// growing is a data set of so many recordings as there are when it is opened, which come in the order of their ages: a
// position still means what it did when some came, and nothing when some are gone.
type growing struct {
	dataset.Funcs[int, int, []byte]
	n int
}

func (g growing) Start() (int, error) { return 0, nil }

func (g growing) Fingerprint(context.Context) (dataset.Fingerprint, error) {
	n := strconv.Itoa(g.n)
	return dataset.Fingerprint{Digest: n, Parts: []dataset.Part{{Name: "recordings", Value: n}}, Summary: "kept all " + n}, nil
}

// Rebase goes on with what is new: that comes first.
func (g growing) Rebase(state int, was dataset.Origin) (int, error) {
	before, err := strconv.Atoi(was.Parts[0].Value)
	if err != nil {
		return 0, err
	}
	if g.n < before {
		return 0, errors.New("recordings are gone")
	}
	return state + g.n - before, nil
}

// A state of other data goes on, if the trainer accepts the change, where the data set says; it is refused where that
// says that it means nothing, and taken as it is, with a warning, where the data set does not know.
func TestRebase(t *testing.T) {
	t.Parallel()
	var recordings atomic.Int64
	recordings.Store(93)
	funcs := func(n int) dataset.Funcs[int, int, []byte] {
		return dataset.Funcs[int, int, []byte]{
			NextFunc: func(s int) (int, int, error) {
				if s == n {
					return 0, 0, io.EOF
				}
				return s, s + 1, nil
			},
			MaterializeFunc: func(_ context.Context, j int) ([]byte, error) { return []byte{byte(j)}, nil },
		}
	}
	knows := dataset.Define("knows", func(context.Context, struct{}) (growing, error) {
		n := int(recordings.Load())
		return growing{funcs(n), n}, nil
	})
	type printed struct {
		dataset.Funcs[int, int, []byte]
		dataset.Fingerprinter
		dataset.Starter[int]
	}
	silent := dataset.Define("silent", func(context.Context, struct{}) (printed, error) {
		n := int(recordings.Load())
		g := growing{funcs(n), n}
		return printed{g.Funcs, g, g}, nil
	})
	svc, err := embedded.Start(t.Context(), embedded.Config{Workers: 1, Slots: 2, Logger: slog.New(slog.DiscardHandler)}, knows, silent)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := svc.Close(); err != nil {
			t.Error(err)
		}
	}()
	var said strings.Builder
	from := func(name, dataset string, state schema.State) (client.Step[[]byte], error) {
		t.Helper()
		b, err := client.Open[[]byte](t.Context(), svc.Conn(), client.Config{
			Name: name, Dataset: dataset, AcceptChange: true, Logger: slog.New(slog.NewTextHandler(&said, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var step client.Step[[]byte]
		for range 3 {
			if step, err = b.Take(t.Context(), state); err != nil {
				return step, err
			}
			var at int // the state that leads to this batch, whatever was asked for
			if err := step.Prev.Decode(&at); !state.IsZero() && (err != nil || at != int(step.Batch[0]) ||
				step.Prev.Origin != step.Next.Origin) {
				t.Errorf("%s: batch %v is said to follow %v: %d, %v", name, step.Batch, step.Prev, at, err)
			}
			state = step.Next
		}
		if s, err := b.Status(t.Context()); err != nil || dataset == "knows" && s.Data != "kept all "+strconv.Itoa(int(recordings.Load())) {
			t.Errorf("status %+v, %v", s, err)
		}
		return step, nil
	}
	states := map[string]schema.State{}
	for _, of := range []string{"knows", "silent"} {
		step, err := from(of, of, schema.State{})
		if err != nil || step.Batch[0] != 2 {
			t.Fatalf("%+v, %v", step, err)
		}
		states[of] = step.Next
	}
	recordings.Store(96)
	if step, err := from("grew", "knows", states["knows"]); err != nil || step.Batch[0] != 8 {
		t.Errorf("3 recordings more: %v, %v; want 8, after 3 that are new and 3 that were taken", step.Batch, err)
	}
	if strings.Contains(said.String(), "does not say what a position means") {
		t.Errorf("%s", &said)
	}
	if step, err := from("same", "silent", states["silent"]); err != nil || step.Batch[0] != 5 {
		t.Errorf("without Rebase: %v, %v; want 5", step.Batch, err)
	}
	if !strings.Contains(said.String(), "the data set does not say what a position means on other data; it was taken as it is") {
		t.Errorf("no warning: %s", &said)
	}
	recordings.Store(12)
	_, err = from("shrank", "knows", states["knows"])
	var origin *client.OriginError
	if !errors.As(err, &origin) || !strings.Contains(err.Error(), "recordings are gone") {
		t.Errorf("recordings that are gone: %v", err)
	}
}
