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

const (
	// claimWait is how long a claim of a configured name waits for another worker to object that listens on the name.
	claimWait = 250 * time.Millisecond
	// claimRace is how long a claim waits where no worker listened on the name: another may claim it at the very same
	// time.
	claimRace = 25 * time.Millisecond
)

// claimInterval is how often a worker asks whether its name is still its own.
const claimInterval = 5 * time.Second

// claim is a worker's right to a name, by which coordinators count it. The worker asks on the name's subject whether
// another has it, and objects when another asks. Of two that ask at the same time the smaller instance has it. The lock
// guards what is known of the claim.
type claim struct {
	nc       *nats.Conn
	instance string        // random, of this process' worker
	patience time.Duration // for another worker of the name to object
	race     time.Duration // for one that claims the name at the same time, where no worker listened on it
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
	alone   chan struct{} // likewise, that none listened before this worker did
	subs    []*nats.Subscription
	inbox   string
}

func newClaim(nc *nats.Conn, conflict func(), usurped func(error)) *claim {
	return &claim{
		nc: nc, instance: rand.Text(), patience: claimWait, race: claimRace, conflict: conflict, usurped: usurped,
	}
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
	subject := wire.ClaimPrefix + "." + name
	// Before this worker listens itself the server says at once whether another does.
	err = c.nc.PublishRequest(subject, inbox, []byte(c.instance))
	var claims *nats.Subscription
	if err == nil {
		claims, err = c.nc.Subscribe(subject, c.onClaim)
	}
	if err != nil {
		_ = answers.Unsubscribe() // the first error is the one to report
		return fmt.Errorf("claim %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name, c.inbox, c.subs = name, inbox, []*nats.Subscription{answers, claims}
	c.held, c.yielded, c.taken, c.alone = false, false, make(chan struct{}, 1), make(chan struct{}, 1)
	return nil
}

// wait asks for the name and reports whether it is this worker's.
func (c *claim) wait(ctx context.Context) bool {
	if c.patience > 0 && c.nc.IsConnected() && c.ask() == nil && !c.unopposed(ctx) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = !c.yielded
	return c.held
}

// unopposed waits for another worker to object and reports whether none did.
func (c *claim) unopposed(ctx context.Context) bool {
	c.mu.Lock()
	taken, alone := c.taken, c.alone
	c.mu.Unlock()
	patience := time.NewTimer(c.patience)
	defer patience.Stop()
	for {
		select {
		case <-taken:
			return false
		case <-alone:
			patience.Reset(c.race)
		case <-ctx.Done():
			return true
		case <-patience.C:
			return true
		}
	}
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
	c.mu.Lock()
	subject, alone := wire.ClaimPrefix+"."+c.name, c.alone
	c.mu.Unlock()
	if topology.Unheard(msg) {
		select {
		case alone <- struct{}{}:
		default: // it is known
		}
		return
	}
	if len(msg.Data) == 0 || string(msg.Data) == c.instance {
		return // not from a worker
	}
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
