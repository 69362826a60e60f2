package chaos

import (
	"testing"

	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestCrewFindsWhatIsWrong has two ranks say what they took of one batch: nothing is wrong only if the rows of both
// together are the batch, between the same states.
func TestCrewFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	p := testset.Params{N: 5, Size: 7}
	step, err := newOracle(p, schema.State{}).Want()
	if err != nil {
		t.Fatal(err)
	}
	x, _ := step.Batch.Get("x")
	for name, c := range map[string]struct {
		change func(line *trainerLine)
		class  string
	}{
		"right":         {func(*trainerLine) {}, ""},
		"other bytes":   {func(l *trainerLine) { l.Sum = wire.Sum(nil) }, testset.Different},
		"a row less":    {func(l *trainerLine) { l.Rows.To--; l.Sum = wire.Sum(x.Data[3:6]) }, testset.Different},
		"a row twice":   {func(l *trainerLine) { l.Rows.From--; l.Sum = wire.Sum(x.Data[2:7]) }, testset.Different},
		"another state": {func(l *trainerLine) { l.Next = l.Prev }, testset.Stale},
		"another place": {func(l *trainerLine) { l.Prev = step.Next }, testset.Stale},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			course := newCourse(&system{t: t}, trainerConfig{Params: p})
			w := newCrew(course, 2, 1)
			course.crew, w.points = w, make(map[int]*crewPoint)
			for r := range 2 {
				w.ranks = append(w.ranks, &crewRank{rank: r, number: r + 1, state: step.Prev})
				rows := rowsOf(len(x.Data), r, 2)
				line := &trainerLine{Prev: step.Prev, Next: step.Next, Rows: rows, Sum: wire.Sum(x.Data[rows.From:rows.To])}
				if r == 1 {
					c.change(line)
				}
				w.hear(r+1, line)
			}
			if (len(course.wrong) == 0) != (c.class == "") || c.class != "" && course.classes[c.class] == 0 {
				t.Errorf("%q, %v", course.wrong, course.classes)
			}
			if w.taken() != 1 || c.class == "" && w.together != 1 {
				t.Errorf("%d taken, %d together", w.taken(), w.together)
			}
		})
	}
}
