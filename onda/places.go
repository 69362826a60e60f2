package onda

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jetbatch/jetbatch/dataset"
)

// placed serves a folder or a URL, and URLs elsewhere that were allowed.
type placed struct {
	dir     string // a URL, if local is nil
	local   Source
	remote  Source
	allowed []string
}

// source is where Params.Dir and Params.AllowURLs say that files are, as far as the process may open them.
func (p *Params) source(opening context.Context, remote Source) (Source, error) {
	if p.Dir == "" {
		return nil, fmt.Errorf("%w: no dir", ErrParams)
	}
	local := Dir(p.Dir)
	if p.AllowLinks {
		local = linked{dirSource{root: p.Dir, links: true}, opening}
	}
	if !isURL(p.Dir) {
		if err := dataset.Allowed(opening, p.Dir); err != nil {
			return nil, fmt.Errorf("onda: dir: %w", err)
		}
		if len(p.AllowURLs) == 0 {
			return local, nil
		}
	}
	if remote == nil {
		return nil, fmt.Errorf("%w: this program opens no s3:// or https:// (onda.Config.Remote)", ErrParams)
	}
	out := placed{local: local, remote: remote}
	for _, prefix := range p.AllowURLs {
		prefix, err := cleanURL(prefix)
		if err != nil {
			return nil, fmt.Errorf("%w: allow_urls: %w", ErrParams, err)
		}
		out.allowed = append(out.allowed, strings.TrimSuffix(prefix, "/"))
	}
	if isURL(p.Dir) {
		dir, err := cleanURL(p.Dir)
		if err != nil {
			return nil, fmt.Errorf("%w: dir: %w", ErrParams, err)
		}
		out.dir, out.local = strings.TrimSuffix(dir, "/"), nil
		out.allowed = append(out.allowed, out.dir)
	}
	for _, prefix := range out.allowed {
		if err := dataset.Allowed(opening, prefix); err != nil {
			return nil, fmt.Errorf("onda: dir or allow_urls: %w", err)
		}
	}
	return out, nil
}

// linked is a folder whose links may lead out of it, but nowhere that the process may not open.
type linked struct {
	dirSource
	opening context.Context // has what is allowed
}

// Open holds against the roots what is opened, not how it is spelled: a path may be whole, or a URL.
func (l linked) Open(ctx context.Context, path string) (Object, error) {
	name, err := l.local(path)
	if err != nil {
		return nil, err
	}
	if err := dataset.Allowed(l.opening, filepath.Join(l.root, name)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPath, err)
	}
	return l.dirSource.Open(ctx, name)
}

func isURL(path string) bool {
	scheme, _, found := strings.Cut(path, "://")
	return found && (strings.EqualFold(scheme, "s3") || strings.EqualFold(scheme, "https"))
}

// Open opens a path of the folder, or a URL that is below it or allowed.
func (p placed) Open(ctx context.Context, path string) (Object, error) {
	if p.local != nil && !isURL(path) {
		return p.local.Open(ctx, path)
	}
	clean, err := wholeURL(p.dir, path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPath, err)
	}
	if !slices.ContainsFunc(p.allowed, func(prefix string) bool {
		return strings.HasPrefix(clean, prefix+"/")
	}) {
		return nil, fmt.Errorf("%w: %q is neither below dir nor in allow_urls", ErrPath, clean)
	}
	return p.remote.Open(ctx, clean)
}

// Near is that of what is remote.
func (p placed) Near() int64 { return near(p.remote) }

// wholeURL is the URL, in one form, of a path below the URL dir, or of a URL.
func wholeURL(dir, path string) (string, error) {
	switch {
	case isURL(path):
	case strings.Contains(path, "://") || strings.HasPrefix(path, "/"):
		return "", fmt.Errorf("%q is not below %s", path, dir)
	case strings.HasPrefix(dir, "https"):
		path = dir + "/" + (&url.URL{Path: path}).EscapedPath()
	default:
		path = dir + "/" + path
	}
	return cleanURL(path)
}

// place is a path in one form, however a table spells it, as far as it can be opened.
func (p *Params) place(path string) string {
	var place string
	var err error
	if isURL(path) || isURL(p.Dir) {
		place, err = wholeURL(strings.TrimSuffix(p.Dir, "/"), path)
	} else if place, err = (dirSource{root: p.Dir}).local(path); err == nil {
		place = filepath.Clean(place)
	}
	if err != nil {
		return path
	}
	return place
}

// cleanURL gives a URL in one form, without anything that would leave its
// folder or that only its owner should know.
func cleanURL(text string) (string, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	host, path, _ := strings.Cut(rest, "/")
	if scheme == "https" {
		u, err := url.Parse(text)
		if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			// The text may hold a password, or what signs it.
			return "", errors.New("an https:// URL does not parse, or has a user, a query or a fragment")
		}
		host, path = strings.ToLower(u.Host), strings.TrimPrefix(u.EscapedPath(), "/")
		if decoded := strings.Split(u.Path, "/"); slices.Contains(decoded, "..") || slices.Contains(decoded, ".") {
			return "", fmt.Errorf("%q leaves its folder", u.Path)
		}
	} else if scheme != "s3" {
		return "", fmt.Errorf("%q is neither s3:// nor https://", scheme)
	}
	if parts := strings.Split(path, "/"); slices.Contains(parts, "..") || slices.Contains(parts, ".") {
		return "", fmt.Errorf("%q leaves its folder", path)
	}
	if host == "" || strings.ContainsAny(host, "@?#\\ ") {
		return "", errors.New("a URL without a bucket or host")
	}
	return scheme + "://" + host + "/" + path, nil
}

// near is how far apart two ranges of a file may be to be read as one; negative
// for a source whose reads are quick.
func near(source Source) int64 {
	if s, ok := source.(interface{ Near() int64 }); ok {
		return s.Near()
	}
	return -1
}
