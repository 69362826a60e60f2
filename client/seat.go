package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/life"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	requestTimeout = 5 * time.Second // for one answer; opening a data set may take some of it
	repairTimeout  = 2 * time.Second // where it is open, and the coordinator that was asked may be the one that is away

	// After so many doubts about what is stored, at one and the same state, looking it up is given up for
	// making it anew, and then that too.
	maxLookups = 2
	maxDamages = 6
)

// seats gets the right to take. Take and Start use it, one at a time.
type seats struct {
	cfg     *Config
	id      string // of this reader, by secret
	secret  string
	handle  context.Context
	ask     *asker
	run     *run
	line    *line
	credits *credits
	intake  *intake
	domain  string // of the coordinator's JetStream, as it said; of Open and Start, one at a time
}

// sitting is what a seat is wanted for.
type sitting struct {
	mode     wire.Mode
	state    schema.State
	takeOver bool   // with ModeOpen
	ended    string // likewise: wire.SeatRequest.Ended
	open     bool   // the data set is open: an answer that takes long does not come
	atHead   bool   // the state is the head's: a repair
	repair   bool   // give up when the head of the line arrives meanwhile
	moving   bool   // likewise when all ranks, this one among them, were moved
}

// moot returns what ends a repair early; nil for a wait that is no repair.
func (s *seats) moot(want *sitting) func() (bool, <-chan struct{}) {
	switch {
	case want.repair:
		return s.line.moot
	case want.moving:
		return s.line.isMoved
	}
	return nil
}

const seatMoves = "the seat keeps moving"

// hold opens the batcher without starting it. ended is the secret of a reader whose process has ended, if one is known.
func (s *seats) hold(ctx context.Context, ended string) error {
	reply, err := s.request(ctx, &sitting{mode: wire.ModeOpen, takeOver: s.cfg.TakeOver, ended: ended})
	if err != nil {
		return err
	}
	s.line.hold(&reply)
	s.domain = reply.Domain
	return nil
}

// begin seats a handle that does not run. A batcher that another process left running is joined, unless this handle had
// a run that ended: what it holds need not be made again. Of several readers each goes to where the others are.
func (s *seats) begin(ctx context.Context, state schema.State, anew bool) error {
	mode := wire.ModeStart
	if !anew && (s.cfg.Reader != "" || s.line.owner.running()) {
		mode = wire.ModeSeek
	}
	return s.sit(ctx, sitting{mode: mode, state: state})
}

// sit gets a seat and begins to read there.
func (s *seats) sit(ctx context.Context, want sitting) error {
	n := newNag(s.cfg.Logger)
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		reply, err := s.request(ctx, &want)
		if err == nil {
			return s.read(&want, &reply)
		}
		if errors.Is(err, errNotNeeded) && !want.atHead {
			// The other ranks cannot come to where this one waits for them while the owner takes it to be further back.
			if err := s.repairTo(ctx, true); err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, ErrSuperseded) && !errors.Is(err, ErrInUse) {
			return err
		}
		// The seat moved on. If no other reader sits there, it was the owner that moved it, or an earlier request of
		// ours whose answer was lost.
		if !s.mine(ctx) {
			if errors.Is(err, ErrSuperseded) {
				s.run.end(err)
			}
			return err
		}
		n.say(seatMoves)
		if err := s.pause(ctx, backoff, seatMoves, nil); err != nil {
			return err
		}
	}
}

// read begins to read at the seat of a reply.
func (s *seats) read(want *sitting, reply *wire.SeatReply) error {
	sess := s.line.reading(reply.Gen)
	if sess == nil {
		var err error
		if sess, err = s.intake.open(reply.Gen); err != nil {
			return s.run.blame(s.cfg.errDisconnected(err), nil)
		}
	}
	err := s.line.sit(reply, want.state.IsZero(), sess)
	if err != nil {
		sess.abandon()
	}
	return err
}

// repair is the one answer to every doubt: a seat at the head of the line. Where what is stored is in doubt, and
// looking it up did not help, it is made anew.
func (s *seats) repair(ctx context.Context) error { return s.repairTo(ctx, false) }

// repairTo is repair. A rank that is to move says where it is until it is moved, and has no need of its old place then.
func (s *seats) repairTo(ctx context.Context, moving bool) error {
	doubt, repairs, damages := s.run.repair()
	if doubt.Weight == 0 && !moving {
		return nil
	}
	s.line.repaired()
	state, gen, seq := s.line.head()
	if damages > maxDamages {
		return s.run.blame(fmt.Errorf("batcher %s: generation %s: %w: %s", s.cfg.Name, gen, ErrCorrupt, doubt.Why), nil)
	}
	want := sitting{
		mode: wire.ModeSeek, state: state, open: true, atHead: true, repair: doubt.Weight == life.Silent, moving: moving,
	}
	switch {
	case damages <= maxLookups:
	case s.cfg.World == nil && s.cfg.Reader == "":
		want.mode = wire.ModeStart
	default: // the others are not moved for it: the one batch is made again
		s.line.giveUp()
	}
	s.cfg.Logger.Warn("asking for the seat again", "gen", gen, "seq", seq, "why", doubt.Why)
	var err error
	if repairs > 1 {
		// A seat that does not help at once is not asked for in a loop: an owner that was deposed and does not know it, say,
		// goes on contradicting the new one until it has looked.
		err = s.pause(ctx, min(firstBackoff<<min(repairs, 8), maxBackoff), doubt.Why, s.moot(&want))
	}
	if err == nil {
		err = s.sit(ctx, want)
	}
	switch {
	case errors.Is(err, errNotNeeded):
		s.run.settle()
		return nil
	case err != nil && s.cfg.World != nil && !errors.Is(err, ErrUnavailable):
		return s.run.blame(err, nil) // the run is over for all ranks: a Start begins another, and does not find this one
	}
	return err
}

// pause waits about d for what is named. The error is of what ended the wait before.
func (s *seats) pause(ctx context.Context, d time.Duration, what string, moot func() (bool, <-chan struct{})) error {
	began, run := time.Now(), s.run.context()
	switch {
	case pause(ctx, run, d, nil, moot):
		return errNotNeeded
	case run.Err() != nil:
		return context.Cause(run)
	case ctx.Err() != nil:
		return s.cfg.waitError(ctx, began, what)
	}
	return nil
}

// request asks until a coordinator answers, ctx ends or the run does.
func (s *seats) request(ctx context.Context, want *sitting) (reply wire.SeatReply, err error) {
	id, moot := s.ask.newID(), s.moot(want)
	seat, taken := s.line.seated()
	if s.cfg.World != nil && want.mode != wire.ModeOpen && !want.atHead {
		moot = s.line.isStranded
		s.line.ask(id)
		s.credits.due.give() // so that the owner knows it when it is not said any more
		defer s.credits.due.give()
		defer s.line.ask("")
	}
	q := question{
		op: "seat", limit: requestTimeout, run: s.run.context(), moot: moot,
		body: &wire.SeatRequest{
			Wire: wire.Version, Batcher: s.cfg.Name, Request: id, Mode: want.mode, Reader: s.id, Secret: s.secret,
			TakeOver: want.takeOver, Ended: want.ended,
			Rank: s.cfg.place(), Size: s.cfg.World.size(), Seat: seat, Taken: taken, Repair: want.atHead,
			Spec: s.cfg.spec(), Settings: s.cfg.settings(), State: want.state, Trace: s.line.tracing(),
			AcceptChange: s.cfg.AcceptChange,
		},
		decode: func(subject string, data []byte) (*schema.Fault, error) {
			err := readAnswer(subject, data, &reply)
			if err == nil && reply.Fault == nil && reply.Wire != wire.Version {
				return foreign(reply.Wire), nil
			}
			if err == nil && reply.Fault == nil {
				err = checkSeat(want, &reply)
			}
			return reply.Fault, err
		},
	}
	if want.mode == wire.ModeOpen {
		q.run = s.handle // a reader whose run has ended may ask
	}
	if want.open {
		q.limit = repairTimeout
	}
	if err := s.ask.ask(ctx, q); err != nil {
		if errors.Is(err, ErrWrongData) {
			err = &OriginError{s.cfg.Name, s.cfg.Dataset, want.state, reply.Differences}
		}
		return wire.SeatReply{}, err
	}
	for _, w := range reply.Warnings {
		s.cfg.Logger.Warn(w, "gen", reply.Gen)
	}
	return reply, nil
}

// foreign is why a seat with a coordinator of another wire version is no seat: what its workers store would look
// damaged. One of this version may answer the next request.
func foreign(version int) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnavailable, Message: fmt.Sprintf(
		"the batcher's coordinator speaks wire version %d and this trainer %d: use programs of one release",
		max(version, 1), wire.Version)}
}

// mine asks the owner which reader holds the seat, and reports whether this reader may ask for it. A seat without a
// reader is opened once more.
func (s *seats) mine(ctx context.Context) bool {
	reply, err := s.credits.beat(ctx)
	switch {
	case err != nil:
		return true // unless the next request says otherwise
	case reply.Reader == s.id:
		return true
	case reply.Reader != "":
		return false
	}
	_, err = s.request(ctx, &sitting{mode: wire.ModeOpen})
	return !errors.Is(err, ErrInUse) && !errors.Is(err, ErrSuperseded)
}
