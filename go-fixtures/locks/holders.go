package main

import (
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"gosleuth.test/fixtures/fixture"
)

// Store holds its lock while it does something slow.
type Store struct {
	name string
	mu   sync.Mutex
	conn net.Conn
	gate chan int
	fd   int
}

//go:noinline
func (s *Store) overNetwork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	buf := make([]byte, 512)
	fixture.Announce("holder", fixture.IO)
	n, _ := s.conn.Read(buf)
	s.name = string(buf[:n])
}

//go:noinline
func (s *Store) overSleep() {
	s.mu.Lock()
	fixture.Announce("holder", fixture.Sleep)
	time.Sleep(10 * time.Hour)
	s.mu.Unlock()
}

//go:noinline
func (s *Store) overSyscall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	fixture.Announce("holder", fixture.Syscall, "fd", s.fd)
	var b [1]byte
	syscall.Read(s.fd, b[:])
}

//go:noinline
func (s *Store) deferredUnlock() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	fixture.Announce("holder", fixture.Receive)
	return <-s.gate
}

//go:noinline
func (s *Store) explicitUnlock() int {
	s.mu.Lock()
	fixture.Announce("holder", fixture.Receive)
	v := <-s.gate
	s.mu.Unlock()
	return v
}

//go:noinline
func (s *Store) closureUnlock() int {
	s.mu.Lock()
	defer func() {
		s.name = "left"
		s.mu.Unlock()
	}()
	fixture.Announce("holder", fixture.Receive)
	return <-s.gate
}

//go:noinline
func (s *Store) overSelect() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	fixture.Announce("holder", fixture.Select)
	select {
	case v := <-s.gate:
		return v
	case <-park:
		return 0
	}
}

//go:noinline
func (s *Store) inCallee() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slowPart(2)
}

//go:noinline
func (s *Store) slowPart(depth int) int {
	if depth > 0 {
		return s.slowPart(depth-1) + 1
	}
	fixture.Announce("holder", fixture.Receive)
	return <-s.gate
}

//go:noinline
func (s *Store) tryLock() int {
	if !s.mu.TryLock() {
		return 0
	}
	defer s.mu.Unlock()
	fixture.Announce("holder", fixture.Receive)
	return <-s.gate
}

//go:noinline
func (s *Store) conditional(take bool) int {
	if take {
		s.mu.Lock()
	}
	fixture.Announce("holder", fixture.Receive)
	v := <-s.gate
	if take {
		s.mu.Unlock()
	}
	return v
}

// held makes a scenario of a method that blocks with the lock of a Store.
func held(hold func(*Store), waiters int) func() {
	return func() {
		s := &Store{gate: make(chan int), fd: -1}
		switch fixture.Scenario {
		case "held-across-network":
			s.conn = connection()
		case "held-across-syscall":
			s.fd = pipe()
		}
		go hold(s)
		settle(1)
		for i := 0; i < waiters; i++ {
			go waiter("waiter"+string(rune('1'+i)), &s.mu)
			settle(1)
		}
		for i := 0; i < waiters; i++ {
			edge("waiter"+string(rune('1'+i)), "holder", "mutex", &s.mu, "main.Store.mu")
		}
	}
}

var gLock sync.Mutex

//go:noinline
func holdGlobal() int {
	gLock.Lock()
	fixture.Announce("holder", fixture.Receive)
	<-park
	gLock.Unlock()
	return 1
}

//go:noinline
func holdGlobalDeferred() int {
	gLock.Lock()
	defer gLock.Unlock()
	fixture.Announce("holder", fixture.Receive)
	<-park
	return 1
}

func globalHeld(hold func() int) func() {
	return func() {
		go hold()
		settle(1)
		go func() {
			fixture.Announce("waiter", fixture.Mutex)
			gLock.Lock()
			gLock.Unlock()
		}()
		settle(1)
		edge("waiter", "holder", "mutex", &gLock, "global main.gLock")
	}
}

// Cache embeds its lock.
type Cache struct {
	entries map[string]int
	sync.Mutex
}

//go:noinline
func (c *Cache) get(k string) int {
	c.Lock()
	defer c.Unlock()
	fixture.Announce("holder", fixture.Receive)
	<-park
	return c.entries[k]
}

func embedded() {
	c := &Cache{entries: map[string]int{}}
	go c.get("k")
	settle(1)
	go func() {
		fixture.Announce("waiter", fixture.Mutex)
		c.Lock()
		c.entries["k"] = 1
		c.Unlock()
	}()
	settle(1)
	edge("waiter", "holder", "mutex", &c.Mutex, "main.Cache.Mutex")
}

//go:noinline
func throughInterface(l sync.Locker, name, expect string) {
	if name == "waiter" {
		fixture.Announce(name, expect)
	}
	l.Lock()
	if name == "holder" {
		fixture.Announce(name, expect)
	}
	<-park
	l.Unlock()
}

func lockerInterface() {
	c := &Cache{}
	go throughInterface(c, "holder", fixture.Receive)
	settle(1)
	go throughInterface(c, "waiter", fixture.Mutex)
	settle(1)
	edge("waiter", "holder", "mutex", &c.Mutex, "main.Cache.Mutex")
}

type tenant struct {
	name string
	mu   sync.Mutex
}

var gTenants = map[string]*tenant{}

//go:noinline
func holdTenant(name string) {
	t := gTenants[name]
	t.mu.Lock()
	defer t.mu.Unlock()
	fixture.Announce("holder", fixture.Receive)
	<-park
}

func mapValue() {
	gTenants["blue"], gTenants["red"] = &tenant{name: "blue"}, &tenant{name: "red"}
	go holdTenant("blue")
	settle(1)
	go waiter("waiter", &gTenants["blue"].mu)
	settle(1)
	edge("waiter", "holder", "mutex", &gTenants["blue"].mu, "main.tenant.mu of global main.gTenants")
}

//go:noinline
func withLock(mu *sync.Mutex, work func()) {
	mu.Lock()
	work()
	mu.Unlock()
}

func pointerArgument() {
	mu := new(sync.Mutex)
	go withLock(mu, func() {
		fixture.Announce("holder", fixture.Receive)
		<-park
	})
	settle(1)
	go waiter("waiter", mu)
	settle(1)
	edge("waiter", "holder", "mutex", mu, "heap sync.Mutex")
}

// Pool is the middle of the chain; Repo its end.
type Pool struct {
	mu   sync.Mutex
	repo *Repo
}

// Repo reads from the network with its lock held.
type Repo struct {
	mu   sync.Mutex
	conn net.Conn
}

//go:noinline
func (r *Repo) query() {
	r.mu.Lock()
	defer r.mu.Unlock()
	fixture.Announce("g88", fixture.IO)
	var buf [64]byte
	r.conn.Read(buf[:])
}

//go:noinline
func (p *Pool) get() {
	p.mu.Lock()
	defer p.mu.Unlock()
	fixture.Announce("g42", fixture.Mutex)
	p.repo.mu.Lock()
	p.repo.mu.Unlock()
}

//go:noinline
func (p *Pool) stats() {
	fixture.Announce("g127", fixture.Mutex)
	p.mu.Lock()
	defer p.mu.Unlock()
}

func chain() {
	p := &Pool{repo: &Repo{conn: connection()}}
	go p.repo.query()
	settle(1)
	go p.get()
	settle(1)
	go p.stats()
	settle(1)
	edge("g127", "g42", "mutex", &p.mu, "main.Pool.mu")
	edge("g42", "g88", "mutex", &p.repo.mu, "main.Repo.mu")
	fixture.Fact("root", ids["g88"])
}

var gSlots = make(chan struct{}, 2)

//go:noinline
func useSlot(name string) {
	gSlots <- struct{}{}
	defer func() { <-gSlots }()
	fixture.Announce(name, fixture.Receive)
	<-park
}

func semaphoreChannel() {
	go useSlot("slot1")
	go useSlot("slot2")
	settle(2)
	go func() {
		fixture.Announce("waiter", fixture.Send)
		gSlots <- struct{}{}
	}()
	settle(1)
	edge("waiter", "slot1", "semaphore-channel", gSlots, "global main.gSlots", "slot2")
}

//go:noinline
func beginWork(s *Store, hand chan *Store) {
	s.mu.Lock()
	hand <- s
}

//go:noinline
func finishWork(hand chan *Store) {
	s := <-hand
	defer s.mu.Unlock()
	fixture.Announce("finisher", fixture.Receive)
	<-s.gate
}

func handedOver() {
	s, hand := &Store{gate: make(chan int)}, make(chan *Store)
	go beginWork(s, hand)
	go finishWork(hand)
	settle(1)
	go waiter("waiter", &s.mu)
	settle(1)
	edge("waiter", "finisher", "mutex", &s.mu, "main.Store.mu")
}

//go:noinline
func (c *Config) twoReaders(name string) string {
	c.rw.RLock()
	fixture.Announce(name, fixture.Receive)
	v := <-c.gate
	c.rw.RUnlock()
	return v
}

func severalReaders() {
	c := newConfig()
	go c.twoReaders("reader1")
	go c.twoReaders("reader2")
	settle(2)
	go c.write()
	settle(1)
	edge("writer", "reader1", "rwmutex-write", &c.rw, "main.Config.rw", "reader2")
}

// healthySyncMap and healthyWorkers have nothing that waits for a lock.
func healthySyncMap() {
	healthy = true
	m := new(sync.Map)
	for i := 0; i < 100; i++ {
		m.Store(i, i)
	}
	for i := 0; i < 3; i++ {
		go func() {
			m.Load(1)
			fixture.Announce("idle", fixture.Receive)
			<-park
			runtime.KeepAlive(m)
		}()
	}
	settle(3)
}

func healthyWorkers() {
	healthy = true
	s, jobs := &Store{}, make(chan int)
	for i := 0; i < 4; i++ {
		go func() {
			fixture.Announce("worker", fixture.Receive)
			for j := range jobs {
				s.mu.Lock()
				s.fd += j
				s.mu.Unlock()
			}
		}()
	}
	settle(4)
	keep = jobs
}

var scenarios = map[string]func(){
	"mutex-cycle-2":             mutexCycle2,
	"mutex-cycle-3":             mutexCycle3,
	"rwmutex-writer-starvation": writerStarvation,
	"rwmutex-write-held":        rwWriteHeld,
	"rwmutex-double-rlock":      doubleRLock,
	"rwmutex-several-readers":   severalReaders,
	"chan-mutex":                chanMutex,
	"waitgroup-miscounted":      miscountedGroup,
	"cond-without-signal":       condWithoutSignal,
	"once-reentered":            onceReentered,
	"self-deadlock":             selfDeadlock,
	"holder-exited":             holderExited,
	"held-across-network":       held((*Store).overNetwork, 2),
	"held-across-sleep":         held((*Store).overSleep, 1),
	"held-across-syscall":       held((*Store).overSyscall, 1),
	"held-across-chan-receive":  held(func(s *Store) { s.explicitUnlock() }, 1),
	"held-across-select":        held(func(s *Store) { s.overSelect() }, 1),
	"held-in-callee":            held(func(s *Store) { s.inCallee() }, 1),
	"deferred-unlock":           held(func(s *Store) { s.deferredUnlock() }, 1),
	"closure-deferred-unlock":   held(func(s *Store) { s.closureUnlock() }, 1),
	"conditional-lock":          held(func(s *Store) { s.conditional(true) }, 1),
	"trylock-holder":            held(func(s *Store) { s.tryLock() }, 1),
	"five-waiters":              held(func(s *Store) { s.deferredUnlock() }, 5),
	"global-explicit-unlock":    globalHeld(holdGlobal),
	"global-deferred-unlock":    globalHeld(holdGlobalDeferred),
	"embedded-mutex":            embedded,
	"locker-interface":          lockerInterface,
	"map-value-pointer":         mapValue,
	"pointer-argument":          pointerArgument,
	"chain-127-42-88":           chain,
	"semaphore-channel":         semaphoreChannel,
	"handed-over":               handedOver,
	"healthy-sync-map":          healthySyncMap,
	"healthy-workers":           healthyWorkers,
}
