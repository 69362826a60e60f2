package dataset_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type params struct {
	Length int    `json:"length"`
	Name   string `json:"name,omitempty"`
}

// position is the state of squares.
type position struct{ I int }

// squares is a data set of 0, 1, 4, 9 …, as concrete as an author would write it.
type squares struct {
	length int
	next   func(position) (int, position, error)
	batch  func(ctx context.Context, job int) (string, error)
	closed int
}

var errOpen = errors.New("no such squares")

func openSquares(_ context.Context, p params) (*squares, error) {
	if p.Length < 0 {
		return nil, errOpen
	}
	return &squares{length: p.Length}, nil
}

func (s *squares) Start() (position, error) { return position{}, nil }

func (s *squares) Next(p position) (int, position, error) {
	if s.next != nil {
		return s.next(p)
	}
	if p.I >= s.length {
		return 0, p, io.EOF
	}
	return p.I, position{p.I + 1}, nil
}

func (s *squares) Materialize(ctx context.Context, job int) (string, error) {
	if s.batch != nil {
		return s.batch(ctx, job)
	}
	return fmt.Sprint(job * job), nil
}

func (s *squares) Close() error {
	s.closed++
	return nil
}
