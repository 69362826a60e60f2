package onda

import (
	"bufio"
	"context"
	"io"
)

const (
	// aheadParts of aheadBytes each are under way of a file that is far.
	aheadParts = 4
	aheadBytes = 1 << 20
)

// streamOf reads an Object from its start. Of one that is far, a few reads are
// under way at once, ahead of what was asked for. Close waits for them.
func streamOf(ctx context.Context, obj Object) io.ReadCloser {
	if isFar(obj) {
		return &aheadReader{ctx: ctx, obj: obj}
	}
	return io.NopCloser(bufio.NewReaderSize(&atReader{ctx: ctx, obj: obj}, zstdReadBuffer))
}

// aheadReader reads an Object in parts.
type aheadReader struct {
	ctx   context.Context
	obj   Object
	asked int64            // up to where parts are under way
	parts []chan aheadPart // in order
	rest  []byte           // of the part that came last
	err   error
}

type aheadPart struct {
	data []byte
	err  error
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 && a.err == nil {
		a.ask()
		if len(a.parts) == 0 {
			a.err = io.EOF
			break
		}
		part := <-a.parts[0]
		a.parts = a.parts[1:]
		a.rest, a.err = part.data, part.err
	}
	n := copy(p, a.rest)
	if a.rest = a.rest[n:]; n > 0 {
		return n, nil
	}
	return 0, a.err
}

// ask keeps parts under way.
func (a *aheadReader) ask() {
	for len(a.parts) < aheadParts && a.asked < a.obj.Size() {
		if a.err = a.ctx.Err(); a.err != nil {
			return
		}
		from, to := a.asked, min(a.asked+aheadBytes, a.obj.Size())
		a.asked = to
		part := make(chan aheadPart, 1)
		a.parts = append(a.parts, part)
		go func() {
			data := make([]byte, to-from)
			n, err := a.obj.ReadAt(data, from)
			if n == len(data) {
				err = nil
			} else {
				err = &sourceError{notEOF(err, errShorter)}
			}
			part <- aheadPart{data[:n], err}
		}()
	}
}

// Close waits for what is under way.
func (a *aheadReader) Close() error {
	for _, part := range a.parts {
		<-part
	}
	a.parts, a.rest, a.err = nil, nil, io.ErrClosedPipe
	return nil
}
