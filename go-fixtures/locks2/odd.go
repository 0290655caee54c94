package main

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"gosleuth.test/fixtures/fixture"
)

//go:noinline
func wants(name string, mu *sync.Mutex) {
	fixture.Announce(name, fixture.Mutex)
	mu.Lock()
	mu.Unlock()
}

// ---- A client that is made once, with a handshake.

type client struct {
	conn net.Conn
	info string
}

var (
	clientOnce sync.Once
	theClient  *client
)

//go:noinline
func getClient(conn net.Conn, name, expect string) *client {
	if expect == fixture.Mutex {
		fixture.Announce(name, expect)
	}
	clientOnce.Do(func() {
		c := &client{conn: conn}
		if err := c.handshake(name); err == nil {
			theClient = c
		}
	})
	return theClient
}

//go:noinline
func (c *client) handshake(name string) error {
	var hello [64]byte
	fixture.Announce(name, fixture.IO)
	n, err := io.ReadFull(c.conn, hello[:])
	c.info = string(hello[:n])
	return err
}

func onceNetwork() {
	conn := connection()
	go getClient(conn, "makes", fixture.IO)
	settle(1)
	go getClient(conn, "waits1", fixture.Mutex)
	go getClient(conn, "waits2", fixture.Mutex)
	settle(2)
	edge("waits1", "once", &clientOnce, "makes")
	edge("waits2", "once", &clientOnce, "makes")
}

// ---- A lock of an own type behind sync.Locker, in an embedded pointer.

type countingLock struct {
	mu    sync.Mutex
	count int
}

func (l *countingLock) Lock() {
	l.mu.Lock()
	l.count++
}

func (l *countingLock) Unlock() {
	l.count--
	l.mu.Unlock()
}

type base struct {
	sync.Locker
	state string
}

type orderService struct {
	*base
	orders []int
}

//go:noinline
func (s *orderService) place(n int) {
	s.Lock()
	defer s.Unlock()
	s.orders = append(s.orders, n)
	s.confirm()
}

//go:noinline
func (s *orderService) confirm() {
	fixture.Announce("places", fixture.Receive)
	<-gate
	s.state = "confirmed"
}

//go:noinline
func (s *orderService) list() []int {
	fixture.Announce("lists", fixture.Mutex)
	s.Lock()
	out := append([]int(nil), s.orders...)
	s.Unlock()
	return out
}

func nestedLocker() {
	l := &countingLock{}
	s := &orderService{base: &base{Locker: l}}
	go s.place(1)
	settle(1)
	go s.list()
	settle(1)
	edge("lists", "mutex", &l.mu, "places")
}

// ---- Lock and Unlock as method values.

//go:noinline
func guarded(enter, leave func(), f func()) {
	enter()
	defer leave()
	f()
}

func methodValues() {
	s := &struct {
		n  int
		mu sync.Mutex
	}{}
	go guarded(s.mu.Lock, s.mu.Unlock, func() {
		fixture.Announce("inside", fixture.Receive)
		<-gate
		s.n++
	})
	settle(1)
	go wants("wants", &s.mu)
	settle(1)
	edge("wants", "mutex", &s.mu, "inside")
}

// ---- defer s.acquire()().

type ledger struct {
	mu  sync.Mutex
	sum int
}

//go:noinline
func (l *ledger) acquire() func() {
	l.mu.Lock()
	return l.mu.Unlock
}

//go:noinline
func (l *ledger) scoped(name string) func() {
	l.mu.Lock()
	start := time.Now()
	return func() {
		if time.Since(start) > time.Hour {
			l.sum = -1
		}
		l.mu.Unlock()
	}
}

//go:noinline
func (l *ledger) add(n int, name string) {
	defer l.acquire()()
	fixture.Announce(name, fixture.Receive)
	<-gate
	l.sum += n
}

//go:noinline
func (l *ledger) audit(name string) {
	done := l.scoped(name)
	defer done()
	fixture.Announce(name, fixture.Receive)
	<-gate
}

func unlockFunc() {
	a, b := &ledger{}, &ledger{}
	go a.add(1, "adds")
	go b.audit("audits")
	settle(2)
	go wants("wantsA", &a.mu)
	go wants("wantsB", &b.mu)
	settle(2)
	edge("wantsA", "mutex", &a.mu, "adds")
	edge("wantsB", "mutex", &b.mu, "audits")
}

// ---- defer in a loop, blocked in its middle.

//go:noinline
func lockInOrder(all []*ledger, name string) int {
	sum := 0
	for i, l := range all {
		if i == 2 {
			fixture.Announce(name, fixture.Mutex)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		sum += l.sum
	}
	return sum
}

func deferInLoop() {
	all := []*ledger{{}, {}, {}, {}}
	go all[2].add(1, "adds")
	settle(1)
	go lockInOrder(all, "locks")
	settle(1)
	go wants("wants0", &all[0].mu)
	go wants("wants1", &all[1].mu)
	settle(2)
	edge("locks", "mutex", &all[2].mu, "adds")
	edge("wants0", "mutex", &all[0].mu, "locks")
	edge("wants1", "mutex", &all[1].mu, "locks")
}

// ---- TryLock.

var errBusy = errors.New("busy")

//go:noinline
func (l *ledger) tryRun(name string) error {
	if !l.mu.TryLock() {
		fixture.Announce(name, fixture.Receive)
		<-gate
		return errBusy
	}
	defer l.mu.Unlock()
	fixture.Announce(name, fixture.Receive)
	<-gate
	l.sum++
	return nil
}

func tryLockBusy() {
	l := &ledger{}
	go l.tryRun("runs")
	settle(1)
	go l.tryRun("busy")
	settle(1)
	go wants("wants", &l.mu)
	settle(1)
	edge("wants", "mutex", &l.mu, "runs")
}

// ---- A panic that was recovered, the lock let go of by a deferred call, and life goes on.

//go:noinline
func (l *ledger) risky() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p *ledger
	l.sum += p.sum
}

//go:noinline
func (l *ledger) safely(name string) {
	func() {
		defer func() { _ = recover() }()
		l.risky()
	}()
	fixture.Announce(name, fixture.Receive)
	<-gate
	l.mu.Lock()
	l.sum++
	l.mu.Unlock()
}

func recovered() {
	l := &ledger{}
	go l.safely("survives")
	settle(1)
	go l.add(1, "adds")
	settle(1)
	go wants("wants", &l.mu)
	settle(1)
	edge("wants", "mutex", &l.mu, "adds")
}

// ---- A panic on its way out, held up by a deferred call; the Unlock comes after it.

//go:noinline
func (l *ledger) report(name string) {
	fixture.Announce(name, fixture.Receive)
	<-gate
}

//go:noinline
func (l *ledger) failing(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.report(name)
	var m map[string]int
	m["x"] = l.sum
}

func panickingNow() {
	l := &ledger{}
	go func() {
		defer func() { _ = recover() }()
		l.failing("reports")
	}()
	settle(1)
	go wants("wants", &l.mu)
	settle(1)
	edge("wants", "mutex", &l.mu, "reports")
}

// ---- A path out that forgets the lock.

type parser struct {
	mu    sync.Mutex
	lines int
}

var errSyntax = errors.New("syntax")

//go:noinline
func (p *parser) feed(r *bytes.Reader, before func()) error {
	before()
	p.mu.Lock()
	b, err := r.ReadByte()
	if err != nil {
		return err
	}
	if b == '\n' {
		p.lines++
	}
	p.mu.Unlock()
	return nil
}

func errorPath() {
	p := &parser{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.feed(bytes.NewReader(nil), func() {})
	}()
	<-done
	time.Sleep(10 * time.Millisecond)
	// Comes to a Lock and an Unlock later, and holds nothing.
	go p.feed(bytes.NewReader([]byte("\n")), func() {
		fixture.Announce("before", fixture.Receive)
		<-gate
	})
	for _, n := range []string{"feeds1", "feeds2"} {
		n := n
		go p.feed(bytes.NewReader([]byte("\n")), func() { fixture.Announce(n, fixture.Mutex) })
	}
	settle(3)
	edge("feeds1", "mutex", &p.mu)
	edge("feeds2", "mutex", &p.mu)
	stuck("feeds1", "feeds2", "before")
}

// ---- Helpers that the compiler inlines.

type meter struct {
	_  int
	mu sync.Mutex
	n  map[string]int
}

func (m *meter) enter()       { m.mu.Lock() }
func (m *meter) leave()       { m.mu.Unlock() }
func (m *meter) inc(k string) { m.enter(); m.n[k]++; m.leave() }

type service struct {
	id    int
	meter meter
}

//go:noinline
func (s *service) export(name string) int {
	s.meter.enter()
	sum := 0
	for _, v := range s.meter.n {
		sum += v
	}
	fixture.Announce(name, fixture.Receive)
	<-gate
	s.meter.leave()
	return sum
}

//go:noinline
func (s *service) serve(name string) {
	fixture.Announce(name, fixture.Mutex)
	s.meter.inc("served")
}

func inlinedHelpers() {
	s := &service{meter: meter{n: map[string]int{}}}
	go s.export("exports")
	settle(1)
	go s.serve("serves")
	settle(1)
	edge("serves", "mutex", &s.meter.mu, "exports")
}

// ---- Three readers, three ways.

//go:noinline
func readDeferred(rw *sync.RWMutex) {
	rw.RLock()
	defer rw.RUnlock()
	fixture.Announce("deferred", fixture.Receive)
	<-gate
}

//go:noinline
func readExplicit(rw *sync.RWMutex) {
	rw.RLock()
	fixture.Announce("explicit", fixture.Receive)
	<-gate
	rw.RUnlock()
}

//go:noinline
func readLocker(l sync.Locker) {
	l.Lock()
	defer l.Unlock()
	fixture.Announce("locker", fixture.Receive)
	<-gate
}

func readersThreeWays() {
	s := &settings{kv: map[string]string{}}
	go readDeferred(&s.rw)
	go readExplicit(&s.rw)
	go readLocker(s.rw.RLocker())
	settle(3)
	go s.set("sets")
	settle(1)
	edge("sets", "rwmutex-write", &s.rw, "deferred", "explicit", "locker")
}

// ---- A flag that says how to lock.

//go:noinline
func (s *settings) view(write bool, name string) {
	if write {
		s.rw.Lock()
		defer s.rw.Unlock()
	} else {
		s.rw.RLock()
		defer s.rw.RUnlock()
	}
	fixture.Announce(name, fixture.Receive)
	<-gate
}

func flagDecides() {
	a, b := &settings{kv: map[string]string{}}, &settings{kv: map[string]string{}}
	go a.view(true, "writesA")
	go b.view(false, "readsB")
	settle(2)
	go a.set("setsA")
	go b.set("setsB")
	settle(2)
	edge("setsA", "rwmutex-write", &a.rw, "writesA")
	edge("setsB", "rwmutex-write", &b.rw, "readsB")
}

// ---- Lets go of the lock around what is slow.

//go:noinline
func (l *ledger) sync(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.sum
	l.mu.Unlock()
	fixture.Announce(name, fixture.Receive)
	<-gate
	l.mu.Lock()
	if l.sum == before {
		l.sum = 0
	}
}

func unlockAround() {
	l := &ledger{}
	go l.sync("syncs")
	settle(1)
	go l.add(1, "adds")
	settle(1)
	go wants("wants", &l.mu)
	go l.sync2("syncsToo")
	settle(2)
	edge("wants", "mutex", &l.mu, "adds")
	edge("syncsToo", "mutex", &l.mu, "adds")
}

//go:noinline
func (l *ledger) sync2(name string) {
	fixture.Announce(name, fixture.Mutex)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum++
}

// ---- time.AfterFunc.

func timerCallback() {
	l := &ledger{}
	time.AfterFunc(time.Millisecond, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		fixture.Announce("fires", fixture.Receive)
		<-gate
		l.sum++
	})
	settle(1)
	go wants("wants", &l.mu)
	settle(1)
	edge("wants", "mutex", &l.mu, "fires")
}

// ---- A lock that is a local variable.

//go:noinline
func countAll(words []string, slow func()) map[string]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]int{}
	localMu, localWg = &mu, &wg
	for i, w := range words {
		i, w := i, w
		wg.Add(1)
		go func() {
			defer wg.Done()
			if i > 0 {
				for len(out) == 0 {
					time.Sleep(time.Millisecond)
				}
				fixture.Announce(w, fixture.Mutex)
			}
			mu.Lock()
			out[w]++
			if i == 0 {
				slow()
			}
			mu.Unlock()
		}()
	}
	fixture.Announce("counts", fixture.WaitGroup)
	wg.Wait()
	return out
}

var (
	localMu *sync.Mutex
	localWg *sync.WaitGroup
)

func localMutex() {
	go countAll([]string{"a", "b"}, func() {
		fixture.Announce("a", fixture.Receive)
		<-gate
	})
	settle(3)
	edge("b", "mutex", localMu, "a")
	edge("counts", "waitgroup", localWg, "a", "b")
}

// ---- The standard library's own locks.

type fdWriter int

//go:noinline
func (w fdWriter) Write(p []byte) (int, error) {
	for i := 0; i < 1<<20; i += 4096 {
		if n, err := syscall.Write(int(w), make([]byte, 4096)); n <= 0 || err != nil {
			return n, err
		}
	}
	return len(p), nil
}

func stdLogger() {
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		fixture.Fail(err.Error())
	}
	releasing = append(releasing, func() { syscall.Close(p[0]) })
	l := log.New(fdWriter(p[1]), "", 0)
	say := func(name, expect string) {
		fixture.Announce(name, expect)
		l.Printf("hello %s", name)
	}
	go say("writes", fixture.Syscall)
	settle(1)
	go say("logs1", fixture.Mutex)
	go say("logs2", fixture.Mutex)
	settle(2)
	edge("logs1", "mutex", hidden, "writes")
	edge("logs2", "mutex", hidden, "writes")
}

func stdPipe() {
	r, w := io.Pipe()
	say := func(name, expect string) {
		fixture.Announce(name, expect)
		w.Write([]byte(name))
	}
	go say("first", fixture.Select)
	settle(1)
	go say("second", fixture.Mutex)
	settle(1)
	edge("second", "mutex", hidden, "first")
	releasing = append(releasing, func() { r.Close() })
}

// Two write to one connection whose peer does not read: the second waits for the descriptor's own lock.
func twoWriters() {
	c := connection()
	send := func(name, expect string) {
		big := make([]byte, 64<<20)
		fixture.Announce(name, expect)
		c.Write(big)
	}
	go send("first", fixture.IO)
	settle(1)
	go send("second", "semacquire")
	settle(1)
	edge("second", "semaphore", hidden, "first")
}

// ---- A finalizer that wants a lock: no finalizer runs any more.

type handle struct {
	pool *ledger
	fd   int
	buf  [64]byte
}

//go:noinline
func dropHandle(l *ledger) {
	h := &handle{pool: l}
	runtime.SetFinalizer(h, func(h *handle) {
		fixture.Announce("finalizes", fixture.Mutex)
		h.pool.mu.Lock()
		h.pool.sum--
		h.pool.mu.Unlock()
	})
}

func finalizerBlocked() {
	l := &ledger{}
	go l.add(1, "adds")
	settle(1)
	dropHandle(l)
	runtime.GC()
	settle(1)
	edge("finalizes", "mutex", &l.mu, "adds")
}

// ---- A select under a lock that offers the lock's own data.

type mux struct {
	mu   sync.Mutex
	subs []chan int
	n    int
}

//go:noinline
func (m *mux) offer(done <-chan struct{}, deadline <-chan time.Time) bool {
	m.mu.Lock()
	fixture.Announce("offers", fixture.Select)
	select {
	case m.subs[0] <- m.n:
		m.n++
	case m.subs[1] <- -m.n:
		m.n--
	case <-done:
		m.mu.Unlock()
		return false
	case <-deadline:
		m.n = 0
	}
	m.mu.Unlock()
	return true
}

func selectUnderLock() {
	m := &mux{subs: []chan int{make(chan int), make(chan int)}}
	go m.offer(gate, time.After(10*time.Hour))
	settle(1)
	go wants("wants", &m.mu)
	settle(1)
	edge("wants", "mutex", &m.mu, "offers")
}
