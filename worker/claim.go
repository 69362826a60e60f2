package worker

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// claimWait is how long a claim of a configured name waits for another worker of that name to object.
const claimWait = 250 * time.Millisecond

// claimInterval is how often a worker asks whether its name is still its own.
const claimInterval = 5 * time.Second

// claim is a worker's right to a name, by which coordinators count it. The worker asks on the name's subject whether
// another has it, and objects when another asks. Of two that ask at the same time the smaller instance has it. The lock
// guards what is known of the claim.
type claim struct {
	nc       *nats.Conn
	instance string        // random, of this process' worker
	patience time.Duration // for another worker of the name to object
	conflict func()        // called once, when another worker turns out to have a name that is this one's
	usurped  func(error)   // called once, when what answers is a stream

	mu      sync.Mutex
	name    string
	held    bool // no worker has objected in time
	yielded bool
	told    bool // of a conflict
	streams sync.Once
	asked   time.Time
	taken   chan struct{} // hears at most once, that the name is another worker's
	subs    []*nats.Subscription
	inbox   string
}

func newClaim(nc *nats.Conn, conflict func(), usurped func(error)) *claim {
	return &claim{nc: nc, instance: rand.Text(), patience: claimWait, conflict: conflict, usurped: usurped}
}

// obtain claims a name, or else that name with a suffix, and returns the one that is this worker's now. Without a
// connection the question cannot be asked; repeat asks it later.
func (c *claim) obtain(ctx context.Context, wanted string) (string, error) {
	for name := wanted; ; name = fmt.Sprintf("%.59s-%s", wanted, strings.ToLower(rand.Text()[:4])) {
		if err := c.listen(name); err != nil {
			return "", err
		}
		if c.wait(ctx) {
			return name, nil
		}
		c.close()
	}
}

// listen hears the claims of others, and their answers to this worker's.
func (c *claim) listen(name string) error {
	inbox := c.nc.NewInbox()
	answers, err := c.nc.Subscribe(inbox, c.onObjection)
	if err != nil {
		return fmt.Errorf("claim %s: %w", name, err)
	}
	claims, err := c.nc.Subscribe(wire.ClaimPrefix+"."+name, c.onClaim)
	if err != nil {
		_ = answers.Unsubscribe() // the first error is the one to report
		return fmt.Errorf("claim %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name, c.inbox, c.subs = name, inbox, []*nats.Subscription{answers, claims}
	c.held, c.yielded, c.taken = false, false, make(chan struct{}, 1)
	return nil
}

// wait asks for the name and reports whether it is this worker's.
func (c *claim) wait(ctx context.Context) bool {
	c.mu.Lock()
	taken := c.taken
	c.mu.Unlock()
	if c.patience > 0 && c.nc.IsConnected() && c.ask() == nil {
		patience := time.NewTimer(c.patience)
		defer patience.Stop()
		select {
		case <-taken:
			return false
		case <-ctx.Done():
		case <-patience.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = !c.yielded
	return c.held
}

func (c *claim) ask() error {
	c.mu.Lock()
	subject, inbox := wire.ClaimPrefix+"."+c.name, c.inbox
	c.asked = time.Now()
	c.mu.Unlock()
	return c.nc.PublishRequest(subject, inbox, []byte(c.instance))
}

// repeat asks again, now and then: another worker may have taken the name while the two could not hear one another.
func (c *claim) repeat() {
	c.mu.Lock()
	due := time.Since(c.asked) >= claimInterval
	c.mu.Unlock()
	if due {
		_ = c.ask() // fails only when the connection is closed
	}
}

// onClaim hears that a worker wants the name.
func (c *claim) onClaim(msg *nats.Msg) {
	other := string(msg.Data)
	if other == c.instance || other == "" || !topology.Answerable(msg.Reply, c.nc.Opts.InboxPrefix) {
		return
	}
	c.mu.Lock()
	objects := c.held || c.instance < other
	if !objects {
		c.yield()
	}
	c.mu.Unlock()
	if objects {
		_ = msg.Respond([]byte(c.instance)) // fails only when the connection is closed
	}
}

// onObjection hears that the name is another worker's.
func (c *claim) onObjection(msg *nats.Msg) {
	if len(msg.Data) == 0 || string(msg.Data) == c.instance {
		return // not from a worker
	}
	c.mu.Lock()
	subject := wire.ClaimPrefix + "." + c.name
	c.mu.Unlock()
	if err := topology.Answered(subject, msg.Data); err != nil {
		c.streams.Do(func() { c.usurped(err) })
		return
	}
	c.mu.Lock()
	held := c.held
	if !held {
		c.yield()
	}
	told := c.told
	c.told = held
	c.mu.Unlock()
	if held && !told {
		c.conflict()
	}
}

// yield leaves the name to another worker. c.mu is held.
func (c *claim) yield() {
	if !c.yielded {
		c.yielded = true
		c.taken <- struct{}{} // has room for one
	}
}

// close gives the name up.
func (c *claim) close() {
	c.mu.Lock()
	subs := c.subs
	c.subs = nil
	c.mu.Unlock()
	for _, sub := range subs {
		_ = sub.Unsubscribe() // fails only when the connection is closed
	}
}
