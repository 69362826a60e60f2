package schema

import (
	"errors"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// Errors of the encoding, returned by all functions that read or write states and batches.
var (
	// ErrMalformed is returned for bytes that are not what they claim to be: cut off, nested too deep, lengths that do
	// not fit, bytes left over, tensors outside their payload. The bytes were damaged, or never came from here.
	ErrMalformed = msgp.ErrMalformed

	// ErrEncode is returned for a value that has no canonical encoding: channels, functions, values nested deeper than
	// 64 levels, msgpack extensions other than timestamps.
	ErrEncode = msgp.ErrEncode

	// ErrDecode is returned for sound bytes that do not fit the Go type they are decoded into. Sender and receiver
	// were most likely built from different versions of that type.
	ErrDecode = msgp.ErrDecode
)

// Errors of states, tensors and batches.
var (
	// ErrStateNotCanonical is returned by [NewState] for a value that does not come back as the same bytes, so that
	// two equal positions in the data could look different.
	ErrStateNotCanonical = errors.New("state does not survive encoding")

	// ErrStateTooLarge is returned for a state of more than [MaxState] bytes. A state is a position (a generator and
	// an index), not the data itself.
	ErrStateTooLarge = errors.New("state is too large")

	// ErrBadStateText is returned by [State.UnmarshalText] for text that [State.MarshalText] did not write.
	ErrBadStateText = errors.New("not a state token")

	// ErrBadTensor is returned for a tensor whose shape, element type and data contradict one another.
	ErrBadTensor = errors.New("invalid tensor")

	// ErrDType is returned by [View] when the tensor holds another element type than was asked for.
	ErrDType = errors.New("tensor has another element type")

	// ErrMisaligned is returned by [View] when the tensor's bytes do not start where the element type may start.
	// Payloads read into an [AlignedBuffer] never are.
	ErrMisaligned = errors.New("tensor data is misaligned")

	// ErrBadBatch is returned for a batch that cannot be encoded: too many tensors, a name that is empty, too long or
	// used twice.
	ErrBadBatch = errors.New("invalid batch")

	// ErrNotRows is returned for a batch that has no rows to be shared by several ranks: a tensor that is not named as
	// whole is a scalar, or has another first dimension than the first such tensor; all tensors are whole; or a tensor
	// that is named as whole is not there.
	ErrNotRows = errors.New("batch cannot be cut into rows")

	// ErrUneven is returned, where equal parts were asked for, for a batch whose rows the number of parts does not divide.
	ErrUneven = errors.New("batch does not divide into equal parts")
)
