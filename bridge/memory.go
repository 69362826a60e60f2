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
	lent     int64 // bytes of all slots that are out
	end      int64 // of the file; offsets are never used twice
	segments []*segment
	slots    map[int64]*loan // that are out, by offset
}

// loan is a slot that is out.
type loan struct {
	of   *segment
	held int // how often it has to be freed
}

// segment is a mapped part of the file, cut into slots of one size.
type segment struct {
	offset int64
	data   []byte
	slot   int
	free   []int // indices of slots, last released last
}

func (s *segment) unused() bool { return len(s.free)*s.slot == len(s.data) }

// NewMemory makes memory of at most limit bytes and two of the largest slots.
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

// Alloc returns a slot of n bytes and its offset in the file, by which Free knows it.
func (m *Memory) Alloc(n int) (offset int64, slot []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alloc(n, slotSize(n))
}

// Spare is Alloc for what could as well be elsewhere: it leaves room for the two largest slots.
func (m *Memory) Spare(n int) (offset int64, slot []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size := slotSize(n)
	if m.lent+int64(size) > m.limit {
		return 0, nil, ErrMemoryFull
	}
	return m.alloc(n, size)
}

// Hold has the slot that a byte lies in be freed once more than otherwise. It returns the slot's offset, and how far into
// the slot the byte is; ok is false where it lies in none.
func (m *Memory) Hold(at *byte) (offset int64, into int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	address := uintptr(unsafe.Pointer(at))
	for _, s := range m.segments {
		first := uintptr(unsafe.Pointer(unsafe.SliceData(s.data)))
		if address < first || address-first >= uintptr(len(s.data)) {
			continue
		}
		place := int(address - first)
		offset, into = s.offset+int64(place/s.slot*s.slot), place%s.slot
		l := m.slots[offset]
		if l == nil {
			return 0, 0, false
		}
		l.held++
		return offset, into, true
	}
	return 0, 0, false
}

func (m *Memory) alloc(n, size int) (offset int64, slot []byte, err error) {
	m.largest = max(m.largest, int64(size))
	s := m.find(size)
	if s == nil {
		if s, err = m.add(size); err != nil {
			return 0, nil, err
		}
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	offset = s.offset + int64(i*s.slot)
	m.slots[offset] = &loan{of: s, held: 1}
	m.lent += int64(s.slot)
	return offset, s.data[i*s.slot : i*s.slot+n : (i+1)*s.slot], nil
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
	bound := m.limit + 2*m.largest
	for m.total+int64(size) > bound {
		gone, err := m.retire()
		if err != nil {
			return nil, err
		}
		if !gone {
			return nil, fmt.Errorf("%w: %d of %d bytes are kept", ErrMemoryFull, m.lent, bound)
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

// Free takes a slot back. An offset that is not out is an error: the other side has freed it twice.
func (m *Memory) Free(offset int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.slots[offset]
	if l == nil {
		return fmt.Errorf("%w: no slot at %d is out", ErrFrame, offset)
	}
	if l.held--; l.held > 0 {
		return nil
	}
	s := l.of
	delete(m.slots, offset)
	m.lent -= int64(s.slot)
	s.free = append(s.free, int(offset-s.offset)/s.slot)
	return nil
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
