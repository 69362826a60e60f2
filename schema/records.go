package schema

import (
	"encoding/binary"
	"fmt"
	"time"
)

// InlineLimit is the largest payload, in bytes, that rides in its commit record. A larger one is kept by the worker,
// whose address the record has, or stored as chunks of ChunkSize before the record.
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
	//lint:ignore U1000 msgpack reads the tag
	_msgpack struct{}      `msgpack:",as_array"`
	Seq      uint64        // position in the generation, from 1
	Prev     []byte        // state before
	Next     []byte        // state after
	Body     []byte        // the data set's job, canonical msgpack
	Iterate  time.Duration // how long Next took
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
	//lint:ignore U1000 msgpack reads the tag
	_msgpack    struct{}      `msgpack:",as_array"`
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
	Fault       *Fault        // for KindError: what happened; for KindHole: the reason as Message
	Queued      int64         // when the job was stored, by the broker's clock, in nanoseconds since 1970; 0 for unknown
	Direct      *Direct       // where the payload can be fetched instead of its chunks; only with Chunks
}

// AppendJob appends the encoded job.
func AppendJob(dst []byte, j *Job) ([]byte, error) {
	data, err := Marshal(j)
	return append(dst, data...), err
}

// DecodeJob decodes a job message; its byte slices alias nothing of data.
func DecodeJob(data []byte) (*Job, error) {
	j := new(Job)
	if err := Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	if j.Seq == 0 {
		return nil, fmt.Errorf("job: %w: sequence number 0", ErrMalformed)
	}
	return j, nil
}

// AppendResult appends the record and, when r.Chunks is 0, payload, which must be r.Size bytes long.
func AppendResult(dst []byte, r *Result, payload []byte) ([]byte, error) {
	head, err := Marshal(r)
	if err != nil {
		return dst, fmt.Errorf("result %d: %w", r.Seq, err)
	}
	start := len(dst)
	dst = append(dst, head...)
	if r.Chunks > 0 {
		return dst, nil
	}
	if uint64(len(payload)) != r.Size {
		return dst[:start], fmt.Errorf("result %d: payload of %d bytes, %d announced", r.Seq, len(payload), r.Size)
	}
	if r.Size == 0 {
		return dst, nil
	}
	for (len(dst)-start)%payloadAlign != 0 {
		dst = append(dst, 0)
	}
	return append(dst, payload...), nil
}

// DecodeResult decodes a commit record. payload aliases data, and is nil when the record names chunks.
func DecodeResult(data []byte) (r *Result, payload []byte, err error) {
	n, err := CheckPrefix(data)
	if err != nil {
		return nil, nil, fmt.Errorf("result: %w", err)
	}
	r = new(Result)
	if err := Unmarshal(data[:n], r); err != nil {
		return nil, nil, fmt.Errorf("result: %w", err)
	}
	if r.Seq == 0 || r.Kind > KindEnd {
		return nil, nil, fmt.Errorf("result: %w: sequence number %d, %v", ErrMalformed, r.Seq, r.Kind)
	}
	if r.Chunks > 0 {
		if want := (r.Size + ChunkSize - 1) / ChunkSize; uint64(r.Chunks) != want || r.Size > MaxPayload || len(data) != n {
			return nil, nil, fmt.Errorf("result %d: %w: %d chunks for %d bytes", r.Seq, ErrMalformed, r.Chunks, r.Size)
		}
		if err := CheckName("attempt", r.Attempt); err != nil { // it becomes a part of subjects
			return nil, nil, fmt.Errorf("result %d: %w: %w", r.Seq, ErrMalformed, err)
		}
		if r.Direct == nil {
			return r, nil, nil
		}
		if err := CheckName("worker", r.Worker); err != nil { // and so does this
			return nil, nil, fmt.Errorf("result %d: %w: %w", r.Seq, ErrMalformed, err)
		}
		if err := r.Direct.check(); err != nil {
			return nil, nil, fmt.Errorf("result %d: %w", r.Seq, err)
		}
		return r, nil, nil
	}
	if r.Direct != nil {
		return nil, nil, fmt.Errorf("result %d: %w: its payload is here and elsewhere", r.Seq, ErrMalformed)
	}
	if r.Size == 0 {
		if len(data) != n {
			return nil, nil, fmt.Errorf("result %d: %w: %d bytes after the header, none announced", r.Seq, ErrMalformed, len(data)-n)
		}
		return r, nil, nil
	}
	at := (n + payloadAlign - 1) / payloadAlign * payloadAlign
	if at > len(data) || uint64(len(data)-at) != r.Size {
		return nil, nil, fmt.Errorf("result %d: %w: %d bytes after the header, %d announced", r.Seq, ErrMalformed, len(data)-n, r.Size)
	}
	return r, data[at:], nil
}

// Generations are named by ULIDs and compared for equality only. Genesis is the body of a generation's
// first stored message.
func Genesis(gen string) []byte {
	return binary.BigEndian.AppendUint16([]byte(gen), WireVersion)
}
