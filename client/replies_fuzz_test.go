package client

import (
	"encoding/json"
	"testing"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// FuzzReplies reads any bytes as every answer that a trainer waits for. No input makes the reader panic, and a seat that
// it accepts has a generation that is safe in subjects, a position that does not overflow, and a state within bounds.
func FuzzReplies(f *testing.F) {
	f.Add([]byte(`{"wire":2,"gen":"01J","seat":2,"position":1,"state":"","window":4,"phase":"running","spec":""}`))
	f.Add([]byte(`{"stream":"audit","seq":1}`))
	f.Add([]byte(`{"gen":"a.>","position":18446744073709551615,"window":-5,"workers":-1,"phase":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var seat wire.SeatReply
		if readAnswer("s", data, &seat) == nil && checkSeat(&sitting{mode: wire.ModeSeek}, &seat) == nil {
			if wire.CheckName("gen", seat.Gen) != nil || seat.Position == 0 || seat.Position > wire.MaxPosition ||
				len(seat.State.Data) > schema.MaxState {
				t.Fatalf("taken for a seat: %+v", seat)
			}
		}
		if said, err := readCreditReply("s", data); err == nil && (said.Window < 0 || said.Window > span || said.Workers < 0) {
			t.Fatalf("taken for an answer to a credit: %+v", said)
		}
		for _, reply := range []any{new(wire.StopReply), new(wire.StatusReply), new(wire.UploadReply)} {
			_ = json.Unmarshal(data, reply) // any answer will do, but a panic
		}
	})
}
