package cli

import (
	"fmt"

	"github.com/alecthomas/kong"

	"github.com/jetbatch/jetbatch/client"
)

// checkArgs refuses a secret on the command line, which every user of the machine can read. A server's URL with a
// password in it belongs into the environment or the configuration file.
func checkArgs(parsed *kong.Context) error {
	for _, p := range parsed.Path {
		if p.Flag == nil || p.Flag.Name != "server" || p.Resolved {
			continue
		}
		if url := p.Flag.Target.String(); client.Redact(url) != url {
			return fmt.Errorf("%w: --server has a user or a password in it, and others can read a command line: use JETBATCH_SERVER, --user, --creds or --nkey", errUsage)
		}
	}
	return nil
}
