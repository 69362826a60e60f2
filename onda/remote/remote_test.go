package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site serves a folder by HTTPS; trouble may answer in its place.
type site struct {
	*httptest.Server
	source *Source
	gets   atomic.Int64

	mu      sync.Mutex
	trouble func(http.ResponseWriter, *http.Request) bool
}

func newSite(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{}
	files := http.FileServer(http.Dir(dir))
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			s.gets.Add(1)
		}
		s.mu.Lock()
		trouble := s.trouble
		s.mu.Unlock()
		if trouble == nil || !trouble(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	client := s.Client()
	t.Cleanup(client.CloseIdleConnections)
	s.source = New(Config{HTTP: client})
	return s
}

func (s *site) troubled(by func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = by
}

func take(t *testing.T, p onda.Params, cfg onda.Config, n int) []schema.Batch {
	t.Helper()
	d, err := onda.New(t.Context(), p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	loop := dataset.Sequential(d)
	var out []schema.Batch
	var state schema.State
	for range n {
		step, err := loop.Take(t.Context(), state)
		if err != nil {
			t.Fatal(err)
		}
		out, state = append(out, step.Batch), step.Next
	}
	return out
}

func equal(a, b []schema.Batch) bool {
	for i := range a {
		for j := range a[i] {
			if !bytes.Equal(a[i][j].Tensor.Data, b[i][j].Tensor.Data) {
				return false
			}
		}
	}
	return len(a) == len(b)
}

// What lies behind HTTPS gives the batches that a folder gives: all of it, or
// samples that a local table names; from a copy on this machine, too.
func TestBatchesByHTTPS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 4}); err != nil {
		t.Fatal(err)
	}
	want := take(t, onda.Params{Dir: dir}, onda.Config{}, 5)
	s := newSite(t, dir)
	cfg := onda.Config{Remote: s.source}
	if !equal(take(t, onda.Params{Dir: s.URL}, cfg, 5), want) {
		t.Error("other batches")
	}
	signals, err := onda.ReadSignals(t.Context(), onda.Dir(dir), "onda.signals.arrow", "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range signals {
		signals[i].Path = s.URL + "/" + signals[i].Path
	}
	local := t.TempDir()
	var table bytes.Buffer
	notes, err := os.ReadFile(filepath.Join(dir, "onda.annotations.arrow"))
	if err := errors.Join(err, onda.WriteSignals(&table, onda.TableFormat{}, signals),
		os.WriteFile(filepath.Join(local, "onda.signals.arrow"), table.Bytes(), 0o644),
		os.WriteFile(filepath.Join(local, "onda.annotations.arrow"), notes, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := onda.New(t.Context(), onda.Params{Dir: local}, cfg); !errors.Is(err, onda.ErrPath) {
		t.Errorf("a table leads anywhere: %v", err)
	}
	p := onda.Params{Dir: local, AllowURLs: []string{s.URL + "/samples"}, CacheDir: filepath.Join(t.TempDir(), "cache")}
	for range 2 {
		if !equal(take(t, p, cfg, 5), want) {
			t.Error("other batches")
		}
		s.gets.Store(0)
	}
	if !equal(take(t, p, cfg, 5), want) {
		t.Error("other batches")
	}
	// The compressed ones are looked into when they are checked.
	if n := s.gets.Load(); n > 8 {
		t.Errorf("%d reads of files that have copies", n)
	}
	// No other place.
	for _, dir := range []string{
		"https://user:word@host/x", s.URL + "/?X-Amz-Signature=secretsecret", s.URL + "/a/../b", s.URL + "/%2e%2e/b",
		"https://", "s3://", "s3:///x",
	} {
		_, err := onda.New(t.Context(), onda.Params{Dir: dir}, cfg)
		if err == nil || strings.Contains(err.Error(), "word") || strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := onda.New(t.Context(), onda.Params{Dir: s.URL}, onda.Config{}); !errors.Is(err, onda.ErrParams) {
		t.Errorf("got %v", err)
	}
}

// Bad moments pass; what does not pass is said by its kind.
func TestTrouble(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789"), 2_000_000)
	file := filepath.Join(dir, "x")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, dir)
	status := func(code, times int) func(http.ResponseWriter, *http.Request) bool {
		var n atomic.Int64
		return func(w http.ResponseWriter, r *http.Request) bool {
			if n.Add(1) > int64(times) {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	read := func(from, n int) error {
		obj, err := s.source.Open(t.Context(), s.URL+"/x")
		if err != nil {
			return err
		}
		got := make([]byte, n)
		if _, err := obj.ReadAt(got, int64(from)); err != nil {
			return err
		}
		if !bytes.Equal(got, content[from:from+n]) {
			return errors.New("other bytes")
		}
		return nil
	}
	s.troubled(status(503, 2))
	if err := read(0, 10); err != nil {
		t.Errorf("after two bad moments: %v", err)
	}
	// Large reads are several requests, and a connection that breaks in the midst
	// of one costs what it has not brought.
	var broken atomic.Int64
	s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || broken.Add(1) > 2 {
			return false
		}
		half := &halfWriter{ResponseWriter: w, left: 1 << 20}
		http.ServeFile(half, r, file)
		panic(http.ErrAbortHandler)
	})
	if err := read(3, 2*partBytes+5); err != nil || broken.Load() != 5 {
		t.Errorf("%v, %d requests", err, broken.Load())
	}
	// A file that is changed is looked at again.
	s.troubled(nil)
	content = bytes.Repeat([]byte("abc"), 1000)
	at := time.Now().Add(time.Hour)
	if err := errors.Join(os.WriteFile(file, content, 0o644), os.Chtimes(file, at, at)); err != nil {
		t.Fatal(err)
	}
	if err := read(0, 10); !errors.Is(err, errChanged) {
		t.Errorf("got %v", err)
	}
	if err := read(0, 10); err != nil {
		t.Error(err)
	}
	for code, want := range map[int]error{404: fs.ErrNotExist, 403: fs.ErrPermission, 503: errRetry} {
		one := New(Config{HTTP: s.Client(), Attempts: 2})
		s.troubled(status(code, 100))
		if _, err := one.Open(t.Context(), s.URL+"/x"); !errors.Is(err, want) || errors.Is(err, io.EOF) {
			t.Errorf("%d: got %v", code, err)
		}
	}
	// A server that ignores ranges does not make anybody read all.
	s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	})
	if err := read(5, 10); !errors.Is(err, onda.ErrPath) {
		t.Errorf("got %v", err)
	}
	// Nor does one that answers with a place of its own pass for the right one.
	s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			r.Header.Set("Range", "bytes=0-9")
		}
		return false
	})
	if err := read(5, 10); !errors.Is(err, onda.ErrPath) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(Config{HTTP: s.Client()}).Open(ctx, s.URL+"/x"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A redirect may lead to a signed URL: its query is in no error.
func TestRedirectsStaySecret(t *testing.T) {
	t.Parallel()
	s := newSite(t, t.TempDir())
	store := newHTTPStore(nil)
	store.client.Transport = s.Client().Transport
	for _, to := range []string{"https://127.0.0.1:1/x", "http://127.0.0.1:1/x"} {
		s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, to+"?X-Amz-Signature=secretsecret", http.StatusFound)
			return true
		})
		if _, err := store.stat(t.Context(), s.URL+"/x"); err == nil || strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// No request goes out in plain text, whether parameters ask for it or a redirect: the metadata services of clouds speak
// nothing else.
func TestNoPlainHTTP(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	metadata := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer metadata.Close()
	s := newSite(t, t.TempDir())
	s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, metadata.URL+"/latest/meta-data", http.StatusFound)
		return true
	})
	store := newHTTPStore(nil)
	store.client.Transport = s.Client().Transport
	if _, err := store.stat(t.Context(), s.URL+"/x"); !errors.Is(err, onda.ErrPath) {
		t.Errorf("a redirect to http://: %v", err)
	}
	for _, place := range []string{metadata.URL, "HTTP" + strings.TrimPrefix(metadata.URL, "http"), "file:///etc"} {
		if _, err := New(Config{}).Open(t.Context(), place+"/x"); !errors.Is(err, onda.ErrPath) {
			t.Errorf("%s: %v", place, err)
		}
		if _, err := onda.New(t.Context(), onda.Params{Dir: place}, onda.Config{Remote: New(Config{})}); err == nil {
			t.Errorf("the folder %s was opened", place)
		}
	}
	select {
	case path := <-asked:
		t.Errorf("%s was asked for in plain text", path)
	default:
	}
}

// halfWriter lets through so many bytes and drops the rest.
type halfWriter struct {
	http.ResponseWriter
	left int
}

func (w *halfWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, http.ErrAbortHandler
	}
	return w.ResponseWriter.Write(p)
}

// Windows of one file that are near are one request.
func TestNearWindowsAreOneRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 1}); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, dir)
	d, err := onda.New(t.Context(), onda.Params{Dir: s.URL, BatchSize: 12}, onda.Config{Remote: s.source})
	if err != nil {
		t.Fatal(err)
	}
	start, err := d.Start()
	if err != nil {
		t.Fatal(err)
	}
	job, _, err := d.Next(start)
	if err != nil {
		t.Fatal(err)
	}
	s.gets.Store(0)
	if _, err := d.Materialize(t.Context(), job); err != nil || s.gets.Load() != 1 {
		t.Errorf("%d requests for 12 windows of one small file, %v", s.gets.Load(), err)
	}
}

type noConnection struct{ error }

func (noConnection) ConnectionError() bool { return true }

// A store that takes no connections for a moment, or does not answer in time, is asked again; one that wants other
// credentials is not.
func TestStoreIsAskedAgain(t *testing.T) {
	t.Parallel()
	err := s3Error(fmt.Errorf("HeadObject: %w", noConnection{io.EOF}))
	if !errors.Is(err, errRetry) || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if err := s3Error(errors.New("no credentials")); errors.Is(err, errRetry) {
		t.Errorf("got %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		n := 0
		err := New(Config{}).retry(t.Context(), func(ctx context.Context) error {
			if n++; n < 5 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		if n != 5 || err != nil {
			t.Errorf("%d attempts: %v", n, err)
		}
	})
}
