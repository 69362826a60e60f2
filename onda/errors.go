package onda

import (
	"errors"
	"fmt"

	"github.com/jetbatch/jetbatch/dataset"
)

// Errors that callers can test for with errors.Is. Each is wrapped with the
// file, column, row, recording or value that it is about.
var (
	// ErrTable is returned for an Arrow file that is damaged, too large, or
	// lacks a column of the type that Onda asks for. errors.As with a
	// *TableError tells where.
	ErrTable = errors.New("onda: bad table")
	// ErrPath is returned for a file path that leaves the source's root, has a
	// scheme that the source does not serve, or leads to what is no file.
	ErrPath = errors.New("onda: path not served by this source")
	// ErrTruncated is returned when a sample file ends before the samples
	// that the signal's span promises. It never unwraps to io.EOF.
	ErrTruncated = errors.New("onda: truncated samples")
	// ErrCompressed is returned for a damaged zstd stream, or one whose
	// window asks for more memory than the decoder may take.
	ErrCompressed = errors.New("onda: bad compressed samples")
	// ErrSignal is returned for a signal row that cannot be read: an unknown
	// file format or sample type, a rate that is not positive, no channels.
	ErrSignal = errors.New("onda: bad signal")
	// ErrChannels is returned when a signal lacks a channel that was asked
	// for, or has fewer channels than asked for.
	ErrChannels = errors.New("onda: channels not in the signal")
	// ErrLabels is returned for annotations that do not make dense labels:
	// unsorted, with gaps or overlaps, or not divisible by the label's
	// duration.
	ErrLabels = errors.New("onda: bad label spans")
	// ErrEncoding is returned for a label that the encoding lacks.
	ErrEncoding = errors.New("onda: label not in the encoding")
	// ErrOutsideSignal is returned when a label span is not inside the span
	// of its signal, or a sub-span not inside the labels.
	ErrOutsideSignal = errors.New("onda: label span outside the signal")
	// ErrWindow is returned for a window that is longer than the labels of a
	// recording, or not a whole number of labels.
	ErrWindow = errors.New("onda: bad window")
	// ErrWeights is returned for weights of the wrong length, negative,
	// infinite, NaN or all zero.
	ErrWeights = errors.New("onda: bad weights")
	// ErrParams is returned for parameters that contradict one another or
	// are out of range.
	ErrParams = fmt.Errorf("onda: %w", dataset.ErrBadParams)
	// ErrNoSignals is returned when no labelled signal is left: the tables
	// are empty, no signal has labels, or the split holds no recording.
	ErrNoSignals = errors.New("onda: no labelled signals")
	// ErrState is returned for a state of another version or another mode.
	ErrState = fmt.Errorf("onda: %w", dataset.ErrWrongState)
	// ErrJob is returned when a job names a recording that this process does
	// not have at that place: coordinator and worker read different tables.
	ErrJob = errors.New("onda: job does not fit the tables")
	// ErrUnlike is returned for signals that cannot share a tensor: of another
	// kind of sensor, unit, rate or list of channels. Both recordings are named.
	ErrUnlike = errors.New("onda: signals are unlike")
	// ErrFile is returned for a sample file that is not what its row says: of
	// another length than its span, channels and type give.
	ErrFile = errors.New("onda: file is not what its row says")
	// ErrDuplicate is returned for rows that say one thing twice: two signals
	// of one sensor, or two rows of stored labels, over the same time.
	ErrDuplicate = errors.New("onda: duplicate rows")
	// ErrTooLarge is returned when an opening would hold more bytes than
	// [Config].OpenBytes. errors.As with a *BudgetError tells what.
	ErrTooLarge = fmt.Errorf("%w: larger than an opening may be", ErrParams)
	// ErrNormalize is returned for a normalization of other data, or one that lacks
	// a channel.
	ErrNormalize = fmt.Errorf("%w: normalize", ErrParams)
	// ErrShape is returned when the items of one batch differ in shape.
	ErrShape = errors.New("onda: items of unequal shape")
)

// TableError says where in a table something is wrong. Column is empty and
// Row -1 where the whole file or the whole column is meant.
type TableError struct {
	File   string
	Column string
	Row    int
	Err    error
}

func (e *TableError) Error() string {
	at := e.File
	if e.Column != "" {
		at += fmt.Sprintf(", column %q", e.Column)
	}
	if e.Row >= 0 {
		at += fmt.Sprintf(", row %d", e.Row)
	}
	return fmt.Sprintf("%v: %s: %v", ErrTable, at, e.Err)
}

// Unwrap gives ErrTable and the cause.
func (e *TableError) Unwrap() []error { return []error{ErrTable, e.Err} }
