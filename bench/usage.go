package main

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// usage is what a process, or several of one role, used since they began.
type usage struct {
	CPU        time.Duration `json:"cpu"` // of the user and of the system for it
	Allocs     uint64        `json:"allocs"`
	Peak       int64         `json:"peak"` // largest resident memory, in bytes
	Resident   int64         `json:"resident"`
	Heap       uint64        `json:"heap"` // in bytes, what is to be collected included
	Goroutines int           `json:"goroutines"`
}

func (u usage) plus(v usage) usage {
	return usage{u.CPU + v.CPU, u.Allocs + v.Allocs, u.Peak + v.Peak, u.Resident + v.Resident, u.Heap + v.Heap, u.Goroutines + v.Goroutines}
}

func usageNow() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{CPU: processCPU(), Allocs: m.Mallocs, Heap: m.HeapAlloc, Goroutines: runtime.NumGoroutine()}
	u.Peak, u.Resident = memory()
	return u
}

// memory reads what Linux says of this process's memory; elsewhere it is 0. The peak of getrusage would not do: it
// begins with that of the process that started this one.
func memory() (peak, resident int64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for line := range bytes.Lines(status) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(string(fields[1]), 10, 64) // 0 where there is no number
		switch string(fields[0]) {
		case "VmHWM:":
			peak = kb << 10
		case "VmRSS:":
			resident = kb << 10
		}
	}
	return peak, resident
}

// idleShare is the share of the processors from which on they count as idle but for the benchmark.
const idleShare = 0.85

// processorShare is the share of all processors that this process gets when it wants them, for a tenth of a second; 1
// where that cannot be measured.
func processorShare() float64 {
	const probe = 100 * time.Millisecond
	n := runtime.GOMAXPROCS(0)
	began, before := time.Now(), processCPU()
	var spinning sync.WaitGroup
	for range n {
		spinning.Go(func() {
			for time.Since(began) < probe {
			}
		})
	}
	spinning.Wait()
	used := processCPU() - before
	if used <= 0 {
		return 1
	}
	return min(1, used.Seconds()/(time.Since(began).Seconds()*float64(n)))
}
