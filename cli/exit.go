package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/onda/importer"
	"github.com/jetbatch/jetbatch/schema"
)

// The exit codes; the help text lists them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitDiffers     = 3
	exitUnhealthy   = 4
	exitInUse       = 5
	exitInterrupted = 130
)

var (
	errUsage       = errors.New("usage")
	errDiffers     = errors.New("not what the reference gives")
	errUnhealthy   = errors.New("not healthy")
	errInterrupted = errors.New("ended by a signal")
)

var codes = []struct {
	err  error
	code int
}{
	{errDiffers, exitDiffers},
	{errInterrupted, exitInterrupted},
	{errUsage, exitUsage},
	{client.ErrBadConfig, exitUsage},
	{client.ErrBadParams, exitUsage},
	{client.ErrUnknownDataset, exitUsage},
	{client.ErrWrongState, exitUsage},
	{client.ErrWrongData, exitUsage},
	{client.ErrSpecMismatch, exitUsage},
	{kind.ErrBadParams, exitUsage},
	{importer.ErrImport, exitUsage},
	{kind.ErrWrongState, exitUsage},
	{kind.ErrWrongData, exitUsage},
	{kind.ErrNoStart, exitUsage},
	{wire.ErrBadName, exitUsage},
	{schema.ErrBadStateText, exitUsage},
	{client.ErrInUse, exitInUse},
	{client.ErrSuperseded, exitInUse},
	{errUnhealthy, exitUnhealthy},
	{client.ErrUnavailable, exitUnhealthy},
	{client.ErrRankLost, exitUnhealthy},
	{client.ErrDisconnected, exitUnhealthy},
	{client.ErrPermission, exitUnhealthy},
	{nats.ErrNoServers, exitUnhealthy},
}

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return exitFailed
}

// interrupted returns errInterrupted with err if ctx ended by a signal, else err.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errInterrupted, err)
	}
	return err
}
