//go:build linux

package bridge

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	smallest = 4 << 10 // of the slots that memory is handed out in: a page
	slab     = 1 << 20 // what slots smaller than it are cut from
)

// ErrMemoryFull is returned by Alloc when the other side keeps all memory that it may have.
var ErrMemoryFull = errors.New("all shared memory is in use")

// Memory is a file without a name that another process maps too, and hands out slots of. Its methods are safe for
// concurrent use.
type Memory struct {
	// Announce hears of a segment that was added to the file, and of one that went, before Alloc returns a slot
	// that depends on it. It is called with a lock held and must not call back.
	announce func(offset int64, size int, gone bool) error

	mu       sync.Mutex
	file     *os.File
	limit    int64
	largest  int64 // slot so far
	total    int64 // bytes of all segments
	lent     int64 // bytes of the slots that the other side has
	spare    int64 // and of those that this side alone has
	end      int64 // of the file; offsets are never used twice
	segments []*segment
	slots    map[int64]*loan // that are out, by offset
}

// loan is a slot that is out.
type loan struct {
	of    *segment
	held  int  // how often the other side has to free it
	spare bool // this side has to return it
}

// segment is a mapped part of the file, cut into slots of one size.
type segment struct {
	offset int64
	data   []byte
	slot   int
	free   []int // indices of slots, last released last
}

func (s *segment) unused() bool { return len(s.free)*s.slot == len(s.data) }

// NewMemory makes memory of which the other side may have limit bytes and two of the largest slots, and this side
// another limit bytes by Spare.
func NewMemory(limit int64, announce func(offset int64, size int, gone bool) error) (*Memory, error) {
	file, err := newFile()
	if err != nil {
		return nil, err
	}
	return &Memory{announce: announce, file: file, limit: limit, slots: make(map[int64]*loan)}, nil
}

// newFile makes a file in memory that no folder lists. It is not bound by the size of /dev/shm. Nobody can make it
// smaller: reading where it ended before would be a fault, and the end of this process.
func newFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("jetbatch", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
	}
	if err != nil {
		return nil, fmt.Errorf("bridge: shared memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "jetbatch shared memory"), nil
}

// File is what the other side maps.
func (m *Memory) File() *os.File { return m.file }

// slotSize is n rounded up so that slots of about one size serve one another: to one of four steps per power of two.
func slotSize(n int) int {
	if n <= smallest {
		return smallest
	}
	step := max(1<<(bits.Len(uint(n-1))-3), smallest)
	return (n + step - 1) / step * step
}

// Alloc returns a slot of n bytes for the other side and its offset in the file, by which Free knows it.
func (m *Memory) Alloc(n int) (offset int64, slot []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size := slotSize(n)
	m.largest = max(m.largest, int64(size))
	if err := m.room(int64(size)); err != nil {
		return 0, nil, err
	}
	offset, slot, l, err := m.take(n, size)
	if err == nil {
		l.held = 1
		m.lent += int64(l.of.slot)
	}
	return offset, slot, err
}

// Spare returns a slot of n bytes for this side, until Return. It takes no room from the other side, which has the slot
// after Hold only.
func (m *Memory) Spare(n int) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size := slotSize(n)
	if m.spare+int64(size) > m.limit {
		return nil, ErrMemoryFull
	}
	m.largest = max(m.largest, int64(size))
	m.spare += int64(size) // which the bound grows by
	_, slot, l, err := m.take(n, size)
	m.spare -= int64(size)
	if err == nil {
		l.spare = true
		m.spare += int64(l.of.slot)
	}
	return slot, err
}

// Hold gives the other side the slot of this side's that a byte lies in, until Free. It returns the slot's offset, and
// how far into the slot the byte is; ok is false where it lies in none. A slot may be held more than once.
func (m *Memory) Hold(at *byte) (offset int64, into int, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	offset, into, l := m.slot(at)
	if l == nil || !l.spare {
		return 0, 0, false, nil
	}
	if l.held == 0 {
		size := int64(l.of.slot)
		if err := m.room(size); err != nil {
			return 0, 0, true, err
		}
		m.lent += size
		m.spare -= size
	}
	l.held++
	return offset, into, true, nil
}

// slot returns the slot that is out and has a byte, nil where there is none.
func (m *Memory) slot(at *byte) (offset int64, into int, l *loan) {
	address := uintptr(unsafe.Pointer(at))
	for _, s := range m.segments {
		first := uintptr(unsafe.Pointer(unsafe.SliceData(s.data)))
		if address < first || address-first >= uintptr(len(s.data)) {
			continue
		}
		place := int(address - first)
		offset, into = s.offset+int64(place/s.slot*s.slot), place%s.slot
		return offset, into, m.slots[offset]
	}
	return 0, 0, nil
}

// bound is what the other side may have.
func (m *Memory) bound() int64 { return m.limit + 2*m.largest }

// room returns an error where the other side may not have so many bytes more.
func (m *Memory) room(size int64) error {
	if m.lent+size > m.bound() {
		return m.errFull()
	}
	return nil
}

func (m *Memory) errFull() error {
	return fmt.Errorf("%w: %d of %d bytes are kept", ErrMemoryFull, m.lent, m.bound())
}

// take takes a slot, which is nobody's yet.
func (m *Memory) take(n, size int) (offset int64, slot []byte, l *loan, err error) {
	s := m.find(size)
	if s == nil {
		if s, err = m.add(size); err != nil {
			return 0, nil, nil, err
		}
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	offset = s.offset + int64(i*s.slot)
	l = &loan{of: s}
	m.slots[offset] = l
	return offset, s.data[i*s.slot : i*s.slot+n : (i+1)*s.slot], l, nil
}

// find returns a segment with a free slot of that size, or up to twice of it.
func (m *Memory) find(size int) *segment {
	for i := len(m.segments) - 1; i >= 0; i-- {
		if s := m.segments[i]; len(s.free) > 0 && s.slot >= size && s.slot <= 2*size {
			return s
		}
	}
	return nil
}

func (m *Memory) add(slot int) (*segment, error) {
	size := max(int(min(slab, m.limit/8))/slot, 1) * slot // several small ones at a time
	for m.total+int64(size) > m.bound()+m.spare {
		gone, err := m.retire()
		if err != nil {
			return nil, err
		}
		if !gone {
			return nil, m.errFull()
		}
	}
	offset := m.end
	if err := m.file.Truncate(offset + int64(size)); err != nil {
		return nil, fmt.Errorf("bridge: shared memory: %w", err)
	}
	data, err := unix.Mmap(int(m.file.Fd()), offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("bridge: map %d bytes of shared memory: %w", size, err)
	}
	s := &segment{offset: offset, data: data, slot: slot}
	for i := size/slot - 1; i >= 0; i-- {
		s.free = append(s.free, i)
	}
	m.end += int64(size)
	m.total += int64(size)
	m.segments = append(m.segments, s)
	return s, m.announce(offset, size, false)
}

// retire gives the oldest segment of which no slot is out back to the system, if there is one.
func (m *Memory) retire() (bool, error) {
	for i, s := range m.segments {
		if !s.unused() {
			continue
		}
		m.segments = append(m.segments[:i], m.segments[i+1:]...)
		m.total -= int64(len(s.data))
		if err := m.announce(s.offset, len(s.data), true); err != nil {
			return false, err
		}
		size := int64(len(s.data))
		if err := unix.Munmap(s.data); err != nil {
			return false, fmt.Errorf("bridge: unmap shared memory: %w", err)
		}
		const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		if err := unix.Fallocate(int(m.file.Fd()), hole, s.offset, size); err != nil {
			return false, fmt.Errorf("bridge: give shared memory back: %w", err)
		}
		return true, nil
	}
	return false, nil
}

// Free takes a slot back from the other side. An offset that is not out is an error: it has been freed twice.
func (m *Memory) Free(offset int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.slots[offset]
	if l == nil || l.held == 0 {
		return fmt.Errorf("%w: no slot at %d is out", ErrFrame, offset)
	}
	if l.held--; l.held > 0 {
		return nil
	}
	m.lent -= int64(l.of.slot)
	if l.spare {
		m.spare += int64(l.of.slot)
		return nil
	}
	m.free(offset, l)
	return nil
}

// Return gives back a slot of this side's. The other side goes on having it if it holds it.
func (m *Memory) Return(slot []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	offset, _, l := m.slot(unsafe.SliceData(slot))
	if l == nil || !l.spare {
		return
	}
	l.spare = false
	if l.held == 0 {
		m.spare -= int64(l.of.slot)
		m.free(offset, l)
	}
}

func (m *Memory) free(offset int64, l *loan) {
	delete(m.slots, offset)
	l.of.free = append(l.of.free, int(offset-l.of.offset)/l.of.slot)
}

// Close unmaps all of it. No slot may be used any more.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, s := range m.segments {
		errs = append(errs, unix.Munmap(s.data))
	}
	m.segments = nil
	return errors.Join(append(errs, m.file.Close())...)
}

// Region is a file without a name that the other side writes from its start, and grows as it needs. It is not safe for
// concurrent use.
type Region struct {
	file *os.File
	data []byte
}

// NewRegion makes an empty region.
func NewRegion() (*Region, error) {
	file, err := newFile()
	if err != nil {
		return nil, err
	}
	return &Region{file: file}, nil
}

// File is what the other side maps.
func (r *Region) File() *os.File { return r.file }

// View returns the first n bytes, valid until the other side writes, or View is called with more.
func (r *Region) View(n int) ([]byte, error) {
	if n <= len(r.data) {
		return r.data[:n:n], nil
	}
	info, err := r.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("bridge: shared memory: %w", err)
	}
	if int64(n) > info.Size() { // reading there would be a fault that ends this process
		return nil, fmt.Errorf("%w: %d bytes in shared memory of %d", ErrFrame, n, info.Size())
	}
	if err := r.unmap(); err != nil {
		return nil, err
	}
	r.data, err = unix.Mmap(int(r.file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("bridge: map %d bytes of shared memory: %w", info.Size(), err)
	}
	return r.data[:n:n], nil
}

func (r *Region) unmap() error {
	data := r.data
	r.data = nil
	if data == nil {
		return nil
	}
	return unix.Munmap(data)
}

// Close unmaps it.
func (r *Region) Close() error { return errors.Join(r.unmap(), r.file.Close()) }
