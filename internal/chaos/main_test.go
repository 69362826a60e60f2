package chaos

import (
	"flag"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"
)

// Flags of all tiers.
var (
	seedFlag  = flag.Uint64("chaos.seed", 0, "replay the one schedule of this seed; 0 runs the usual ones")
	firstFlag = flag.Uint64("chaos.first", 1, "the seed of the first schedule, so that a large number can be run in parts; TestSum adds up what they print")
	fullFlag  = flag.Bool("chaos.full", false, "run everything at full size, and print the figures as JSON")
)

func TestMain(m *testing.M) {
	runRoleIfAsked()
	flag.Parse()
	// The server's coarse clock has a goroutine of its own, which must not be born in a bubble of fake time.
	ats.Register()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}
