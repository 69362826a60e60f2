// Package remote opens s3:// and https:// URLs for data sets of package onda:
//
//	onda.DefinitionWith(onda.Name, onda.Config{Remote: remote.New(remote.Config{})})
//
// S3 goes by the AWS SDK: endpoint, region and credentials come from where it
// always looks for them, the environment (AWS_ENDPOINT_URL_S3, AWS_REGION,
// AWS_ACCESS_KEY_ID, …), profiles or the machine's role, and never from
// parameters of a data set. https:// is anonymous. It is a package of its own so
// that programs without remote data do not link the SDK.
package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/onda"
)

// Config of [New].
type Config struct {
	// HTTP does the requests of https:// URLs. Defaults to a client that follows
	// redirects to https:// only.
	HTTP *http.Client
	// Attempts of one read, with pauses that grow from 100 ms. Defaults to 5.
	Attempts int
}

const (
	// One read is one request up to partBytes, and several at once beyond.
	partBytes    = 8 << 20
	partsAtOnce  = 4
	partDeadline = time.Minute
	// nearBytes take a request of 20 ms about as long to transfer.
	nearBytes = 256 << 10
	// freshFor is how long what is known of a file counts as looked at.
	freshFor = 5 * time.Minute
	// maxKnown files are remembered, of 300 bytes each.
	maxKnown = 100_000
)

// Source opens URLs. It is safe for concurrent use.
type Source struct {
	attempts int
	stores   map[string]store // by scheme

	mu    sync.Mutex
	known map[string]info
}

// store is what S3 and HTTPS differ in.
type store interface {
	stat(ctx context.Context, url string) (info, error)
	// get gives n bytes from a place of the file that in is of. A file that was
	// changed since is errChanged.
	get(ctx context.Context, url string, in info, from, n int64) (io.ReadCloser, error)
}

// info is what is known of a file.
type info struct {
	size   int64
	at     time.Time
	tag    string // an ETag, if there is one
	looked time.Time
}

// check holds what an answer says of its version against the one that was looked at: a server, or a cache before it,
// may pass over the condition of a request. Tags are compared without the mark of a weak one, which a proxy may add.
func (in info) check(answer info) error {
	same := in.at.IsZero() || answer.at.IsZero() || in.at.Equal(answer.at)
	if in.tag != "" && answer.tag != "" {
		same = strings.TrimPrefix(in.tag, "W/") == strings.TrimPrefix(answer.tag, "W/")
	}
	if !same {
		return fmt.Errorf("%w: the answer is of version %q of %v, and %q of %v was looked at", errChanged, answer.tag,
			answer.at, in.tag, in.at)
	}
	return nil
}

var (
	_ onda.Source = (*Source)(nil)

	errChanged = errors.New("onda: the file was changed while it was read")
	errRetry   = errors.New("onda: a moment's failure")
)

// New makes a Source for [onda.Config].
func New(cfg Config) *Source {
	return &Source{
		attempts: cmp.Or(cfg.Attempts, 5), known: map[string]info{},
		stores: map[string]store{"s3": &s3Store{}, "https": newHTTPStore(cfg.HTTP)},
	}
}

// Near says which ranges of a file are worth reading as one.
func (s *Source) Near() int64 { return nearBytes }

// Open opens a URL. What was known of the file may be remembered; it shows when
// the file is read that it has changed. A missing file is fs.ErrNotExist, one
// that may not be read fs.ErrPermission.
func (s *Source) Open(ctx context.Context, url string) (onda.Object, error) {
	scheme, _, _ := strings.Cut(url, "://")
	from, ok := s.stores[scheme]
	if !ok {
		return nil, fmt.Errorf("%w: %q", onda.ErrPath, url)
	}
	o := &object{source: s, store: from, ctx: ctx, url: url}
	s.mu.Lock()
	known, ok := s.known[url]
	s.mu.Unlock()
	if o.info = known; ok {
		return o, nil
	}
	return o, o.look(ctx)
}

func (s *Source) remember(url string, in info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		for other := range s.known { // any
			delete(s.known, other)
			break
		}
	}
	s.known[url] = in
}

func (s *Source) forget(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, url)
}

// retry calls f until it does not fail with errRetry, nor takes longer than partDeadline, or too often.
func (s *Source) retry(ctx context.Context, f func(context.Context) error) error {
	pause := 100 * time.Millisecond
	for attempt := 1; ; attempt++ {
		trying, cancel := context.WithTimeout(ctx, partDeadline)
		err := f(trying)
		if err != nil && trying.Err() != nil && !errors.Is(err, errRetry) {
			err = fmt.Errorf("%w: no answer within %v: %w", errRetry, partDeadline, err)
		}
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, errRetry) || attempt >= s.attempts {
			return err
		}
		select {
		case <-time.After(pause + rand.N(pause/2)):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(4*pause, 5*time.Second)
	}
}

// object is an open file. Reads end with the context that it was opened with.
type object struct {
	source *Source
	store  store
	ctx    context.Context
	url    string
	info   info
}

func (o *object) look(ctx context.Context) error {
	err := o.source.retry(ctx, func(ctx context.Context) (err error) {
		o.info, err = o.store.stat(ctx, o.url)
		return err
	})
	if err != nil {
		return fmt.Errorf("onda: look at %s: %w", o.url, err)
	}
	o.info.looked = time.Now()
	o.source.remember(o.url, o.info)
	return nil
}

// Refresh looks at the file, unless that was done within five minutes.
func (o *object) Refresh(ctx context.Context) error {
	if time.Since(o.info.looked) < freshFor {
		return nil
	}
	return o.look(ctx)
}

func (o *object) Size() int64        { return o.info.size }
func (o *object) ModTime() time.Time { return o.info.at }
func (o *object) Tag() string        { return o.info.tag }
func (o *object) Far() bool          { return true }
func (o *object) Close() error       { return nil }

// Identity has the URL, since files of two places may be alike in all else. It is that of one look where the server
// says neither a date nor an ETag: a copy made then tells nothing later.
func (o *object) Identity() string {
	if o.info.tag == "" && o.info.at.IsZero() {
		return fmt.Sprintf("%s %d looked at %d", o.url, o.info.size, o.info.looked.UnixNano())
	}
	return fmt.Sprintf("%s %d@%d@%q", o.url, o.info.size, o.info.at.UnixNano(), o.info.tag)
}

// ReadAt reads a range, by several requests at once if it is large.
func (o *object) ReadAt(p []byte, off int64) (int, error) {
	rest := o.info.size - off
	if off < 0 || rest <= 0 {
		return 0, io.EOF
	}
	end := error(nil)
	if int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	group, ctx := errgroup.WithContext(o.ctx)
	group.SetLimit(partsAtOnce)
	for at := 0; at < len(p); at += partBytes {
		part := p[at:min(at+partBytes, len(p))]
		group.Go(func() error { return o.readPart(ctx, part, off+int64(at)) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return len(p), end
}

func (o *object) readPart(ctx context.Context, p []byte, off int64) error {
	got := 0
	err := o.source.retry(ctx, func(ctx context.Context) error {
		body, err := o.store.get(ctx, o.url, o.info, off+int64(got), int64(len(p)-got))
		if err != nil {
			return err
		}
		defer body.Close()
		// What came before a connection broke is kept.
		n, err := io.ReadFull(body, p[got:])
		if got += n; err != nil {
			return fmt.Errorf("%w: %w", errRetry, notEOF(err))
		}
		return nil
	})
	if errors.Is(err, errChanged) {
		o.source.forget(o.url)
	}
	if err != nil {
		return fmt.Errorf("onda: read %s: %w", o.url, err)
	}
	return nil
}

// notEOF keeps the end of a body from being taken for the end of data.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the connection ended early")
	}
	return err
}

// statusError sorts what a server answers.
func statusError(status int, text string) error {
	var kind error
	switch {
	case status == http.StatusNotFound || status == http.StatusGone:
		kind = fs.ErrNotExist
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		kind = fs.ErrPermission
	case status == http.StatusPreconditionFailed || status == http.StatusRequestedRangeNotSatisfiable:
		kind = errChanged
	case status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500:
		kind = errRetry
	default:
		return errors.New(text)
	}
	return fmt.Errorf("%w: %s", kind, text)
}
