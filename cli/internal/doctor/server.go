package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// The oldest server that has what is used, which is a stream's first sequence number, and the oldest that is tested.
var oldest, tested = [2]int{2, 10}, [2]int{2, 15}

func (e *examination) server() {
	version := e.Conn.ConnectedServerVersion()
	rtt, err := e.Conn.RTT()
	if err != nil {
		e.find(Error, "server", err.Error(), "is it still there?")
		return
	}
	text := fmt.Sprintf("NATS %s at %s, round trip %v", version, e.Conn.ConnectedUrlRedacted(), rtt.Round(time.Microsecond))
	major, minor := parseVersion(version)
	older := func(than [2]int) bool { return major < than[0] || major == than[0] && minor < than[1] }
	switch {
	case older(oldest):
		e.find(Error, "server", fmt.Sprintf("%s: older than %d.%d", text, oldest[0], oldest[1]), fmt.Sprintf("install NATS %d.%d or later", tested[0], tested[1]))
	case older(tested):
		e.find(Warning, "server", fmt.Sprintf("%s: jetbatch is tested with %d.%d", text, tested[0], tested[1]), fmt.Sprintf("install NATS %d.%d or later", tested[0], tested[1]))
	case rtt > 50*time.Millisecond:
		e.find(Warning, "server", text+": far away, and every batch makes the way twice", "run the server near the trainer and the workers")
	default:
		e.find(OK, "server", text, "")
	}
}

// parseVersion returns the first two numbers; what is no version is none.
func parseVersion(v string) (major, minor int) {
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	if len(parts) < 2 {
		return 0, 0
	}
	major, _ = strconv.Atoi(parts[0]) // 0 is old enough
	minor, _ = strconv.Atoi(parts[1])
	return major, minor
}

// leastPayload is a chunk with its headers; wantedPayload is the server's own default.
const (
	leastPayload  = wire.ChunkSize + 16<<10
	wantedPayload = 1 << 20
)

func (e *examination) payload() {
	most := e.Conn.MaxPayload()
	text := "a message is at most " + bytes(most)
	fix := "set max_payload: 1MB in the server's configuration"
	switch {
	case most < leastPayload:
		e.find(Error, "max_payload", fmt.Sprintf("%s: batches that encode to more cannot be stored, since pieces have up to %s", text, bytes(wire.ChunkSize)), fix)
	case most < wantedPayload:
		e.find(Warning, "max_payload", text+", and so is a job", fix)
	default:
		e.find(OK, "max_payload", text, "")
	}
}

// account looks at JetStream and its limits and reports whether there is any.
func (e *examination) account(ctx context.Context) bool {
	err := e.ask(ctx, func(ctx context.Context) (err error) {
		e.info, err = e.js.AccountInfo(ctx)
		return err
	}, "$JS.API.INFO")
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		e.find(Error, "jetstream", "JetStream is off", "put jetstream { store_dir: … } into the server's configuration; deploy/nats/nats.conf has it")
		return false
	case topology.IsNotForAccount(err):
		e.find(Error, "jetstream", "JetStream is off for this user's account", "put jetstream: enabled into the account's configuration")
		return false
	case err != nil:
		e.failed("jetstream", "limits", err)
		return true
	}
	e.limit("memory", e.info.Memory, e.info.Limits.MaxMemory, "max_mem", "jobs and batches on their way")
	e.limit("file store", e.info.Store, e.info.Limits.MaxStore, "max_file", "records")
	l := e.info.Limits
	if l.MaxStreams > 0 && e.info.Streams+1 >= l.MaxStreams {
		e.find(Error, "jetstream", fmt.Sprintf("%d of %s are there, and each batcher needs one, for a moment two", e.info.Streams, legible.Count(l.MaxStreams, "stream")),
			"raise the account's max_streams to 3 + 2 x batchers or more")
	}
	if l.MaxConsumers > 0 && e.info.Consumers >= l.MaxConsumers {
		e.find(Error, "jetstream", fmt.Sprintf("%d of %s are there, and each batcher needs one", e.info.Consumers, legible.Count(l.MaxConsumers, "consumer")), "raise the account's max_consumers to 2 x batchers or more")
	}
	if l.MaxBytesRequired {
		e.find(Error, "jetstream", "the account wants a bound on the bytes of every stream, and jetbatch sets none", "remove max_bytes_required; the window bounds what is stored")
	}
	if n := l.MemoryMaxStreamBytes; n > 0 && n < 1<<30 {
		e.find(Warning, "jetstream", fmt.Sprintf("a stream in memory may have %s, and a batcher's is up to 1.75 times its window", bytes(n)), "raise mem_max_stream_bytes, or lower every trainer's --window-bytes to half of it")
	}
	return true
}

// limit looks at what is used of a store.
func (e *examination) limit(name string, used uint64, limit int64, setting, what string) {
	switch share := float64(used) / float64(limit); {
	case limit < 0:
		e.find(OK, "jetstream", fmt.Sprintf("%s: %s used, and the account has no limit of its own", name, bytes(used)), "")
	case limit == 0:
		e.find(Error, "jetstream", "this user's account may not store anything in "+name, "give the account a "+setting+" of some GiB")
	case share > 0.95:
		e.find(Error, "jetstream", fmt.Sprintf("%s is full: %s of %s used; %s have no room", name, bytes(used), bytes(limit), what), "raise the account's "+setting+", or lower trainers' --window-bytes")
	case share > 0.8:
		e.find(Warning, "jetstream", fmt.Sprintf("%s is nearly full: %s of %s used", name, bytes(used), bytes(limit)), "raise the account's "+setting+", or lower trainers' --window-bytes")
	default:
		e.find(OK, "jetstream", fmt.Sprintf("%s: %s of %s used", name, bytes(used), bytes(limit)), "")
	}
}

// jsz is what the monitoring port says of the whole server.
type jsz struct {
	Memory uint64 `json:"memory"`
	Store  uint64 `json:"storage"`
	Config struct {
		MaxMemory int64 `json:"max_memory"`
		MaxStore  int64 `json:"max_storage"`
	} `json:"config"`
	Meta *metaCluster `json:"meta_cluster"`
}

// monitor asks the monitoring port for the server's own limits, which no account can see.
func (e *examination) monitor(ctx context.Context) {
	if e.Monitor == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var server jsz
	err := getJSON(ctx, strings.TrimSuffix(e.Monitor, "/")+"/jsz", &server)
	if err != nil {
		e.find(Error, "monitor", err.Error(), "is it the URL of the server's monitoring port, such as http://127.0.0.1:8222?")
		return
	}
	e.healthz(ctx, strings.TrimSuffix(e.Monitor, "/")+"/healthz")
	e.meta(server.Meta)
	e.limit("the server's memory store", server.Memory, server.Config.MaxMemory, "max_memory_store", "jobs and batches on their way")
	e.limit("the server's file store", server.Store, server.Config.MaxStore, "max_file_store", "records")
	if n := server.Config.MaxMemory; n > 0 && n < 1<<30 {
		e.find(Warning, "monitor", fmt.Sprintf("max_memory_store is %s, and one batcher of large batches may fill 1.75 GiB", bytes(n)), "give it about 2 GiB per batcher, or set trainers' --window-bytes to fit")
	}
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into)
}
