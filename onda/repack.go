package onda

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/jetbatch/jetbatch/internal/durable"
)

// RepackConfig configures [Repack].
type RepackConfig struct {
	// From is the folder of an Onda data set, To the one to make, which must not
	// exist. Required.
	From, To string
	// Signals is the table of signals in From. Defaults to "onda.signals.arrow".
	Signals string
	// FrameBytes is the content of a frame, rounded down to whole samples.
	// Defaults to 32 KiB.
	FrameBytes int
	// Progress, if set, hears how many of all files are done.
	Progress func(done, total int)
}

// Repacked says what [Repack] wrote.
type Repacked struct {
	// Files that tables name, and how many of them were compressed anew.
	Files, Packed int
	// Before and After are the bytes of those.
	Before, After int64
}

// Repack copies a data set so that any window of an lpcm.zst file is read
// without what lies before it: in the zstd seekable format, many small frames
// with a table of where they are, which every zstd decoder reads as before.
// Names, tables and lpcm files stay as they are. Tables are all that lie in From
// or beside Signals, files those that a table names, stored labels among them.
// All file_paths have to be relative (ErrPath), and every file as its row says
// (ErrFile, ErrTruncated).
// On any error nothing is left behind.
func Repack(ctx context.Context, cfg RepackConfig) (Repacked, error) {
	if cfg.Signals == "" {
		cfg.Signals = "onda.signals.arrow"
	}
	if cfg.FrameBytes == 0 {
		cfg.FrameBytes = 32 << 10
	}
	if cfg.FrameBytes < 1 || cfg.FrameBytes > maxWindowBytes {
		return Repacked{}, fmt.Errorf("%w: frames of %d bytes", ErrParams, cfg.FrameBytes)
	}
	if _, err := os.Lstat(cfg.To); cfg.To == "" || err == nil {
		return Repacked{}, fmt.Errorf("%w: %q exists, or is no name", ErrParams, cfg.To)
	}
	signals, err := ReadSignals(ctx, Dir(cfg.From), cfg.Signals, "")
	if err != nil {
		return Repacked{}, err
	}
	// Beside the place where it ends up, to be renamed there.
	if err := os.MkdirAll(filepath.Dir(cfg.To), 0o755); err != nil {
		return Repacked{}, fmt.Errorf("onda: repack: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(cfg.To), ".repack-")
	if err != nil {
		return Repacked{}, fmt.Errorf("onda: repack: %w", err)
	}
	out, err := cfg.repack(ctx, dir, signals)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), durable.Rename(dir, cfg.To))
	}
	if err != nil {
		return Repacked{}, errors.Join(err, os.RemoveAll(dir))
	}
	return out, nil
}

func (cfg *RepackConfig) repack(ctx context.Context, dir string, signals []Signal) (Repacked, error) {
	var out Repacked
	source := Dir(cfg.From)
	tables, err := cfg.tables()
	if err != nil {
		return out, fmt.Errorf("onda: repack: %w", err)
	}
	rows := map[string]*Signal{} // nil for a file that is copied
	var order []string
	add := func(name string, s *Signal) bool {
		_, known := rows[name]
		if !known {
			order, rows[name] = append(order, name), s
		}
		return !known
	}
	for i, table := range tables {
		if !add(table, nil) {
			continue
		}
		if i > 0 {
			if signals, err = rowsOf(ctx, source, table); err != nil {
				return out, err
			}
		}
		for i := range signals {
			s := &signals[i]
			if strings.Contains(s.Path, "://") || !filepath.IsLocal(filepath.FromSlash(s.Path)) {
				return out, fmt.Errorf("%w: %q: repack takes paths relative to the folder", ErrPath, s.Path)
			}
			name := path.Clean(s.Path)
			if s.Format != formatZstd {
				s = nil
			}
			if add(name, s) {
				out.Files++
			}
		}
	}
	for i, name := range order {
		if err := cfg.file(ctx, source, dir, name, rows[name], &out); err != nil {
			return out, fmt.Errorf("onda: repack %s: %w", name, err)
		}
		if cfg.Progress != nil {
			cfg.Progress(i+1, len(order))
		}
	}
	return out, nil
}

// tables are cfg.Signals and those beside it and in the folder itself.
func (cfg *RepackConfig) tables() ([]string, error) {
	signals := path.Clean(filepath.ToSlash(cfg.Signals))
	tables := []string{signals}
	for _, dir := range []string{path.Dir(signals), "."} {
		entries, err := os.ReadDir(filepath.Join(cfg.From, filepath.FromSlash(dir)))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if path.Ext(e.Name()) == ".arrow" {
				tables = append(tables, path.Join(dir, e.Name()))
			}
		}
	}
	return tables, nil
}

// rowsOf are those of a table that names files, as one of stored labels does. Another table, or what is none, has none.
func rowsOf(ctx context.Context, source Source, table string) ([]Signal, error) {
	names, err := columns(ctx, source, &budget{limit: maxTableMemory}, table)
	if errors.Is(err, ErrTable) || err == nil && !slices.Contains(names, "file_path") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ReadSignals(ctx, source, table, "")
}

// file copies a file, or packs it by the row s.
func (cfg *RepackConfig) file(ctx context.Context, source Source, dir, name string, s *Signal, out *Repacked) error {
	obj, err := source.Open(ctx, name)
	if err != nil {
		return err
	}
	defer obj.Close()
	to := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if s == nil {
		_, err = io.CopyBuffer(onlyWriter{file}, &atReader{ctx: ctx, obj: obj}, make([]byte, 1<<20))
		return errors.Join(err, file.Close())
	}
	whole := s.samples() * s.frame()
	w, err := newFrameWriter(file, max(1, cfg.FrameBytes/int(s.frame()))*int(s.frame()))
	var tail bytes.Buffer // a sample that a span cut to a nanosecond hides
	if err == nil {
		err = decompressTo(ctx, w, &tail, &section{Object: obj, to: obj.Size()}, whole, s.frame())
	}
	if err == nil {
		_, err = w.Write(tail.Bytes())
	}
	if err == nil {
		err = w.Close()
	}
	out.Packed++
	out.Before += obj.Size()
	if w != nil {
		out.After += w.written
	}
	return errors.Join(err, file.Close())
}

// frameWriter writes frames of equal length and, when it is closed, their table.
type frameWriter struct {
	out     io.Writer
	enc     *zstd.Encoder
	content []byte // of the next frame
	size    int
	packed  []byte
	table   []byte
	count   uint32
	written int64
}

func newFrameWriter(out io.Writer, size int) (*frameWriter, error) {
	// Quicker levels make frames of this length a quarter larger.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true),
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return nil, fmt.Errorf("onda: compress: %w", err)
	}
	return &frameWriter{out: out, enc: enc, size: size}, nil
}

func (w *frameWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		take := min(len(p), w.size-len(w.content))
		w.content = append(w.content, p[:take]...)
		if p = p[take:]; len(w.content) == w.size {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush writes what there is as a frame.
func (w *frameWriter) flush() error {
	w.packed = w.enc.EncodeAll(w.content, w.packed[:0])
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(w.packed)))
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(w.content)))
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(xxhash.Sum64(w.content)))
	w.count++
	w.content = w.content[:0]
	return w.put(w.packed)
}

func (w *frameWriter) put(data []byte) error {
	n, err := w.out.Write(data)
	w.written += int64(n)
	return err
}

// Close writes the last frame and the table.
func (w *frameWriter) Close() error {
	if len(w.content) > 0 || w.count == 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if w.count > maxFrames {
		return fmt.Errorf("%w: %d frames, at most %d: choose longer ones", ErrParams, w.count, maxFrames)
	}
	const checksums = 0x80
	end := binary.LittleEndian.AppendUint32(nil, seekTableMagic)
	end = binary.LittleEndian.AppendUint32(end, uint32(len(w.table)+seekFooterBytes))
	end = append(end, w.table...)
	end = binary.LittleEndian.AppendUint32(end, w.count)
	end = append(end, checksums)
	return w.put(binary.LittleEndian.AppendUint32(end, seekFooterMagic))
}
