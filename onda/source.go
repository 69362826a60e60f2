package onda

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Source opens the files that tables name. It is all that this package asks
// of a storage: [Dir] serves a local folder, and object storage is another
// implementation, where ReadAt becomes a ranged GET ([Config].Remote). Open is
// called concurrently. A Source that has Near() int64 has ranges of one file read
// as one where they are no further apart.
type Source interface {
	// Open opens the file at path, which is a file_path of a signal table or
	// the name of a table. A relative path counts from the source's root. A
	// path that the source does not serve is ErrPath, a missing file an error
	// that is fs.ErrNotExist.
	Open(ctx context.Context, path string) (Object, error)
}

// Object is an open file. ReadAt is called concurrently. An Object may have
// further methods:
//
//   - ModTime() time.Time tells it from another of the same size in its place
//   - Tag() string does so where ModTime is zero; it is the same on all machines
//   - Identity() string tells it from every other file of that path, also of
//     other sources; without it no other process has the use of its copies in
//     [Params].CacheDir
//   - Far() bool says that each read takes long, however small it is
//   - Refresh(context.Context) error looks at the file again, where Open may go
//     by what is remembered of it
//   - Unchanged() bool reports whether the file at its path is this one still, as
//     it was when it was opened; a data set keeps 64 such Objects open
type Object interface {
	io.ReaderAt
	io.Closer
	// Size is the length in bytes.
	Size() int64
}

// SourceFunc makes a function a Source.
type SourceFunc func(ctx context.Context, path string) (Object, error)

// Open calls f.
func (f SourceFunc) Open(ctx context.Context, path string) (Object, error) { return f(ctx, path) }

// Dir serves the files below the folder root. Relative paths count from root;
// absolute paths and file:// URLs are served if they lie below it. A path
// that leaves root, also through a symbolic link, is ErrPath, so a table
// cannot name files that its folder does not hold.
func Dir(root string) Source { return dirSource{root: root} }

// DirWithLinks is [Dir] for folders whose symbolic links lead elsewhere, as
// those of git-annex, DVC and the caches of hubs do. It serves what a link
// below root leads to: the folder's owner decides, and no longer its place.
func DirWithLinks(root string) Source { return dirSource{root: root, links: true} }

type dirSource struct {
	root  string
	links bool
}

func (d dirSource) Open(ctx context.Context, path string) (Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name, err := d.local(path)
	if err != nil {
		return nil, err
	}
	var f *os.File
	// A pipe would wait for its other end, before its kind is known.
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	if d.links {
		f, err = os.OpenFile(filepath.Join(d.root, name), flags, 0)
	} else if f, err = openInRoot(d.root, name, flags); err != nil && d.leaves(name) {
		return nil, fmt.Errorf("%w: %s in %s is behind a link that leads elsewhere; allow_links follows it", ErrPath,
			name, d.root)
	}
	if err != nil {
		if err = d.whole(name, err); slices.ContainsFunc(noFile, func(no error) bool { return errors.Is(err, no) }) {
			return nil, fmt.Errorf("%w: %w", ErrPath, err)
		}
		return nil, fmt.Errorf("onda: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file", ErrPath)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("onda: open %s in %s: %w", name, d.root, err), f.Close())
	}
	obj := &dirObject{File: f, info: info}
	if path := filepath.Join(d.root, name); prompt(f) {
		return &localObject{obj, path}, nil
	}
	return obj, nil
}

// noFile are the errors of a path that leads to no file on any machine: through
// a file, round in links, to a socket, or that no file can have.
var noFile = []error{syscall.ENOTDIR, syscall.ELOOP, syscall.ENXIO, syscall.ENAMETOOLONG, syscall.EINVAL}

// whole gives an error the whole path of its file. Inside of a root it has the
// relative one, by which a worker cannot tell a mount that is away from a file
// that is missing.
func (d dirSource) whole(name string, err error) error {
	var short *fs.PathError
	root, unknown := filepath.Abs(d.root)
	if unknown != nil || !errors.As(err, &short) {
		return fmt.Errorf("open %s in %s: %w", name, d.root, err)
	}
	return &fs.PathError{Op: "open", Path: filepath.Join(root, name), Err: short.Err}
}

func openInRoot(dir, name string, flags int) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(name, flags, 0)
}

// leaves reports whether the links of name lead out of the root, to something
// that may not be there.
func (d dirSource) leaves(name string) bool {
	root, err := filepath.EvalSymlinks(d.root)
	if err != nil {
		return false
	}
	at := root
	for _, part := range strings.Split(name, string(filepath.Separator)) {
		at = filepath.Join(at, part)
		real, err := filepath.EvalSymlinks(at)
		if err != nil {
			target, err := os.Readlink(at)
			if err != nil {
				return false
			}
			if real = target; !filepath.IsAbs(target) {
				real = filepath.Join(filepath.Dir(at), target)
			}
		}
		if rel, err := filepath.Rel(root, real); err != nil || !filepath.IsLocal(rel) {
			return true
		}
		at = real
	}
	return false
}

// local turns path into one that is relative to the root.
func (d dirSource) local(path string) (string, error) {
	name := path
	if scheme, _, found := strings.Cut(path, "://"); found {
		u, err := url.Parse(path)
		if err != nil || !strings.EqualFold(scheme, "file") || (u.Host != "" && u.Host != "localhost") {
			return "", fmt.Errorf("%w: %q", ErrPath, path)
		}
		name = filepath.FromSlash(u.Path)
	}
	if filepath.IsAbs(name) {
		root, err := filepath.Abs(d.root)
		if err != nil {
			return "", fmt.Errorf("onda: root %s: %w", d.root, err)
		}
		if name, err = filepath.Rel(root, name); err != nil {
			return "", fmt.Errorf("%w: %q is not below %s", ErrPath, path, d.root)
		}
	}
	name = filepath.FromSlash(name)
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("%w: %q is not below %s", ErrPath, path, d.root)
	}
	return name, nil
}

type dirObject struct {
	*os.File
	info os.FileInfo
}

func (o *dirObject) Size() int64 { return o.info.Size() }

func (o *dirObject) ModTime() time.Time { return o.info.ModTime() }

// Identity tells a file from one that was put in its place with its size and
// time, as copying tools do.
func (o *dirObject) Identity() string { return fileVersion(o) + inode(o.File, o.info) }

// localObject is a file whose file system knows at once what happens to it.
type localObject struct {
	*dirObject
	path string
}

// Unchanged reports whether the path still leads to this file, and that holds
// what it held.
func (o *localObject) Unchanged() bool {
	info, err := os.Stat(o.path)
	return err == nil && sameFile(info, o.info)
}

func isFar(obj Object) bool {
	o, ok := obj.(interface{ Far() bool })
	return ok && o.Far()
}
