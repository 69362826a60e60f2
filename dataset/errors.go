package dataset

import (
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/travel"
)

// Errors of [Reference.Take] and of data sets themselves, to be wrapped; trainers meet their namesakes in package
// client.
var (
	// ErrNoStart is returned for the zero state when the data set is no [Starter]: give a state, or add Start.
	ErrNoStart = kind.ErrNoStart

	// ErrWrongState is returned for a state whose bytes do not decode into the data set's state: it is most likely of
	// another data set.
	ErrWrongState = kind.ErrWrongState

	// ErrWrongData is returned for a state whose Origin is another than that of the parameters and data at hand.
	ErrWrongData = kind.ErrWrongData

	// ErrBadParams is what an author's open may wrap for parameters that make no sense; the trainer's Open then
	// returns client.ErrBadParams.
	ErrBadParams = kind.ErrBadParams
	// ErrType is matched by the error of a definition, or of a reference, whose state, job or batch has a part that
	// would be lost or changed on its way to another process: an unexported field, a func, a channel, an interface, a
	// map with other keys than strings, a pointer that may be shared. The error names the part.
	ErrType = travel.ErrType
)
