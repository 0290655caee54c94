package main

import (
	"sync"

	"gosleuth.test/fixtures/fixture"
)

// Goroutines that look like holders and are none, and holders that do not look like it.

//go:noinline
func (s *Store) outsideMeanwhile() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.Unlock()
	fixture.Announce("outside", fixture.Receive)
	<-park
	s.mu.Lock()
}

func unlockedMeanwhile() {
	s := &Store{gate: make(chan int)}
	go s.outsideMeanwhile()
	settle(1)
	held1(s, func() { s.explicitUnlock() })
}

// held1 adds a holder and a waiter.
func held1(s *Store, hold func()) {
	go hold()
	settle(1)
	go waiter("waiter", &s.mu)
	settle(1)
	edge("waiter", "holder", "mutex", &s.mu, "main.Store.mu")
}

//go:noinline
func (s *Store) deferFirst() {
	defer s.mu.Unlock()
	fixture.Announce("waiter", fixture.Mutex)
	s.mu.Lock()
}

func deferBeforeLock() {
	s := &Store{gate: make(chan int)}
	go s.deferredUnlock()
	settle(1)
	go s.deferFirst()
	settle(1)
	edge("waiter", "holder", "mutex", &s.mu, "main.Store.mu")
}

var (
	gBaton sync.Mutex
	gPass  = make(chan struct{})
)

//go:noinline
func runsFirst() {
	gBaton.Lock()
	fixture.Announce("first", fixture.Receive)
	<-park
	gPass <- struct{}{}
}

//go:noinline
func runsSecond() {
	fixture.Announce("second", fixture.Receive)
	<-gPass
	gBaton.Unlock()
}

func batonNotPassed() {
	go runsFirst()
	settle(1)
	go runsSecond()
	settle(1)
	go waiter("waiter", &gBaton)
	settle(1)
	edge("waiter", "first", "mutex", &gBaton, "global main.gBaton")
	edge("second", "first", "chan-receive", gPass, "global main.gPass")
}

//go:noinline
func (m *Mailbox) receiveAgain() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.mails) == 0 {
		fixture.Announce("receiver", fixture.Cond)
		m.cond.Wait()
	}
	return m.mails[0]
}

//go:noinline
func (m *Mailbox) send(gate chan string) {
	m.mu.Lock()
	fixture.Announce("sender", fixture.Receive)
	m.mails = append(m.mails, <-gate)
	m.mu.Unlock()
	m.cond.Signal()
}

func condAndHolder() {
	m, gate := &Mailbox{}, make(chan string)
	m.cond = sync.NewCond(&m.mu)
	go m.receiveAgain()
	settle(1)
	go m.send(gate)
	settle(1)
	go waiter("waiter", &m.mu)
	settle(1)
	edge("waiter", "sender", "mutex", &m.mu, "main.Mailbox.mu")
	edge("receiver", "sender", "cond", m.cond, "main.Mailbox.cond")
}

//go:noinline
func (s *Store) lock() { s.mu.Lock() }

//go:noinline
func (s *Store) unlock() { s.mu.Unlock() }

//go:noinline
func (s *Store) throughHelpers() {
	s.lock()
	fixture.Announce("holder", fixture.Receive)
	<-s.gate
	s.unlock()
}

func helpers() {
	s := &Store{gate: make(chan int)}
	held1(s, s.throughHelpers)
}

//go:noinline
func lockAll(all []*Account) {
	for _, a := range all {
		a.mu.Lock()
	}
	fixture.Announce("holder", fixture.Receive)
	<-park
	for _, a := range all {
		a.mu.Unlock()
	}
}

//go:noinline
func lockAllDeferred(all []*Account) {
	for _, a := range all {
		a.mu.Lock()
		defer a.mu.Unlock()
	}
	fixture.Announce("holder", fixture.Receive)
	<-park
}

func manyLocks(hold func([]*Account)) func() {
	return func() {
		all := []*Account{{name: "a"}, {name: "b"}, {name: "c"}, {name: "d"}}
		go hold(all)
		settle(1)
		go waiter("waiter1", &all[0].mu)
		settle(1)
		go waiter("waiter3", &all[2].mu)
		settle(1)
		edge("waiter1", "holder", "mutex", &all[0].mu, "main.Account.mu")
		edge("waiter3", "holder", "mutex", &all[2].mu, "main.Account.mu")
	}
}

//go:noinline
func initOnce(o *sync.Once, name, expect string) {
	if name != "holder" {
		fixture.Announce(name, expect)
	}
	o.Do(func() {
		fixture.Announce(name, expect)
		<-park
	})
}

func onceInProgress() {
	o := new(sync.Once)
	go initOnce(o, "holder", fixture.Receive)
	settle(1)
	go initOnce(o, "waiter1", fixture.Mutex)
	go initOnce(o, "waiter2", fixture.Mutex)
	settle(2)
	edge("waiter1", "holder", "once", o, "heap sync.Once")
	edge("waiter2", "holder", "once", o, "heap sync.Once")
}

//go:noinline
func work(wg *sync.WaitGroup, name string) {
	defer wg.Done()
	fixture.Announce(name, fixture.Receive)
	<-park
}

func groupOfWorkers() {
	wg := new(sync.WaitGroup)
	wg.Add(2)
	go work(wg, "worker1")
	go work(wg, "worker2")
	settle(2)
	go func() {
		fixture.Announce("waiter", fixture.WaitGroup)
		wg.Wait()
	}()
	settle(1)
	edge("waiter", "worker1", "waitgroup", wg, "heap sync.WaitGroup", "worker2")
}

// Guard is generic.
type Guard[T any] struct {
	mu    sync.Mutex
	value T
}

//go:noinline
func (g *Guard[T]) With(f func(*T)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.value)
}

func genericGuard() {
	g := &Guard[[]string]{}
	go g.With(func(*[]string) {
		fixture.Announce("holder", fixture.Receive)
		<-park
	})
	settle(1)
	go func() {
		fixture.Announce("waiter", fixture.Mutex)
		g.With(func(*[]string) {})
	}()
	settle(1)
	edge("waiter", "holder", "mutex", &g.mu, "main.Guard[[]string].mu")
}

//go:noinline
func (c *Config) upgrade() {
	c.rw.RLock()
	defer c.rw.RUnlock()
	fixture.Announce("self", fixture.RWWrite)
	c.rw.Lock()
	c.values["k"] = "v"
	c.rw.Unlock()
}

func upgrade() {
	c := newConfig()
	go c.upgrade()
	settle(1)
	edge("self", "self", "rwmutex-write", &c.rw, "main.Config.rw")
	cycle("self")
}

//go:noinline
func (s *Store) tryAndFail() {
	if !s.mu.TryLock() {
		fixture.Announce("failed", fixture.Receive)
		<-park
		return
	}
	s.fd++
	s.mu.Unlock()
}

func tryFailed() {
	s := &Store{gate: make(chan int)}
	go s.closureUnlock()
	settle(1)
	go s.tryAndFail()
	settle(1)
	go waiter("waiter", &s.mu)
	settle(1)
	edge("waiter", "holder", "mutex", &s.mu, "main.Store.mu")
}

//go:noinline
func (s *Store) manyExits(n int) int {
	s.mu.Lock()
	if s.fd == 7 {
		s.mu.Unlock()
		return 1
	}
	fixture.Announce("holder", fixture.Receive)
	v := <-s.gate
	switch {
	case v == n:
		s.mu.Unlock()
		return 2
	case v > n:
		s.name = "more"
		s.mu.Unlock()
		return 3
	}
	for i := 0; i < v; i++ {
		s.fd += i
	}
	s.mu.Unlock()
	return 4
}

//go:noinline
func (s *Store) before() {
	s.mu.Lock()
	s.fd++
	s.mu.Unlock()
	fixture.Announce("before", fixture.Receive)
	<-park
	s.mu.Lock()
	s.fd--
	s.mu.Unlock()
}

func exits() {
	s := &Store{gate: make(chan int)}
	go s.before()
	settle(1)
	held1(s, func() { s.manyExits(3) })
}

//go:noinline
func lockTwo(a, b *Account) {
	a.mu.Lock()
	b.mu.Lock()
	fixture.Announce("holder", fixture.Receive)
	<-park
	b.mu.Unlock()
	a.mu.Unlock()
}

func twoLocks() {
	a, b := &Account{name: "a"}, &Account{name: "b"}
	go lockTwo(a, b)
	settle(1)
	go waiter("waiter1", &a.mu)
	settle(1)
	go waiter("waiter2", &b.mu)
	settle(1)
	edge("waiter1", "holder", "mutex", &a.mu, "main.Account.mu")
	edge("waiter2", "holder", "mutex", &b.mu, "main.Account.mu")
}

//go:noinline
func lostAndOther(lost *Account, other *Store) {
	other.mu.Lock()
	fixture.Announce("other", fixture.Receive)
	<-park
	lost.balance++
	other.mu.Unlock()
}

func exitedAndOther() {
	a, done := &Account{}, make(chan struct{})
	go lockAndLeave(&a.mu, done)
	<-done
	go lostAndOther(a, &Store{})
	settle(1)
	go waiter("waiter", &a.mu)
	settle(1)
	edge("waiter", "", "mutex", &a.mu, "main.Account.mu")
	keep = a
}

//go:noinline
func (s *Store) neverUnlocks() {
	s.mu.Lock()
	fixture.Announce("holder", fixture.Receive)
	for {
		s.fd += <-s.gate
	}
}

func neverUnlocked() {
	s := &Store{gate: make(chan int)}
	held1(s, s.neverUnlocks)
}

func init() {
	for name, f := range map[string]func(){
		"unlocked-meanwhile":  unlockedMeanwhile,
		"defer-before-lock":   deferBeforeLock,
		"baton-not-passed":    batonNotPassed,
		"cond-and-holder":     condAndHolder,
		"lock-helpers":        helpers,
		"many-locks":          manyLocks(lockAll),
		"many-locks-deferred": manyLocks(lockAllDeferred),
		"once-in-progress":    onceInProgress,
		"waitgroup-workers":   groupOfWorkers,
		"generic-guard":       genericGuard,
		"rwmutex-upgrade":     upgrade,
		"trylock-failed":      tryFailed,
		"many-exits":          exits,
		"two-locks":           twoLocks,
		"exited-and-other":    exitedAndOther,
		"never-unlocked":      neverUnlocked,
	} {
		scenarios[name] = f
	}
}
