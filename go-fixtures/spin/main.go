// spin runs tight loops without calls under constant forced collections: only SIGURG can stop such a loop,
// so a tool that swallows that signal stops the program for ever. `spin [LOOPS]`.
package main

import (
	"runtime"
	"time"
	"unsafe"

	"gosleuth.test/fixtures/fixture"
)

// Counter has a cache line of its own. It is written with plain stores: an atomic or a call would be a
// point where the scheduler can get in by other means.
type Counter struct {
	n uint64
	_ [7]uint64
}

var (
	counters []Counter
	parked   = make(chan struct{})
	cycles   uint64
)

//go:noinline
func spin(p *uint64) {
	for {
		*p++
	}
}

// Through a volatile-like access: the compiler may not fold the loop of spin, but it could cache a plain read.
//
//go:noinline
func read(p *uint64) uint64 { return *p }

func collect() {
	for {
		runtime.GC()
		cycles++
		time.Sleep(time.Millisecond)
	}
}

func main() {
	fixture.Begin("spin", "loops")
	// One core stays for the collections and for answering.
	n := fixture.ArgInt(0, runtime.NumCPU())
	runtime.GOMAXPROCS(n + 1)
	counters = make([]Counter, n)
	for i := 0; i < 8; i++ {
		go func() { <-parked }()
	}
	for i := range counters {
		go spin(&counters[i].n)
	}
	go collect()
	time.Sleep(50 * time.Millisecond)
	fixture.Fact("loops", n)
	fixture.Plant("counters", "slice", "global main.counters", counters)
	fixture.Fact("counter_stride", unsafe.Sizeof(Counter{}))
	fixture.Serve(fixture.Options{Busy: true, Handle: map[string]func(string) string{
		"progress": func(string) string {
			var loops []int64
			for i := range counters {
				loops = append(loops, int64(read(&counters[i].n)))
			}
			return fixture.Members("loops", loops, "num_gc", read(&cycles))
		},
	}})
}
