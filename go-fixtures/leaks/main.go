// leaks plants one leak, or one healthy service, per scenario: `leaks SCENARIO [BATCHES]`, `leaks list`.
// The command `grow [BATCHES]` lets it leak more (or lets the healthy one work more) and reports again.
package main

import (
	"runtime"
	"runtime/debug"
	"strconv"

	"gosleuth.test/fixtures/fixture"
)

// Leak describes one scenario; add plants another batch.
type Leak struct {
	pattern string
	holder  string
	typ     string
	// also names patterns that are no wrong answer.
	also []string
	// objects and bytes of typ per batch; bytes without rounding to size classes.
	objects, bytes int
	// once: the objects do not become more with the batches.
	once bool
	// prepare does once, before anything is measured, what else the first batch would do.
	prepare func()
	add     func(batch int)
	// refill runs before the last collection of a measurement, for what does not survive two.
	refill func()
}

// Service is a healthy program; work does some more of what it does.
type Service struct {
	start func()
	work  func(round int)
	// steady services go on by themselves and keep their collector.
	steady bool
}

var (
	measured runtime.MemStats
	park     = make(chan struct{})
)

// atRest measures after collections. The delta between two of these is what a leak retains, in the
// runtime's own count.
func atRest(refill func()) (heap, stack uint64) {
	debug.SetGCPercent(-1)
	runtime.GC()
	runtime.GC()
	if refill != nil {
		refill()
		runtime.GC()
	}
	runtime.ReadMemStats(&measured)
	return measured.HeapAlloc, measured.StackInuse
}

func planted(l *Leak) func() {
	return func() {
		if l.prepare != nil {
			l.prepare()
		}
		heap0, stack0 := atRest(nil)
		batches := 0
		grow := func(n int) {
			for i := 0; i < n; i++ {
				l.add(batches)
				batches++
			}
			heap, stack := atRest(l.refill)
			times := batches
			if l.once {
				times = 1
			}
			if l.also == nil {
				l.also = []string{}
			}
			fixture.Forget()
			fixture.Fact("healthy", false)
			fixture.Fact("batches", batches)
			fixture.Append("leaks", "pattern", l.pattern, "also", l.also, "holder", l.holder, "type", l.typ,
				"objects", l.objects*times, "bytes", l.bytes*times,
				"retained_bytes", int64(heap-heap0), "stack_bytes", int64(stack-stack0))
		}
		grow(fixture.ArgInt(0, 4))
		fixture.Serve(fixture.Options{LastMinute: l.refill, Handle: map[string]func(string) string{
			"grow": func(arg string) string { grow(count(arg)); return fixture.Reprint },
		}})
	}
}

func count(arg string) int {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 {
		return 1
	}
	return n
}

func service(s *Service) func() {
	return func() {
		if s.start != nil {
			s.start()
		}
		rounds := 0
		run := func(n int) {
			for i := 0; i < n; i++ {
				s.work(rounds)
				rounds++
			}
			fixture.Forget()
			fixture.Fact("healthy", true)
			fixture.Fact("steady", s.steady)
			fixture.Fact("rounds", rounds)
			fixture.Fact("leaks", fixture.Raw("[]"))
		}
		run(fixture.ArgInt(0, 4))
		fixture.Serve(fixture.Options{Busy: s.steady, Handle: map[string]func(string) string{
			"grow": func(arg string) string { run(count(arg)); return fixture.Reprint },
		}})
	}
}

func main() {
	fixture.Begin("leaks", "global-map")
	if fixture.Scenario == "serve" {
		serveBodies()
		return
	}
	scenarios := map[string]func(){}
	for name, l := range leaks {
		scenarios[name] = planted(l)
	}
	for name, s := range services {
		scenarios["healthy-"+name] = service(s)
	}
	fixture.Choose(scenarios)
}
