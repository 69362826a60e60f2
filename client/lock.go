package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// lock is a file, one for each batcher on this machine, that holds the secret of the reader that has it and is locked
// for as long as that reader's process lives. Who gets the lock and finds a secret can prove to the coordinator that
// the reader has ended, and need not wait for its lease. A nil lock is none: another process has it, the batcher is of
// this process alone, or the system has no such locks.
type lock struct {
	file *os.File
	path string
	was  string // the secret that was found
}

// maxSecret bounds what is read of a file.
const maxSecret = 64

const (
	touchEvery = time.Minute     // a reader touches the file of its lock
	useless    = 10 * touchEvery // a file that nobody has touched for so long, and nobody locks, proves nothing any more
)

// newLock tries to get the lock.
func newLock(c *Config, nc *nats.Conn) *lock {
	if nc.Opts.InProcessServer != nil {
		return nil // the service ends with the process
	}
	dir, err := lockFolder()
	if err != nil {
		c.Logger.Debug("no lock on this machine: a trainer that is killed is waited for when it starts again", "error", err)
		return nil
	}
	servers := slices.Sorted(slices.Values(append(slices.Clone(nc.Opts.Servers), nc.Opts.Url)))
	sum := sha256.Sum256([]byte(strings.Join(append(servers, c.Name, fmt.Sprint(c.place())), "\n")))
	l, err := getLock(filepath.Join(dir, hex.EncodeToString(sum[:16])))
	if err != nil {
		c.Logger.Debug("no lock", "error", err)
	}
	if now := time.Now(); swept.due(now) {
		sweepLocks(dir, now)
	}
	return l
}

// swept is when this process last swept.
var swept sweep

// sweep is when files were last looked through, in nanoseconds. Many batchers that are opened at once would each look
// at the files of all the others.
type sweep struct{ at atomic.Int64 }

// due reports whether the files are to be looked through now, and begins the pause after that.
func (s *sweep) due(now time.Time) bool {
	last := s.at.Load()
	return now.UnixNano()-last >= int64(touchEvery) && s.at.CompareAndSwap(last, now.UnixNano())
}

// sweepLocks removes the files of readers whose processes ended long ago: a batcher of that name may never be opened
// here again. A file that was touched of late is not looked into, since its batcher may be about to be opened again.
func sweepLocks(dir string, now time.Time) {
	entries, _ := os.ReadDir(dir) // what stays is tried by the next reader
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || now.Sub(info.ModTime()) < useless {
			continue
		}
		if l, _ := getLock(filepath.Join(dir, e.Name())); l != nil {
			l.remove()
		}
	}
}

// tend touches the file until the handle ends.
func (l *lock) tend(handle context.Context) {
	if l == nil {
		return
	}
	tick := time.NewTicker(touchEvery)
	defer tick.Stop()
	for {
		select {
		case <-handle.Done():
			return
		case now := <-tick.C:
			_ = os.Chtimes(l.path, time.Time{}, now) // a sweep that takes the file for useless cannot lock it
		}
	}
}

// getLock returns nil where another process has the lock.
func getLock(path string) (*lock, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		got, err := tryLock(file)
		if !got {
			return nil, cmp.Or(err, file.Close())
		}
		is, err := isAt(file, path)
		if err != nil {
			return nil, cmp.Or(err, file.Close())
		}
		if is {
			was, err := io.ReadAll(io.LimitReader(file, maxSecret))
			return &lock{file, path, string(was)}, err
		}
		_ = file.Close() // the one before removed it just now
	}
}

// isAt reports whether an open file is the one at a path.
func isAt(file *os.File, path string) (bool, error) {
	open, err := file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if os.IsNotExist(err) {
		return false, nil
	}
	return err == nil && os.SameFile(open, there), err
}

// ended is the secret of a reader whose process has ended; empty for none.
func (l *lock) ended() string {
	if l == nil {
		return ""
	}
	return l.was
}

// sign notes whose lock it is. A secret that is not written proves nothing, so what fails here costs time alone.
func (l *lock) sign(secret string) {
	if l != nil && l.file.Truncate(0) == nil {
		_, _ = l.file.WriteAt([]byte(secret), 0)
	}
}

// abandon gives the lock up. What is in it stays, and frees the seat.
func (l *lock) abandon() {
	if l == nil {
		return
	}
	if info, err := l.file.Stat(); err == nil && info.Size() == 0 {
		l.remove()
		return
	}
	_ = l.file.Close()
}

// remove gives the lock up, and there is nothing to prove.
func (l *lock) remove() {
	if l != nil {
		_ = os.Remove(l.path)
		_ = l.file.Close()
	}
}
