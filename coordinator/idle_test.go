package coordinator_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A batcher that nobody holds keeps its place for 30 days at most, whatever its trainer asks for.
func TestIdleTimeoutIsBounded(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	for idle, allowed := range map[time.Duration]bool{
		wire.MaxIdleTimeout: true, wire.MaxIdleTimeout + 1: false, math.MaxInt64: false, -1: false,
	} {
		req := r.request(wire.ModeOpen, schema.State{})
		req.Settings.IdleTimeout = idle
		reply := r.try(req)
		switch {
		case allowed && reply.Fault != nil:
			t.Errorf("%v: %+v", idle, reply.Fault)
		case !allowed:
			expectFault(t, reply.Fault, schema.CodeBadRequest)
			if !strings.Contains(reply.Fault.Message, "30 days") {
				t.Errorf("%v: %q does not say the bound", idle, reply.Fault.Message)
			}
		}
	}
}
