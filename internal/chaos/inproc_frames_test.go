package chaos

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// frame is one message of the NATS client protocol: a line, and what follows the line of a message.
type frame struct {
	op      string // CONNECT, SUB, PING …; PUB and MSG, with headers or without
	subject string
	reply   string
	sid     string // of a SUB: by what name the server delivers to it
	body    []byte
	raw     []byte // all of it, as it came
}

// cutFrame takes one frame from the front of data; n is 0 while it is not complete. What it returns aliases data. The
// two ends are nats.go and nats-server: what they write is well formed.
func cutFrame(data []byte) (f frame, n int) {
	end := bytes.Index(data, []byte("\r\n"))
	if end < 0 {
		return frame{}, 0
	}
	n = end + 2
	op, rest, _ := strings.Cut(string(data[:end]), " ")
	f.op = strings.TrimPrefix(op, "H")
	switch f.op {
	case "SUB":
		f.subject, _, _ = strings.Cut(rest, " ")
		f.sid = rest[strings.LastIndexByte(rest, ' ')+1:]
	case "PUB", "MSG":
		fields := strings.Fields(rest)
		size, head := number(fields[len(fields)-1]), 0
		fields = fields[:len(fields)-1]
		if op != f.op {
			head = number(fields[len(fields)-1])
			fields = fields[:len(fields)-1]
		}
		if len(data) < n+size+2 {
			return frame{}, 0
		}
		f.subject = fields[0]
		names := 1 // a MSG names its subscription as well
		if f.op == "MSG" {
			names = 2
		}
		if len(fields) > names {
			f.reply = fields[names]
		}
		f.body = data[n+head : n+size]
		n += size + 2
	}
	f.raw = data[:n]
	return f, n
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(fmt.Sprintf("%q is not a number of the protocol", s))
	}
	return n
}

// class is what a message is for. Messages of one class keep their order on a connection; those of different classes
// need not: in a cluster, streams and consumers are led by different servers, and messages go there by different
// routes.
type class uint8

const (
	classWire   class = iota // CONNECT, SUB, PING and all that is no message: never delayed, never lost by itself
	classJob                 // a job: publication, and delivery to a worker
	classAck                 // a job is acked, handed back or heartbeat
	classPull                // a request for jobs
	classResult              // publication of a record or chunk
	classLive                // a record as the server sends it on
	classRecord              // a write of a record or a lease
	classAPI                 // any other call of JetStream: reads, purges, creations, deletions
	classReply               // an answer: PubAcks, results of calls, answers of coordinators
	classSeat                // a request for a seat, to stop, for the status
	classCredit              // a credit
	classHint                // lane, notice, worker's beat, report
	classes                  // how many there are
)

func (c class) String() string {
	return [...]string{"wire", "job", "ack", "pull", "result", "live", "record", "api", "reply", "seat", "credit", "hint"}[c]
}

var classPrefixes = []struct {
	prefix string
	class  class
}{
	{"_INBOX.", classReply},
	{wire.JobPrefix + ".", classJob},
	{"$JS.ACK.", classAck},
	{wire.ResultPrefix + ".", classResult},
	{wire.LivePrefix + ".", classLive},
	{"$KV.", classRecord},
	{"$JS.API.CONSUMER.MSG.NEXT.", classPull},
	{"$JS.", classAPI},
	{wire.CoordinatorPrefix + ".", classSeat},
	{wire.ReaderPrefix + ".", classCredit},
}

func (f *frame) class() class {
	if f.op != "PUB" && f.op != "MSG" {
		return classWire
	}
	for _, p := range classPrefixes {
		if strings.HasPrefix(f.subject, p.prefix) {
			return p.class
		}
	}
	return classHint
}

func TestCutFrame(t *testing.T) {
	t.Parallel()
	stream := "INFO {\"a\":1}\r\nPING\r\nSUB jetbatch.live.b.*.* 3\r\nPUB jetbatch.job.k.b.g.1.0 _INBOX.x 5\r\nhe\r\no\r\n" +
		"HPUB $JS.ACK.s.c.1 4 4\r\nabcd\r\nMSG _INBOX.y 7 0\r\n\r\nHMSG $KV.a 7 reply 2 3\r\nxxz\r\n"
	want := []struct{ op, subject, reply, body, class string }{
		{"INFO", "", "", "", "wire"}, {"PING", "", "", "", "wire"}, {"SUB", "jetbatch.live.b.*.*", "", "", "wire"},
		{"PUB", "jetbatch.job.k.b.g.1.0", "_INBOX.x", "he\r\no", "job"}, {"PUB", "$JS.ACK.s.c.1", "", "", "ack"},
		{"MSG", "_INBOX.y", "", "", "reply"}, {"MSG", "$KV.a", "reply", "z", "record"},
	}
	data, whole := []byte(stream), ""
	for _, w := range want {
		f, n := cutFrame(data)
		if _, early := cutFrame(data[:n-1]); early != 0 {
			t.Fatalf("%s: complete without its last byte", w.op)
		}
		if f.op != w.op || f.subject != w.subject || f.reply != w.reply || string(f.body) != w.body || f.class().String() != w.class {
			t.Fatalf("%q %q %q %q %v, want %q", f.op, f.subject, f.reply, f.body, f.class(), w)
		}
		whole += string(f.raw)
		data = data[n:]
	}
	if whole != stream || len(data) != 0 {
		t.Fatalf("%q left of %q", data, stream)
	}
}
