package onda

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Values of Params.Files.
const (
	filesCheck = "check"
	filesTrust = "trust"
)

// checkConcurrency files are looked at at once: enough to hide the latency of
// a network file system.
const checkConcurrency = 16

// checkFiles looks at the file of each signal. The errors are those that are
// about one file; the second return value is any other.
func checkFiles(ctx context.Context, source Source, signals []*Signal) ([]error, error) {
	errs := make([]error, len(signals))
	group, checking := errgroup.WithContext(ctx)
	group.SetLimit(checkConcurrency)
	for i, s := range signals {
		if checking.Err() != nil {
			break
		}
		group.Go(func() error {
			err := checkFile(checking, source, s)
			for _, cause := range []error{ErrPath, ErrFile, fs.ErrNotExist, fs.ErrPermission} {
				if errors.Is(err, cause) {
					errs[i] = fmt.Errorf("recording %s: %w", s.Recording, err)
					return nil
				}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return errs, context.Cause(ctx)
}

// checkFile holds the length of a signal's file against its span, channels and
// type. A span that is cut to a nanosecond may hide one sample. A compressed
// file has its length in its header, or shows it when it is read.
func checkFile(ctx context.Context, source Source, s *Signal) error {
	obj, err := source.Open(ctx, s.Path)
	if err != nil {
		return err
	}
	defer obj.Close()
	if err := refresh(ctx, obj); err != nil {
		return err
	}
	want := s.samples() * s.frame()
	if s.Format == formatLPCM {
		return checkLength(s, obj.Size())
	}
	head := make([]byte, min(obj.Size(), zstd.HeaderMaxSize))
	if n, err := obj.ReadAt(head, 0); n < len(head) {
		return fmt.Errorf("onda: read %s: %w", s.Path, notEOF(err, errors.New("it is shorter than its size")))
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return fmt.Errorf("%w: %s: no zstd frame: %v", ErrFile, s.Path, err)
	}
	f, err := readFrames(ctx, obj, want)
	if err != nil {
		return fmt.Errorf("onda: read %s: %w", s.Path, err)
	}
	if f.open {
		return nil
	}
	return checkLength(s, f.content())
}

func checkLength(s *Signal, size int64) error {
	want := s.samples() * s.frame()
	if size == want || size == want+s.frame() {
		return nil
	}
	return fmt.Errorf("%w: %s holds %d bytes, and %v of %d channels of %s at %v Hz are %d",
		ErrFile, s.Path, size, s.Span.Duration(), len(s.Channels), s.SampleType, s.SampleRate, want)
}

// refresh has an Object that may go by what it remembers look again.
func refresh(ctx context.Context, obj Object) error {
	if o, ok := obj.(interface{ Refresh(context.Context) error }); ok {
		return o.Refresh(ctx)
	}
	return nil
}

// modified is an Object that knows when its file was changed last.
type modified interface{ ModTime() time.Time }

// fileVersion tells a file from one that takes its place, in the same words on all machines.
func fileVersion(obj Object) string {
	var at int64
	m, dated := obj.(modified)
	if dated {
		at, dated = m.ModTime().UnixNano(), !m.ModTime().IsZero()
	}
	if t, ok := obj.(interface{ Tag() string }); ok && !dated && t.Tag() != "" {
		return fmt.Sprintf("%d@%q", obj.Size(), t.Tag())
	}
	return fmt.Sprintf("%d@%d", obj.Size(), at)
}
