//go:build linux

package trainer

import (
	"bytes"
	"log/slog"
	"sync"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
)

// maxLines is how many lines wait for a trainer that reads nothing; the oldest go. They fit a socket's buffer, each
// cut to maxLine bytes: the trainer may be told of all when it reads nothing for long.
const (
	maxLines = 64
	maxLine  = 1 << 10
)

// logger sends lines to the trainer, and only while one of its calls is under way: at other times the trainer does not
// read, and the bridge must not wait for it.
type logger struct {
	conn   *bridge.Conn
	logger *slog.Logger

	mu    sync.Mutex
	calls int
	lines []line
}

type line struct {
	level slog.Level
	text  string
}

func newLog(conn *bridge.Conn, level slog.Leveler) *logger {
	l := &logger{conn: conn}
	l.logger = slog.New(slog.NewTextHandler(lineWriter{l}, &slog.HandlerOptions{Level: level, ReplaceAttr: l.trim}))
	return l
}

// trim leaves out what the trainer's own log adds. The level is read from the line again.
func (l *logger) trim(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// lineWriter is given one line of the text handler at a time.
type lineWriter struct{ l *logger }

func (w lineWriter) Write(p []byte) (int, error) {
	level, rest, _ := bytes.Cut(bytes.TrimSpace(p), []byte(" "))
	_, name, _ := bytes.Cut(level, []byte("="))
	ln := line{text: clip(string(rest), maxLine)}
	_ = ln.level.UnmarshalText(name) // slog's own name of a level; info otherwise
	w.l.add(ln)
	return len(p), nil
}

func (l *logger) add(ln line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines = append(l.lines, ln); len(l.lines) > maxLines {
		l.lines = l.lines[1:]
	}
	if l.calls > 0 {
		l.flush()
	}
}

// flush sends what waits. Called with mu held.
func (l *logger) flush() {
	for _, ln := range l.lines {
		// A trainer that is gone is noticed where its requests are read.
		_ = l.conn.Write(func(enc *msgpack.Encoder) error {
			return encode(enc, uint64(0), "log", int(ln.level), ln.text)
		})
	}
	l.lines = nil
}

// enter says that the trainer waits for an answer, leave that it soon has it.
func (l *logger) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if len(l.lines) > 0 {
		l.flush()
	}
}

func (l *logger) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls--
}
