package msgp

import "errors"

var (
	// ErrMalformed is returned for bytes that are not what they claim to be: cut off, nested too deep, lengths that do
	// not fit, bytes left over. The bytes were damaged, or never came from here.
	ErrMalformed = errors.New("malformed bytes")

	// ErrEncode is returned for a value that has no canonical encoding: channels, functions, values nested deeper than
	// [MaxDepth], msgpack extensions other than timestamps.
	ErrEncode = errors.New("value cannot be encoded")

	// ErrDecode is returned for sound bytes that do not fit the Go type they are decoded into. Sender and receiver
	// were most likely built from different versions of that type.
	ErrDecode = errors.New("bytes do not fit the type")
)
