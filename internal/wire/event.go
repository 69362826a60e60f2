package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// EventPrefix begins the subjects of the stream of events: .<role>.<name> of what the event happened to.
const EventPrefix = "jetbatch.event"

// Roles of what events happen to.
const (
	EventBatcher     = "batcher"
	EventWorker      = "worker"
	EventCoordinator = "coordinator"
	EventCheck       = "check" // of jetbatch check, which tries a write; no event
)

// Event is something that happened, for people: what, when, why, and by whose word. Events are told once and may be
// lost; nothing is decided by them.
type Event struct {
	At   time.Time `json:"at"` // by the server's clock, once it is stored
	Role string    `json:"role"`
	Name string    `json:"name"`
	What string    `json:"what"`          // came, left, died, failed, …
	Why  string    `json:"why,omitempty"` // at most MaxWhy bytes
	By   string    `json:"by,omitempty"`  // the coordinator that tells it, or who asked for it
	Gen  string    `json:"gen,omitempty"`
	Bad  bool      `json:"bad,omitempty"` // it went wrong
}

// MaxWhy bounds the reason of an event, MaxEvent an event as it is stored.
const (
	MaxWhy   = 1 << 10
	MaxEvent = 4 << 10
)

// EventSubject is where an event is stored.
func EventSubject(e Event) string { return joinSubject(EventPrefix, e.Role, e.Name) }

// ParseEvent reads a stored event: its role and name are those of the subject, which the server checks.
func ParseEvent(subject string, data []byte, at time.Time) (e Event, err error) {
	if len(data) > MaxEvent {
		return e, fmt.Errorf("event of %d bytes; at most %d", len(data), MaxEvent)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, err
	}
	parts := strings.Split(subject, ".")
	if len(parts) != 4 || !strings.HasPrefix(subject, EventPrefix+".") {
		return e, errors.New("not the subject of an event")
	}
	if parts[2] == EventCheck {
		return e, errors.New("not an event")
	}
	e.Role, e.Name, e.At = parts[2], parts[3], at
	return e, nil
}
