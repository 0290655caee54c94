package main

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"hash/fnv"
	"net"
	"sync"
	"time"

	"gosleuth.test/fixtures/fixture"
)

// ---- A pool of connections that makes a new one while it holds its lock.

type poolConn struct {
	net.Conn
	r    *bufio.Reader
	used time.Time
}

type connPool struct {
	mu     sync.Mutex
	free   []*poolConn
	open   int
	max    int
	closed bool
	dial   func() (net.Conn, error)
}

var errPoolClosed = errors.New("pool is closed")

//go:noinline
func (p *connPool) get(name, expect string) (*poolConn, error) {
	fixture.Announce(name, expect)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errPoolClosed
	}
	if n := len(p.free); n > 0 {
		c := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	c, err := p.connect()
	if err != nil {
		p.mu.Unlock()
		return nil, err
	}
	p.open++
	p.mu.Unlock()
	return c, nil
}

//go:noinline
func (p *connPool) connect() (*poolConn, error) {
	nc, err := p.dial()
	if err != nil {
		return nil, err
	}
	c := &poolConn{Conn: nc, r: bufio.NewReader(nc), used: time.Now()}
	// The greeting of the server.
	if _, err := c.r.ReadString('\n'); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

//go:noinline
func (p *connPool) put(c *poolConn) {
	fixture.Announce("returns", fixture.Mutex)
	p.mu.Lock()
	defer p.mu.Unlock()
	c.used = time.Now()
	p.free = append(p.free, c)
}

func connPoolDial() {
	conn := connection()
	p := &connPool{max: 4, dial: func() (net.Conn, error) { return conn, nil }}
	go p.get("dials", fixture.IO)
	settle(1)
	go p.get("wants1", fixture.Mutex)
	go p.get("wants2", fixture.Mutex)
	go p.put(&poolConn{})
	settle(3)
	edge("wants1", "mutex", &p.mu, "dials")
	edge("wants2", "mutex", &p.mu, "dials")
	edge("returns", "mutex", &p.mu, "dials")
}

// ---- A pool as database/sql has it: who finds no connection leaves a request, who returns one answers it.

type sqlConn struct{ nc net.Conn }

type sqlDB struct {
	mu       sync.Mutex
	requests map[uint64]chan *sqlConn
	next     uint64
	free     []*sqlConn
	open     int
}

//go:noinline
func (db *sqlDB) conn(ctx context.Context, name string) (*sqlConn, error) {
	db.mu.Lock()
	if n := len(db.free); n > 0 {
		c := db.free[n-1]
		db.free = db.free[:n-1]
		db.mu.Unlock()
		return c, nil
	}
	req := make(chan *sqlConn, 1)
	db.next++
	key := db.next
	db.requests[key] = req
	db.mu.Unlock()
	lastRequest = req
	fixture.Announce(name, fixture.Select)
	select {
	case <-ctx.Done():
		db.mu.Lock()
		delete(db.requests, key)
		db.mu.Unlock()
		return nil, ctx.Err()
	case c := <-req:
		return c, nil
	}
}

var lastRequest chan *sqlConn

//go:noinline
func (db *sqlDB) putConn(c *sqlConn) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for key, req := range db.requests {
		delete(db.requests, key)
		req <- c
		return
	}
	db.free = append(db.free, c)
}

//go:noinline
func (db *sqlDB) query(name string, c *sqlConn) int {
	defer db.putConn(c)
	buf := make([]byte, 128)
	fixture.Announce(name, fixture.IO)
	n, _ := c.nc.Read(buf)
	return n
}

func sqlPoolExhausted() {
	db := &sqlDB{requests: map[uint64]chan *sqlConn{}}
	go db.query("query1", &sqlConn{connection()})
	go db.query("query2", &sqlConn{connection()})
	settle(2)
	ctx, cancel := context.WithCancel(context.Background())
	releasing = append(releasing, cancel)
	go db.conn(ctx, "waits")
	settle(1)
	maybe("waits", "select", lastRequest, "query1", "query2")
}

// ---- golang.org/x/sync/semaphore.

type weighted struct {
	size, cur int64
	mu        sync.Mutex
	waiters   list.List
}

type weightedWaiter struct {
	n     int64
	ready chan<- struct{}
}

//go:noinline
func (s *weighted) acquire(ctx context.Context, n int64, name string) error {
	s.mu.Lock()
	if s.size-s.cur >= n && s.waiters.Len() == 0 {
		s.cur += n
		s.mu.Unlock()
		return nil
	}
	ready := make(chan struct{})
	lastReady = ready
	elem := s.waiters.PushBack(weightedWaiter{n: n, ready: ready})
	s.mu.Unlock()
	fixture.Announce(name, fixture.Select)
	select {
	case <-ctx.Done():
		s.mu.Lock()
		s.waiters.Remove(elem)
		s.mu.Unlock()
		return ctx.Err()
	case <-ready:
		return nil
	}
}

var lastReady chan struct{}

//go:noinline
func (s *weighted) release(n int64) {
	s.mu.Lock()
	s.cur -= n
	s.notify()
	s.mu.Unlock()
}

func (s *weighted) notify() {
	for {
		next := s.waiters.Front()
		if next == nil {
			return
		}
		w := next.Value.(weightedWaiter)
		if s.size-s.cur < w.n {
			return
		}
		s.cur += w.n
		s.waiters.Remove(next)
		close(w.ready)
	}
}

//go:noinline
func (s *weighted) work(ctx context.Context, name string) {
	if s.acquire(ctx, 1, name) != nil {
		return
	}
	defer s.release(1)
	fixture.Announce(name, fixture.Receive)
	<-gate
}

func semaphoreWeighted() {
	s := &weighted{size: 2}
	ctx, cancel := context.WithCancel(context.Background())
	releasing = append(releasing, cancel)
	go s.work(ctx, "works1")
	go s.work(ctx, "works2")
	settle(2)
	go s.work(ctx, "queued")
	settle(1)
	maybe("queued", "select", lastReady, "works1", "works2")
}

// ---- A cache that loads what it misses under its write lock.

type cacheEntry struct {
	value   string
	expires time.Time
}

type cache struct {
	sync.RWMutex
	entries map[string]cacheEntry
	load    func(key string) (string, error)
	hits    int
}

//go:noinline
func (c *cache) lookup(key string) (string, bool) {
	c.RLock()
	defer c.RUnlock()
	e, ok := c.entries[key]
	return e.value, ok && time.Now().Before(e.expires)
}

//go:noinline
func (c *cache) fetch(key, name, expect string) (string, error) {
	if expect == fixture.RWRead {
		fixture.Announce(name, expect)
	}
	if v, ok := c.lookup(key); ok {
		return v, nil
	}
	if expect == writes {
		fixture.Announce(name, expect)
	}
	c.Lock()
	defer c.Unlock()
	if e, ok := c.entries[key]; ok && time.Now().Before(e.expires) {
		c.hits++
		return e.value, nil
	}
	v, err := c.load(key)
	if err != nil {
		return "", err
	}
	c.entries[key] = cacheEntry{v, time.Now().Add(time.Hour)}
	return v, nil
}

//go:noinline
func (c *cache) purge() {
	fixture.Announce("purges", writes)
	c.Lock()
	for k := range c.entries {
		delete(c.entries, k)
	}
	c.Unlock()
}

func cacheLoad() {
	c := &cache{entries: map[string]cacheEntry{}}
	c.load = func(key string) (string, error) {
		fixture.Announce("loads", fixture.Receive)
		<-gate
		return key + "!", nil
	}
	go c.fetch("user:1", "", "")
	settle(1)
	go c.fetch("user:2", "reads", fixture.RWRead)
	go c.purge()
	settle(2)
	edge("reads", "rwmutex-read", &c.RWMutex, "loads")
	edge("purges", "rwmutex-write", &c.RWMutex, "loads")
}

// ---- A map in shards, each with a lock of its own.

const shardCount = 16

type shard struct {
	sync.RWMutex
	items map[string]any
}

type shardedStore []*shard

func newShardedStore() shardedStore {
	m := make(shardedStore, shardCount)
	for i := range m {
		m[i] = &shard{items: map[string]any{}}
	}
	return m
}

func (m shardedStore) shard(key string) *shard {
	h := fnv.New32a()
	h.Write([]byte(key))
	return m[h.Sum32()%shardCount]
}

//go:noinline
func (m shardedStore) update(key string, f func(old any) any) {
	s := m.shard(key)
	s.Lock()
	s.items[key] = f(s.items[key])
	s.Unlock()
}

//go:noinline
func (m shardedStore) load(key, name string) (any, bool) {
	s := m.shard(key)
	fixture.Announce(name, fixture.RWRead)
	s.RLock()
	v, ok := s.items[key]
	s.RUnlock()
	return v, ok
}

//go:noinline
func (m shardedStore) each(f func(key string, v any) bool) {
	for _, s := range m {
		s.RLock()
		for k, v := range s.items {
			if !f(k, v) {
				s.RUnlock()
				return
			}
		}
		s.RUnlock()
	}
}

func shardedMap() {
	m := newShardedStore()
	m.shard("b").items["b"] = 1
	go m.update("a", func(any) any {
		fixture.Announce("updates", fixture.Receive)
		<-gate
		return 1
	})
	// Reads another shard: holds nothing that anybody wants.
	go m.each(func(string, any) bool {
		fixture.Announce("walks", fixture.Receive)
		<-gate
		return false
	})
	settle(2)
	if m.shard("a") == m.shard("b") {
		fixture.Fail("one shard")
	}
	go m.load("a", "reads1")
	go m.load("a", "reads2")
	settle(2)
	edge("reads1", "rwmutex-read", &m.shard("a").RWMutex, "updates")
	edge("reads2", "rwmutex-read", &m.shard("a").RWMutex, "updates")
}

// ---- Locks in an array, picked by a hash.

type stripes struct {
	locks [32]sync.Mutex
	rows  [32]map[uint64]int
}

//go:noinline
func (s *stripes) with(id uint64, name, expect string, f func(row map[uint64]int)) {
	i := id % uint64(len(s.locks))
	if expect == fixture.Mutex {
		fixture.Announce(name, expect)
	}
	s.locks[i].Lock()
	defer s.locks[i].Unlock()
	if s.rows[i] == nil {
		s.rows[i] = map[uint64]int{}
	}
	f(s.rows[i])
}

func stripedLocks() {
	s := &stripes{}
	hold := func(name string) func(map[uint64]int) {
		return func(row map[uint64]int) {
			fixture.Announce(name, fixture.Receive)
			<-gate
			row[1]++
		}
	}
	go s.with(5, "", "", hold("five"))
	go s.with(38, "", "", hold("six"))
	settle(2)
	go s.with(37, "wants5", fixture.Mutex, func(map[uint64]int) {})
	go s.with(70, "wants6", fixture.Mutex, func(map[uint64]int) {})
	settle(2)
	edge("wants5", "mutex", &s.locks[5], "five")
	edge("wants6", "mutex", &s.locks[6], "six")
}

// ---- A mutex for each key, made when it is needed.

type keyLock struct {
	mu   sync.Mutex
	refs int
}

type keyedLocks struct {
	mu sync.Mutex
	m  map[string]*keyLock
}

//go:noinline
func (k *keyedLocks) lock(key string) {
	k.mu.Lock()
	l := k.m[key]
	if l == nil {
		l = &keyLock{}
		k.m[key] = l
	}
	l.refs++
	k.mu.Unlock()
	l.mu.Lock()
}

//go:noinline
func (k *keyedLocks) unlock(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.m[key]
	if l.refs--; l.refs == 0 {
		delete(k.m, key)
	}
	l.mu.Unlock()
}

//go:noinline
func (k *keyedLocks) withdraw(account, name string) {
	k.lock(account)
	defer k.unlock(account)
	fixture.Announce(name, fixture.Receive)
	<-gate
}

//go:noinline
func (k *keyedLocks) deposit(account, name string) {
	fixture.Announce(name, fixture.Mutex)
	k.lock(account)
	k.unlock(account)
}

func keyedMutex() {
	k := &keyedLocks{m: map[string]*keyLock{}}
	go k.withdraw("alice", "alice")
	go k.withdraw("bob", "bob")
	settle(2)
	go k.deposit("alice", "toAlice")
	go k.deposit("bob", "toBob")
	settle(2)
	edge("toAlice", "mutex", &k.m["alice"].mu, "alice")
	edge("toBob", "mutex", &k.m["bob"].mu, "bob")
	fixture.Fact("map", addr(k.m))
}

// ---- golang.org/x/sync/singleflight.

type flightCall struct {
	wg   sync.WaitGroup
	val  any
	err  error
	dups int
}

type flightGroup struct {
	mu sync.Mutex
	m  map[string]*flightCall
}

//go:noinline
func (g *flightGroup) do(key, name string, fn func() (any, error)) (any, error) {
	g.mu.Lock()
	if g.m == nil {
		g.m = map[string]*flightCall{}
	}
	if c, ok := g.m[key]; ok {
		c.dups++
		g.mu.Unlock()
		fixture.Announce(name, fixture.WaitGroup)
		c.wg.Wait()
		return c.val, c.err
	}
	c := new(flightCall)
	c.wg.Add(1)
	g.m[key] = c
	g.mu.Unlock()
	g.call(c, key, fn)
	return c.val, c.err
}

//go:noinline
func (g *flightGroup) call(c *flightCall, key string, fn func() (any, error)) {
	normal, recovered := false, false
	defer func() {
		if !normal && !recovered {
			c.err = errors.New("runtime.Goexit was called")
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		c.wg.Done()
		if g.m[key] == c {
			delete(g.m, key)
		}
	}()
	func() {
		defer func() {
			if !normal {
				if r := recover(); r != nil {
					c.err = errors.New("panic")
				}
			}
		}()
		c.val, c.err = fn()
		normal = true
	}()
	if !normal {
		recovered = true
	}
}

func singleflight() {
	g, conn := &flightGroup{}, connection()
	fetch := func() (any, error) {
		buf := make([]byte, 16)
		fixture.Announce("leads", fixture.IO)
		n, err := conn.Read(buf)
		return n, err
	}
	go g.do("k", "", fetch)
	settle(1)
	go g.do("k", "follows1", fetch)
	go g.do("k", "follows2", fetch)
	settle(2)
	edge("follows1", "waitgroup", &g.m["k"].wg, "leads")
	edge("follows2", "waitgroup", &g.m["k"].wg, "leads")
}

// ---- Generics.

type genericStore[K comparable, V any] struct {
	name string
	rw   sync.RWMutex
	m    map[K]V
}

//go:noinline
func (s *genericStore[K, V]) update(k K, f func(V, bool) V) V {
	s.rw.Lock()
	defer s.rw.Unlock()
	old, ok := s.m[k]
	v := f(old, ok)
	s.m[k] = v
	return v
}

//go:noinline
func (s *genericStore[K, V]) get(k K) (v V, ok bool) {
	s.rw.RLock()
	defer s.rw.RUnlock()
	v, ok = s.m[k]
	return
}

//go:noinline
func getOrMake[K comparable, V any](s *genericStore[K, V], k K, mk func() V) V {
	return s.update(k, func(old V, ok bool) V {
		if ok {
			return old
		}
		return mk()
	})
}

type session struct {
	user string
	hits [4]int
}

func genericCache() {
	s := &genericStore[string, session]{m: map[string]session{}}
	go getOrMake(s, "a", func() session {
		fixture.Announce("makes", fixture.Sleep)
		time.Sleep(10 * time.Hour)
		return session{user: "a"}
	})
	settle(1)
	go func() {
		fixture.Announce("gets", fixture.RWRead)
		s.get("b")
	}()
	go func() {
		fixture.Announce("updates", writes)
		s.update("b", func(v session, _ bool) session { return v })
	}()
	settle(2)
	edge("gets", "rwmutex-read", &s.rw, "makes")
	edge("updates", "rwmutex-write", &s.rw, "makes")
}

// ---- Writes, then goes on as a reader.

type table struct {
	rw   sync.RWMutex
	rows []int
}

//go:noinline
func (t *table) refresh() int {
	t.rw.Lock()
	t.rows = append(t.rows, len(t.rows))
	t.rw.Unlock()
	t.rw.RLock()
	defer t.rw.RUnlock()
	fixture.Announce("reads", fixture.Receive)
	<-gate
	return len(t.rows)
}

//go:noinline
func (t *table) insert() {
	fixture.Announce("inserts", writes)
	t.rw.Lock()
	t.rows = append(t.rows, 0)
	t.rw.Unlock()
}

func downgrade() {
	t := &table{}
	go t.refresh()
	settle(1)
	go t.insert()
	settle(1)
	edge("inserts", "rwmutex-write", &t.rw, "reads")
}

// ---- A struct that is copied while its lock is held: nobody ever lets go of the copy's.

type gauge struct {
	mu    sync.Mutex
	value float64
	tags  []string
}

//go:noinline
func (g *gauge) set(v float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fixture.Announce("sets", fixture.Receive)
	<-gate
	g.value = v
}

//go:noinline
func (g *gauge) read() float64 {
	fixture.Announce("reads", fixture.Mutex)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.value
}

func copiedStruct() {
	g := &gauge{tags: []string{"a"}}
	go g.set(1)
	settle(1)
	c := new(gauge)
	copyGauge(c, g)
	go c.read()
	settle(1)
	edge("reads", "mutex", &c.mu)
	stuck("reads")
}

//go:noinline
func copyGauge(to, from *gauge) { *to = *from }

// ---- One item after the other.

type buffer struct {
	mu   sync.Mutex
	data []byte
}

type writerSet struct{ items []buffer }

//go:noinline
func (w *writerSet) flushAll(slow int) {
	for i := range w.items {
		b := &w.items[i]
		b.mu.Lock()
		if i == slow {
			flushSlow()
		}
		b.data = b.data[:0]
		b.mu.Unlock()
	}
}

//go:noinline
func flushSlow() {
	fixture.Announce("flushes", fixture.Receive)
	<-gate
}

//go:noinline
func (w *writerSet) write(i int, p []byte) {
	fixture.Announce("writes", fixture.Mutex)
	b := &w.items[i]
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
}

func sliceOfItems() {
	w := &writerSet{items: make([]buffer, 8)}
	go w.flushAll(3)
	settle(1)
	go w.write(3, []byte("x"))
	settle(1)
	edge("writes", "mutex", &w.items[3].mu, "flushes")
}
