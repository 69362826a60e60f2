package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/shelf"
)

// DirectOff is the Config.Direct that has all payloads stored.
const DirectOff = "off"

const (
	defaultKeepBytes = 512 << 20
	maxReaders       = 1024             // connections at once
	readerIdle       = 5 * time.Minute  // after which a connection that asks for nothing is closed
	partTimeout      = 10 * time.Second // for a reader to take one part of a payload
	partSize         = 4 << 20
	longestAvoid     = 10 * time.Minute // that a reader can ask for
	firstFetch       = 10 * time.Second // for somebody who connects to ask for the first payload
	maxUploads       = 64               // requests to store a payload that are carried out at a time

	// pipeLimit is what InlineLimit is for readers of the same process: handing bytes to them costs one copy, and the
	// way through the server half a dozen.
	pipeLimit = 32 << 10
)

// keeper keeps large payloads and hands them to the readers that fetch them.
type keeper struct {
	listener *direct.Listener
	address  string // as readers dial it
	least    uint64 // payloads of up to so many bytes ride in their records
	tasks    sync.WaitGroup

	mu     sync.Mutex
	shelf  *shelf.Shelf[*lane, *product]
	conns  map[net.Conn]bool
	closed bool
	served uint64 // payloads that were fetched
	sent   uint64 // bytes of these
	stored uint64 // payloads that had to be stored after all
}

// openKeeper listens where readers can reach this worker; nil without an error when nothing can be said of that yet, or
// never.
func (w *Worker) openKeeper() (*keeper, error) {
	listen, advertise := w.cfg.Direct, w.cfg.DirectAdvertise
	switch remote := w.data.ConnectedAddr(); {
	case listen == DirectOff:
		return nil, nil
	case listen != "":
	case w.data.Opts.InProcessServer != nil:
		listen = direct.InProcess
	case remote == "":
		return nil, nil // not connected yet
	default:
		host, err := direct.LocalAddress(remote)
		if err != nil {
			return nil, fmt.Errorf("no address for readers: %w", err)
		}
		listen = net.JoinHostPort(host, "0")
	}
	_, err := w.data.TLSConnectionState()
	l, err := direct.Listen(listen, err == nil)
	if err != nil {
		return nil, fmt.Errorf("listen for readers: %w", err)
	}
	k := &keeper{listener: l, address: l.Addr().String(), least: wire.InlineLimit, shelf: shelf.New[*lane, *product](w.cfg.KeepBytes), conns: make(map[net.Conn]bool)}
	if direct.IsInProcess(k.address) {
		k.least = pipeLimit
	}
	switch host, port, err := net.SplitHostPort(k.address); {
	case advertise != "":
		k.address = advertise
	case err == nil && net.ParseIP(host).IsUnspecified():
		if host, err = direct.LocalAddress(w.data.ConnectedAddr()); err != nil {
			return nil, errors.Join(fmt.Errorf("no address for readers; say what they dial: %w", err), l.Close())
		}
		k.address = net.JoinHostPort(host, port)
	}
	k.tasks.Go(k.accept)
	return k, nil
}

// startKeeper opens the keeper unless it is open. Without one, payloads are stored.
func (w *Worker) startKeeper() {
	if w.keeper.Load() != nil {
		return
	}
	k, err := w.openKeeper()
	if err != nil {
		w.log.Warn("large batches go through NATS", "error", err)
		return
	}
	if k != nil {
		w.keeper.Store(k)
		w.log.Info("large batches are fetched from here", "address", k.address, "tls", k.listener.Pin != nil)
	}
}

// keep puts a large payload on the shelf, whose it is from then on, and says so in the result. It reports false where the
// payload has to be stored, in its record or apart from it.
func (w *Worker) keep(j *job, r *wire.Result, payload *product) bool {
	k := w.keeper.Load()
	if k == nil || r.Size <= k.least || w.now() < j.lane.avoid.Load() {
		return false
	}
	k.mu.Lock()
	freed, ok := k.shelf.Put(j.lane, r.Seq, r.Attempt, int64(r.Size), payload)
	k.mu.Unlock()
	free(freed)
	if ok {
		r.Direct = &wire.Direct{Address: k.address, Pin: k.listener.Pin}
	}
	return ok
}

// forget takes an attempt's payload off the shelf.
func (w *Worker) forget(r *wire.Result) {
	if k := w.keeper.Load(); k != nil && r.Direct != nil {
		k.drop(func(s *shelf.Shelf[*lane, *product]) []*product { return s.Drop(r.Attempt) })
	}
}

// keepAfter takes a lane's payloads up to floor off the shelf.
func (w *Worker) keepAfter(l *lane, floor uint64) {
	if k := w.keeper.Load(); k != nil {
		k.drop(func(s *shelf.Shelf[*lane, *product]) []*product { return s.DropTo(l, floor) })
	}
}

// get finds a payload, whose memory stays until Done.
func (k *keeper) get(attempt string) (*shelf.Item[*lane, *product], bool) {
	if k == nil {
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.shelf.Get(attempt)
}

func (k *keeper) drop(what func(*shelf.Shelf[*lane, *product]) []*product) {
	k.mu.Lock()
	freed := what(k.shelf)
	k.mu.Unlock()
	free(freed)
}

func free(payloads []*product) {
	for _, p := range payloads {
		p.free()
	}
}

// counts adds what the keeper counts to a snapshot.
func (k *keeper) counts(s *snapshot) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.keptBytes, s.fetched, s.fetchedBytes, s.unfetched = k.shelf.Bytes(), k.served, k.sent, k.stored
}

func (k *keeper) accept() {
	for {
		conn, err := k.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors, for one: those that are served go on, and end
			time.Sleep(50 * time.Millisecond)
			continue
		}
		k.mu.Lock()
		welcome := !k.closed && len(k.conns) < maxReaders
		if welcome {
			k.conns[conn] = true
			k.tasks.Go(func() { k.serve(conn) })
		}
		k.mu.Unlock()
		if !welcome {
			_ = conn.Close() // nothing was said on it
		}
	}
}

// serve answers one reader until it leaves, or stops making sense.
func (k *keeper) serve(conn net.Conn) {
	defer func() {
		k.mu.Lock()
		delete(k.conns, conn)
		k.mu.Unlock()
		_ = conn.Close() // what went out is checked by who got it
	}()
	for patience := firstFetch; ; patience = readerIdle {
		attempt, err := readFetch(conn, patience)
		if err != nil {
			return
		}
		it, ok := k.get(attempt)
		if !ok {
			if send(conn, wire.AppendAnswer(nil, false, 0), nil) != nil {
				return
			}
			continue
		}
		err = send(conn, wire.AppendAnswer(nil, true, uint64(it.Value.pieces.Size())), it.Value.pieces)
		k.mu.Lock()
		freed := k.shelf.Done(it, err == nil)
		if err == nil {
			k.served++
			k.sent += uint64(it.Value.pieces.Size())
		}
		k.mu.Unlock()
		free(freed)
		if err != nil {
			return
		}
	}
}

// readFetch reads the name of the attempt whose payload is wanted.
func readFetch(conn net.Conn, patience time.Duration) (string, error) {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	var head [wire.FetchHead]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return "", err
	}
	n, err := wire.ParseFetchHead(head)
	if err != nil {
		return "", err
	}
	name := make([]byte, n)
	_, err = io.ReadFull(conn, name)
	return string(name), err
}

// send writes head and payload in parts, each of which the reader must take in time.
func send(conn net.Conn, head []byte, payload wire.Pieces) error {
	size := payload.Size()
	for sent := 0; ; sent += partSize {
		part := net.Buffers(payload.Range(sent, min(sent+partSize, size)))
		if sent == 0 {
			part = append(net.Buffers{head}, part...)
		}
		if err := conn.SetWriteDeadline(time.Now().Add(partTimeout)); err != nil {
			return err
		}
		if _, err := part.WriteTo(conn); err != nil {
			return err
		}
		if sent+partSize >= size {
			return nil
		}
	}
}

// onUpload stores a payload that a reader cannot fetch.
func (w *Worker) onUpload(msg *nats.Msg) {
	var request wire.Upload
	if json.Unmarshal(msg.Data, &request) != nil || !topology.Answerable(msg.Reply) {
		return // of another wire version, or nobody's who waits
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || w.uploads == maxUploads {
		return // the reader asks again
	}
	w.uploads++
	w.tasks.Go(func() {
		w.respondUpload(msg, &request)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.uploads--
	})
}

func (w *Worker) respondUpload(msg *nats.Msg, request *wire.Upload) {
	var reply wire.UploadReply
	k := w.keeper.Load()
	if it, ok := k.get(request.Attempt); ok {
		if request.Avoid > 0 {
			it.Lane.avoid.Store(w.now() + min(request.Avoid, int64(longestAvoid)))
		}
		reply.Fault = w.unload(k, it)
	} else {
		reply.Fault = &schema.Fault{Code: wire.CodeNotKept, Worker: w.cfg.Name}
	}
	data, err := json.Marshal(reply)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		w.log.Debug("upload not answered", "error", err) // the reader asks again
	}
}

// unload stores a payload of the shelf as the chunks that its record names, and takes it off.
func (w *Worker) unload(k *keeper, it *shelf.Item[*lane, *product]) *schema.Fault {
	v := w.upload(it.Lane, it.Seq, it.Attempt, it.Value.pieces)
	k.mu.Lock()
	var freed []*product
	if v == stored {
		freed = k.shelf.Drop(it.Attempt)
		k.stored++
	}
	freed = append(freed, k.shelf.Done(it, false)...)
	k.mu.Unlock()
	free(freed)
	switch v {
	case stored:
		return nil
	case full:
		w.storeFull(it.Lane, it.Seq, it.Value.pieces.Size())
	}
	return &schema.Fault{Code: schema.CodeUnavailable, Message: "payload not stored", Worker: w.cfg.Name, Gen: it.Lane.gen, Seq: it.Seq}
}

// clearShelf stores what no reader has fetched yet and lets the rest go: the worker leaves.
func (w *Worker) clearShelf() {
	defer func() {
		w.mu.Lock()
		w.clearing = false
		w.mu.Unlock()
		w.announce() // the loop looks whether this was the last
	}()
	k := w.keeper.Load()
	if k == nil {
		return
	}
	k.mu.Lock()
	unfetched, freed := k.shelf.Close()
	k.mu.Unlock()
	free(freed)
	for _, it := range unfetched {
		if fault := w.unload(k, it); fault != nil {
			w.log.Warn("payload leaves with this worker and is made again", "batcher", it.Lane.batcher, "gen", it.Lane.gen, "seq", it.Seq)
		}
	}
}

// close ends what is being fetched.
func (k *keeper) close() {
	if k == nil {
		return
	}
	_ = k.listener.Close() // nobody waits for what it still has
	k.mu.Lock()
	k.closed = true
	for conn := range k.conns {
		_ = conn.Close() // the reader finds the payload elsewhere
	}
	k.mu.Unlock()
	k.tasks.Wait()
}
