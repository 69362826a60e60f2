package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// sharedEnd is where rows of the data set "shared" end; every fifth position is a hole.
const sharedEnd = 10

// shared are batches of 1, 7, 32 and 64 rows and a table, the latter two of them large, in three tensors.
func shared() dataset.Funcs[int, int, schema.Batch] {
	return dataset.Funcs[int, int, schema.Batch]{
		NextFunc: func(at int) (job, next int, err error) {
			if at == sharedEnd {
				return 0, 0, io.EOF
			}
			return at, at + 1, nil
		},
		MaterializeFunc: func(_ context.Context, at int) (schema.Batch, error) {
			if at%5 == 4 {
				return nil, dataset.Skip("every fifth")
			}
			rows := []int{64, 1, 7, 32}[at%4]
			var b schema.Batch
			for i, shape := range [][]int{{rows, 100, 400}, {64}, {rows}, {rows, 4000}} {
				data := make([]float32, schema.Tensor{Shape: shape}.Len())
				for k := range data {
					data[k] = float32(at*1e6 + i*1e5 + k)
				}
				x, err := schema.NewTensor(shape, data)
				if err != nil {
					return nil, err
				}
				b = append(b, schema.Named{Name: []string{"x", "table", "y", "z"}[i], Tensor: x})
			}
			return b, nil
		},
	}
}

// TestP8RowsTogether takes the batches of a world of ranks: at each place all have the same states, holes and end, and
// their rows put together are the batch of the plain loop. All parts of a batch are few more bytes than the batch; how
// few depends on its size.
func TestP8RowsTogether(t *testing.T) {
	t.Parallel()
	def := dataset.Define("shared", func(context.Context, struct{}) (dataset.Funcs[int, int, schema.Batch], error) {
		return shared(), nil
	})
	for _, ranks := range []int{1, 2, 3, 4, 5, 8} {
		t.Run(fmt.Sprint(ranks), func(t *testing.T) {
			t.Parallel()
			// Of the service, which lives until the readers are closed.
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			t.Cleanup(cancel)
			metrics := prometheus.NewRegistry()
			svc, err := embedded.Start(ctx, embedded.Config{
				Slots: 2, Logger: slog.New(slog.DiscardHandler), Registerer: metrics,
			}, def)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = svc.Close() }) // what it has left is no matter
			readers := make([]*client.Batcher[schema.Batch], ranks)
			for r := range readers {
				readers[r], err = client.Open[schema.Batch](ctx, svc.Conn(), client.Config{
					Name: "train", Dataset: "shared", Window: 2, Logger: slog.New(slog.DiscardHandler),
					World: &client.World{ID: "launch-1", Rank: r, Size: ranks, Whole: []string{"table"}},
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = readers[r].Close() }) // the service is about to end
			}
			reference, err := dataset.SequentialOf[schema.Batch](ctx, def, nil)
			if err != nil {
				t.Fatal(err)
			}
			state, err := schema.NewState(0)
			if err != nil {
				t.Fatal(err)
			}
			large := 0.0 // bytes of batches of which parts are fetched
			for {
				want, end := reference.Take(ctx, state)
				parts, rows := make([]schema.Batch, ranks), 0
				for r, b := range readers {
					step, err := b.Take(ctx, state)
					if !errors.Is(err, end) {
						t.Fatalf("rank %d: %v, the loop has %v", r, err, end)
					}
					if err != nil {
						continue
					}
					if step.Rows.From != rows || !step.Next.Equal(want.Next) {
						t.Fatalf("rank %d: rows %+v after %d, state %v, not %v", r, step.Rows, rows, step.Next, want.Next)
					}
					parts[r], rows = step.Batch, step.Rows.To
				}
				if end != nil {
					break
				}
				for i, whole := range want.Batch {
					var got []byte
					for r := range parts {
						switch data := parts[r][i].Tensor.Data; {
						case whole.Name != "table":
							got = append(got, data...)
						case !bytes.Equal(data, whole.Tensor.Data):
							t.Fatalf("rank %d has another table", r)
						}
					}
					if whole.Name != "table" && !bytes.Equal(got, whole.Tensor.Data) {
						t.Fatalf("the parts of %q together are not the batch after %v", whole.Name, state)
					}
				}
				if n := wire.EncodedSize(want.Batch); n > 1<<20 {
					large += float64(n)
				}
				state = want.Next
			}
			sent := counter(t, metrics, "jetbatch_worker_fetched_bytes_total")
			t.Logf("%d ranks: %.0f bytes of batches over 1 MiB, %.0f sent: %.3f", ranks, large, sent, sent/large)
			if sent < large || ranks <= 4 && sent > 1.2*large {
				t.Errorf("%d ranks: %.0f bytes were sent of batches of %.0f", ranks, sent, large)
			}
		})
	}
}

// counter returns the sum of a counter over its labels.
func counter(t *testing.T, metrics prometheus.Gatherer, name string) (sum float64) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
