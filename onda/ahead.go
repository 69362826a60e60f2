package onda

import (
	"bufio"
	"context"
	"io"
)

// streamOf reads an Object from its start. Of one that is far, a few reads are
// under way at once, ahead of what was asked for.
func streamOf(ctx context.Context, obj Object) io.Reader {
	return bufio.NewReaderSize(&atReader{ctx: ctx, obj: obj}, zstdReadBuffer)
}
