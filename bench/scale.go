package main

import (
	"context"
	"errors"
	"fmt"
)

const scaleWhat = "materialization that sleeps 20 ms, over up to 4 worker processes; the floor is arithmetic"

func scale(ctx context.Context, b *bench) (*Report, error) {
	report := &Report{Notes: []string{
		"slots: the floor is slots / 20 ms, with the service's own window, 2 x slots + 1",
		"1 in 100: one job in 100 takes 100 times as long; the floor is what a window allows in theory, by the model of window_model.go",
	}}
	for _, slots := range []int{1, 4, 16, 64, 256} {
		if b.opts.quick && slots != 16 && slots != 64 {
			continue
		}
		n := b.quick(50, 100) * slots // in theory, a second or two
		if err := b.sleeping(ctx, sleeping{slots: slots, timed: n}, report); err != nil {
			return nil, err
		}
	}
	if b.opts.quick {
		return report, nil
	}
	const slots = 16
	for _, window := range []int{2*slots + 1, 64 * slots} {
		if err := b.sleeping(ctx, sleeping{slots: slots, window: window, every: 100, timed: 500}, report); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// sleeping is one figure of the case.
type sleeping struct {
	slots  int
	window int // 0 is the service's own choice
	every  int // one job in so many is slow
	timed  int // batches
}

func (s sleeping) name() string {
	if s.every > 0 {
		return fmt.Sprintf("%d slots, window %d, 1 in %d", s.slots, s.window, s.every)
	}
	if s.slots == 1 {
		return "1 slot"
	}
	return fmt.Sprintf("%d slots", s.slots)
}

// warm is how many batches come before those that are timed: more than a window, and no less than the slow jobs need to
// come to their rhythm.
func (s sleeping) warm() int { return max(s.window, 2*s.slots+1) + 3*s.every }

// ideal is what the window allows: batches per second of the timed ones.
func (s sleeping) ideal() float64 {
	window := s.window
	if window == 0 {
		window = 2*s.slots + 1
	}
	p := sleepParams{Every: s.every}
	taken := inOrder(s.warm()+s.timed, s.slots, window, p.sleepOf)
	return float64(s.timed) / (taken[len(taken)-1] - taken[s.warm()-1]).Seconds()
}

func (b *bench) sleeping(ctx context.Context, s sleeping, report *Report) error {
	workers := min(s.slots, 4)
	service, trainer, err := b.service(ctx, s.name(), serviceConfig{Workers: workers, Slots: s.slots / workers})
	if err != nil {
		return err
	}
	open := openArg{Name: "scale", Dataset: sleepName, Params: fmt.Appendf(nil, `{"every":%d}`, s.every), Window: s.window}
	if err := trainer.call(ctx, opOpen, open, nil); err != nil {
		return err
	}
	// Once before all rounds, so that a round begins as the next one does.
	arg := takeArg{Name: open.Name, Warm: s.warm(), Timed: s.timed}
	if err := trainer.call(ctx, opTake, takeArg{Name: open.Name, Timed: s.warm()}, nil); err != nil {
		return err
	}
	samples, err := b.measure(ctx, taking(service, trainer, arg, perSecond))
	if err != nil {
		return err
	}
	against := againstSlots
	if s.every > 0 {
		against = againstModel
	}
	r := row(s.name(), against, "batches/s", samples[0], constant(s.ideal(), len(samples[0])))
	report.Rows = append(report.Rows, r)
	return errors.Join(b.addPeaks(ctx, report, service), service.end())
}

// constant is a floor that is known without measuring it.
func constant(value float64, rounds int) []sample {
	samples := make([]sample, rounds)
	for i := range samples {
		samples[i].Value = value
	}
	return samples
}
