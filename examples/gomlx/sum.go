package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
)

// Adder adds up vectors over the ranks of a world, through NATS: rank 0 hears those of the others and answers with the
// sum. It stands for NCCL, Gloo or MPI, and adds in the order of ranks, so that a sum has the same bits each time.
type Adder struct {
	nc      *nats.Conn
	world   client.World
	subject string
	sub     *nats.Subscription // at rank 0
}

// patience with a rank that does not come to a step: rank 0 evaluates between two.
const patience = 2 * time.Minute

// NewAdder is for this rank of a world. Without a world a sum is what it is of.
func NewAdder(nc *nats.Conn, world *client.World) (*Adder, error) {
	if world == nil || world.Size == 1 {
		return &Adder{}, nil
	}
	a := &Adder{nc: nc, world: *world, subject: "gomlx-example." + world.ID}
	if world.Rank > 0 {
		return a, nil
	}
	var err error
	a.sub, err = nc.SubscribeSync(a.subject)
	return a, err
}

const (
	headerRank = "Rank"
	headerStep = "Step"
)

// Sum returns the sum of the vectors that all ranks have at this step.
func (a *Adder) Sum(ctx context.Context, step int, v []float32) ([]float32, error) {
	if a.nc == nil {
		return v, nil
	}
	late := fmt.Errorf("step %d: not all ranks came within %v", step, patience)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, late)
	defer cancel()
	sum, err := v, error(nil)
	if a.world.Rank == 0 {
		err = a.gather(ctx, step, sum)
	} else {
		err = a.ask(ctx, step, sum)
	}
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	return sum, nil
}

// gather adds the others' vectors to v and sends all of them the sum.
func (a *Adder) gather(ctx context.Context, step int, v []float32) error {
	asked := make([]*nats.Msg, a.world.Size)
	for range a.world.Size - 1 {
		m, err := a.sub.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		rank, err := strconv.Atoi(m.Header.Get(headerRank))
		if err != nil || rank < 1 || rank >= a.world.Size || asked[rank] != nil || len(m.Data) != 4*len(v) {
			return fmt.Errorf("rank 0 does not expect %d bytes of rank %q", len(m.Data), m.Header.Get(headerRank))
		}
		if at := m.Header.Get(headerStep); at != strconv.Itoa(step) {
			return fmt.Errorf("rank %d is at step %s, rank 0 at %d", rank, at, step)
		}
		asked[rank] = m
	}
	term := make([]float32, len(v))
	for _, m := range asked[1:] {
		if _, err := binary.Decode(m.Data, binary.LittleEndian, term); err != nil {
			return err
		}
		for i := range v {
			v[i] += term[i]
		}
	}
	data, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		return err
	}
	for _, m := range asked[1:] {
		if err := m.Respond(data); err != nil {
			return err
		}
	}
	return a.nc.FlushWithContext(ctx)
}

// ask sends v to rank 0, and has the sum in it when rank 0 answers.
func (a *Adder) ask(ctx context.Context, step int, v []float32) error {
	data, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: a.subject, Data: data, Header: nats.Header{}}
	m.Header.Set(headerRank, strconv.Itoa(a.world.Rank))
	m.Header.Set(headerStep, strconv.Itoa(step))
	for {
		answer, err := a.nc.RequestMsgWithContext(ctx, m)
		if errors.Is(err, nats.ErrNoResponders) { // rank 0 is not there yet
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			return err
		}
		_, err = binary.Decode(answer.Data, binary.LittleEndian, v)
		return err
	}
}
