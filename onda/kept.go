package onda

import (
	"context"
	"sync"
	"sync/atomic"
)

// maxKept is how many files a data set keeps open.
const maxKept = 64

// constant is an Object that can say of the file at its path, without opening
// it again, whether it is unchanged.
type constant interface {
	Object
	Unchanged() bool
}

// kept keeps files open whose Objects are constant, those that were used last:
// to open a file takes about as long as to read a window of it. The lock is not
// held while a file is looked at.
type kept struct {
	source Source

	mu     sync.Mutex
	files  map[string]*keptFile // by path
	uses   uint64
	closed bool
}

// keptFile is a file that is kept, and its users. It is closed by the last of
// them once it is kept no more. kept.mu guards it.
type keptFile struct {
	constant
	users int
	used  uint64 // kept.uses at the last use
	gone  bool   // kept no more
}

// keptUse is one use of a file, which its Close ends.
type keptUse struct {
	Object
	end func() error
}

func (u *keptUse) Close() error { return u.end() }

// Far is the file's.
func (u *keptUse) Far() bool { return isFar(u.Object) }

// open opens a file, or uses one that is open and unchanged.
func (k *kept) open(ctx context.Context, path string) (Object, error) {
	k.mu.Lock()
	f := k.files[path]
	if f != nil {
		k.use(f)
	}
	k.mu.Unlock()
	if f != nil {
		if f.Unchanged() {
			return k.lend(f), nil
		}
		k.drop(path, f)
		_ = k.leave(f) // nothing was written to it
	}
	obj, err := k.source.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	c, ok := obj.(constant)
	if !ok {
		return obj, nil
	}
	f = &keptFile{constant: c, users: 1}
	k.keep(path, f)
	return k.lend(f), nil
}

// use counts a user. k.mu is held.
func (k *kept) use(f *keptFile) {
	k.uses++
	f.users, f.used = f.users+1, k.uses
}

// lend returns a use that has been counted.
func (k *kept) lend(f *keptFile) Object {
	var ended atomic.Bool
	return &keptUse{f.constant, func() error {
		if ended.Swap(true) {
			return nil
		}
		return k.leave(f)
	}}
}

// leave ends a use.
func (k *kept) leave(f *keptFile) error {
	k.mu.Lock()
	f.users--
	last := f.gone && f.users == 0
	k.mu.Unlock()
	if last {
		return f.constant.Close()
	}
	return nil
}

// keep keeps a file that was opened, unless another goroutine has kept it, too,
// and lets go of the one that was not used for longest.
func (k *kept) keep(path string, f *keptFile) {
	k.mu.Lock()
	k.uses++
	f.used = k.uses
	if f.gone = k.closed || k.files[path] != nil; f.gone {
		k.mu.Unlock()
		return
	}
	k.files[path] = f
	idle := false
	oldest := path
	if len(k.files) > maxKept {
		for other, at := range k.files {
			if at.used < k.files[oldest].used {
				oldest = other
			}
		}
		f = k.files[oldest]
		idle = k.forget(oldest, f)
	}
	k.mu.Unlock()
	if idle {
		_ = f.constant.Close() // nothing was written to it
	}
}

// drop keeps a file no longer.
func (k *kept) drop(path string, f *keptFile) {
	k.mu.Lock()
	idle := k.forget(path, f)
	k.mu.Unlock()
	if idle {
		_ = f.constant.Close() // nothing was written to it
	}
}

// forget takes a file out and reports whether it is to be closed now: nobody
// uses it. k.mu is held.
func (k *kept) forget(path string, f *keptFile) (idle bool) {
	if k.files[path] != f {
		return false
	}
	delete(k.files, path)
	f.gone = true
	return f.users == 0
}

// close keeps no file any more. A file that a window is read of is closed by
// its last user.
func (k *kept) close() {
	k.mu.Lock()
	k.closed = true
	var idle []*keptFile
	for path, f := range k.files {
		if k.forget(path, f) {
			idle = append(idle, f)
		}
	}
	k.mu.Unlock()
	for _, f := range idle {
		_ = f.constant.Close() // nothing was written to it
	}
}
