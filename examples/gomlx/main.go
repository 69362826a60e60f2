// Command gomlx trains a small network in GoMLX on labelled recordings, alone or as several ranks that take each batch
// together. However often it is killed, it goes on where its checkpoint is, and with as many ranks the weights at the
// end are bit for bit those of a run that never was. README.md beside this file shows it.
//
//	go run . -data DIR
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends it at once
	slog.SetLogLoggerLevel(slog.LevelWarn)
	if err := command(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

// launched is set in the processes that launch starts.
const launched = "GOMLX_EXAMPLE_LAUNCHED"

func command(ctx context.Context, args []string) error {
	var o Options
	flags := flag.NewFlagSet("gomlx", flag.ExitOnError)
	flags.StringVar(&o.Data, "data", "", "folder of labelled recordings in Onda format; it is only read")
	flags.StringVar(&o.Out, "out", "run", "folder for checkpoint and picture")
	flags.IntVar(&o.Steps, "steps", 600, "steps in all")
	flags.IntVar(&o.Every, "every", 20, "steps from one checkpoint to the next")
	ranks := flags.Int("ranks", 1, "processes that take each batch together; a launcher such as torchrun starts its own")
	server := flags.String("server", os.Getenv("NATS_URL"), "a service that runs; defaults to one in this process")
	_ = flags.Parse(args) // it exits
	if o.Data == "" || o.Steps < 1 || o.Every < 1 || *ranks < 1 || flags.NArg() > 0 {
		flags.Usage()
		os.Exit(2)
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	world, err := client.WorldFromEnv()
	if err != nil {
		return err
	}
	if os.Getenv(launched) != "" {
		// The pipe ends with the launcher, also when that is killed.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	if *server == "" {
		if world != nil {
			return errors.New("a rank needs -server or NATS_URL")
		}
		cfg := embedded.Config{Workers: 2, Listen: "127.0.0.1:0"}
		service, err := embedded.Start(context.WithoutCancel(ctx), cfg, onda.Definition())
		if err != nil {
			return err
		}
		defer service.Close()
		*server = service.URL()
	}
	if world == nil && *ranks > 1 {
		return launch(ctx, *ranks, *server, args)
	}
	nc, err := client.Connect(*server)
	if err != nil {
		return err
	}
	defer nc.Close()
	return run(ctx, nc, o, world, os.Stdout)
}

// launch starts this program once for each rank, and ends all of them when one fails. Each launch is a world of its
// own.
func launch(ctx context.Context, ranks int, server string, args []string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	all, ctx := errgroup.WithContext(ctx)
	world := rand.Text()
	for rank := range ranks {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(os.Environ(), launched+"=1", "NATS_URL="+server,
			"JETBATCH_WORLD="+world, "RANK="+strconv.Itoa(rank), "WORLD_SIZE="+strconv.Itoa(ranks))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		alive, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		fmt.Printf("rank %d is process %d\n", rank, cmd.Process.Pid)
		all.Go(func() error {
			defer alive.Close()
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("rank %d: %w", rank, err)
			}
			return nil
		})
	}
	return all.Wait()
}
