package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/onda"
)

type ondaRepackCmd struct {
	Dir        string `arg:"" help:"Folder of an Onda data set." type:"existingdir"`
	Out        string `help:"Folder to make; it must not exist." type:"path" required:"" placeholder:"DIR"`
	Signals    string `help:"Table of signals in the folder." default:"onda.signals.arrow" placeholder:"FILE"`
	FrameBytes int    `help:"Bytes of samples in a frame." default:"32768" placeholder:"N"`
	JSON       bool   `name:"json" env:"JETBATCH_JSON" help:"Print one JSON object."`
}

// repackReport is the output of --json.
type repackReport struct {
	Out    string `json:"out"`
	Files  int    `json:"files"`
	Packed int    `json:"packed"`
	Before int64  `json:"bytes_before"`
	After  int64  `json:"bytes_after"`
}

// Run repacks.
func (c *ondaRepackCmd) Run(ctx context.Context, a *app) error {
	shown := time.Now()
	done, err := onda.Repack(ctx, onda.RepackConfig{
		From: c.Dir, To: c.Out, Signals: c.Signals, FrameBytes: c.FrameBytes,
		Progress: func(done, total int) {
			if time.Since(shown) > lineEvery {
				shown = time.Now()
				a.err.say("%d of %d files", done, total)
			}
		},
	})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.out, repackReport{
			Out: c.Out, Files: done.Files, Packed: done.Packed, Before: done.Before, After: done.After,
		})
	}
	fmt.Fprintf(a.out, "%d of %d files in frames, %.1f MB in place of %.1f MB, in %s\n",
		done.Packed, done.Files, megabytes(done.After), megabytes(done.Before), c.Out)
	return nil
}
