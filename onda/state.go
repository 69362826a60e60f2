package onda

import (
	"fmt"
)

// The modes of iterating, as [Params].Mode and [State].Mode have them.
const (
	// ModeRandom draws windows at random, without end: [RandomBatches].
	ModeRandom = "random"
	// ModeEpochs gives every window once per epoch: [EpochBatches].
	ModeEpochs = "epochs"
)

const stateVersion = 1

// State is where an iterator stands. It is small, and readable in a debugger
// or a JSON dump; a trainer saves it as it gets it.
type State struct {
	// Version of this layout, 1.
	Version int `msgpack:"version" json:"version"`
	// Mode is the iterator that the state belongs to.
	Mode string `msgpack:"mode" json:"mode"`
	// Epoch counts from 0. Random batches stay in epoch 0.
	Epoch uint64 `msgpack:"epoch" json:"epoch"`
	// Index counts what was handed out: batches for random batches, windows of
	// this epoch for epochs.
	Index uint64 `msgpack:"index" json:"index"`
	// Generator is the state of the random generator. Epochs do not advance
	// it: it is the key of every epoch's shuffle.
	Generator Generator `msgpack:"generator" json:"generator"`
}

// StartState is the first state for a mode and a seed.
func StartState(mode string, seed uint64) State {
	return State{Version: stateVersion, Mode: mode, Generator: seeded(seed)}
}

func (s State) check(mode string) error {
	if s.Version != stateVersion {
		return fmt.Errorf("%w: version %d, want %d", ErrState, s.Version, stateVersion)
	}
	if s.Mode != mode {
		return fmt.Errorf("%w: mode %q, want %q", ErrState, s.Mode, mode)
	}
	return nil
}

// Job lists the windows of one batch.
type Job struct {
	Items []Item `msgpack:"items" json:"items"`
}

// Item is one window of one labelled signal.
type Item struct {
	// Signal is the place of the labelled signal in the tables as read,
	// Recording its recording and Sensor its sensor label, so that a process
	// with other tables, or one that dropped other signals, fails ([ErrJob])
	// instead of reading something else.
	Signal    int    `msgpack:"signal" json:"signal"`
	Recording string `msgpack:"recording" json:"recording"`
	Sensor    string `msgpack:"sensor" json:"sensor"`
	// Start and Stop are nanoseconds from the start of the recording.
	Start int64 `msgpack:"start" json:"start"`
	Stop  int64 `msgpack:"stop" json:"stop"`
	// Channels by name; none means all, in the order of the file.
	Channels []string `msgpack:"channels" json:"channels,omitempty"`
}
