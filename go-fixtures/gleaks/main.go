// gleaks plants goroutines that can never go on, next to twins that can: `gleaks SCENARIO`, `gleaks list`.
//
// A twin runs the same code, but what it waits for is kept by a global; on `release` it finishes. So a proof
// that looks at code or state only, and not at who can reach the primitive, shows itself.
package main

import (
	"context"
	"errors"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"gosleuth.test/fixtures/fixture"
)

var (
	releases   []func()
	finishedMu sync.Mutex
	finished   []int64
	expected   int
	number     int32
	gQueue     = make(chan int)
)

// enter names a goroutine after its fate and announces it.
//
//go:noinline
func enter(healthy bool, pattern, expect string) int64 {
	fate := "leaked"
	if healthy {
		fate = "healthy"
	}
	name := pattern + "/" + fate + "/" + string(rune('a'+atomic.AddInt32(&number, 1)%26))
	return fixture.Announce(name, expect, "fate", fate, "pattern", pattern)
}

//go:noinline
func leave(id int64) {
	finishedMu.Lock()
	finished = append(finished, id)
	finishedMu.Unlock()
}

// onRelease keeps alive, from a global, what a healthy goroutine waits for.
func onRelease(healthy bool, f func()) {
	if healthy {
		releases = append(releases, f)
	}
}

func forgottenSender(healthy bool) int {
	c := make(chan int)
	go func() {
		id := enter(healthy, "forgotten-sender", fixture.Send)
		c <- 1
		leave(id)
	}()
	onRelease(healthy, func() { <-c })
	return 1
}

func forgottenReceiver(healthy bool) int {
	c := make(chan int)
	go func() {
		id := enter(healthy, "forgotten-receiver", fixture.Receive)
		<-c
		leave(id)
	}()
	onRelease(healthy, func() { c <- 1 })
	return 1
}

func rangeNeverClosed(healthy bool) int {
	c := make(chan []byte, 4)
	c <- make([]byte, 1000)
	go func() {
		buffer := make([]byte, 4096)
		id := enter(healthy, "range-never-closed", fixture.Receive)
		for b := range c {
			copy(buffer, b)
		}
		leave(id)
	}()
	onRelease(healthy, func() { close(c) })
	return 1
}

func abandonedSelect(healthy bool) int {
	in, stop, out := make(chan int), make(chan struct{}), make(chan int)
	go func() {
		id := enter(healthy, "abandoned-select", fixture.Select)
		select {
		case <-in:
		case <-stop:
		case out <- 1:
		}
		leave(id)
	}()
	onRelease(healthy, func() { close(stop) })
	return 1
}

func missingDone(healthy bool) int {
	wg := new(sync.WaitGroup)
	wg.Add(2)
	go func() { wg.Done() }()
	go func() {
		id := enter(healthy, "missing-done", fixture.WaitGroup)
		wg.Wait()
		leave(id)
	}()
	onRelease(healthy, wg.Done)
	return 1
}

func timeoutWithoutDrain(healthy bool) int {
	result := make(chan error)
	given := make(chan struct{})
	go func() {
		<-given // up: however slow the machine is, the result comes too late
		id := enter(healthy, "timeout-without-drain", fixture.Send)
		result <- errors.New("too late")
		leave(id)
	}()
	select {
	case <-result:
	case <-time.After(time.Millisecond):
	}
	close(given)
	onRelease(healthy, func() { <-result })
	return 1
}

// guarded has a pointer, so that its lock does not share a tiny block with that of its twin, which would
// keep it reachable.
type guarded struct {
	mu   sync.Mutex
	name *string
}

func doubleLock(healthy bool) int {
	g := new(guarded)
	go func() {
		g.mu.Lock()
		id := enter(healthy, "double-lock", fixture.Mutex)
		g.mu.Lock()
		leave(id)
	}()
	onRelease(healthy, g.mu.Unlock)
	return 1
}

func earlyReturn(healthy bool) int {
	errs := make(chan error)
	for i := 0; i < 3; i++ {
		go func() {
			id := enter(healthy, "early-return", fixture.Send)
			errs <- errors.New("failed")
			leave(id)
		}()
	}
	onRelease(healthy, func() {
		for i := 0; i < 3; i++ {
			<-errs
		}
	})
	return 3
}

func nilChannel(healthy bool) int {
	var c chan int
	go func() {
		id := enter(false, "nil-channel", "chan receive (nil chan)")
		<-c
		leave(id)
	}()
	return 1
}

func emptySelect(healthy bool) int {
	go func() {
		enter(false, "empty-select", "select (no cases)")
		select {}
	}()
	return 1
}

func condWithoutSignal(healthy bool) int {
	c := sync.NewCond(new(sync.Mutex))
	go func() {
		c.L.Lock()
		id := enter(healthy, "cond-without-signal", fixture.Cond)
		c.Wait()
		c.L.Unlock()
		leave(id)
	}()
	onRelease(healthy, func() {
		c.L.Lock()
		c.Broadcast()
		c.L.Unlock()
	})
	return 1
}

func contextNotCancelled(healthy bool) int {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		id := enter(healthy, "context-not-cancelled", fixture.Receive)
		<-ctx.Done()
		leave(id)
	}()
	onRelease(healthy, cancel)
	return 1
}

// pool is a worker pool that is dropped without being closed.
type pool struct {
	jobs chan func()
	wg   sync.WaitGroup
}

func (p *pool) worker(healthy bool) {
	defer p.wg.Done()
	id := enter(healthy, "leaked-worker-pool", fixture.Receive)
	for job := range p.jobs {
		job()
	}
	leave(id)
}

func leakedWorkerPool(healthy bool) int {
	p := &pool{jobs: make(chan func(), 8)}
	for i := 0; i < 4; i++ {
		p.wg.Add(1)
		go p.worker(healthy)
	}
	onRelease(healthy, func() { close(p.jobs); p.wg.Wait() })
	return 4
}

func lostWriter(healthy bool) int {
	rw := new(sync.RWMutex)
	rw.Lock()
	go func() {
		id := enter(healthy, "lost-writer", fixture.RWRead)
		rw.RLock()
		rw.RUnlock()
		leave(id)
	}()
	onRelease(healthy, rw.Unlock)
	return 1
}

// deadlockedPair: each waits for the other and nobody else can reach either channel.
func deadlockedPair(healthy bool) int {
	a, b := make(chan int), make(chan int)
	wait := func(in, out chan int) {
		id := enter(healthy, "deadlocked-pair", fixture.Receive)
		v := <-in
		if v > 0 {
			out <- v
		}
		leave(id)
	}
	go wait(a, b)
	go wait(b, a)
	onRelease(healthy, func() { close(a); close(b) })
	return 2
}

// chainedLeak: the second goroutine could be woken only by the first, which never goes on.
func chainedLeak(healthy bool) int {
	first, second := make(chan int), make(chan int)
	go func() {
		id := enter(healthy, "chained-leak", fixture.Receive)
		second <- <-first
		leave(id)
	}()
	go func() {
		id := enter(healthy, "chained-leak", fixture.Receive)
		<-second
		leave(id)
	}()
	onRelease(healthy, func() { first <- 1 })
	return 2
}

// doubleSend: the first result is taken, the one that a missing return lets through is not.
func doubleSend(healthy bool) int {
	c := make(chan error)
	go func() {
		c <- errors.New("failed")
		id := enter(healthy, "double-send", fixture.Send)
		c <- nil
		leave(id)
	}()
	<-c
	onRelease(healthy, func() { <-c })
	return 1
}

// nCast: several are asked, the first answer is taken.
func nCast(healthy bool) int {
	const asked = 4
	answers, first := make(chan int), make(chan struct{})
	for i := 0; i < asked; i++ {
		go func(i int) {
			if i == 0 {
				answers <- i
				return
			}
			// So that it is known which of them are left over.
			<-first
			id := enter(healthy, "n-cast", fixture.Send)
			answers <- i
			leave(id)
		}(i)
	}
	<-answers
	close(first)
	onRelease(healthy, func() {
		for i := 1; i < asked; i++ {
			<-answers
		}
	})
	return asked - 1
}

// service must be stopped by whoever started it.
type service struct {
	events chan string
	stop   chan struct{}
}

func (s *service) start(healthy bool) {
	go func() {
		id := enter(healthy, "never-stopped", fixture.Select)
		for {
			select {
			case <-s.events:
			case <-s.stop:
				leave(id)
				return
			}
		}
	}()
}

func neverStopped(healthy bool) int {
	s := &service{events: make(chan string, 2), stop: make(chan struct{})}
	s.start(healthy)
	onRelease(healthy, func() { close(s.stop) })
	return 1
}

// forgottenUnlock: whoever locked has returned through an error without an Unlock.
func forgottenUnlock(healthy bool) int {
	g := new(guarded)
	locked := make(chan struct{})
	go func() {
		if failing(g) != nil {
			close(locked)
			return
		}
		g.mu.Unlock()
	}()
	<-locked
	for i := 0; i < 2; i++ {
		go func() {
			id := enter(healthy, "forgotten-unlock", fixture.Mutex)
			g.mu.Lock()
			g.mu.Unlock()
			leave(id)
		}()
	}
	onRelease(healthy, g.mu.Unlock)
	return 2
}

//go:noinline
func failing(g *guarded) error {
	g.mu.Lock()
	return errors.New("failed")
}

// readerNeverLeft: a writer waits for a reader that has gone.
func readerNeverLeft(healthy bool) int {
	rw := new(sync.RWMutex)
	rw.RLock()
	go func() {
		id := enter(healthy, "reader-never-left", fixture.RWWrite)
		rw.Lock()
		rw.Unlock()
		leave(id)
	}()
	onRelease(healthy, rw.RUnlock)
	return 1
}

// groupOfSenders: Wait before the results are taken, so that nobody comes to Done, nor to the results.
func groupOfSenders(healthy bool) int {
	results, wg := make(chan int), new(sync.WaitGroup)
	for i := 0; i < 2; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			id := enter(healthy, "group-of-senders", fixture.Send)
			results <- i
			leave(id)
		}(i)
	}
	go func() {
		id := enter(healthy, "group-of-senders", fixture.WaitGroup)
		wg.Wait()
		for i := 0; i < 2; i++ {
			<-results
		}
		leave(id)
	}()
	onRelease(healthy, func() {
		go func() { <-results; <-results; results <- 0; results <- 0 }()
	})
	return 3
}

// globalChannel blocks on a channel that a global still holds though no code uses it any more: this cannot
// be proven from reachability, only suspected.
func globalChannel(healthy bool) int {
	go func() {
		id := enter(healthy, "global-channel", fixture.Send)
		gQueue <- 1
		leave(id)
	}()
	onRelease(healthy, func() { <-gQueue })
	return 1
}

type pattern struct {
	name  string
	plant func(bool) int
	twin  bool
}

var patterns = []pattern{
	{"forgotten-sender", forgottenSender, true},
	{"forgotten-receiver", forgottenReceiver, true},
	{"range-never-closed", rangeNeverClosed, true},
	{"abandoned-select", abandonedSelect, true},
	{"missing-done", missingDone, true},
	{"timeout-without-drain", timeoutWithoutDrain, true},
	{"double-lock", doubleLock, true},
	{"early-return", earlyReturn, true},
	{"nil-channel", nilChannel, false},
	{"empty-select", emptySelect, false},
	{"cond-without-signal", condWithoutSignal, true},
	{"context-not-cancelled", contextNotCancelled, true},
	{"leaked-worker-pool", leakedWorkerPool, true},
	{"lost-writer", lostWriter, true},
	{"deadlocked-pair", deadlockedPair, true},
	{"chained-leak", chainedLeak, true},
	{"double-send", doubleSend, true},
	{"n-cast", nCast, true},
	{"never-stopped", neverStopped, true},
	{"forgotten-unlock", forgottenUnlock, true},
	{"reader-never-left", readerNeverLeft, true},
	{"group-of-senders", groupOfSenders, true},
	{"global-channel", globalChannel, false},
}

func plant(p pattern, leak, healthy bool) {
	if leak {
		expected += p.plant(false)
	}
	if healthy && p.twin {
		expected += p.plant(true)
	}
}

func main() {
	fixture.Begin("gleaks", "all")
	scenarios := map[string]func(){
		"all": func() {
			for _, p := range patterns {
				plant(p, true, true)
			}
		},
		"all-healthy": func() {
			for _, p := range patterns {
				plant(p, false, true)
			}
		},
	}
	for _, p := range patterns {
		p := p
		scenarios[p.name] = func() { plant(p, true, true) }
		if p.twin {
			scenarios[p.name+"-healthy"] = func() { plant(p, false, true) }
		}
	}
	fixture.Choose(scenarios)
	settled()
	fixture.Serve(fixture.Options{
		Release: func() {
			for _, f := range releases {
				f()
			}
			releases = nil
			time.Sleep(20 * time.Millisecond)
		},
		Handle: map[string]func(string) string{"progress": func(string) string {
			finishedMu.Lock()
			defer finishedMu.Unlock()
			sort.Slice(finished, func(i, j int) bool { return finished[i] < finished[j] })
			return fixture.Members("finished", finished)
		}},
	})
}

// settled tells which goroutines leak, which of those can be proven to, and which will finish.
func settled() {
	var leaked, provable, healthy []int64
	for _, g := range fixture.SettleAll(expected) {
		switch {
		case g.More("fate") == "healthy":
			healthy = append(healthy, g.Goid)
		case g.More("pattern") == "global-channel":
			leaked = append(leaked, g.Goid)
		default:
			leaked = append(leaked, g.Goid)
			provable = append(provable, g.Goid)
		}
	}
	fixture.Fact("leaked", leaked)
	fixture.Fact("provable", provable)
	fixture.Fact("healthy", healthy)
}
