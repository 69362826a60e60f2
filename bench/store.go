package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/onda"
)

const storeWhat = "random windows from a store that takes 20 ms per request, with 16 slots; beside plain range reads"

const (
	storeTime   = 20 * time.Millisecond
	storeSlots  = 16
	storeBucket = "recordings"

	againstRanges = "16 range reads at once"
)

func store(ctx context.Context, b *bench) (*Report, error) {
	m := madeUp{recordings: 32, length: 10 * time.Minute, channels: 2, rate: 360, stretches: 10}
	dir := filepath.Join(b.opts.tempDir, "store")
	if err := m.write(filepath.Join(dir, storeBucket)); err != nil {
		return nil, err
	}
	server := b.side("store")
	var at storeAnswer
	if _, err := server.start(ctx, "store", storeArg{Dir: dir}, &at); err != nil {
		return nil, err
	}
	const window = 10 * time.Second
	r := &Report{Notes: []string{fmt.Sprintf("windows of %v, %d kB each", window, 2*m.channels*m.rate*10/1000)}}
	var all []*side
	for _, batch := range []int{1, 16} {
		name := fmt.Sprintf("%d windows per batch", batch)
		if batch == 1 {
			name = "1 window per batch"
		}
		windowsPerSecond := func(arg takeArg, a takeAnswer) float64 { return float64(batch) * perSecond(arg, a) }
		arg := takeArg{Warm: 4 * storeSlots / batch, Timed: b.quick(1_600, 8_000) / batch}
		service := b.side("service, " + name)
		p, err := service.start(ctx, "onda service", ondaArg{Slots: storeSlots, Store: at.URL, Params: onda.Params{
			Dir: "s3://" + storeBucket, BatchSize: batch, BatchDuration: onda.Duration(window), Seed: 1,
		}}, nil)
		if err != nil {
			return nil, err
		}
		floor := b.side("floor, " + name)
		f, err := floor.start(ctx, "range reads", rangesArg{
			URL: at.URL, Files: m.recordings, Bytes: 2 * m.channels * m.rate * int(window/time.Second),
			Length: 2 * m.channels * m.rate * int(m.length/time.Second), Batch: batch,
		}, nil)
		if err != nil {
			return nil, err
		}
		samples, err := b.measure(ctx, taking(service, p, arg, windowsPerSecond), taking(floor, f, arg, windowsPerSecond))
		if err != nil {
			return nil, err
		}
		r.Rows = append(r.Rows, row(name, againstRanges, "windows/s", samples[0], samples[1]))
		all = append(all, service, floor)
	}
	return r, b.addPeaks(ctx, r, all...)
}

type storeArg struct {
	Dir string `json:"dir"` // with a folder for each bucket
}

type storeAnswer struct {
	URL string `json:"url"`
}

// startStore stands in for an object store: it answers S3's GET and HEAD of an object, by path, and asks for no key.
func startStore(_ context.Context, _ *slog.Logger, arg storeArg) (*role, any, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	files := http.FileServer(http.Dir(arg.Dir))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(storeTime)
		w.Header().Set("ETag", `"1"`)
		files.ServeHTTP(w, r)
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	return &role{close: func() {
		_ = server.Close() // what it was asked does not matter any more
		<-done
	}}, storeAnswer{"http://" + listener.Addr().String()}, nil
}

// useStore has the SDK find a store of this process's parent.
func useStore(url string) error {
	return errors.Join(os.Setenv("AWS_ENDPOINT_URL_S3", url), os.Setenv("AWS_ACCESS_KEY_ID", "bench"),
		os.Setenv("AWS_SECRET_ACCESS_KEY", "bench"), os.Setenv("AWS_REGION", "us-east-1"))
}

type rangesArg struct {
	URL    string `json:"url"`
	Files  int    `json:"files"`
	Length int    `json:"length"` // of a file
	Bytes  int    `json:"bytes"`  // of a range
	Batch  int    `json:"batch"`  // ranges that count as one
}

// startRanges reads random ranges, 16 at once, and does nothing with them.
func startRanges(_ context.Context, _ *slog.Logger, arg rangesArg) (*role, any, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = storeSlots
	client := &http.Client{Transport: transport}
	read := func(ctx context.Context) error {
		url := fmt.Sprintf("%s/%s/samples/%d.lpcm", arg.URL, storeBucket, rand.IntN(arg.Files))
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		from := rand.IntN(arg.Length - arg.Bytes)
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+arg.Bytes-1))
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if n, err := io.Copy(io.Discard, res.Body); err != nil || int(n) != arg.Bytes {
			return fmt.Errorf("%s: %d bytes in place of %d: %w", res.Status, n, arg.Bytes, err)
		}
		return nil
	}
	many := func(ctx context.Context, n int) error {
		var next atomic.Int64
		group, ctx := errgroup.WithContext(ctx)
		for range storeSlots {
			group.Go(func() error {
				for next.Add(1) <= int64(n) {
					if err := read(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return group.Wait()
	}
	return &role{close: transport.CloseIdleConnections, ops: map[string]op{
		opTake: handle(func(ctx context.Context, take takeArg) (takeAnswer, error) {
			if err := many(ctx, take.Warm*arg.Batch); err != nil {
				return takeAnswer{}, err
			}
			began := time.Now()
			err := many(ctx, take.Timed*arg.Batch)
			return takeAnswer{
				Elapsed: time.Since(began), Bytes: int64(arg.Bytes) * int64(arg.Batch) * int64(take.Warm+take.Timed),
			}, err
		}),
	}}, nil, nil
}
