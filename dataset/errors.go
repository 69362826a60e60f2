package dataset

import "github.com/jetbatch/jetbatch/internal/kind"

// Errors of [Reference.Take]; the service has its own, in package client.
var (
	// ErrNoStart is returned for the zero state when the data set is no [Starter]: give a state, or add Start.
	ErrNoStart = kind.ErrNoStart

	// ErrWrongState is returned for a state whose bytes do not decode into the data set's state: it is most likely of
	// another data set.
	ErrWrongState = kind.ErrWrongState
)
