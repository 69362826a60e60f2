package model

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// The clock of owners stands still at now; that time passes makes every time in an owner as old as past, which is
// longer ago than anything but Stall and the idle timeout lasts.
var (
	now  = time.Unix(1000, 0)
	past = now.Add(-40 * time.Second)
)

// unseen are fields of an owner that decide nothing that the model looks at: what it says to people, sums, its name,
// and revisions, of which only matters whether they are the stored one; and times whose patience the model has none of.
var unseen = set("cfg", "out", "rev", "Revision", "count", "rate", "need", "runs", "trace", "trouble", "hindered",
	"restarts", "backups", "unmade", "beatAt", "lateSince", "serial", "heard", "owing", "watched", "moved", "asked",
	"patience", "since", "token", "openPause", "Asked", "Late", "each", "beat")

func set(names ...string) map[string]bool {
	all := make(map[string]bool)
	for _, name := range names {
		all[name] = true
	}
	return all
}

// leaf is a part of a type that has no parts in the same piece of memory.
type leaf struct {
	offset       uintptr
	t            reflect.Type
	seen, shared bool // it is in fingerprints; copies have the very same value, since nobody changes it
}

// leaves knows the parts of types.
type leaves map[reflect.Type][]leaf

var (
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[[]byte]()
	setType      = reflect.TypeFor[map[uint64]bool]()
	recordType   = reflect.TypeFor[wire.Record]()
	configType   = reflect.TypeFor[owner.Config]()
)

func fromSchema(t reflect.Type) bool { return strings.HasSuffix(t.PkgPath(), "/jetbatch/schema") }

func (l leaves) of(t reflect.Type) []leaf {
	parts, known := l[t]
	if !known {
		parts = split(nil, leaf{t: t, seen: true})
		l[t] = parts
	}
	return parts
}

func split(parts []leaf, p leaf) []leaf {
	p.shared = p.shared || fromSchema(p.t)
	switch k := p.t.Kind(); {
	case p.t == timeType || p.t == recordType:
	case k == reflect.Struct:
		for i := range p.t.NumField() {
			f := p.t.Field(i)
			parts = split(parts, leaf{p.offset + f.Offset, f.Type, p.seen && !unseen[f.Name], p.shared})
		}
		return parts
	case k == reflect.Array:
		for i := range p.t.Len() {
			parts = split(parts, leaf{p.offset + uintptr(i)*p.t.Elem().Size(), p.t.Elem(), p.seen, p.shared})
		}
		return parts
	case k == reflect.Pointer:
		p.shared = p.shared || fromSchema(p.t.Elem()) || p.t.Elem() == configType
	case k == reflect.Slice:
		p.shared = p.shared || p.t == bytesType
	case k == reflect.Map:
		if p.seen && p.t != setType {
			panic("a map of type " + p.t.String())
		}
		p.shared = p.shared || p.t != setType
	default:
		p.shared = true
	}
	return append(parts, p)
}

// copier copies owners, so that a search can go on from one of them in several ways.
type copier struct {
	leaves
	age  bool // time passes
	seen [][2]unsafe.Pointer
}

func (c *copier) owner(o *owner.Owner, age bool) *owner.Owner {
	n := *o
	c.age, c.seen = age, c.seen[:0]
	c.deepen(reflect.TypeFor[owner.Owner](), unsafe.Pointer(&n))
	return &n
}

// deepen makes what lies at p, which is a copy of a value, share nothing with it.
func (c *copier) deepen(t reflect.Type, p unsafe.Pointer) {
	for _, l := range c.of(t) {
		at := unsafe.Add(p, l.offset)
		switch {
		case l.shared:
		case l.t == timeType:
			if t := (*time.Time)(at); c.age && !t.IsZero() {
				*t = past
			}
		case l.t == setType:
			m := (*map[uint64]bool)(at)
			*m = maps.Clone(*m)
		case l.t.Kind() == reflect.Pointer:
			c.pointer(l.t, (*unsafe.Pointer)(at))
		case l.t.Kind() == reflect.Slice:
			v := reflect.NewAt(l.t, at).Elem()
			if v.Len() == 0 {
				v.SetZero()
				continue
			}
			n := reflect.MakeSlice(l.t, v.Len(), v.Len())
			reflect.Copy(n, v)
			v.Set(n)
			for i := range v.Len() {
				c.deepen(l.t.Elem(), v.Index(i).Addr().UnsafePointer())
			}
		}
	}
}

// pointer makes what lies at p point to a copy, to one and the same wherever it pointed to the same.
func (c *copier) pointer(t reflect.Type, p *unsafe.Pointer) {
	if *p == nil {
		return
	}
	for _, pair := range c.seen {
		if pair[0] == *p {
			*p = pair[1]
			return
		}
	}
	n := reflect.New(t.Elem())
	n.Elem().Set(reflect.NewAt(t.Elem(), *p).Elem())
	c.seen = append(c.seen, [2]unsafe.Pointer{*p, n.UnsafePointer()})
	*p = n.UnsafePointer()
	c.deepen(t.Elem(), *p)
}

// hasher makes fingerprints, which are equal for what goes on alike.
type hasher struct {
	leaves
	maphash.Hash
	met []unsafe.Pointer // pointers that are in the fingerprint, since the parts of an owner point to one another
}

// begin begins a fingerprint.
func (h *hasher) begin() {
	h.Reset()
	h.met = h.met[:0]
}

func (h *hasher) uint(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	_, _ = h.Write(b[:])
}

func (h *hasher) text(s string) {
	h.uint(uint64(len(s)))
	_, _ = h.WriteString(s)
}

// value adds what lies at p.
func (h *hasher) value(t reflect.Type, p unsafe.Pointer) {
	for _, l := range h.of(t) {
		if l.seen {
			h.leaf(l.t, unsafe.Add(p, l.offset))
		}
	}
}

func (h *hasher) leaf(t reflect.Type, p unsafe.Pointer) {
	switch t {
	case timeType: // it has come, or not, or was never set
		h.uint(age(*(*time.Time)(p)))
		return
	case durationType:
		h.uint(min(*(*uint64)(p), 1))
		return
	case recordType:
		h.record((*wire.Record)(p))
		return
	case setType:
		var bits uint64
		for n, in := range *(*map[uint64]bool)(p) {
			if in {
				bits |= 1 << n
			}
		}
		h.uint(bits)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		at := *(*unsafe.Pointer)(p)
		if at == nil {
			h.uint(0)
			return
		}
		if i := slices.Index(h.met, at); i >= 0 {
			h.uint(uint64(2 + i))
			return
		}
		h.met = append(h.met, at)
		h.uint(1)
		h.value(t.Elem(), at)
	case reflect.Interface:
		v := reflect.NewAt(t, p).Elem()
		if v.IsNil() {
			h.uint(0)
			return
		}
		e := v.Elem()
		n := reflect.New(e.Type()) // what is in an interface has no address
		n.Elem().Set(e)
		h.text(e.Type().Name())
		h.value(e.Type(), n.UnsafePointer())
	case reflect.Slice:
		v := reflect.NewAt(t, p).Elem()
		h.uint(uint64(v.Len()))
		for i := range v.Len() {
			h.value(t.Elem(), v.Index(i).Addr().UnsafePointer())
		}
	case reflect.String:
		h.text(*(*string)(p))
	default:
		if k := t.Kind(); k > reflect.Uint64 {
			panic("a fingerprint of " + t.String())
		}
		_, _ = h.Write(unsafe.Slice((*byte)(p), t.Size()))
	}
}

func age(t time.Time) uint64 {
	switch {
	case t.IsZero():
		return 0
	case t.After(now):
		return 3
	}
	return uint64(1 + t.Compare(past))
}

// hashRecord leaves out what the model does not change, and the owner, which is the slot's.
func (h *hasher) record(r *wire.Record) {
	for _, s := range []string{r.Gen, string(r.Phase), r.Request, r.Reader, string(r.FloorState)} {
		h.text(s)
	}
	var verdict uint64
	if r.Verdict != nil {
		verdict = r.Verdict.Seq
	}
	for _, n := range []uint64{r.Seat, r.Position, r.Floor, r.Taken, verdict} {
		h.uint(n)
	}
}

// TestCopies finds that a copy is alike, and that neither a copy's step nor its age shows in the other.
func TestCopies(t *testing.T) {
	t.Parallel()
	x := newStepper(bounds{batches: 2, seats: 4, end: true}, broken{})
	print := func(n slot) uint64 {
		x.hash(&n)
		return n.hash
	}
	level := []world{x.start(faults{takeovers: 1, seeks: 1, delays: 1})}
	for depth := range 9 {
		var next []world
		for _, w := range level {
			n := w.co[0]
			if n.o == nil {
				continue
			}
			before := print(n)
			alike := n
			alike.o = x.copier.owner(n.o, false)
			if print(alike) != before {
				t.Fatalf("a copy is another after %d steps", depth)
			}
			steps := slices.Clone(x.successors(w))
			x.copier.owner(n.o, true)
			if print(n) != before {
				t.Fatalf("a step of its copy shows after %d steps", depth)
			}
			for _, s := range steps {
				next = append(next, s.world)
			}
		}
		level = next[:min(len(next), 300)]
	}
}
