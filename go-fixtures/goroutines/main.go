// goroutines puts goroutines into every state and wait: `goroutines [all|running|threads N]`.
package main

import (
	"context"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gosleuth.test/fixtures/fixture"
)

// Service has methods that block.
type Service struct {
	name string
	gate chan int
}

var (
	park     = make(chan struct{})
	nilChan  chan int
	full     = make(chan int, 1)
	locked   sync.Mutex
	readHeld sync.RWMutex
	fullHeld sync.RWMutex
	group    sync.WaitGroup
	once     sync.Once
	cond     = sync.NewCond(&sync.Mutex{})
	started  int
	spinning uint64
	plants   []func()
)

func start(f func()) {
	started++
	go f()
}

func startChannels() {
	full <- 1
	started += 6
	go func() { fixture.Announce("chanRecv", "chan receive"); <-park }()
	go func() { fixture.Announce("chanSend", "chan send"); full <- 2 }()
	go func() { fixture.Announce("nilRecv", "chan receive (nil chan)"); <-nilChan }()
	go func() { fixture.Announce("nilSend", "chan send (nil chan)"); nilChan <- 1 }()
	go func() { fixture.Announce("selectNone", "select (no cases)"); select {} }()
	go selecting(make(chan int), make(chan string, 2), full)
}

//go:noinline
func selecting(a chan int, b chan string, c chan int) {
	fixture.Announce("select3", "select", "chans", fixture.Raw(
		"["+hexOf(a)+","+hexOf(b)+","+hexOf(c)+"]"))
	select {
	case v := <-a:
		runtime.KeepAlive(v)
	case s := <-b:
		runtime.KeepAlive(s)
	case c <- 3:
	}
}

func startLocks() {
	// Main takes them all and never gives them back.
	locked.Lock()
	readHeld.RLock()
	fullHeld.Lock()
	group.Add(1)
	started += 8
	go func() { fixture.Announce("mutex", fixture.Mutex, "addr", hexRaw(&locked)); locked.Lock() }()
	go func() { fixture.Announce("mutex2", fixture.Mutex, "addr", hexRaw(&locked)); locked.Lock() }()
	go func() { fixture.Announce("rwWriter", fixture.RWWrite, "addr", hexRaw(&readHeld)); readHeld.Lock() }()
	go func() { fixture.Announce("rwReader", fixture.RWRead, "addr", hexRaw(&fullHeld)); fullHeld.RLock() }()
	go func() { fixture.Announce("waitGroup", fixture.WaitGroup, "addr", hexRaw(&group)); group.Wait() }()
	go func() {
		cond.L.Lock()
		fixture.Announce("cond", "sync.Cond.Wait", "addr", hexRaw(cond))
		cond.Wait()
	}()
	go func() {
		once.Do(func() {
			fixture.Announce("onceRunner", "chan receive")
			<-park
		})
	}()
	go func() {
		for !onceTaken() {
			time.Sleep(time.Millisecond)
		}
		fixture.Announce("onceWaiter", fixture.Mutex, "addr", hexRaw(&once))
		once.Do(func() {})
	}()
}

// onceTaken looks whether the first caller is inside Do already, which shows in the mutex of the Once.
func onceTaken() bool { return mutexBits(&once) }

func startTime() {
	started += 3
	go func() { fixture.Announce("sleep", "sleep"); time.Sleep(10 * time.Hour) }()
	go func() {
		t := time.NewTimer(10 * time.Hour)
		fixture.Announce("timer", "chan receive")
		<-t.C
	}()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Hour)
		defer cancel()
		fixture.Announce("context", "chan receive")
		<-ctx.Done()
	}()
}

func startIO() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fixture.Fail(err.Error())
	}
	ready := make(chan net.Conn)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			fixture.Fail(err.Error())
		}
		ready <- c
		started := "accept"
		fixture.Announce(started, "IO wait", "local", listener.Addr().String())
		listener.Accept()
	}()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		fixture.Fail(err.Error())
	}
	server := <-ready
	go func() {
		fixture.Announce("tcpRead", "IO wait", "local", server.LocalAddr().String(), "peer", server.RemoteAddr().String())
		server.Read(make([]byte, 64))
	}()
	started += 3
	go func() {
		r, _, err := pipe()
		if err != nil {
			fixture.Fail(err.Error())
		}
		fixture.Announce("pipeRead", "syscall", "fd", r)
		var b [1]byte
		syscall.Read(r, b[:])
	}()
	keep = append(keep, client, listener)
}

var keep []any

func pipe() (int, int, error) {
	var p [2]int
	err := syscall.Pipe(p[:])
	return p[0], p[1], err
}

func inlineC(c chan struct{}) { <-c }
func inlineB(c chan struct{}) { inlineC(c) }
func inlineA(c chan struct{}) { inlineB(c) }

//go:noinline
func inlineTop() {
	fixture.Announce("inlined", "chan receive", "frames",
		[]string{"main.inlineC", "main.inlineB", "main.inlineA", "main.inlineTop"})
	inlineA(park)
}

//go:noinline
func recurse(n int, s *Service) int {
	if n == 0 {
		fixture.Announce("deep", "chan receive", "depth", 200)
		<-s.gate
		return 0
	}
	return recurse(n-1, s) + 1
}

//go:noinline
func generic[T any](c chan T, name string) T {
	fixture.Announce(name, "chan receive")
	return <-c
}

//go:noinline
func (s *Service) block() {
	fixture.Announce("methodValue", "chan receive")
	<-s.gate
}

//go:noinline
func (s Service) blockByValue(a int, b string, c []byte) {
	fixture.Announce("valueMethod", "chan receive")
	<-s.gate
	runtime.KeepAlive(a)
	runtime.KeepAlive(b)
	runtime.KeepAlive(c)
}

//go:noinline
func (s *Service) closure() func() {
	return func() {
		fixture.Announce("methodClosure", "chan receive", "service", hexRaw(s))
		<-s.gate
	}
}

//go:noinline
func deferred() {
	defer func() {
		fixture.Announce("deferred", "chan receive")
		<-park
	}()
	runtime.Gosched()
}

//go:noinline
func panicking() {
	defer func() {
		fixture.Announce("panicking", "chan receive")
		<-park
		_ = recover()
	}()
	var m map[string]int
	m["nil"] = 1
}

//go:noinline
func bigFrame() {
	var b [16384]byte
	b[0] = 1
	fixture.Announce("bigFrame", "chan receive")
	<-park
	runtime.KeepAlive(&b)
}

func startCalls() {
	s := &Service{name: "service", gate: make(chan int)}
	start(inlineTop)
	start(func() { recurse(200, s) })
	start(func() { generic(make(chan string), "genericString") })
	start(func() { generic(make(chan map[int]*Service), "genericMap") })
	start(s.block)
	start(s.closure())
	start(deferred)
	start(panicking)
	start(bigFrame)
	started += 4
	go s.blockByValue(1, "two", []byte("three"))
	go func() {
		runtime.LockOSThread()
		fixture.Announce("lockedThread", "chan receive")
		<-park
	}()
	go func() {
		pprof.Do(context.Background(), pprof.Labels("request", "r-42", "tenant", "blue"), func(context.Context) {
			fixture.Announce("labelled", "chan receive", "labels", fixture.Raw(`{"request":"r-42","tenant":"blue"}`))
			<-park
		})
	}()
	go func() {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			fixture.Fail(err.Error())
		}
		defer f.Close()
		strings.Map(func(r rune) rune {
			fixture.Announce("belowLibrary", "chan receive")
			<-park
			return r
		}, "x")
	}()
}

func spinA(p *uint64) { *p++ }
func spinB(p *uint64) { spinA(p) }

//go:noinline
func spin() {
	fixture.Fact("spinner", fixture.Goid())
	for {
		spinB(&spinning)
	}
}

func threads(n int) {
	debug.SetMaxThreads(n + 1000)
	var up int32
	for i := 0; i < n; i++ {
		go func() {
			runtime.LockOSThread()
			atomic.AddInt32(&up, 1)
			<-park
		}()
	}
	for atomic.LoadInt32(&up) < int32(n) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	fixture.Fact("locked_threads", n)
}

func main() {
	fixture.Begin("goroutines", "all")
	switch fixture.Scenario {
	case "threads":
		threads(fixture.ArgInt(0, 1000))
		fixture.Serve(fixture.Options{})
	case "all", "running":
	default:
		fixture.Fail("unknown scenario: all running threads")
	}
	startChannels()
	startLocks()
	startTime()
	startIO()
	startCalls()
	for _, plant := range plants {
		plant()
	}
	fixture.Settle(started)
	if fixture.Scenario == "running" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
		go spin()
		time.Sleep(50 * time.Millisecond)
	}
	fixture.Serve(fixture.Options{})
}
