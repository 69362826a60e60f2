package wire

import (
	"encoding/binary"
	"fmt"
	"io"

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

// Fetch asks a worker for the payload of an attempt, whose name [CheckName] accepts, or for a part of it. One
// connection carries any number of requests and answers, one after the other.
type Fetch struct {
	Attempt string
	Part    Part // of a batch; with Count 0 the payload is sent whole. Even is not sent
}

// A request for a whole payload is the version, the length of the attempt's name in a byte, and the name. Behind one
// for a part follow its number, that of the parts and that of whole tensors, each in 2 bytes, big-endian, and the names
// of these with their lengths in a byte.
const (
	fetchWhole = 1 // versions
	fetchPart  = 2
)

// AppendFetch appends a request; [Part.Check] accepts its part.
func AppendFetch(dst []byte, f *Fetch) []byte {
	version := byte(fetchWhole)
	if f.Part.Count > 0 {
		version = fetchPart
	}
	dst = append(append(dst, version, byte(len(f.Attempt))), f.Attempt...)
	if version == fetchWhole {
		return dst
	}
	for _, n := range []int{f.Part.Index, f.Part.Count, len(f.Part.Whole)} {
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	}
	for _, name := range f.Part.Whole {
		dst = append(append(dst, byte(len(name))), name...)
	}
	return dst
}

// ReadFetch reads a request. Errors are those of in, io.EOF if there is no request, or wrap [msgp.ErrMalformed].
func ReadFetch(in io.Reader) (*Fetch, error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	if head[0] != fetchWhole && head[0] != fetchPart || head[1] == 0 || head[1] > MaxName {
		return nil, fmt.Errorf("%w: a request for a payload begins with %x", msgp.ErrMalformed, head)
	}
	name, err := readName(in, head[1])
	f := &Fetch{Attempt: name}
	if err != nil || head[0] == fetchWhole {
		return f, err
	}
	var part [6]byte
	if _, err := io.ReadFull(in, part[:]); err != nil {
		return nil, noEnd(err)
	}
	number := func(k int) int { return int(binary.BigEndian.Uint16(part[2*k:])) }
	f.Part.Index, f.Part.Count = number(0), number(1)
	whole := number(2)
	if f.Part.Count == 0 || f.Part.Index >= f.Part.Count || whole > schema.MaxTensors {
		return nil, fmt.Errorf("%w: a request for part %d of %d, with %d whole tensors", msgp.ErrMalformed, f.Part.Index,
			f.Part.Count, whole)
	}
	for range whole {
		var size [1]byte
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return nil, noEnd(err)
		}
		name, err := readName(in, size[0])
		if err != nil {
			return nil, err
		}
		f.Part.Whole = append(f.Part.Whole, name)
	}
	return f, nil
}

func readName(in io.Reader, size byte) (string, error) {
	if size == 0 {
		return "", fmt.Errorf("%w: an empty name", msgp.ErrMalformed)
	}
	name := make([]byte, size)
	_, err := io.ReadFull(in, name)
	return string(name), noEnd(err)
}

// noEnd is the error of a read in the middle of a request, where it must not end.
func noEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Has says what follows the head of an answer.
type Has byte

// What a worker has for a fetch.
const (
	HasNothing Has = iota // the payload is not here, or no longer
	HasWhole              // all of the payload: for a part, too, that is no batch or saves nothing
	HasPart               // the hashes of all blocks of the payload, then the extents of the part
)

// AnswerHead is the length in bytes of the head of an answer: what the worker has, and the size in bytes of what
// follows, big-endian.
const AnswerHead = 9

// AppendAnswer appends the head of an answer; size is that of what follows it.
func AppendAnswer(dst []byte, has Has, size int) []byte {
	return binary.BigEndian.AppendUint64(append(dst, byte(has)), uint64(size))
}

// ParseAnswer is the inverse of AppendAnswer.
func ParseAnswer(head [AnswerHead]byte) (has Has, size int, err error) {
	has = Has(head[0])
	n := binary.BigEndian.Uint64(head[1:])
	if has > HasPart || has == HasNothing && n != 0 || n > MaxPayload {
		return 0, 0, fmt.Errorf("%w: an answer begins with %x", msgp.ErrMalformed, head)
	}
	return has, int(n), nil
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
