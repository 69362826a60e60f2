package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const recoveryWhat = "what a trainer waits for at most when a process is killed or frozen; jobs of 5 ms, 2 workers"

// A fault befalls a service with one coordinator and a trainer that has begun. It returns what the trainer waited for.
type fault struct {
	name   string
	target time.Duration // what it may take
	strike func(s *struck, ctx context.Context) (time.Duration, error)
}

// struck is the service that a fault befalls. Its processes are broker, coordinator, two workers, trainer.
type struck struct {
	*side
	broker  brokerArg
	url     string
	trainer *process
	watch   time.Duration // how long the trainer takes batches while a fault befalls the service
	opens   int
}

func faults() []fault {
	return []fault{
		{"coordinator killed, one of two", 1500 * time.Millisecond, (*struck).coordinatorKilled},
		{"coordinator frozen, not the owner: open", time.Second, (*struck).coordinatorFrozen},
		{"trainer killed and started again", time.Second, (*struck).trainerKilled},
		{"broker killed and started again", 2 * time.Second, (*struck).brokerKilled},
	}
}

func recovery(ctx context.Context, b *bench) (*Report, error) {
	report := &Report{Notes: []string{"what is compared with is what may be waited for, not a floor"}}
	for _, f := range faults() {
		var samples []sample
		for range b.opts.rounds {
			waited, err := b.struck(ctx, f)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			samples = append(samples, sample{outcome: outcome{Value: waited.Seconds()}})
		}
		report.Rows = append(report.Rows, row(f.name, againstAllowed, "s", samples, constant(f.target.Seconds(), len(samples))))
	}
	return report, nil
}

// struck starts a service, lets the fault befall it, and ends it.
func (b *bench) struck(ctx context.Context, f fault) (waited time.Duration, err error) {
	dir, err := os.MkdirTemp(b.opts.tempDir, "recovery-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &struck{
		broker: brokerArg{Dir: filepath.Join(dir, "nats")},
		watch:  time.Duration(b.quick(8000, 8000)) * time.Millisecond, opens: b.quick(20, 8),
	}
	s.side, s.trainer, err = b.service(ctx, f.name, serviceConfig{Workers: 2, Slots: 2, Broker: s.broker, URL: &s.url})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	if err := s.open(ctx, s.trainer); err != nil {
		return 0, err
	}
	return f.strike(s, ctx)
}

// open has a trainer open the batcher and take from it.
func (s *struck) open(ctx context.Context, trainer *process) error {
	open := openArg{Name: "train", Dataset: sleepName, Params: fmt.Appendf(nil, `{"sleep":%d}`, 5*time.Millisecond)}
	if err := trainer.call(ctx, opOpen, open, nil); err != nil {
		return err
	}
	return trainer.call(ctx, opTake, takeArg{Name: open.Name, Timed: 1}, nil)
}

// another starts one more process of a role.
func (s *struck) another(ctx context.Context, role string) (*process, error) {
	return s.start(ctx, role, struct {
		URL string `json:"url"`
	}{s.url}, nil)
}

// of is the first process of a role.
func (s *struck) of(role string) *process {
	for _, p := range s.procs {
		if p.role == role {
			return p
		}
	}
	return nil
}

// watched is the longest wait of the trainer while the fault is done.
func (s *struck) watched(ctx context.Context, do func() error) (longest time.Duration, err error) {
	watched := make(chan error, 1)
	go func() { watched <- s.trainer.call(ctx, opStall, stallArg{"train", s.watch}, &longest) }()
	err = pause(ctx, s.watch/4) // all know one another by then
	if err == nil {
		err = do()
	}
	return longest, errors.Join(err, <-watched)
}

func (s *struck) coordinatorKilled(ctx context.Context) (time.Duration, error) {
	owner := s.of("coordinator")
	if _, err := s.another(ctx, "coordinator"); err != nil {
		return 0, err
	}
	return s.watched(ctx, func() error { return s.kill(owner) })
}

func (s *struck) coordinatorFrozen(ctx context.Context) (waited time.Duration, err error) {
	second, err := s.another(ctx, "coordinator")
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, time.Second); err != nil { // it takes its part of the requests by then
		return 0, err
	}
	if err := freeze(second); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, thaw(second)) }()
	var took []time.Duration
	err = s.trainer.call(ctx, opOpened, timesArg{N: s.opens}, &took)
	for _, t := range took {
		waited = max(waited, t)
	}
	return waited, err
}

func (s *struck) trainerKilled(ctx context.Context) (time.Duration, error) {
	second, err := s.another(ctx, "trainer")
	if err != nil {
		return 0, err
	}
	if err := s.kill(s.trainer); err != nil {
		return 0, err
	}
	began := time.Now()
	err = s.open(ctx, second)
	return time.Since(began), err
}

func (s *struck) brokerKilled(ctx context.Context) (time.Duration, error) {
	at, err := url.Parse(s.url)
	if err != nil {
		return 0, err
	}
	return s.watched(ctx, func() error {
		if err := s.kill(s.of("broker")); err != nil {
			return err
		}
		broker, err := s.start(ctx, "broker", brokerArg{Listen: at.Host, Dir: s.broker.Dir}, nil)
		if err == nil { // the others rely on it until they have ended
			s.procs = append([]*process{broker}, s.procs[:len(s.procs)-1]...)
		}
		return err
	})
}

// opStall asks a trainer to take batches for a while.
const opStall = "stall"

type stallArg struct {
	Name string        `json:"name"`
	For  time.Duration `json:"for"`
}

// stall takes batches and returns the longest time that one was waited for.
func (t *trainer) stall(ctx context.Context, arg stallArg) (longest time.Duration, err error) {
	for began := time.Now(); time.Since(began) < arg.For; {
		asked := time.Now()
		if _, err := t.take(ctx, takeArg{Name: arg.Name, Timed: 1}); err != nil {
			return 0, err
		}
		longest = max(longest, time.Since(asked))
	}
	return longest, nil
}
