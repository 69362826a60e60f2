package jetbatch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// rankTaskEnv is what the process of a rank has to do; what it is, it knows as from a launcher.
const rankTaskEnv = "JETBATCH_TEST_RANK"

// rankTask has a rank take some batches from a state on, or all up to the end.
type rankTask struct {
	Batcher string
	Params  testset.Params
	State   schema.State
	Steps   int // 0 for all
}

// rankLine is what it says of each, and at last how it ended.
type rankLine struct {
	Seq        uint64
	Prev, Next schema.State
	Rows       schema.Rows
	X, Y       []byte
	Gen        string // at last
	End        bool
	Error      string
}

// rank is the process of a rank.
func rank(ctx context.Context, log *slog.Logger) error {
	out := json.NewEncoder(os.Stdout)
	last, err := takeRank(ctx, log, out)
	if err != nil {
		last.Error = err.Error()
	}
	return out.Encode(last)
}

func takeRank(ctx context.Context, log *slog.Logger, out *json.Encoder) (last rankLine, err error) {
	var task rankTask
	if err := json.Unmarshal([]byte(os.Getenv(rankTaskEnv)), &task); err != nil {
		return last, err
	}
	world, err := client.WorldFromEnv()
	if err != nil {
		return last, err
	}
	world.Whole = []string{"y"}
	nc, err := client.Connect(os.Getenv(proctest.URLEnv))
	if err != nil {
		return last, err
	}
	defer nc.Close()
	b, err := client.Open[schema.Batch](ctx, nc, client.Config{
		Name: task.Batcher, Dataset: "numbers", Params: task.Params, World: world, Logger: log,
	})
	if err != nil {
		return last, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for state, n := task.State, 0; task.Steps == 0 || n < task.Steps; n++ {
		step, err := b.Take(ctx, state)
		if err == io.EOF { //nolint:errorlint // Take promises exactly io.EOF
			last.End = true
			break
		} else if err != nil {
			return last, err
		}
		x, _ := step.Batch.Get("x")
		y, _ := step.Batch.Get("y")
		line := rankLine{Seq: step.Seq, Prev: step.Prev, Next: step.Next, Rows: step.Rows, X: x.Data, Y: y.Data}
		if err := out.Encode(line); err != nil {
			return last, err
		}
		state = step.Next
		step.Release()
	}
	status, err := b.Status(ctx)
	last.Gen = status.Gen
	return last, err
}

// launch runs the processes of a world, and returns what each rank said.
func (c *cluster) launch(id string, size int, task rankTask) [][]rankLine {
	c.t.Helper()
	data, err := json.Marshal(task)
	if err != nil {
		c.t.Fatal(err)
	}
	said, processes := make([][]rankLine, size), make([]*proctest.Process, size)
	var mu sync.Mutex
	for r := range size {
		processes[r] = proctest.StartLines(c.t, "rank", func(text []byte) {
			var line rankLine
			if err := json.Unmarshal(text, &line); err != nil {
				c.t.Errorf("rank %d: %v", r, err)
			}
			mu.Lock()
			defer mu.Unlock()
			said[r] = append(said[r], line)
		}, proctest.URLEnv+"="+c.url(), rankTaskEnv+"="+string(data),
			"JETBATCH_WORLD="+id, fmt.Sprint("RANK=", r), fmt.Sprint("WORLD_SIZE=", size))
	}
	limit := within(c.t)
	for r, p := range processes {
		select {
		case <-p.Ended():
		case <-limit.Done():
			c.t.Fatalf("rank %d of %d does not end: %s", r, size, p.Tail())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return said
}

// putTogether holds what ranks said against the reference from a state on, and returns the state where they ended, the
// generation, and whether that is the end of the data.
func putTogether(
	t *testing.T, ref *dataset.Reference[schema.Batch], state schema.State, said [][]rankLine,
) (next schema.State, gen string, end bool) {
	t.Helper()
	for i := range said[0] {
		var lines []rankLine
		for r := range said {
			if len(said[r]) != len(said[0]) {
				t.Fatalf("rank %d says %d things, rank 0 %d: %+v", r, len(said[r]), len(said[0]), said[r])
			}
			lines = append(lines, said[r][i])
		}
		want, err := ref.Take(t.Context(), state)
		if i == len(said[0])-1 {
			for r, line := range lines {
				atEnd := err == io.EOF //nolint:errorlint // as above
				if line.Error != "" || line.End != lines[0].End || line.End && !atEnd || line.Gen != lines[0].Gen {
					t.Fatalf("rank %d ends with %+v, rank 0 with %+v; the reference has %v", r, line, lines[0], err)
				}
			}
			return state, lines[0].Gen, lines[0].End
		}
		if err != nil {
			t.Fatal(err)
		}
		var x []byte
		y, _ := want.Batch.Get("y")
		for r, line := range lines {
			if line.Seq != lines[0].Seq || !line.Prev.Equal(lines[0].Prev) || !line.Next.Equal(want.Next) ||
				line.Rows.From != len(x) || !bytes.Equal(line.Y, y.Data) {
				t.Fatalf("rank %d at step %d: %+v; rank 0 has %+v", r, i, line, lines[0])
			}
			x = append(x, line.X...)
		}
		if whole, _ := want.Batch.Get("x"); !bytes.Equal(x, whole.Data) || lines[0].Rows.Of != len(whole.Data) {
			t.Fatalf("step %d: %d rows together are not the batch's %d", i, len(x), len(whole.Data))
		}
		state = want.Next
	}
	t.Fatal("rank 0 says nothing")
	return state, "", false
}

// manyRows are batches of 7 rows, and of very many, with holes.
var manyRows = testset.Params{N: 36, Size: 7, HoleEvery: 5, BigEvery: 7, BigSize: 700 << 10, Salt: 8}

func reference(t *testing.T, p testset.Params) *dataset.Reference[schema.Batch] {
	t.Helper()
	ref, err := dataset.SequentialOf[schema.Batch](t.Context(), numbersDefinition(), p)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestP8Together takes a sequence by ranks, each a process: put together, their rows are the batches of one trainer,
// byte for byte, and all have the same states.
func TestP8Together(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	for _, size := range []int{1, 2, 3, 4, 5, 8} {
		name := fmt.Sprint("train-", size)
		said := c.launch("only", size, rankTask{Batcher: name, Params: manyRows})
		if _, _, end := putTogether(t, reference(t, manyRows), schema.State{}, said); !end {
			t.Errorf("%d ranks do not come to the end", size)
		}
	}
}

// TestP8Elastic goes on from the one state that all ranks have, with another number of ranks each time, after a random
// number of steps: where the batches are held, and where they are made anew.
func TestP8Elastic(t *testing.T) {
	t.Parallel()
	for name, cold := range map[string]bool{"held": false, "cold": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, 2)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 1))
			ref, sizes := reference(t, manyRows), []int{4, 3, 5, 1, 8}
			state, gen := schema.State{}, ""
			for i, size := range sizes {
				task := rankTask{Batcher: "train", Params: manyRows, State: state, Steps: 1 + rng.IntN(6)}
				if i == len(sizes)-1 {
					task.Steps = 0
				}
				next, now, end := putTogether(t, ref, state, c.launch(fmt.Sprint("launch-", i), size, task))
				if end != (task.Steps == 0) || i > 0 && (now != gen) != cold {
					t.Fatalf("launch %d of %d ranks: end %v, generation %s after %s", i, size, end, now, gen)
				}
				if state, gen = next, now; cold {
					if err := c.open("train", manyRows).Stop(within(t)); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}
