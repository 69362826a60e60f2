package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// oneReport is one batch that was made by hand.
type oneReport struct {
	Dataset     string       `json:"dataset"`
	State       schema.State `json:"state"`             // that was asked for, or the data set's first
	Holes       int          `json:"holes,omitempty"`   // positions passed over, since they have no batch
	Reasons     []string     `json:"reasons,omitempty"` // why
	End         bool         `json:"end,omitempty"`     // there is no batch: the data ends
	Bytes       int          `json:"bytes"`
	Digest      string       `json:"digest,omitempty"` // as audit shows it
	JobBytes    int          `json:"job_bytes"`
	Next        float64      `json:"next_ms"`
	Materialize float64      `json:"materialize_ms"`
	Tensors     []oneTensor  `json:"tensors,omitempty"`
	NextState   schema.State `json:"next_state"`

	value string // of a batch that is no list of tensors
}

type oneTensor struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`

	begin string // its first elements
}

// one makes the batch that follows c.One by the data set's own code, in this process, and shows it.
func (c *takeCmd) one(ctx context.Context, a *app, params json.RawMessage) error {
	state, err := readState(c.One)
	if err != nil {
		return err
	}
	ref, closing, err := a.openReference(ctx, c.Dataset, params, state)
	if err != nil {
		return err
	}
	defer closing()
	if err := ref.beginAt(state, c.Accept); err != nil {
		return err
	}
	r := &oneReport{Dataset: fmt.Sprintf("%s@%d", ref.kind.Name, ref.kind.Version), State: ref.named()}
	payload, err := r.make(ctx, ref)
	if err != nil {
		var p *kind.PanicError
		if errors.As(err, &p) {
			a.err.say("%s", legible.Text(string(p.Stack)))
		}
		return err
	}
	r.NextState = ref.named()
	if !r.End {
		r.look(payload)
	}
	if c.JSON {
		return printJSON(a.out, r)
	}
	_, err = fmt.Fprint(a.out, r)
	return err
}

// readState reads a token, @FILE with one, or start.
func readState(text string) (state schema.State, err error) {
	if text == startToken {
		return state, nil
	}
	data := []byte(text)
	if path, ok := strings.CutPrefix(text, "@"); ok {
		if data, err = os.ReadFile(path); err != nil {
			return state, fmt.Errorf("%w: --one: %w", errUsage, err)
		}
	}
	if err := state.UnmarshalText(data); err != nil {
		return state, fmt.Errorf("--one: %w", err)
	}
	return state, nil
}

// make goes on from the reference's state to the next batch.
func (r *oneReport) make(ctx context.Context, ref *reference) ([]byte, error) {
	for {
		began := time.Now()
		job, next, err := ref.inst.Next(ref.state)
		r.Next += milliseconds(time.Since(began))
		if err == io.EOF { //nolint:errorlint // exactly io.EOF is the end
			r.End = true
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("Next: %w", err)
		}
		began = time.Now()
		pieces, _, err := ref.inst.Materialize(ctx, job, nil)
		r.Materialize += milliseconds(time.Since(began))
		r.JobBytes, ref.state = len(job), next
		if reason, skipped := dataset.SkipReason(err); skipped {
			r.Holes++
			r.Reasons = append(r.Reasons, reason)
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("Materialize, in %.1f ms: %w", r.Materialize, err)
		}
		return wire.Pieces(pieces).AppendTo(nil), nil
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// look fills in what can be said of a payload without the author's types.
func (r *oneReport) look(payload []byte) {
	r.Bytes, r.Digest = len(payload), wire.Sum(payload).String()
	if batch, err := wire.DecodePayload[schema.Batch](payload); err == nil {
		for _, n := range batch {
			t := n.Tensor
			r.Tensors = append(r.Tensors, oneTensor{n.Name, t.DType.String(), t.Shape, beginning(t)})
		}
		return
	}
	var v any
	if msgp.Unmarshal(payload, &v) != nil {
		v = payload // bytes as they are
	}
	const most = 400
	if r.value = fmt.Sprintf("%v", v); len(r.value) > most {
		r.value = r.value[:most] + " …"
	}
}

// beginning is the first elements of a tensor.
func beginning(t schema.Tensor) string {
	switch t.DType {
	case schema.Bool:
		return firstOf[bool](t)
	case schema.Int8:
		return firstOf[int8](t)
	case schema.Int16:
		return firstOf[int16](t)
	case schema.Int32:
		return firstOf[int32](t)
	case schema.Int64:
		return firstOf[int64](t)
	case schema.Uint8:
		return firstOf[uint8](t)
	case schema.Uint16:
		return firstOf[uint16](t)
	case schema.Uint32:
		return firstOf[uint32](t)
	case schema.Uint64:
		return firstOf[uint64](t)
	case schema.Float32:
		return firstOf[float32](t)
	}
	return firstOf[float64](t)
}

func firstOf[T schema.Element](t schema.Tensor) string {
	t.Data = bytes.Clone(t.Data) // where it is aligned
	values, err := schema.View[T](t)
	if err != nil {
		return err.Error()
	}
	const most = 6
	if len(values) > most {
		return strings.TrimSuffix(fmt.Sprint(values[:most]), "]") + " …]"
	}
	return fmt.Sprint(values)
}

// String is the batch for people.
func (r *oneReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "data set %s, state %v\n", r.Dataset, r.State)
	if r.Holes > 0 {
		fmt.Fprintf(&b, "holes passed over: %d (%s)\n", r.Holes, strings.Join(legible.Lines(r.Reasons), "; "))
	}
	if r.End {
		b.WriteString("the data ends here\n")
		return b.String()
	}
	fmt.Fprintf(&b, "Next took %.2f ms, and made a job of %d bytes\n", r.Next, r.JobBytes)
	fmt.Fprintf(&b, "Materialize took %.2f ms, and made a batch of %d bytes, digest %s\n", r.Materialize, r.Bytes, r.Digest)
	for _, t := range r.Tensors {
		fmt.Fprintf(&b, "  %-12s %-8s %v  %s\n", legible.Line(t.Name), t.DType, t.Shape, t.begin)
	}
	if r.value != "" {
		fmt.Fprintf(&b, "  %s\n", legible.Text(r.value))
	}
	if text, err := r.NextState.MarshalText(); err == nil {
		fmt.Fprintf(&b, "next state: %s\n", text)
	}
	return b.String()
}
