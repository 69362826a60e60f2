package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"time"
)

const peersWhat = "one fresh tensor per batch beside torch's DataLoader with 2 worker processes; 2 slots"

var peersSizes = []size{
	{"1 KB", 1 << 10, 256, 10_000, 2_000},
	{"16 KB", 16 << 10, 128, 5_000, 0},
	{"64 KB", 64 << 10, 64, 4_000, 1_000},
	{"128 KB", 128 << 10, 64, 3_000, 0},
	{"256 KB", 256 << 10, 64, 2_000, 500},
	{"500 KB", 500 << 10, 32, 1_000, 0},
	{"1 MB", 1 << 20, 16, 500, 100},
	{"20 MB", 20 << 20, 5, 30, 0},
	{"100 MB", 100 << 20, 3, 8, 0},
}

//go:embed peer.py
var peerProgram string

// peers measures what people would use instead, where it is installed. It is no floor: it moves batches between
// processes of one machine alone, and promises less.
func peers(ctx context.Context, b *bench) (*Report, error) {
	python, torch := findTorch(ctx)
	if python == "" {
		return &Report{Notes: []string{"SKIPPED: no python3 with torch is here (Debian: apt-get install python3-torch)"}}, nil
	}
	report := &Report{Notes: []string{"torch " + torch + " by " + python + "; its CPU is not counted"}}
	sizes := peersSizes
	if b.opts.tiny {
		sizes = sizes[:1]
	}
	for _, s := range sizes {
		if n := b.quick(s.fast, s.normal); n > 0 {
			if err := b.peer(ctx, python, s, n, report); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return report, nil
}

// findTorch finds a Python that has torch, and torch's version.
func findTorch(ctx context.Context) (python, version string) {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if out, err := exec.CommandContext(ctx, python, "-c", "import torch; print(torch.__version__)").Output(); err == nil {
			return python, strings.TrimSpace(string(out))
		}
	}
	return "", ""
}

func (b *bench) peer(ctx context.Context, python string, s size, n int, report *Report) error {
	arg := takeArg{Name: "peers", Warm: s.window + 1, Timed: n}
	service, trainer, err := b.service(ctx, s.name, serviceConfig{Workers: 1, Slots: 2})
	if err != nil {
		return err
	}
	if err := trainer.call(ctx, opOpen, s.open(arg.Name, true), nil); err != nil {
		return err
	}
	loader := b.side(s.name + " DataLoader")
	torch, err := loader.start(ctx, "torch", torchArg{python, s.bytes}, nil)
	if err != nil {
		return err
	}
	samples, err := b.measure(ctx, taking(service, trainer, arg, perSecond), taking(loader, torch, arg, perSecond))
	if err != nil {
		return err
	}
	r := row(s.name, againstTorch, "batches/s", samples[0], samples[1])
	r.dropCosts()
	report.Rows = append(report.Rows, r)
	return errors.Join(service.end(), loader.end())
}

type torchArg struct {
	Python string `json:"python"`
	Bytes  int    `json:"bytes"`
}

// startTorch starts a Python program that iterates a DataLoader: told a number, it takes as many batches, and says so.
func startTorch(_ context.Context, _ *slog.Logger, arg torchArg) (*role, any, error) {
	cmd := exec.Command(arg.Python, "-c", peerProgram, fmt.Sprint(arg.Bytes))
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	said := bufio.NewReader(out)
	take := func(n int) error {
		if _, err := fmt.Fprintln(in, n); err != nil {
			return err
		}
		_, err := said.ReadString('\n')
		return err
	}
	return &role{
		close: func() {
			_ = in.Close() // its sign to end
			kill := time.AfterFunc(endTimeout/2, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			_ = cmd.Wait() // it has said all that it had to say
		},
		ops: map[string]op{opTake: handle(func(_ context.Context, a takeArg) (takeAnswer, error) {
			if err := take(a.Warm); err != nil {
				return takeAnswer{}, fmt.Errorf("DataLoader: %w", errors.Join(err, io.ErrUnexpectedEOF))
			}
			began := time.Now()
			err := take(a.Timed)
			return takeAnswer{Elapsed: time.Since(began), Bytes: int64(a.Warm+a.Timed) * int64(arg.Bytes)}, err
		})},
	}, nil, nil
}
