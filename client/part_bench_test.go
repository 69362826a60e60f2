package client

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// BenchmarkParts fetches a payload of 20 MB from a worker by TCP: whole by one rank, and in parts by four at once, each
// payload by all. Compare MB/s, which are of all ranks together.
func BenchmarkParts(b *testing.B) {
	var batch schema.Batch
	for i, size := range []int{300_000, 100, 10_000} {
		batch = append(batch, schema.Named{Name: "xyz"[i : i+1], Tensor: schema.Tensor{
			DType: schema.Uint8, Shape: []int{64, size}, Data: make([]byte, 64*size),
		}})
	}
	pieces, _, err := wire.PayloadPieces(nil, batch)
	if err != nil {
		b.Fatal(err)
	}
	blocks := pieces.Blocks(nil)
	res := &wire.Result{Seq: 1, Attempt: "attempt", Size: uint64(pieces.Size()), Digest: blocks.Sum()}
	l, err := direct.Listen("127.0.0.1:0", false)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	res.Direct = &wire.Direct{Address: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveParts(conn, pieces, blocks)
		}
	}()
	for _, ranks := range []int{1, 4} {
		b.Run(fmt.Sprint("ranks=", ranks), func(b *testing.B) {
			b.SetBytes(int64(res.Size))
			var all sync.WaitGroup
			for r := range ranks {
				f := &fetcher{secure: plainNATS, buffers: new(pool), part: wire.Part{Index: r, Count: ranks}}
				defer f.conns.close()
				all.Go(func() {
					for range b.N {
						if err := f.fetch(b.Context(), []*wire.Result{res}, func(_ int, p payload) { p.release() }); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// serveParts answers as a worker does.
func serveParts(conn net.Conn, pieces wire.Pieces, blocks wire.Blocks) {
	defer func() { _ = conn.Close() }() // the reader is done
	in := bufio.NewReader(conn)
	for {
		fetch, err := wire.ReadFetch(in)
		if err != nil {
			return
		}
		has, part := wire.HasWhole, pieces
		if extents, ok := fetch.Part.Extents(pieces[0], pieces.Size()); ok {
			has, part = wire.HasPart, wire.Pieces{blocks}
			for _, e := range extents {
				part = append(part, pieces.Range(e.From, e.To)...)
			}
		}
		answer := append(net.Buffers{wire.AppendAnswer(nil, has, part.Size())}, part...)
		if _, err := answer.WriteTo(conn); err != nil {
			return
		}
	}
}
