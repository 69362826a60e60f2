package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// Direct says that a worker keeps a payload in its memory, where to fetch it by TCP, and how to know the worker there.
// The attempt's random name is what has to be shown: a reader of the record may read the payload.
//
// A reader that cannot fetch it asks the worker to store it as chunks ([UploadSubject]); they are found where those of
// any payload are.
type Direct struct {
	Address string // host:port
	Pin     []byte // SHA-256 of the certificate that the worker shows; empty where no TLS is spoken
}

// pinSize is the length of Direct.Pin.
const pinSize = 32

// MaxAddress is the longest address of a worker, in bytes: a DNS name, a colon and a port.
const MaxAddress = 260

func (d *Direct) check() error {
	if d.Address == "" || len(d.Address) > MaxAddress {
		return fmt.Errorf("%w: a worker's address of %d bytes", msgp.ErrMalformed, len(d.Address))
	}
	if len(d.Pin) != 0 && len(d.Pin) != pinSize {
		return fmt.Errorf("%w: a certificate's digest of %d bytes", msgp.ErrMalformed, len(d.Pin))
	}
	return nil
}

// A fetch is a fixed head, then the attempt's name; the answer is a fixed head, then the payload. One connection
// carries any number of them, one after the other.
const (
	FetchHead  = 2 // version, length of the name
	AnswerHead = 9 // whether the payload is here, its size in bytes, big-endian

	fetchVersion = 1
)

// AppendFetch appends the request for the payload of an attempt, whose name [CheckName] accepts.
func AppendFetch(dst []byte, attempt string) []byte {
	return append(append(dst, fetchVersion, byte(len(attempt))), attempt...)
}

// ParseFetchHead returns how many bytes of the attempt's name follow.
func ParseFetchHead(head [FetchHead]byte) (int, error) {
	if head[0] != fetchVersion || head[1] == 0 || head[1] > MaxName {
		return 0, fmt.Errorf("%w: a request for a payload begins with %x", msgp.ErrMalformed, head)
	}
	return int(head[1]), nil
}

// AppendAnswer appends the head of an answer; size is that of the payload behind it. Without here nothing follows.
func AppendAnswer(dst []byte, here bool, size uint64) []byte {
	status := byte(0)
	if here {
		status = 1
	}
	return binary.BigEndian.AppendUint64(append(dst, status), size)
}

// ParseAnswer is the inverse of AppendAnswer.
func ParseAnswer(head [AnswerHead]byte) (here bool, size uint64, err error) {
	size = binary.BigEndian.Uint64(head[1:])
	if head[0] > 1 || head[0] == 0 && size != 0 {
		return false, 0, fmt.Errorf("%w: an answer begins with %x", msgp.ErrMalformed, head)
	}
	return head[0] == 1, size, nil
}

// Upload asks a worker to store a payload that it keeps as the chunks that its record names. Once they are stored the
// answer is an [UploadReply]; asking again is harmless.
type Upload struct {
	Attempt string `json:"attempt"`
	// Avoid is for how long the reader cannot reach the worker, in nanoseconds: what it makes meanwhile for the
	// reader's batcher is stored as chunks at once. 0 when it was this payload only that could not be fetched.
	Avoid int64 `json:"avoid,omitempty"`
}

// UploadReply answers an Upload; Fault is nil when the chunks are stored.
type UploadReply struct {
	Fault *schema.Fault `json:"fault,omitempty"`
}

// CodeNotKept is the fault of an Upload of what the worker does not keep, or no longer.
const CodeNotKept = "not_kept"
