package main

import (
	"sync"
	"time"

	"gosleuth.test/fixtures/fixture"
)

var (
	gFirst, gSecond sync.Mutex
	healthy         bool
)

//go:noinline
func transferForth() {
	gFirst.Lock()
	defer gFirst.Unlock()
	meet(2)
	fixture.Announce("forth", fixture.Mutex)
	gSecond.Lock()
	defer gSecond.Unlock()
}

//go:noinline
func transferBack() {
	gSecond.Lock()
	meet(2)
	fixture.Announce("back", fixture.Mutex)
	gFirst.Lock()
	gFirst.Unlock()
	gSecond.Unlock()
}

func mutexCycle2() {
	go transferForth()
	go transferBack()
	settle(2)
	edge("forth", "back", "mutex", &gSecond, "global main.gSecond")
	edge("back", "forth", "mutex", &gFirst, "global main.gFirst")
	cycle("forth", "back")
}

// Account has its lock in a field.
type Account struct {
	balance int
	mu      sync.Mutex
	name    string
}

//go:noinline
func (a *Account) moveTo(b *Account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	meet(3)
	fixture.Announce(a.name, fixture.Mutex)
	b.mu.Lock()
	b.balance++
	b.mu.Unlock()
}

func mutexCycle3() {
	a, b, c := &Account{name: "a"}, &Account{name: "b"}, &Account{name: "c"}
	go a.moveTo(b)
	go b.moveTo(c)
	go c.moveTo(a)
	settle(3)
	edge("a", "b", "mutex", &b.mu, "main.Account.mu")
	edge("b", "c", "mutex", &c.mu, "main.Account.mu")
	edge("c", "a", "mutex", &a.mu, "main.Account.mu")
	cycle("a", "b", "c")
}

// Config is read by many and written by few.
type Config struct {
	rw     sync.RWMutex
	values map[string]string
	gate   chan string
}

//go:noinline
func (c *Config) readAndBlock() string {
	c.rw.RLock()
	defer c.rw.RUnlock()
	fixture.Announce("reader", fixture.Receive)
	return <-c.gate
}

//go:noinline
func (c *Config) write() {
	fixture.Announce("writer", fixture.RWWrite)
	c.rw.Lock()
	defer c.rw.Unlock()
	c.values["k"] = "v"
}

//go:noinline
func (c *Config) read(name string) string {
	fixture.Announce(name, fixture.RWRead)
	c.rw.RLock()
	defer c.rw.RUnlock()
	return c.values["k"]
}

func newConfig() *Config { return &Config{values: map[string]string{}, gate: make(chan string)} }

func writerStarvation() {
	c := newConfig()
	go c.readAndBlock()
	settle(1)
	go c.write()
	settle(1)
	go c.read("late1")
	go c.read("late2")
	settle(2)
	edge("writer", "reader", "rwmutex-write", &c.rw, "main.Config.rw")
	edge("late1", "writer", "rwmutex-read", &c.rw, "main.Config.rw", "reader")
	edge("late2", "writer", "rwmutex-read", &c.rw, "main.Config.rw", "reader")
}

//go:noinline
func (c *Config) writeAndBlock() {
	c.rw.Lock()
	defer c.rw.Unlock()
	fixture.Announce("writer", fixture.Receive)
	c.values["k"] = <-c.gate
}

func rwWriteHeld() {
	c := newConfig()
	go c.writeAndBlock()
	settle(1)
	go c.read("reader1")
	go c.read("reader2")
	settle(2)
	edge("reader1", "writer", "rwmutex-read", &c.rw, "main.Config.rw")
	edge("reader2", "writer", "rwmutex-read", &c.rw, "main.Config.rw")
}

//go:noinline
func (c *Config) readTwice(proceed chan struct{}) string {
	c.rw.RLock()
	defer c.rw.RUnlock()
	fixture.Announce("reader", fixture.Receive)
	<-proceed
	return c.again()
}

//go:noinline
func (c *Config) again() string {
	fixture.Announce("readerAgain", fixture.RWRead)
	c.rw.RLock()
	defer c.rw.RUnlock()
	return c.values["k"]
}

func doubleRLock() {
	c := newConfig()
	proceed := make(chan struct{})
	go c.readTwice(proceed)
	fixture.Settle(1)
	fixture.Forget()
	go c.write()
	settle(1)
	close(proceed)
	settle(1)
	edge("writer", "readerAgain", "rwmutex-write", &c.rw, "main.Config.rw")
	edge("readerAgain", "writer", "rwmutex-read", &c.rw, "main.Config.rw", "readerAgain")
	cycle("writer", "readerAgain")
}

// Queue mixes a lock and a channel.
type Queue struct {
	mu    sync.Mutex
	items chan int
}

//go:noinline
func (q *Queue) put(v int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	meet(2)
	fixture.Announce("producer", fixture.Send)
	q.items <- v
}

//go:noinline
func (q *Queue) take() int {
	meet(2)
	fixture.Announce("consumer", fixture.Mutex)
	q.mu.Lock()
	defer q.mu.Unlock()
	return <-q.items
}

func chanMutex() {
	q := &Queue{items: make(chan int)}
	go q.put(1)
	go q.take()
	settle(2)
	edge("consumer", "producer", "mutex", &q.mu, "main.Queue.mu")
	edge("producer", "consumer", "chan-send", q.items, "main.Queue.items")
	cycle("consumer", "producer")
}

func miscountedGroup() {
	wg := new(sync.WaitGroup)
	wg.Add(3)
	for i := 0; i < 2; i++ {
		go func() { defer wg.Done() }()
	}
	go func() {
		fixture.Announce("waiter", fixture.WaitGroup)
		wg.Wait()
	}()
	settle(1)
	edge("waiter", "", "waitgroup", wg, "heap sync.WaitGroup")
}

// Mailbox waits on a Cond that nobody signals.
type Mailbox struct {
	mu    sync.Mutex
	cond  *sync.Cond
	mails []string
}

//go:noinline
func (m *Mailbox) receive() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.mails) == 0 {
		fixture.Announce("receiver", fixture.Cond)
		m.cond.Wait()
	}
	return m.mails[0]
}

func condWithoutSignal() {
	m := &Mailbox{}
	m.cond = sync.NewCond(&m.mu)
	go m.receive()
	settle(1)
	edge("receiver", "", "cond", m.cond, "main.Mailbox.cond")
}

//go:noinline
func reentrant(o *sync.Once) {
	o.Do(func() {
		fixture.Announce("self", fixture.Mutex)
		o.Do(func() {})
	})
}

func onceReentered() {
	o := new(sync.Once)
	go reentrant(o)
	settle(1)
	edge("self", "self", "once", o, "heap sync.Once")
	cycle("self")
}

//go:noinline
func (a *Account) lockTwice() {
	a.mu.Lock()
	defer a.mu.Unlock()
	fixture.Announce("self", fixture.Mutex)
	a.mu.Lock()
	a.balance++
	a.mu.Unlock()
}

func selfDeadlock() {
	a := &Account{}
	go a.lockTwice()
	settle(1)
	edge("self", "self", "mutex", &a.mu, "main.Account.mu")
	cycle("self")
}

//go:noinline
func lockAndLeave(mu *sync.Mutex, done chan struct{}) {
	mu.Lock()
	close(done)
}

func holderExited() {
	a := &Account{}
	done := make(chan struct{})
	go lockAndLeave(&a.mu, done)
	<-done
	time.Sleep(10 * time.Millisecond)
	go waiter("waiter", &a.mu)
	settle(1)
	edge("waiter", "", "mutex", &a.mu, "main.Account.mu")
	keep = a
}

var keep any
