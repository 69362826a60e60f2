package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// InlineLimit is the largest payload, in bytes, that rides in its commit record where no worker keeps it. A larger one
// is stored as chunks of ChunkSize before the record then. The record of a payload that a worker keeps has its address.
const (
	InlineLimit = 512 << 10
	ChunkSize   = 512 << 10
)

// MaxPayload is the largest payload, in bytes. It only keeps a record that is wrong from being believed.
const MaxPayload = 16 << 30

// payloadAlign is the alignment of an inline payload from the start of its record.
const payloadAlign = 64

// Job is the body of a job message: everything a worker needs besides the data set's parameters, which
// it reads from the batcher's Record.
type Job struct {
	Seq     uint64        // position in the generation, from 1
	Prev    []byte        // state before
	Next    []byte        // state after
	Body    []byte        // the data set's job, canonical msgpack
	Iterate time.Duration // how long Next took
	Spec    Digest        // Record.SpecDigest of the run
}

// Kind says what a Result is.
type Kind uint8

// The kinds of result.
const (
	KindBatch Kind = iota // a batch
	KindHole              // dataset.Skip: no batch at this position, for every reader alike
	KindError             // materialization or iteration failed
	KindEnd               // the data ended before this position
)

func (k Kind) String() string {
	switch k {
	case KindBatch:
		return "batch"
	case KindHole:
		return "hole"
	case KindError:
		return "error"
	case KindEnd:
		return "end"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Result is the commit record of one sequence number: at most one is stored per generation and number.
// Its message is the msgpack header, zero padding to a multiple of 64 bytes, then the payload when it is
// inline (Chunks == 0).
type Result struct {
	Seq         uint64        // position in the generation, from 1
	Kind        Kind          // what this is
	Prev        []byte        // state before
	Next        []byte        // state after; empty for KindEnd and KindError
	Attempt     string        // the execution that made it, random
	Worker      string        // name of the worker that made it, or of the coordinator for its verdicts
	Deliveries  uint64        // how often the job was handed out, this time included
	Digest      Digest        // of the payload
	Size        uint64        // payload bytes
	Chunks      uint32        // how many chunks the payload is stored as, or would be; 0 when it follows the header
	Iterate     time.Duration // time in Next
	Queue       time.Duration // from the job's storage to its execution, by two clocks
	Materialize time.Duration // execution and encoding, retries included
	Fault       *schema.Fault // for KindError: what happened; for KindHole: the reason as Message
	Queued      int64         // when the job was stored, by the broker's clock, in nanoseconds since 1970; 0 for unknown
	Direct      *Direct       // where the payload can be fetched instead of its chunks; only with Chunks
	Spec        Digest        // Record.SpecDigest of the run, as the worker has it
}

// AppendJob appends the encoded job.
func AppendJob(dst []byte, j *Job) []byte {
	dst = msgp.AppendArray(dst, 6)
	dst = msgp.AppendUint(dst, j.Seq)
	dst = msgp.AppendBytes(dst, j.Prev)
	dst = msgp.AppendBytes(dst, j.Next)
	dst = msgp.AppendBytes(dst, j.Body)
	dst = msgp.AppendInt(dst, int64(j.Iterate))
	return msgp.AppendBytes(dst, j.Spec[:])
}

// DecodeJob decodes the first job of a message and returns what follows it: the message of a run of jobs is one after
// another. The job's byte slices are views of data.
func DecodeJob(data []byte) (j *Job, rest []byte, err error) {
	c := msgp.NewCursor(data)
	c.Fields(6)
	j = &Job{Seq: c.Uint(), Prev: c.Bytes(), Next: c.Bytes(), Body: c.Bytes(), Iterate: time.Duration(c.Int())}
	spec := c.Bytes()
	if c.Err() == nil && (j.Seq == 0 || len(spec) != len(j.Spec)) {
		c.Fail(fmt.Sprintf("sequence number %d, a specification's digest of %d bytes", j.Seq, len(spec)))
	}
	copy(j.Spec[:], spec)
	if c.Err() != nil {
		return nil, nil, fmt.Errorf("job: %w", c.Err())
	}
	return j, data[c.Pos():], nil
}

// AppendResult appends the record and, when r.Chunks is 0, the payload, which must be r.Size bytes long.
func AppendResult(dst []byte, r *Result, payload ...[]byte) ([]byte, error) {
	if size := Pieces(payload).Size(); r.Chunks == 0 && uint64(size) != r.Size {
		return dst, fmt.Errorf("result %d: payload of %d bytes, %d announced", r.Seq, size, r.Size)
	}
	start := len(dst)
	dst = msgp.AppendArray(dst, 17)
	dst = msgp.AppendUint(dst, r.Seq)
	dst = msgp.AppendUint(dst, uint64(r.Kind))
	dst = msgp.AppendBytes(dst, r.Prev)
	dst = msgp.AppendBytes(dst, r.Next)
	dst = msgp.AppendString(dst, r.Attempt)
	dst = msgp.AppendString(dst, r.Worker)
	dst = msgp.AppendUint(dst, r.Deliveries)
	dst = msgp.AppendBytes(dst, r.Digest[:])
	dst = msgp.AppendUint(dst, r.Size)
	dst = msgp.AppendUint(dst, uint64(r.Chunks))
	dst = msgp.AppendInt(dst, int64(r.Iterate))
	dst = msgp.AppendInt(dst, int64(r.Queue))
	dst = msgp.AppendInt(dst, int64(r.Materialize))
	if r.Fault == nil {
		dst = append(dst, 0xc0)
	} else {
		var err error
		if dst, err = msgp.Append(dst, r.Fault); err != nil {
			return dst[:start], fmt.Errorf("result %d: %w", r.Seq, err)
		}
	}
	dst = msgp.AppendInt(dst, r.Queued)
	if r.Direct == nil {
		dst = append(dst, 0xc0)
	} else {
		dst = msgp.AppendBytes(msgp.AppendString(msgp.AppendArray(dst, 2), r.Direct.Address), r.Direct.Pin)
	}
	dst = msgp.AppendBytes(dst, r.Spec[:])
	if r.Chunks > 0 || r.Size == 0 {
		return dst, nil
	}
	dst = append(dst, padding[:-(len(dst)-start)&(payloadAlign-1)]...)
	return Pieces(payload).AppendTo(dst), nil
}

// decodeRecord decodes what comes before the payload, and returns its length.
func decodeRecord(data []byte) (r *Result, n int, err error) {
	c := msgp.NewCursor(data)
	c.Fields(17)
	r = &Result{Seq: c.Uint()}
	kind := c.Uint()
	prev, next := c.Bytes(), c.Bytes()
	r.Attempt, r.Worker, r.Deliveries = c.Str(MaxName), c.Str(MaxName), c.Uint()
	digest := c.Bytes()
	r.Size = c.Uint()
	chunks := c.Uint()
	r.Iterate, r.Queue, r.Materialize = time.Duration(c.Int()), time.Duration(c.Int()), time.Duration(c.Int())
	fault := c.Value()
	r.Queued = c.Int()
	if !c.Null() {
		c.Fields(2)
		r.Direct = &Direct{Address: c.Str(MaxAddress), Pin: bytes.Clone(c.Bytes())}
	}
	spec := c.Bytes()
	if c.Err() == nil && (len(digest) != len(r.Digest) || len(spec) != len(r.Spec) || chunks > math.MaxUint32 || kind > uint64(KindEnd) || r.Seq == 0) {
		c.Fail(fmt.Sprintf("sequence number %d, kind %d, a digest of %d bytes, %d chunks", r.Seq, kind, len(digest), chunks))
	}
	if c.Err() != nil {
		return nil, 0, c.Err()
	}
	r.Kind, r.Chunks = Kind(kind), uint32(chunks)
	copy(r.Digest[:], digest)
	copy(r.Spec[:], spec)
	// The states outlive the payload, which may be large, so they do not lie in its memory.
	states := append(append(make([]byte, 0, len(prev)+len(next)), prev...), next...)
	if prev != nil {
		r.Prev = states[:len(prev):len(prev)]
	}
	if next != nil {
		r.Next = states[len(prev):]
	}
	if fault[0] != 0xc0 { // not nil
		r.Fault = new(schema.Fault)
		if err := msgp.Unmarshal(fault, r.Fault); err != nil {
			return nil, 0, err
		}
	}
	return r, c.Pos(), nil
}

// DecodeResult decodes a commit record. payload aliases data, and is nil when the record names chunks.
func DecodeResult(data []byte) (r *Result, payload []byte, err error) {
	r, n, err := decodeRecord(data)
	if err != nil {
		return nil, nil, fmt.Errorf("result: %w", err)
	}
	if r.Chunks > 0 {
		if want := (r.Size + ChunkSize - 1) / ChunkSize; uint64(r.Chunks) != want || r.Size > MaxPayload || len(data) != n {
			return nil, nil, fmt.Errorf("result %d: %w: %d chunks for %d bytes", r.Seq, msgp.ErrMalformed, r.Chunks, r.Size)
		}
		if err := CheckName("attempt", r.Attempt); err != nil { // it becomes a part of subjects
			return nil, nil, fmt.Errorf("result %d: %w: %w", r.Seq, msgp.ErrMalformed, err)
		}
		if r.Direct == nil {
			return r, nil, nil
		}
		if err := CheckName("worker", r.Worker); err != nil { // and so does this
			return nil, nil, fmt.Errorf("result %d: %w: %w", r.Seq, msgp.ErrMalformed, err)
		}
		if err := r.Direct.check(); err != nil {
			return nil, nil, fmt.Errorf("result %d: %w", r.Seq, err)
		}
		return r, nil, nil
	}
	if r.Direct != nil {
		return nil, nil, fmt.Errorf("result %d: %w: its payload is here and elsewhere", r.Seq, msgp.ErrMalformed)
	}
	if r.Size == 0 {
		if len(data) != n {
			return nil, nil, fmt.Errorf("result %d: %w: %d bytes after the header, none announced", r.Seq, msgp.ErrMalformed, len(data)-n)
		}
		return r, nil, nil
	}
	at := (n + payloadAlign - 1) / payloadAlign * payloadAlign
	if at > len(data) || uint64(len(data)-at) != r.Size {
		return nil, nil, fmt.Errorf("result %d: %w: %d bytes after the header, %d announced", r.Seq, msgp.ErrMalformed, len(data)-n, r.Size)
	}
	return r, data[at:], nil
}

// Generations are named by ULIDs and compared for equality only. Genesis is the body of a generation's
// first stored message.
func Genesis(gen string) []byte {
	return binary.BigEndian.AppendUint16([]byte(gen), Version)
}
