package topology

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Codes of JetStream's errors, as nats-server numbers them (server/errors.json). No other package has one: the
// functions below say what they mean.
const (
	codeAccountResources      = 10002
	codeNoPeers               = 10005 // fewer servers than replicas
	codeInsufficientResources = 10023
	codeMemoryResources       = 10028
	codeNoMessage             = 10037
	codeNotForAccount         = 10039 // JetStream is not enabled for the account
	codeNoSequence            = 10043 // the message to be deleted is not there
	codeStorageResources      = 10047
	codeDeleteFailed          = 10057 // so, too, of some streams
	codeStreamNotFound        = 10059
	codeSubjectsOverlap       = 10065 // another stream has them
	codeWrongLastSequence     = 10071
	codeStoreFailed           = 10077 // one code for several limits; the description tells them apart
	codeWriteUnderWay         = 10164 // the same of a stream of several replicas, whose last write is not applied yet
	codeStreamOffline         = 10194 // its files are damaged, or of a later version
	codeConsumerOffline       = 10195
)

// CodeTooLarge is the code for a message that is too large, for those that find so before they send it.
const CodeTooLarge = 10054

// statusUnavailable is the status of errors that end with an election.
const statusUnavailable = 503

// codeOf is the code of a JetStream error, 0 for any other.
func codeOf(err error) int {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return 0
	}
	return int(api.ErrorCode)
}

// IsDuplicate reports whether JetStream refused a message because its subject has one already. The same
// error code also stands for a full stream, so the description decides.
func IsDuplicate(code int, description string) bool {
	return code == codeStoreFailed && strings.Contains(description, "per subject")
}

// IsFull reports whether JetStream refused a message because a stream, an account or the server has no room for it.
func IsFull(code int, description string) bool {
	switch code {
	case codeStoreFailed:
		return strings.Contains(description, "maximum bytes") || strings.Contains(description, "maximum messages exceeded") ||
			strings.Contains(description, "resource limits")
	case codeAccountResources, codeInsufficientResources, codeMemoryResources, codeStorageResources:
		return true
	}
	return false
}

// IsTooLarge reports whether JetStream refused a message because of its size.
func IsTooLarge(code int, description string) bool {
	return code == CodeTooLarge || code == codeStoreFailed && strings.Contains(description, "too large")
}

// IsNoStream reports whether the code says that there is no such stream.
func IsNoStream(code int) bool { return code == codeStreamNotFound }

// IsNoMessage reports whether the code says that there is no such message.
func IsNoMessage(code int) bool { return code == codeNoMessage }

// IsConflict reports whether a compare-and-set of the bucket failed because the key has another revision. A bucket of
// several replicas has a second code for it, while the change that was faster is not applied yet.
func IsConflict(err error) bool {
	code := codeOf(err)
	return code == codeWrongLastSequence || code == codeWriteUnderWay
}

// IsPassing reports whether an error that JetStream answered with may go away by itself: it has no leader for now, or
// knows fewer servers than there are to be replicas.
func IsPassing(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.Code == statusUnavailable || api.ErrorCode == codeNoPeers)
}

// IsNotForAccount reports whether JetStream is off for the account of the connection, and on for others.
func IsNotForAccount(err error) bool {
	return errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || codeOf(err) == codeNotForAccount
}

// unreadable reports whether the server has stored what it cannot run. It stays so until somebody deletes it.
func unreadable(err error) bool {
	code := codeOf(err)
	return code == codeStreamOffline || code == codeConsumerOffline
}

// gone reports whether a message could not be deleted because it was deleted, or acked, before.
func gone(err error) bool {
	if codeOf(err) == codeNoMessage {
		return true
	}
	refused := errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) // which has the server's error as text only
	return refused && slices.ContainsFunc([]int{codeNoMessage, codeNoSequence, codeDeleteFailed}, func(code int) bool {
		return strings.Contains(err.Error(), fmt.Sprintf("err_code=%d ", code))
	})
}
