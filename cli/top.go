package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/term"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/cli/internal/top"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/wire"
)

type topCmd struct {
	natsFlags
	Interval time.Duration `help:"Pause between two looks." default:"1s"`
	Wait     time.Duration `help:"How long to gather the answers of coordinators." default:"400ms"`
	Looks    int           `short:"n" help:"End after so many looks. Defaults to no end."`
	JSON     bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON, one object per look."`
}

// topReport is one look as JSON.
type topReport struct {
	At time.Time `json:"at"`
	fleet.Status
	Events []top.Event `json:"events"`          // the latest first
	Error  string      `json:"error,omitempty"` // why nobody answered
}

// Run shows the picture until q, a signal, or the last look.
func (c *topCmd) Run(ctx context.Context, a *app) error {
	if c.Interval <= 0 || c.Wait <= 0 || c.Looks < 0 {
		return fmt.Errorf("%w: --interval and --wait are more than nothing, --looks is not negative", errUsage)
	}
	nc, err := c.connect(ctx, a.log, "jetbatch-top", 2*time.Second)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer nc.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &topper{model: top.New(client.Redact(c.Server)), looks: c.look(ctx, nc)}
	out, isFile := forMachines(a.out).(*os.File)
	if !c.JSON && isFile && term.IsTerminal(int(out.Fd())) && term.IsTerminal(int(os.Stdin.Fd())) {
		return t.watch(ctx, os.Stdin, out)
	}
	return t.print(a.out, c.JSON)
}

// look asks the coordinators now and after every interval. The channel is closed when ctx ends, or after the last look.
func (c *topCmd) look(ctx context.Context, nc *nats.Conn) <-chan sighting {
	looks := make(chan sighting)
	go func() {
		defer close(looks)
		h, _ := c.history(nc) // without JetStream nothing is told, which the overview's error says
		told := func() ([]wire.Event, error) { return h.since(ctx, time.Now().Add(-time.Hour)) }
		tick := time.NewTicker(c.Interval)
		defer tick.Stop()
		for n := 1; ; n++ {
			s, err := askOverview(ctx, nc, c.Wait)
			if ctx.Err() != nil {
				return
			}
			l := sighting{at: time.Now(), status: s, err: err}
			if err == nil && h != nil {
				if events, err := told(); err == nil { // else they are told with the next look
					l.told, told = events, func() ([]wire.Event, error) { return h.news(ctx) }
				}
			}
			select {
			case looks <- l:
			case <-ctx.Done():
				return
			}
			if n == c.Looks {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return looks
}

type sighting struct {
	at     time.Time
	status fleet.Status
	err    error
	told   []wire.Event // since the look before
}

// topper shows one look after the other.
type topper struct {
	model *top.Model
	looks <-chan sighting
}

// plainWidth is the width of the picture where there is no terminal to ask for its own.
const plainWidth = 140

// print writes every look below the one before. The error is that of the last look.
func (t *topper) print(w io.Writer, asJSON bool) (failed error) {
	for l := range t.looks {
		failed = l.err
		t.model.Observe(l.at, l.status, l.err)
		t.model.Tell(l.told)
		var err error
		if asJSON {
			r := topReport{At: l.at, Status: l.status, Events: append([]top.Event{}, t.model.Events()...)}
			if l.err != nil {
				r.Error = l.err.Error()
			}
			err = printJSON(w, r)
		} else {
			_, err = fmt.Fprintf(w, "%s\n\n", strings.Join(t.model.Render(plainWidth, top.Endless, false), "\n"))
		}
		if err != nil {
			return err
		}
	}
	return failed
}

// How the screen is taken and given back: the terminal's second screen, which leaves what was there as it was, and no
// cursor.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

// sizeEvery is how often the terminal is asked for its size: a signal would tell, but not on every system.
const sizeEvery = 150 * time.Millisecond

// watch takes the whole screen until a key or ctx ends it.
func (t *topper) watch(ctx context.Context, in, out *os.File) (err error) {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return err
	}
	defer func() {
		_, _ = io.WriteString(out, leaveScreen)
		if restoring := term.Restore(int(in.Fd()), before); err == nil {
			err = restoring
		}
	}()
	if _, err := io.WriteString(out, enterScreen); err != nil {
		return err
	}
	size := func() (int, int) {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil || width == 0 || height == 0 {
			return 80, 24
		}
		return width, height
	}
	return t.draw(ctx, readKeys(ctx, in), out, size, os.Getenv("NO_COLOR") == "")
}

// readKeys reads keys in a goroutine that may stay in its last Read until the process ends.
func readKeys(ctx context.Context, in io.Reader) <-chan []byte {
	typed := make(chan []byte)
	go func() {
		for {
			buf := make([]byte, 256)
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			select {
			case typed <- buf[:n]:
			case <-ctx.Done():
				return
			}
		}
	}()
	return typed
}

// draw draws whenever there is a look, a key or another size, until a key or ctx ends it.
func (t *topper) draw(ctx context.Context, typed <-chan []byte, out io.Writer, size func() (width, height int), color bool) error {
	tick := time.NewTicker(sizeEvery)
	defer tick.Stop()
	var keys top.Keys
	width, height := size()
	for {
		// From the upper left corner over what is there, each line to its end: nothing flickers.
		frame := strings.Join(t.model.Render(width, height, color), "\x1b[K\r\n")
		if _, err := io.WriteString(forPeople(out), "\x1b[H"+frame+"\x1b[K"); err != nil {
			return err
		}
		for changed := false; !changed; {
			select {
			case <-ctx.Done():
				return nil
			case data := <-typed:
				for _, k := range keys.Read(data) {
					if t.model.Key(k) {
						return nil
					}
					changed = true
				}
			case l, more := <-t.looks:
				if !more {
					return nil
				}
				t.model.Observe(l.at, l.status, l.err)
				t.model.Tell(l.told)
				changed = true
			case <-tick.C:
				w, h := size()
				changed = w != width || h != height
				width, height = w, h
			}
		}
	}
}
