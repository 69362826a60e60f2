package schema

import (
	"errors"
	"fmt"
)

// ErrPermission is matched by every [*PermissionError].
var ErrPermission = errors.New("permission denied by the NATS server")

// PermissionError names the subject that the NATS server refused to a role or to a trainer. The server does not answer
// what it refuses, so without this error a denial would look like silence.
type PermissionError struct {
	Action  string // "publish to" or "subscribe to"
	Subject string
	Cause   error // the server's words
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("%v: this user may not %s %s", ErrPermission, e.Action, e.Subject)
}

// Unwrap makes the error match ErrPermission and the cause.
func (e *PermissionError) Unwrap() []error { return []error{ErrPermission, e.Cause} }
