package onda

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// looking counts what a source opens, and what of it is open.
type looking struct {
	Source
	mu           sync.Mutex
	opens, stays int
}

type counted struct {
	constant
	of *looking
}

func (c *counted) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.stays--
	return c.constant.Close()
}

func (o *looking) Open(ctx context.Context, path string) (Object, error) {
	obj, err := o.Source.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	c, ok := obj.(constant)
	if !ok {
		return obj, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opens, o.stays = o.opens+1, o.stays+1
	return &counted{c, o}, nil
}

func (o *looking) count() (opens, stays int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.opens, o.stays
}

func keeping(t *testing.T) (k *kept, o *looking, dir string) {
	t.Helper()
	dir = t.TempDir()
	for i := range maxKept + 10 {
		write(t, dir, fmt.Sprintf("%d", i), fmt.Sprintf("content of %d", i))
	}
	o = &looking{Source: Dir(dir)}
	k = &kept{source: o, files: map[string]*keptFile{}}
	if contentOf(t, k, "0"); len(k.files) == 0 {
		t.Skip("the test's folder is on a file system whose files are opened each time")
	}
	return k, o, dir
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// contentOf reads a file by way of k.
func contentOf(t *testing.T, k *kept, name string) string {
	t.Helper()
	obj, err := k.open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, obj.Size())
	if _, err := obj.ReadAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	if err := obj.Close(); err != nil {
		t.Fatal(err)
	}
	if err := obj.Close(); err != nil { // ends no other's use
		t.Fatal(err)
	}
	return string(buf)
}

// A file that is unchanged is opened once; one that was written, replaced or removed is never read as it was.
func TestKeptFiles(t *testing.T) {
	t.Parallel()
	k, o, dir := keeping(t)
	for range 5 {
		if got := contentOf(t, k, "0"); got != "content of 0" {
			t.Fatalf("read %q", got)
		}
	}
	if opens, _ := o.count(); opens != 1 {
		t.Errorf("an unchanged file was opened %d times", opens)
	}
	write(t, dir, "0", "content of X")
	if got := contentOf(t, k, "0"); got != "content of X" {
		t.Errorf("after it was written: %q", got)
	}
	write(t, dir, "new", "content of Y")
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "0")); err != nil {
		t.Fatal(err)
	}
	if got := contentOf(t, k, "0"); got != "content of Y" {
		t.Errorf("after another took its place: %q", got)
	}
	write(t, filepath.Dir(dir), "elsewhere", "content of Z")
	if err := os.Remove(filepath.Join(dir, "0")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(t.Context(), "0"); err == nil {
		t.Error("a file that was removed was opened")
	}
	if err := os.Symlink(filepath.Join(filepath.Dir(dir), "elsewhere"), filepath.Join(dir, "0")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(t.Context(), "0"); err == nil {
		t.Error("a link that leads out of the folder was followed")
	}
	if _, stays := o.count(); stays != 0 {
		t.Errorf("%d files are open that are not kept", stays)
	}
}

// A data set keeps maxKept files open at most, however many goroutines read; and none once it is closed and the last
// window is read.
func TestKeptFilesAreBounded(t *testing.T) {
	t.Parallel()
	k, o, _ := keeping(t)
	var readers sync.WaitGroup
	for r := range 8 {
		readers.Go(func() {
			for i := range 500 {
				name := fmt.Sprintf("%d", (i*(r+1))%(maxKept+10))
				if got := contentOf(t, k, name); !strings.HasSuffix(got, " "+name) {
					t.Errorf("read %q of %s", got, name)
				}
			}
		})
	}
	readers.Wait()
	if _, stays := o.count(); stays != maxKept {
		t.Errorf("%d files are open, want %d", stays, maxKept)
	}
	used, err := k.open(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	k.close()
	if _, stays := o.count(); stays != 1 {
		t.Errorf("%d files are open while one is used", stays)
	}
	if err := used.Close(); err != nil {
		t.Fatal(err)
	}
	contentOf(t, k, "2") // closed, it keeps nothing
	if _, stays := o.count(); stays != 0 {
		t.Errorf("%d files are open after the end", stays)
	}
}

// What reads samples for its own ends leaves no file open.
func TestNormalizeClosesFiles(t *testing.T) {
	t.Parallel()
	o := &looking{Source: Dir(recordingsOf(t, []float64{100, 100}))}
	if _, err := Normalize(t.Context(), Params{}, Config{Source: o}, nil); err != nil {
		t.Fatal(err)
	}
	if opens, stays := o.count(); stays != 0 {
		t.Errorf("%d of %d files stay open", stays, opens)
	}
}
