package onda

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/jetbatch/jetbatch/internal/durable"
)

// folder keeps copies of content as files, which outlive the process and which
// several processes share. A cache bounds it.
type folder struct {
	dir   string
	cache *cache
	since time.Time

	mu      sync.Mutex
	touched map[string]time.Time
}

const (
	copyEnding = ".onda-copy"
	partEnding = ".onda-part"
	// Whoever uses a copy touches it, and whoever writes one changes it, more
	// often than restAfter.
	touchEvery = time.Minute
	restAfter  = 2 * touchEvery
)

func newFolder(dir string, limit, patience int64) *folder {
	f := &folder{dir: dir, cache: newCache(limit, patience), since: time.Now(), touched: map[string]time.Time{}}
	f.cache.others = f.others
	return f
}

// read gives bytes of the content that key names, which write writes if there
// is no copy yet. If there is no room for a copy, ok is false.
func (f *folder) read(ctx context.Context, key string, size, from, length int64, write func(io.Writer) error) (
	[]byte, bool, error,
) {
	sum := xxh3.HashString128(key).Bytes()
	name := hex.EncodeToString(sum[:]) + copyEnding
	data, ok, err := f.cache.read(ctx, name, size, from, length, func() (held, error) {
		return f.copy(name, size, write)
	})
	if errors.Is(err, errCopyGone) {
		f.cache.forget(name)
		return nil, false, nil // another process made room; the next caller may copy again
	}
	return data, ok, err
}

var errCopyGone = errors.New("onda: the local copy is gone")

func (f *folder) copy(name string, size int64, write func(io.Writer) error) (held, error) {
	path := filepath.Join(f.dir, name)
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return copied{f, name}, nil
	}
	if err := os.Mkdir(f.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("onda: cache_dir: %w", err)
	}
	part, err := os.CreateTemp(f.dir, "*"+partEnding)
	if err != nil {
		return nil, fmt.Errorf("onda: cache_dir: %w", err)
	}
	err = func() error {
		// At its full length, so that other processes count it.
		if err := part.Truncate(size); err != nil {
			return err
		}
		return write(part)
	}()
	if err = errors.Join(err, part.Close()); err == nil {
		// A copy is found by its name after the machine has failed, too.
		err = durable.Rename(part.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(part.Name()))
	}
	return copied{f, name}, nil
}

// others counts the copies of other processes and of earlier ones, besides one
// that is about to be used, and removes those that rest where there is not as
// much room as over needs.
func (f *folder) others(name string, over int64) int64 {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return 0 // there is none yet
	}
	var total int64
	resting := time.Now().Add(-restAfter)
	if f.since.Before(resting) {
		resting = f.since
	}
	for _, e := range entries {
		isCopy := strings.HasSuffix(e.Name(), copyEnding)
		_, own := f.cache.entries[e.Name()]
		if own || e.Name() == name || !isCopy && !strings.HasSuffix(e.Name(), partEnding) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue
		}
		if !isCopy && info.ModTime().After(f.since) {
			continue // most likely this process's own, which its entry counts
		}
		if over+total > 0 && info.ModTime().Before(resting) && os.Remove(filepath.Join(f.dir, e.Name())) == nil {
			continue
		}
		total += info.Size()
	}
	return total
}

// touch says that a copy is in use.
func (f *folder) touch(name string) {
	now := time.Now()
	f.mu.Lock()
	due := now.Sub(f.touched[name]) >= touchEvery
	if due {
		f.touched[name] = now
	}
	f.mu.Unlock()
	if due {
		// One that is not touched is copied again some day.
		_ = os.Chtimes(filepath.Join(f.dir, name), now, now)
	}
}

// copied is content in a folder.
type copied struct {
	folder *folder
	name   string
}

func (c copied) read(from, length int64) ([]byte, error) {
	file, err := os.Open(filepath.Join(c.folder.dir, c.name))
	if err != nil {
		return nil, errCopyGone
	}
	defer file.Close()
	c.folder.touch(c.name)
	data := make([]byte, length)
	if _, err := file.ReadAt(data, from); err != nil {
		return nil, errCopyGone
	}
	return data, nil
}

func (c copied) drop() {
	c.folder.mu.Lock()
	delete(c.folder.touched, c.name)
	c.folder.mu.Unlock()
	// What cannot be removed is counted with the copies of others.
	_ = os.Remove(filepath.Join(c.folder.dir, c.name))
}
