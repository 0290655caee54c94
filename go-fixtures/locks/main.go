// locks puts goroutines into lock chains whose holders are known: `locks SCENARIO`, `locks list`.
package main

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"gosleuth.test/fixtures/fixture"
)

var (
	ids     = map[string]int64{}
	arrived int32
	park    = make(chan struct{})
)

// settle waits for n more goroutines to block as they announced.
func settle(n int) {
	for name, id := range fixture.Settle(n) {
		ids[name] = id
	}
}

// meet holds a goroutine back until n of them have come.
//
//go:noinline
func meet(n int32) {
	atomic.AddInt32(&arrived, 1)
	for atomic.LoadInt32(&arrived) < n {
		time.Sleep(time.Millisecond)
	}
}

func addr(p any) fixture.Hex { return fixture.Hex((*[2]uintptr)(unsafe.Pointer(&p))[1]) }

// edge tells who waits for whom. An empty holder is nobody; further holders are right answers, too.
func edge(waiter, holder, kind string, primitive any, where string, others ...string) {
	var first any
	all := []int64{}
	if holder != "" {
		first = ids[holder]
		all = append(all, ids[holder])
	}
	for _, o := range others {
		all = append(all, ids[o])
	}
	fixture.Append("edges", "waiter", ids[waiter], "holder", first, "holders", all, "kind", kind,
		"addr", addr(primitive), "where", where, "waiter_name", waiter, "holder_name", holder)
}

func cycle(names ...string) {
	var goids []int64
	for _, n := range names {
		goids = append(goids, ids[n])
	}
	fixture.Append("cycles", "goids", goids)
}

// waiter is what most scenarios have behind the lock in question.
//
//go:noinline
func waiter(name string, mu *sync.Mutex) {
	fixture.Announce(name, fixture.Mutex)
	mu.Lock()
	defer mu.Unlock()
}

// connection is the server's end of a loopback connection on which nothing ever comes.
func connection() net.Conn {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fixture.Fail(err.Error())
	}
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		fixture.Fail(err.Error())
	}
	server, err := listener.Accept()
	if err != nil {
		fixture.Fail(err.Error())
	}
	listener.Close()
	clients = append(clients, client)
	fixture.Fact("peer", server.RemoteAddr().String())
	return server
}

var clients []net.Conn

func pipe() int {
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		fixture.Fail(err.Error())
	}
	return p[0]
}

func main() {
	fixture.Begin("locks", "mutex-cycle-2")
	fixture.Choose(scenarios)
	fixture.Fact("healthy", healthy)
	fixture.Serve(fixture.Options{})
}
