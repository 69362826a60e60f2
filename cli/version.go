package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// stamp is the version that the build of an image gives, where no history is at hand: see Dockerfile.
var stamp string

type versionCmd struct {
	JSON bool `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

type versionReport struct {
	Version  string   `json:"version"`
	Module   string   `json:"module"` // version of the main module, as the Go toolchain has it
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	Wire     int      `json:"wire"`
	Datasets []string `json:"datasets"`
}

// Run prints versions.
func (c *versionCmd) Run(a *app) error {
	r := versionReport{
		Version: wire.Release, Module: "unknown", Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Wire: wire.Version,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		r.Module = info.Main.Path + " " + cmp.Or(stamp, info.Main.Version)
	}
	for _, d := range a.defs {
		r.Datasets = append(r.Datasets, fmt.Sprintf("%s@%d", d.Name(), d.Version()))
	}
	if c.JSON {
		return printJSON(a.out, r)
	}
	_, err := fmt.Fprintf(a.out, "jetbatch %s (%s)\nwire     %d\ngo       %s %s\ndata     %v\n",
		r.Version, r.Module, r.Wire, r.Go, r.Platform, r.Datasets)
	return err
}
