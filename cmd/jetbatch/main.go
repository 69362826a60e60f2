// Command jetbatch is coordinator, worker and every tool around them, with the onda data set.
package main

import (
	"github.com/jetbatch/jetbatch/cli"
	"github.com/jetbatch/jetbatch/onda"
)

func main() { cli.Main(onda.Definition()) }
