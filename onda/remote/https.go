package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/jetbatch/jetbatch/onda"
)

// httpStore reads https:// URLs, anonymously.
type httpStore struct{ client *http.Client }

// connections to one host are kept, as many as windows are read at once.
const connections = 128

func newHTTPStore(client *http.Client) *httpStore {
	if client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost, transport.MaxIdleConns = connections, 0
		transport.ResponseHeaderTimeout = partDeadline / 2
		client = &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || len(via) >= 10 {
				return fmt.Errorf("%w: a redirect to %s://%s, or too many", onda.ErrPath, r.URL.Scheme, r.URL.Host)
			}
			return nil
		}}
	}
	return &httpStore{client}
}

func (s *httpStore) do(ctx context.Context, method, address string, header map[string]string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", onda.ErrPath, err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := s.client.Do(req)
	if err != nil {
		// The client's own error names the URL that it was redirected to, which may be signed.
		if failed := new(url.Error); errors.As(err, &failed) {
			err = failed.Err
		}
		if errors.Is(err, onda.ErrPath) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errRetry, notEOF(err))
	}
	if res.StatusCode >= 300 {
		res.Body.Close()
		return nil, statusError(res.StatusCode, res.Status)
	}
	return res, nil
}

func (s *httpStore) stat(ctx context.Context, url string) (info, error) {
	res, err := s.do(ctx, http.MethodHead, url, nil)
	if err != nil {
		return info{}, err
	}
	defer res.Body.Close()
	if res.ContentLength < 0 {
		return info{}, fmt.Errorf("%w: the server does not say how long it is", onda.ErrPath)
	}
	return infoOf(res), nil
}

// infoOf is what an answer says of the file.
func infoOf(res *http.Response) info {
	out := info{size: res.ContentLength, tag: res.Header.Get("ETag")}
	if at, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		out.at = at
	}
	return out
}

func (s *httpStore) get(ctx context.Context, url string, in info, from, n int64) (io.ReadCloser, error) {
	header := map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", from, from+n-1)}
	if in.tag != "" && !strings.HasPrefix(in.tag, "W/") {
		header["If-Match"] = in.tag
	} else if !in.at.IsZero() {
		header["If-Unmodified-Since"] = in.at.UTC().Format(http.TimeFormat)
	}
	res, err := s.do(ctx, http.MethodGet, url, header)
	if err != nil {
		return nil, err
	}
	if err := in.check(infoOf(res)); err != nil {
		res.Body.Close()
		return nil, err
	}
	if res.StatusCode == http.StatusPartialContent {
		return res.Body, checkRange(res, in, from)
	}
	if from == 0 && n == in.size && res.ContentLength == n {
		return res.Body, nil
	}
	res.Body.Close()
	return nil, fmt.Errorf("%w: the server does not serve ranges", onda.ErrPath)
}

// checkRange holds the place and the file's length in an answer against what was asked for and what is known.
func checkRange(res *http.Response, in info, from int64) error {
	text := res.Header.Get("Content-Range")
	place, total, _ := strings.Cut(text, "/")
	if n, err := strconv.ParseInt(total, 10, 64); err == nil && n != in.size {
		res.Body.Close()
		return errChanged
	}
	if !strings.HasPrefix(place, fmt.Sprintf("bytes %d-", from)) {
		res.Body.Close()
		return fmt.Errorf("%w: the server answers with range %.60q, and byte %d on was asked for", onda.ErrPath, text, from)
	}
	return nil
}
