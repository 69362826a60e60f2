package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jetbatch/jetbatch/onda"
)

const zstWhat = "random windows of one long compressed recording, read one at a time; beside the same recording as lpcm"

const againstLPCM = "lpcm"

// zst compares where a compressed recording comes from: a file in the seekable format, and a file of one frame once it
// has been read, which is copied to a local folder or to memory then.
func zst(ctx context.Context, b *bench) (*Report, error) {
	dir := func(name string) string { return filepath.Join(b.opts.tempDir, "zst", name) }
	// 55 MB and 553 MB.
	m := madeUp{
		recordings: 1, length: time.Duration(b.quick(60, 600)) * time.Minute, channels: 16, rate: 480, stretches: 10,
	}
	if b.opts.tiny {
		m.length = 10 * time.Minute
	}
	if err := m.write(dir("lpcm")); err != nil {
		return nil, err
	}
	m.oneFrame = true
	if err := m.write(dir("one")); err != nil {
		return nil, err
	}
	packed, err := onda.Repack(ctx, onda.RepackConfig{From: dir("one"), To: dir("packed")})
	if err != nil {
		return nil, err
	}
	size := int64(m.length.Seconds()) * int64(2*m.channels*m.rate)
	r := &Report{Notes: []string{fmt.Sprintf("data: one made-up recording of %v, %d channels at %d Hz, %d MB; "+
		"%d MB in one frame, %d MB repacked", m.length, m.channels, m.rate, size/1e6, packed.Before/1e6, packed.After/1e6)}}
	for _, window := range []time.Duration{time.Second, 10 * time.Second, 30 * time.Second} {
		if err := b.zstWindows(ctx, r, dir, window); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// zstWindows adds the figures of windows of one length.
func (b *bench) zstWindows(ctx context.Context, r *Report, dir func(string) string, window time.Duration) error {
	p := onda.Params{
		SensorType: onda.Names{"eeg"}, BatchSize: 16, BatchDuration: onda.Duration(window), Seed: 1, CacheBytes: 2 << 30,
	}
	arg := takeArg{Warm: 2, Timed: b.quick(40, 160)}
	windowsPerSecond := func(arg takeArg, a takeAnswer) float64 { return float64(p.BatchSize) * perSecond(arg, a) }
	var sides []*side
	var entries []entry
	for _, of := range []struct{ name, dir, cache string }{
		{againstLPCM, "lpcm", ""},
		{"repacked", "packed", ""},
		{"one frame, second epoch, from a folder", "one", dir("cache")},
		{"one frame, second epoch, from memory", "one", ""},
	} {
		p.Dir, p.CacheDir = dir(of.dir), of.cache
		s := b.side(fmt.Sprintf("%s, %v", of.name, window))
		process, err := s.start(ctx, "onda loop", ondaArg{Params: p, Concurrency: 1}, nil)
		if err != nil {
			return err
		}
		sides, entries = append(sides, s), append(entries, taking(s, process, arg, windowsPerSecond))
	}
	// In its first epoch a file of one frame is decoded into the cache, which is not measured: each side reads all of its
	// windows once before.
	for _, e := range entries {
		if _, err := e.run(ctx); err != nil {
			return err
		}
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return err
	}
	for i, name := range []string{"repacked", "one frame, folder", "one frame, memory"} {
		r.Rows = append(r.Rows, row(fmt.Sprintf("%s, windows of %v", name, window), againstLPCM, "windows/s",
			samples[i+1], samples[0]))
	}
	errs := []error{b.addPeaks(ctx, r, sides...)}
	for _, s := range sides {
		errs = append(errs, s.end())
	}
	return errors.Join(errs...)
}
