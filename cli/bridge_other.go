//go:build !linux

package cli

import (
	"context"
	"fmt"

	"github.com/jetbatch/jetbatch/dataset"
)

// Run says that this system cannot share memory as the protocol does.
func (*bridgeCmd) Run(context.Context) error {
	return fmt.Errorf("%w: jetbatch bridge runs on Linux", errUsage)
}

func (*processFlags) start(context.Context, *app, []command, int) ([]dataset.Definition, func(), error) {
	return nil, nil, fmt.Errorf("%w: --python and --exec work on Linux", errUsage)
}
