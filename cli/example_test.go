package cli_test

import (
	"github.com/jetbatch/jetbatch/cli"
	"github.com/jetbatch/jetbatch/onda"
)

// The whole main function of a program whose workers and coordinators have the onda data set. Further data sets are
// further arguments.
func ExampleMain() {
	cli.Main(onda.Definition())
}
