package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// remake is the advice for a stream that is not as it has to be.
const remake = "stop trainers and roles, delete the stream, start again; nothing is lost, since trainers resume from their states"

// streams compares what is there with what is needed.
func (e *examination) streams(ctx context.Context) {
	for _, want := range topology.Shared(topology.Config{}) {
		info, err := e.stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			e.find(Note, "streams", want.Name+" is not there; the first coordinator makes it", "")
			continue
		case errors.Is(err, context.DeadlineExceeded) && e.Domain == "" && e.Conn.ConnectedClusterName() != "":
			e.find(Error, "cluster", want.Name+" does not answer: it has no leader, since too few of the servers that hold it are there",
				"start the servers that are away; of 3, 2 have to be there")
			continue
		case err != nil:
			e.failed("streams", want.Name, err)
			continue
		}
		if wrong := differences(want, info.Config); wrong != "" {
			e.find(Error, "streams", want.Name+": "+wrong, remake)
			continue
		}
		if !e.copies(want.Name, info) {
			continue
		}
		text := fmt.Sprintf("%s: as it has to be, %s", want.Name, legible.Count(info.Config.Replicas, "replica"))
		// A leaf node has a name of a cluster, too, whether the server that stores is of one or not.
		if info.Cluster != nil && info.Cluster.Name != "" && info.Config.Replicas == 1 {
			e.find(Warning, "streams", text+" in a cluster: with its server goes the service, until it is back", "nats stream edit "+want.Name+" --replicas 3, and start coordinators with --replicas 3")
			continue
		}
		e.find(OK, "streams", text, "")
	}
}

// stream asks for a stream, and on the way what time it is there.
func (e *examination) stream(ctx context.Context, name string, options ...jetstream.StreamInfoOpt) (info *jetstream.StreamInfo, err error) {
	err = e.ask(ctx, func(ctx context.Context) error {
		s, err := e.js.Stream(ctx, name)
		if err != nil {
			return err
		}
		asked := time.Now()
		if info, err = s.Info(ctx, options...); err != nil {
			return err
		}
		if at := info.TimeStamp; !at.IsZero() {
			e.ahead, e.timed = middle(asked, time.Now()).Sub(at), true
		}
		return nil
	}, "$JS.API.STREAM.INFO."+name)
	return info, err
}

// middle is the moment at which a question was answered, as well as can be known.
func middle(asked, answered time.Time) time.Time { return asked.Add(answered.Sub(asked) / 2) }

// differences says in which settings that matter a stream is not as wanted.
func differences(want, got jetstream.StreamConfig) string {
	bound := func(n int64) int64 { // 0 and less are none
		if n <= 0 {
			return -1
		}
		return n
	}
	var wrong []string
	for _, c := range []struct {
		name      string
		want, got any
	}{
		{"subjects", want.Subjects, got.Subjects},
		{"storage", want.Storage, got.Storage},
		{"retention", want.Retention, got.Retention},
		{"discard policy", want.Discard, got.Discard},
		{"discard new per subject", want.DiscardNewPerSubject, got.DiscardNewPerSubject},
		{"maximum of messages per subject", want.MaxMsgsPerSubject, got.MaxMsgsPerSubject},
		{"maximum of messages", bound(want.MaxMsgs), bound(got.MaxMsgs)},
		{"maximum of bytes", bound(want.MaxBytes), bound(got.MaxBytes)},
		{"maximum age", want.MaxAge, got.MaxAge},
		{"maximum message size", bound(int64(want.MaxMsgSize)), bound(int64(got.MaxMsgSize))},
		{"republishing", want.RePublish, got.RePublish},
		{"direct gets", want.AllowDirect, got.AllowDirect},
		{"no acknowledgements", want.NoAck, got.NoAck},
		{"sealed", want.Sealed, got.Sealed},
	} {
		if c.name == "subjects" && len(got.Subjects) == 0 {
			c.got = []string(nil)
		}
		if !reflect.DeepEqual(c.want, c.got) {
			wrong = append(wrong, fmt.Sprintf("%s is %v, not %v", c.name, shown(c.got), shown(c.want)))
		}
	}
	return strings.Join(wrong, "; ")
}

func shown(v any) any {
	if r, ok := v.(*jetstream.RePublish); ok {
		if r == nil {
			return "off"
		}
		return r.Source + " to " + r.Destination
	}
	return v
}

// strangers looks for streams of others that take what is not theirs, and at all stores of results.
func (e *examination) strangers(ctx context.Context) {
	seen := make(map[string]bool)
	own := []string{topology.BucketStream, topology.JobsStream, topology.EventsStream}
	for _, subject := range []string{"jetbatch.>", "$KV." + topology.Bucket + ".>"} {
		err := e.ask(ctx, func(ctx context.Context) error {
			list := e.js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
			for name := range list.Name() {
				seen[name] = true
			}
			return list.Err()
		}, "$JS.API.STREAM.NAMES")
		if err != nil {
			e.failed("streams", "streams of others", err)
			return
		}
	}
	for name := range seen {
		batcher, gen, ok := topology.ParseResultsStream(name)
		switch {
		case slices.Contains(own, name):
		case !ok:
			e.find(Error, "streams", fmt.Sprintf("stream %s takes messages of jetbatch's subjects", name), "delete it, give it other subjects, or give jetbatch an account of its own")
		default:
			info, err := e.stream(ctx, name)
			if err != nil {
				continue // gone by now, as stores do
			}
			if wrong := differences(topology.Results(batcher, gen), info.Config); wrong != "" {
				e.find(Error, "streams", name+": "+wrong, "nats stream rm "+name+"; its batches are made again")
			}
		}
	}
}

// bucket reads the leases and the records.
func (e *examination) bucket(ctx context.Context) {
	info, err := e.stream(ctx, topology.BucketStream, jetstream.WithSubjectFilter("$KV."+topology.Bucket+".>"))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		e.leases = map[string]bool{}
		return // said already
	}
	if err != nil {
		e.failed("leases", "leases and records", err)
		return
	}
	leases := make(map[string]bool)
	for subject := range info.State.Subjects {
		var m *jetstream.RawStreamMsg
		err := e.ask(ctx, func(ctx context.Context) error {
			s, err := e.js.Stream(ctx, topology.BucketStream)
			if err == nil {
				m, err = s.GetLastMsgForSubject(ctx, subject)
			}
			return err
		}, "$JS.API.STREAM.MSG.GET."+topology.BucketStream)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			e.failed("leases", "leases and records", err)
			return
		}
		if m.Header.Get("KV-Operation") != "" {
			continue // deleted
		}
		batcher, id := topology.ParseKey(strings.TrimPrefix(subject, "$KV."+topology.Bucket+"."))
		switch {
		case batcher != "":
			e.record(batcher, m.Data)
		case id != "":
			leases[id] = true
			e.lease(id, m, info.TimeStamp)
		}
	}
	e.leases = leases
}

func (e *examination) record(batcher string, data []byte) {
	var rec wire.Record
	if err := json.Unmarshal(data, &rec); err != nil || rec.Wire != wire.Version {
		e.find(Error, "records", fmt.Sprintf("the record of batcher %s is of wire version %d, this program speaks %d", batcher, rec.Wire, wire.Version),
			"replace all roles, or delete the record with: nats kv del jetbatch batcher."+batcher)
		return
	}
	e.records[batcher] = rec
}

// lease judges a coordinator's lease by the server's clock alone, and the coordinator's clock by the server's.
func (e *examination) lease(id string, m *jetstream.RawStreamMsg, now time.Time) {
	age := now.Sub(m.Time)
	if age > coordinator.DefaultLease {
		e.stale[id] = age // what that means, coordinators tell
		return
	}
	e.find(OK, "leases", fmt.Sprintf("coordinator %s renewed its lease %v ago", id, age.Round(10*time.Millisecond)), "")
	if ms, err := strconv.ParseInt(string(m.Data), 10, 64); err == nil {
		e.clock("coordinator "+id, time.UnixMilli(ms).Sub(m.Time))
	}
}
