package onda

import (
	"fmt"
	"slices"
	"sync"

	"github.com/jetbatch/jetbatch/schema"
)

// stack glues items of equal shape along a new first dimension. Items are
// written concurrently, each by one goroutine.
type stack[T float] struct {
	n int

	mu    sync.Mutex
	shape []int // of one item, nil until the first is known
	data  []T
}

func newStack[T float](n int) *stack[T] { return &stack[T]{n: n} }

func (s *stack[T]) allocate(shape []int) {
	size := 1
	for _, d := range shape {
		size *= d
	}
	s.shape, s.data = slices.Clone(shape), make([]T, s.n*size)
}

// item is where item i is written, once the shape is known.
func (s *stack[T]) item(i int) []T {
	size := len(s.data) / s.n
	return s.data[i*size : (i+1)*size]
}

// put writes an item whose shape only its maker knows; the first fixes it.
func (s *stack[T]) put(i int, shape []int, values []float64) error {
	size := 1
	for _, d := range shape {
		// Checked step by step, so that the product cannot overflow.
		if d < 0 || (d > 0 && size > len(values)/d) {
			return fmt.Errorf("%w: selector gave %d values for shape %v", ErrShape, len(values), shape)
		}
		size *= d
	}
	if size != len(values) || len(shape) == 0 {
		return fmt.Errorf("%w: selector gave %d values for shape %v", ErrShape, len(values), shape)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shape == nil {
		if size > maxBatchBytes/8/s.n {
			return fmt.Errorf("%w: a batch of %d items of shape %v is more than %d bytes", ErrShape, s.n, shape, maxBatchBytes)
		}
		s.allocate(shape)
	}
	if !slices.Equal(s.shape, shape) {
		return fmt.Errorf("%w: %v and %v", ErrShape, s.shape, shape)
	}
	for j, into := 0, s.item(i); j < len(into); j++ {
		into[j] = T(values[j])
	}
	return nil
}

// batch is x and y as tensors.
func (s *stack[T]) batch(y []uint8, labels int) (schema.Batch, error) {
	x, err := schema.NewTensor(append([]int{s.n}, s.shape...), s.data)
	if err != nil {
		return nil, err
	}
	labelTensor, err := schema.NewTensor([]int{s.n, 1, labels}, y)
	if err != nil {
		return nil, err
	}
	return schema.Batch{{Name: "x", Tensor: x}, {Name: "y", Tensor: labelTensor}}, nil
}
