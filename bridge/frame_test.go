//go:build linux

package bridge_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/internal/msgp"
)

// pair is a Conn and the raw other end.
func pair(t *testing.T) (*bridge.Conn, *os.File) {
	t.Helper()
	conn, other, err := bridge.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = other.Close()
	})
	return conn, other
}

func TestFrames(t *testing.T) {
	t.Parallel()
	conn, other := pair(t)
	peer, err := bridge.NewConn(other)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "größe", strings.Repeat("x", 100_000)} {
		sent := make(chan error, 1)
		go func() {
			sent <- conn.Write(func(enc *msgpack.Encoder) error { return enc.Encode([]string{text}) })
		}()
		frame, err := peer.Read()
		var got []string
		if err == nil {
			err = msgpack.Unmarshal(frame, &got)
		}
		if err := errors.Join(err, <-sent); err != nil || len(got) != 1 || got[0] != text {
			t.Fatalf("%.20q: %v", got, err)
		}
	}
	big := strings.Repeat("x", bridge.MaxFrame)
	if err := conn.Write(func(enc *msgpack.Encoder) error { return enc.Encode(big) }); !errors.Is(err, bridge.ErrFrame) {
		t.Fatalf("a frame that is too large: %v", err)
	}
	_ = conn.Close()
	if _, err := peer.Read(); !errors.Is(err, io.EOF) {
		t.Fatalf("the end: %v", err)
	}
	_ = peer.Close()
}

func TestNoFrames(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"too long":    binary.LittleEndian.AppendUint32(nil, bridge.MaxFrame+1),
		"cut off":     {9, 0, 0, 0, 0x91},
		"no value":    {1, 0, 0, 0, 0xc1},
		"wild length": {5, 0, 0, 0, 0xdd, 0xff, 0xff, 0xff, 0xff},
		"two values":  {2, 0, 0, 0, 1, 2},
	} {
		conn, other := pair(t)
		if _, err := other.Write(data); err != nil {
			t.Fatal(err)
		}
		_ = other.Close()
		if _, err := conn.Read(); !errors.Is(err, bridge.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNotASocket(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() //nolint:errcheck // a pipe
	defer r.Close() //nolint:errcheck // a pipe
	if _, err := bridge.NewConn(r); err == nil {
		t.Fatal("a pipe passes for a socket")
	}
}

// FuzzFrames reads anything as frames:
//   - what is read is one sound msgpack value, and all else is ErrFrame, or the end between two frames;
//   - nothing is read twice: what was accepted makes up the beginning of the input.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0, 0, 0x90, 2, 0, 0, 0, 0x91, 0xc0})
	f.Add([]byte{5, 0, 0, 0, 0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		conn, other := pair(t)
		go func() {
			_, _ = other.Write(data) // the reader may have had enough
			_ = other.Close()
		}()
		var accepted []byte
		for {
			frame, err := conn.Read()
			if err != nil {
				if !errors.Is(err, bridge.ErrFrame) && !(errors.Is(err, io.EOF) && bytes.Equal(accepted, data)) &&
					!errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%v after %x of %x", err, accepted, data)
				}
				return
			}
			if err := msgp.Check(frame); err != nil {
				t.Fatal(err)
			}
			accepted = append(binary.LittleEndian.AppendUint32(accepted, uint32(len(frame))), frame...)
			if !bytes.HasPrefix(data, accepted) {
				t.Fatalf("%x is read of %x", accepted, data)
			}
		}
	})
}
