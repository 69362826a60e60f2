package wire

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

// Version is the version of everything in this package that travels or is stored, digests included: whatever changes
// the bytes, or what they mean, raises it. It is part of every job subject, of every record and of the requests for a
// seat, so that roles of different versions leave one another's work alone and say so.
const Version = 2

// MaxName is the longest batcher, data set, worker or coordinator name, in bytes.
const MaxName = 64

// BlockSize is how many consecutive sequence numbers share one block token in result subjects, so that
// the coordinator can drop a whole block of taken results with one purge.
const BlockSize = 64

// Subject prefixes. docs/DESIGN.md has the table of who publishes and who subscribes.
const (
	JobPrefix    = "jetbatch.job"
	ResultPrefix = "jetbatch.result"
	LivePrefix   = "jetbatch.live"

	CoordinatorPrefix = "jetbatch.coordinator"   // .<op> for any coordinator, .<id>.<op> for one, .all.<op> for each
	ReaderPrefix      = "jetbatch.reader"        // reader to owner: credits
	NoticePrefix      = "jetbatch.notice"        // owner to reader: seat or phase changed
	ReportPrefix      = "jetbatch.report"        // worker to owner: the store is full, gone, or has another result
	LanePrefix        = "jetbatch.lane"          // owner to workers: this batcher has jobs, or none any more
	FollowPrefix      = "jetbatch.follow"        // owner to one worker: these batchers' jobs are yours to ask for
	WorkerPrefix      = "jetbatch.worker"        // worker to coordinators: alive, slots
	StatusPrefix      = "jetbatch.worker-status" // anybody to one worker: how do you stand?
	ClaimPrefix       = "jetbatch.worker-claim"  // worker to workers: this name is mine, unless another objects
	AskSubject        = "jetbatch.worker-ask"    // coordinator to workers: say at once that you are there
	UploadPrefix      = "jetbatch.upload"        // reader to one worker: store a payload that I cannot fetch
)

// EveryCoordinator is what all coordinators are called together.
const EveryCoordinator = "all"

// CoordinatorSubject is where one coordinator, or every one, is asked for op.
func CoordinatorSubject(name, op string) string { return CoordinatorPrefix + "." + name + "." + op }

// ErrBadName is returned for names that could not be a subject token or a part of a stream name.
var ErrBadName = errors.New("bad name")

// CheckName reports whether name may be a batcher, data set, worker or coordinator name: 1 to 64 of
// letters, digits, '-' and '_', so that it is one subject token and a part of a stream name. what says
// in the error what was being named.
func CheckName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%w: the %s has no name", ErrBadName, what)
	}
	if len(name) > MaxName {
		return fmt.Errorf("%w: %s name of %d bytes; at most %d", ErrBadName, what, len(name), MaxName)
	}
	for i, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return fmt.Errorf("%w: %s name %q: character %q at %d; use letters, digits, '-' and '_'", ErrBadName, what, name, c, i)
		}
	}
	return nil
}

// Reserved is in no name that a user gives to a batcher, a reader or a world: what stands beside a batcher has it in
// its name.
const Reserved = "__"

// BesideName names the batcher in which a reader of several goes on by itself.
func BesideName(batcher, reader string) string { return batcher + Reserved + reader }

// CheckOwnName is CheckName for what a user names.
func CheckOwnName(what, name string) error {
	if err := CheckName(what, name); err != nil {
		return err
	}
	if strings.Contains(name, Reserved) {
		return fmt.Errorf("%w: %s name %q: %q is reserved", ErrBadName, what, name, Reserved)
	}
	return nil
}

// KindToken is the subject token of jobs of one data set at one version on this wire version.
func KindToken(dataset string, version uint32) string {
	return fmt.Sprintf("%s-v%d-w%d", dataset, version, Version)
}

// KindName is a kind of jobs for people: onda@1 is version 1 of the data set onda, as wherever one is named. A kind of
// another version of the wire says which. What is no kind stays as it is.
func KindName(kind string) string {
	w, v := strings.LastIndex(kind, "-w"), strings.LastIndex(kind, "-v")
	if v <= 0 || w < v {
		return kind
	}
	name := kind[:v] + "@" + kind[v+2:w]
	if of := kind[w+2:]; of != strconv.Itoa(Version) {
		name += " (wire " + of + ")"
	}
	return name
}

// KindNames is KindName of each.
func KindNames(kinds []string) []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = KindName(k)
	}
	return names
}

// SameButWire reports whether two kinds of jobs are of one data set at one version, on different versions of the wire.
func SameButWire(a, b string) bool {
	i := strings.LastIndex(a, "-w")
	return i >= 0 && i == strings.LastIndex(b, "-w") && a[:i] == b[:i] && a != b
}

// The tries of a job, the last token of its subject. A try of 2 and more is a run: so many consecutive jobs in one
// message, that of the first.
const (
	TryFirst  = 0 // fed, taken out of a run, or issued again
	TryBackup = 1 // for a second worker, since the first is late
)

// MaxRun is the most jobs that one message carries.
const MaxRun = 16

// JobSubject is where job seq of a generation is published. Feeding it again while it is queued is refused by the
// stream and changes nothing.
func JobSubject(kind, batcher, gen string, seq uint64, try int) string {
	return joinSubject(JobPrefix, kind, batcher, gen, strconv.FormatUint(seq, 10), strconv.Itoa(try))
}

// RunLength is how many jobs a message of that try carries.
func RunLength(try int) int { return max(try, 1) }

// JobFilter matches all jobs of one generation.
func JobFilter(kind, batcher, gen string) string {
	return joinSubject(JobPrefix, kind, batcher, gen, ">")
}

// TriesFilter matches all tries of one job, and the run that begins with it.
func TriesFilter(kind, batcher, gen string, seq uint64) string {
	return joinSubject(JobPrefix, kind, batcher, gen, strconv.FormatUint(seq, 10), "*")
}

// ParseJobSubject is the inverse of JobSubject.
func ParseJobSubject(subject string) (kind, batcher, gen string, seq uint64, try int, err error) {
	rest, ok := strings.CutPrefix(subject, JobPrefix+".")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 5 {
		return "", "", "", 0, 0, fmt.Errorf("%w: %q is not a job subject", msgp.ErrMalformed, subject)
	}
	seq, ok1 := parseNumber(parts[3], 64)
	try64, ok2 := parseNumber(parts[4], 31)
	if !ok1 || !ok2 || seq == 0 || try64 > MaxRun || slices.Contains(parts, "") {
		return "", "", "", 0, 0, fmt.Errorf("%w: %q has no sequence number and try", msgp.ErrMalformed, subject)
	}
	return parts[0], parts[1], parts[2], seq, int(try64), nil
}

// ResultSubject is where the commit record of seq is stored, first write wins.
func ResultSubject(batcher, gen string, seq uint64) string {
	var buf [256]byte
	return string(AppendResultSubject(buf[:0], batcher, gen, seq))
}

// AppendResultSubject appends the ResultSubject.
func AppendResultSubject(dst []byte, batcher, gen string, seq uint64) []byte {
	dst = append(append(dst, ResultPrefix...), '.')
	dst = append(append(dst, batcher...), '.')
	dst = append(append(dst, gen...), '.')
	dst = append(strconv.AppendUint(dst, seq/BlockSize, 10), '.')
	return strconv.AppendUint(dst, seq, 10)
}

// ChunkSubject is where chunk k of an attempt's payload is stored.
func ChunkSubject(batcher, gen string, seq uint64, attempt string, k int) string {
	return ResultSubject(batcher, gen, seq) + "." + attempt + "." + strconv.Itoa(k)
}

// StartSubject is where the k-th lone start of a suspect job is marked, k from 1.
func StartSubject(batcher, gen string, seq uint64, k int) string {
	return ChunkSubject(batcher, gen, seq, "start", k)
}

// TimeoutSubject is where the k-th execution of a job that ran into its deadline is marked, k from 1.
func TimeoutSubject(batcher, gen string, seq uint64, k int) string {
	return ChunkSubject(batcher, gen, seq, "timeout", k)
}

// FailureSubject is where the k-th failure of a job is marked that another worker is to confirm, k from 1.
func FailureSubject(batcher, gen string, seq uint64, k int) string {
	return ChunkSubject(batcher, gen, seq, "failure", k)
}

// UploadSubject is where a worker hears [Upload].
func UploadSubject(worker string) string { return joinSubject(UploadPrefix, worker) }

// BlockFilter matches every record and chunk of a block of BlockSize sequence numbers.
func BlockFilter(batcher, gen string, block uint64) string {
	return joinSubject(ResultPrefix, batcher, gen, strconv.FormatUint(block, 10), ">")
}

// ResultFilter matches everything a generation stores.
func ResultFilter(batcher, gen string) string { return joinSubject(ResultPrefix, batcher, gen, ">") }

// CommitFilter matches the commit records of a generation and neither chunks nor markers.
func CommitFilter(batcher, gen string) string { return joinSubject(ResultPrefix, batcher, gen, "*.*") }

// LiveSubject is where the server sends on the commit records of a generation after storing them. It is one for all,
// which the server looks up sooner; a header says where each is stored.
func LiveSubject(batcher, gen string) string { return joinSubject(LivePrefix, batcher, gen) }

// GenesisSubject is where the first message of a generation's store is; a store without it was lost.
func GenesisSubject(batcher, gen string) string {
	return joinSubject(ResultPrefix, batcher, gen, "genesis")
}

// ParseResultSeq returns the sequence number of a commit record's subject.
func ParseResultSeq(subject string) (uint64, error) {
	i := strings.LastIndexByte(subject, '.')
	seq, ok := parseNumber(subject[i+1:], 64)
	if !ok || seq == 0 || !strings.HasPrefix(subject, ResultPrefix+".") || strings.Count(subject, ".") != 5 {
		return 0, fmt.Errorf("%w: %q is not the subject of a result", msgp.ErrMalformed, subject)
	}
	return seq, nil
}

// parseNumber reads a number as strconv writes it: one number has one spelling, so that one thing has one subject.
func parseNumber(s string, bits int) (uint64, bool) {
	if len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, bits)
	return n, err == nil
}

func joinSubject(tokens ...string) string { return strings.Join(tokens, ".") }

// Release is the version that coordinators and workers show as NATS micro services, and the release's.
const Release = "0.1.0"
