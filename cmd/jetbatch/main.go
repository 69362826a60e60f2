// Command jetbatch is coordinator, worker and every tool around them, with the onda data set.
package main

import (
	"github.com/jetbatch/jetbatch/cli"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/remote"
)

func main() {
	cli.Main(onda.DefinitionWith(onda.Name, onda.Config{Remote: remote.New(remote.Config{})}))
}
