package remote

import (
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/onda"
)

// Of a file without a date and an ETag another length shows that it has changed.
func TestLengthOfTheUndated(t *testing.T) {
	t.Parallel()
	s := newSite(t, t.TempDir())
	length := 10
	s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(strings.Repeat("a", length)))
		return true
	})
	obj, err := s.source.Open(t.Context(), s.URL+"/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := obj.ReadAt(make([]byte, 4), 2); err != nil {
		t.Error(err)
	}
	length = 20
	if _, err := obj.ReadAt(make([]byte, 4), 2); !errors.Is(err, errChanged) {
		t.Errorf("got %v", err)
	}
}

// A server that passes over the conditions of requests still says in its answers which version they are of: by an ETag,
// or else by a date.
func TestAnswerOfAnotherVersion(t *testing.T) {
	t.Parallel()
	s := newSite(t, t.TempDir())
	for name, c := range map[string]struct {
		looked, answer http.Header
		want           error
	}{
		"tag":       {http.Header{"Etag": {`"1"`}}, http.Header{"Etag": {`"2"`}}, errChanged},
		"weak tag":  {http.Header{"Etag": {`"1"`}}, http.Header{"Etag": {`W/"1"`}}, nil},
		"date":      {http.Header{"Last-Modified": {monday}}, http.Header{"Last-Modified": {tuesday}}, errChanged},
		"tag alone": {http.Header{"Last-Modified": {monday}}, http.Header{"Etag": {`"2"`}}, nil},
		"other date": {http.Header{"Etag": {`"1"`}, "Last-Modified": {monday}},
			http.Header{"Etag": {`"1"`}, "Last-Modified": {tuesday}}, nil},
	} {
		s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
			says := c.answer
			if r.Method == http.MethodHead {
				says = c.looked
			}
			maps.Copy(w.Header(), says)
			r.Header.Del("If-Match")
			r.Header.Del("If-Unmodified-Since")
			http.ServeContent(w, r, "x", time.Time{}, strings.NewReader("0123456789"))
			return true
		})
		for _, p := range [][]byte{make([]byte, 4), make([]byte, 10)} {
			obj, err := New(Config{HTTP: s.Client()}).Open(t.Context(), s.URL+"/x")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := obj.ReadAt(p, 0); !errors.Is(err, c.want) {
				t.Errorf("%s, %d bytes: got %v, want %v", name, len(p), err, c.want)
			}
		}
	}
}

// A file that is told by its ETag alone is another in the fingerprint when that changes.
func TestFingerprintByTag(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 1}); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, dir)
	look := func(tag string) string {
		s.troubled(func(w http.ResponseWriter, r *http.Request) bool {
			f, err := os.Open(filepath.Join(dir, filepath.FromSlash(r.URL.Path)))
			if err != nil {
				return false // which has no such file either
			}
			defer f.Close()
			w.Header().Set("ETag", tag)
			http.ServeContent(w, r, "", time.Time{}, f)
			return true
		})
		d, err := onda.New(t.Context(), onda.Params{Dir: s.URL}, onda.Config{Remote: New(Config{HTTP: s.Client()})})
		if err != nil {
			t.Fatal(err)
		}
		f, err := d.Fingerprint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f.Digest
	}
	one := look(`"1"`)
	if look(`"1"`) != one || look(`"2"`) == one {
		t.Error("the fingerprint does not go by the tags of files")
	}
}

const monday, tuesday = "Mon, 02 Jan 2006 15:04:05 GMT", "Tue, 03 Jan 2006 15:04:05 GMT"

// A file without a date and an ETag may be another at the next look, so no copy of it serves after that. A file of one
// date is the same at the next look, and another than one of that date elsewhere.
func TestIdentity(t *testing.T) {
	t.Parallel()
	s := newSite(t, t.TempDir())
	dated := ""
	s.troubled(func(w http.ResponseWriter, _ *http.Request) bool {
		if dated != "" {
			w.Header().Set("Last-Modified", dated)
		}
		w.Header().Set("Content-Length", "10")
		return true
	})
	look := func(name string) string {
		obj, err := New(Config{HTTP: s.Client()}).Open(t.Context(), s.URL+name)
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*object).Identity()
	}
	if one, two := look("/x"), look("/x"); one == two {
		t.Error("a file without a date counts as the same")
	}
	dated = monday
	if one, two := look("/x"), look("/x"); one != two {
		t.Error("a file of one date counts as another")
	}
	if one, two := look("/a/x"), look("/b/x"); one == two {
		t.Error("files of two places count as one")
	}
}
