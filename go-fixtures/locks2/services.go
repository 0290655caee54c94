package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"gosleuth.test/fixtures/fixture"
)

// ---- golang.org/x/sync/errgroup.

type group struct {
	wg      sync.WaitGroup
	sem     chan struct{}
	errOnce sync.Once
	err     error
	cancel  func()
}

func (g *group) done() {
	if g.sem != nil {
		<-g.sem
	}
	g.wg.Done()
}

//go:noinline
func (g *group) wait() error {
	fixture.Announce("waits", fixture.WaitGroup)
	g.wg.Wait()
	if g.cancel != nil {
		g.cancel()
	}
	return g.err
}

func (g *group) run(f func() error) {
	if g.sem != nil {
		g.sem <- struct{}{}
	}
	g.wg.Add(1)
	go func() {
		defer g.done()
		if err := f(); err != nil {
			g.errOnce.Do(func() {
				g.err = err
				if g.cancel != nil {
					g.cancel()
				}
			})
		}
	}()
}

func errGroup() {
	g := &group{sem: make(chan struct{}, 8)}
	results := make(chan int)
	for _, name := range []string{"a", "b", "c"} {
		name := name
		g.run(func() error {
			fixture.Announce(name, fixture.Send)
			results <- len(name)
			return nil
		})
	}
	settle(3)
	go g.wait()
	settle(1)
	edge("waits", "waitgroup", &g.wg, "a", "b", "c")
	stuck("a", "b", "c", "waits")
}

// ---- Waits for the workers before it takes their results.

//go:noinline
func collect(urls []string, results chan int, wg *sync.WaitGroup) (sum int) {
	for _, u := range urls {
		wg.Add(1)
		go func(u string) {
			defer wg.Done()
			fixture.Announce(u, fixture.Send)
			results <- len(u)
		}(u)
	}
	fixture.Announce("collects", fixture.WaitGroup)
	wg.Wait()
	close(results)
	for r := range results {
		sum += r
	}
	return sum
}

func fanInWaitFirst() {
	results, wg := make(chan int), new(sync.WaitGroup)
	go collect([]string{"a", "b"}, results, wg)
	settle(3)
	edge("collects", "waitgroup", wg, "a", "b")
	edge("a", "chan-send", results, "collects")
	edge("b", "chan-send", results, "collects")
	cycle("collects", "a")
	cycle("collects", "b")
	stuck("collects", "a", "b")
}

// ---- Workers that want the lock of who feeds them.

type workerPool struct {
	mu    sync.Mutex
	jobs  chan func()
	done  map[int]int
	total int
}

//go:noinline
func (p *workerPool) worker(id int, name string) {
	for job := range p.jobs {
		job()
		fixture.Announce(name, fixture.Mutex)
		p.mu.Lock()
		p.done[id]++
		p.mu.Unlock()
	}
}

//go:noinline
func (p *workerPool) submitAll(jobs []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, j := range jobs {
		if i == 2 {
			fixture.Announce("submits", fixture.Send)
		}
		p.jobs <- j
		p.total++
	}
}

func workerPoolStats() {
	p := &workerPool{jobs: make(chan func()), done: map[int]int{}}
	go p.worker(1, "worker1")
	go p.worker(2, "worker2")
	time.Sleep(10 * time.Millisecond)
	nothing := func() { time.Sleep(5 * time.Millisecond) }
	go p.submitAll([]func(){nothing, nothing, nothing, nothing})
	settle(3)
	edge("worker1", "mutex", &p.mu, "submits")
	edge("worker2", "mutex", &p.mu, "submits")
	edge("submits", "chan-send", p.jobs, "worker1", "worker2")
	cycle("submits", "worker1")
	cycle("submits", "worker2")
	stuck("submits", "worker1", "worker2")
}

// ---- A hub that sends under its read lock; a subscriber that leaves in the middle.

type message struct {
	topic string
	last  bool
}

type subscriber struct {
	ch chan message
}

type hub struct {
	mu   sync.RWMutex
	subs map[*subscriber]struct{}
}

//go:noinline
func (h *hub) publish(name, expect string, msgs ...message) {
	if expect == fixture.RWRead {
		fixture.Announce(name, expect)
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for s := range h.subs {
		for i, m := range msgs {
			if i == len(msgs)-1 && expect == fixture.Send {
				fixture.Announce(name, expect)
			}
			s.ch <- m
		}
	}
}

//go:noinline
func (h *hub) unsubscribe(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

//go:noinline
func (h *hub) consume(s *subscriber) {
	for m := range s.ch {
		if m.last {
			fixture.Announce("leaves", writes)
			h.unsubscribe(s)
		}
	}
}

func pubsub() {
	h := &hub{subs: map[*subscriber]struct{}{}}
	s := &subscriber{ch: make(chan message)}
	h.subs[s] = struct{}{}
	go h.consume(s)
	go h.publish("publishes", fixture.Send, message{topic: "a"}, message{last: true}, message{topic: "b"})
	settle(2)
	go h.publish("late", fixture.RWRead, message{topic: "c"})
	settle(1)
	edge("leaves", "rwmutex-write", &h.mu, "publishes")
	edge("publishes", "chan-send", s.ch, "leaves")
	edge("late", "rwmutex-read", &h.mu, "leaves", "publishes")
	cycle("leaves", "publishes")
	stuck("leaves", "publishes", "late")
}

// ---- A limiter behind an interface that sleeps under its lock.

type limiter interface {
	wait(ctx context.Context) error
}

type tokenBucket struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
	every  time.Duration
}

//go:noinline
func (b *tokenBucket) wait(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens += float64(now.Sub(b.last)) / float64(b.every)
	b.last = now
	if b.tokens >= 1 {
		b.tokens--
		return nil
	}
	t := time.NewTimer(b.every)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type apiClient struct {
	limit limiter
	calls int64
}

//go:noinline
func (c *apiClient) call(ctx context.Context, name, expect string) error {
	fixture.Announce(name, expect)
	if err := c.limit.wait(ctx); err != nil {
		return err
	}
	atomic.AddInt64(&c.calls, 1)
	return nil
}

func rateLimiter() {
	b := &tokenBucket{every: 10 * time.Hour, last: time.Now()}
	c := &apiClient{limit: b}
	ctx, cancel := context.WithCancel(context.Background())
	releasing = append(releasing, cancel)
	go c.call(ctx, "sleeps", fixture.Select)
	settle(1)
	go c.call(ctx, "calls1", fixture.Mutex)
	go c.call(ctx, "calls2", fixture.Mutex)
	settle(2)
	edge("calls1", "mutex", &b.mu, "sleeps")
	edge("calls2", "mutex", &b.mu, "sleeps")
}

// ---- A shutdown that waits for handlers while it holds what they need to end.

type server struct {
	mu    sync.Mutex
	conns map[int]struct{}
	wg    sync.WaitGroup
	down  bool
}

//go:noinline
func (s *server) forget(id int, name string) {
	fixture.Announce(name, fixture.Mutex)
	s.mu.Lock()
	delete(s.conns, id)
	s.mu.Unlock()
}

//go:noinline
func (s *server) handle(id int, name string, quit chan struct{}) {
	defer s.wg.Done()
	defer s.forget(id, name)
	<-quit
}

//go:noinline
func (s *server) shutdown(quit chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	close(quit)
	fixture.Announce("shutdown", fixture.WaitGroup)
	s.wg.Wait()
}

func gracefulShutdown() {
	s, quit := &server{conns: map[int]struct{}{1: {}, 2: {}}}, make(chan struct{})
	s.wg.Add(2)
	go s.handle(1, "handler1", quit)
	go s.handle(2, "handler2", quit)
	time.Sleep(10 * time.Millisecond)
	go s.shutdown(quit)
	settle(3)
	edge("handler1", "mutex", &s.mu, "shutdown")
	edge("handler2", "mutex", &s.mu, "shutdown")
	edge("shutdown", "waitgroup", &s.wg, "handler1", "handler2")
	cycle("shutdown", "handler1")
	cycle("shutdown", "handler2")
	stuck("handler1", "handler2", "shutdown")
}

// ---- A tree of contexts whose callbacks run under the parent's lock.

type node struct {
	mu       sync.Mutex
	parent   *node
	children map[*node]bool
	after    []func()
	done     bool
}

func (n *node) child() *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &node{parent: n, children: map[*node]bool{}}
	n.children[c] = true
	return c
}

//go:noinline
func (n *node) cancel(fromParent bool) {
	n.mu.Lock()
	if n.done {
		n.mu.Unlock()
		return
	}
	n.done = true
	for c := range n.children {
		c.cancel(true)
	}
	for _, f := range n.after {
		f()
	}
	n.mu.Unlock()
	if !fromParent && n.parent != nil {
		n.parent.remove(n)
	}
}

//go:noinline
func (n *node) remove(c *node) {
	n.mu.Lock()
	delete(n.children, c)
	n.mu.Unlock()
}

func contextTree() {
	root := &node{children: map[*node]bool{}}
	c := root.child()
	c.after = append(c.after, func() {
		fixture.Announce("cancels", fixture.Mutex)
		root.remove(c)
	})
	go root.cancel(false)
	settle(1)
	go func() {
		fixture.Announce("adds", fixture.Mutex)
		root.child()
	}()
	settle(1)
	edge("cancels", "mutex", &root.mu, "cancels")
	edge("adds", "mutex", &root.mu, "cancels")
	cycle("cancels")
	stuck("cancels", "adds")
}

// ---- A bounded queue of two Conds.

type queue struct {
	mu       sync.Mutex
	notEmpty *sync.Cond
	notFull  *sync.Cond
	items    []int
	max      int
}

func newQueue(n int) *queue {
	q := &queue{max: n}
	q.notEmpty, q.notFull = sync.NewCond(&q.mu), sync.NewCond(&q.mu)
	return q
}

//go:noinline
func (q *queue) put(f func() int) {
	q.mu.Lock()
	for len(q.items) >= q.max {
		q.notFull.Wait()
	}
	q.items = append(q.items, f())
	q.notEmpty.Signal()
	q.mu.Unlock()
}

//go:noinline
func (q *queue) take(name string) int {
	q.mu.Lock()
	for len(q.items) == 0 {
		fixture.Announce(name, fixture.Cond)
		q.notEmpty.Wait()
	}
	v := q.items[0]
	q.items = q.items[1:]
	q.notFull.Signal()
	q.mu.Unlock()
	return v
}

func condQueue() {
	q := newQueue(4)
	go q.take("takes1")
	go q.take("takes2")
	settle(2)
	go q.put(func() int {
		fixture.Announce("puts", fixture.Receive)
		<-gate
		return 1
	})
	settle(1)
	go func() {
		fixture.Announce("putsToo", fixture.Mutex)
		q.put(func() int { return 2 })
	}()
	settle(1)
	edge("takes1", "cond", q.notEmpty, "puts", "putsToo")
	edge("takes2", "cond", q.notEmpty, "puts", "putsToo")
	edge("putsToo", "mutex", &q.mu, "puts")
}

// A woken waiter has to take the lock again, which another has meanwhile.
type latch struct {
	mu   sync.Mutex
	cond sync.Cond
	open bool
	log  []string
}

//go:noinline
func (l *latch) await() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.open {
		fixture.Announce("awaits", fixture.Mutex)
		l.cond.Wait()
	}
}

//go:noinline
func (l *latch) release() {
	l.mu.Lock()
	l.open = true
	l.cond.Broadcast()
	fixture.Announce("opens", fixture.Receive)
	<-gate
	l.log = append(l.log, "open")
	l.mu.Unlock()
}

func condRelock() {
	l := &latch{}
	l.cond.L = &l.mu
	go l.await()
	time.Sleep(20 * time.Millisecond)
	go l.release()
	settle(2)
	edge("awaits", "mutex", &l.mu, "opens")
}

// ---- Actors that call each other.

type request struct {
	n     int
	reply chan int
}

type actor struct {
	name  string
	inbox chan request
	peer  *actor
}

//go:noinline
func (a *actor) ask(r request) int {
	a.inbox <- r
	return <-r.reply
}

//go:noinline
func (a *actor) loop(tell func()) {
	for r := range a.inbox {
		if r.n > 0 {
			tell()
			r.n = a.peer.ask(request{r.n - 1, make(chan int)})
		}
		r.reply <- r.n + 1
	}
}

func actors() {
	a, b := &actor{name: "a", inbox: make(chan request)}, &actor{name: "b", inbox: make(chan request)}
	a.peer, b.peer = b, a
	lastReply := make(chan int)
	go a.loop(func() { fixture.Announce("a", fixture.Receive) })
	go b.loop(func() { fixture.Announce("b", fixture.Send) })
	go func() {
		fixture.Announce("asks", fixture.Receive)
		a.ask(request{2, lastReply})
	}()
	settle(3)
	edge("b", "chan-send", a.inbox, "a")
	maybe("a", "chan-receive", hidden, "b")
	maybe("asks", "chan-receive", lastReply, "a")
	cycle("a", "b")
	stuck("a", "b", "asks")
}

// ---- A flusher that sleeps without the lock, and one who holds it.

type batcher struct {
	mu    sync.Mutex
	queue []string
	wake  chan struct{}
	stop  bool
}

//go:noinline
func (b *batcher) loop() {
	b.mu.Lock()
	for !b.stop {
		for len(b.queue) == 0 && !b.stop {
			b.mu.Unlock()
			fixture.Announce("flusher", fixture.Receive)
			<-b.wake
			b.mu.Lock()
		}
		b.queue = b.queue[:0]
	}
	b.mu.Unlock()
}

//go:noinline
func (b *batcher) addAll(next func() (string, bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		s, ok := next()
		if !ok {
			return
		}
		b.queue = append(b.queue, s)
	}
}

func flusher() {
	b := &batcher{wake: make(chan struct{})}
	go b.loop()
	settle(1)
	go b.addAll(func() (string, bool) {
		fixture.Announce("adds", fixture.Receive)
		<-gate
		return "", false
	})
	settle(1)
	go func() {
		fixture.Announce("addsToo", fixture.Mutex)
		b.addAll(func() (string, bool) { return "", false })
	}()
	settle(1)
	edge("addsToo", "mutex", &b.mu, "adds")
	// Nobody sends to it: that is not asked.
	stuck("flusher")
}

// ---- A job that is locked where it is made and unlocked where it is done.

type job struct {
	mu   sync.Mutex
	id   int
	data []byte
	conn net.Conn
}

//go:noinline
func runJobs(jobs <-chan *job) {
	for j := range jobs {
		fixture.Announce("runs", fixture.IO)
		n, _ := j.conn.Read(j.data)
		j.data = j.data[:n]
		j.mu.Unlock()
	}
}

//go:noinline
func schedule(j *job, jobs chan<- *job) {
	j.mu.Lock()
	jobs <- j
}

func jobHandedOver() {
	j, jobs := &job{data: make([]byte, 8), conn: connection()}, make(chan *job)
	go runJobs(jobs)
	go schedule(j, jobs)
	settle(1)
	go func() {
		fixture.Announce("looks", fixture.Mutex)
		j.mu.Lock()
		defer j.mu.Unlock()
		j.id++
	}()
	settle(1)
	edge("looks", "mutex", &j.mu, "runs")
	close(jobs)
}

// ---- net/http with a middleware that serialises requests.

type sessionStore struct {
	mu    sync.Mutex
	users map[string]int
}

func serialise(s *sessionStore, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			fixture.Announce("second", fixture.Mutex)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users[r.RemoteAddr]++
		next.ServeHTTP(w, r)
	})
}

func upload(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/upload" {
		fixture.Announce("uploads", fixture.IO)
	}
	body, _ := io.ReadAll(r.Body)
	w.Write(body)
}

func httpSession() {
	s := &sessionStore{users: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fixture.Fail(err.Error())
	}
	go http.Serve(l, serialise(s, http.HandlerFunc(upload)))
	for _, ask := range []string{"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			fixture.Fail(err.Error())
		}
		io.WriteString(c, ask)
		keepConns = append(keepConns, c)
		releasing = append(releasing, func() { c.Close() })
		settle(1)
	}
	edge("second", "mutex", &s.mu, "uploads")
}

// ---- A registry that calls back under its read lock.

type component interface{ tick() }

type registry struct {
	rw  sync.RWMutex
	all []component
}

//go:noinline
func (r *registry) each(f func(component)) {
	r.rw.RLock()
	defer r.rw.RUnlock()
	for _, c := range r.all {
		f(c)
	}
}

//go:noinline
func (r *registry) remove(c component) {
	r.rw.Lock()
	defer r.rw.Unlock()
	for i := range r.all {
		if r.all[i] == c {
			r.all = append(r.all[:i:i], r.all[i+1:]...)
			return
		}
	}
}

type expiring struct {
	of   *registry
	left int
}

//go:noinline
func (e *expiring) tick() {
	if e.left--; e.left <= 0 {
		fixture.Announce("ticks", writes)
		e.of.remove(e)
	}
}

func registryEach() {
	r := &registry{}
	r.all = append(r.all, &expiring{r, 5}, &expiring{r, 1})
	go r.each(func(c component) { c.tick() })
	settle(1)
	edge("ticks", "rwmutex-write", &r.rw, "ticks")
	cycle("ticks")
	stuck("ticks")
}

// ---- Two stores that ask each other, each under its own lock.

type observer interface{ notify(n int) }

type memStore struct {
	mu    sync.Mutex
	rows  []int
	index observer
}

type indexStore struct {
	sync.Mutex
	keys  map[int]int
	table interface{ size() int }
}

//go:noinline
func (m *memStore) insert(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = append(m.rows, n)
	meet(2)
	fixture.Announce("inserts", fixture.Mutex)
	m.index.notify(n)
}

//go:noinline
func (m *memStore) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows)
}

//go:noinline
func (x *indexStore) notify(n int) {
	x.Lock()
	defer x.Unlock()
	x.keys[n]++
}

//go:noinline
func (x *indexStore) compact() int {
	x.Lock()
	meet(2)
	fixture.Announce("compacts", fixture.Mutex)
	n := x.table.size()
	if n > len(x.keys) {
		x.keys = map[int]int{}
	}
	x.Unlock()
	return n
}

func abba() {
	x := &indexStore{keys: map[int]int{}}
	m := &memStore{index: x}
	x.table = m
	go m.insert(1)
	go x.compact()
	settle(2)
	edge("inserts", "mutex", &x.Mutex, "compacts")
	edge("compacts", "mutex", &m.mu, "inserts")
	cycle("inserts", "compacts")
	stuck("inserts", "compacts")
}

// ---- Two RWMutexes, read in different order, with writers between.

type settings struct {
	rw sync.RWMutex
	kv map[string]string
}

//go:noinline
func (s *settings) merged(other *settings, tell func()) int {
	s.rw.RLock()
	defer s.rw.RUnlock()
	tell()
	other.rw.RLock()
	defer other.rw.RUnlock()
	return len(s.kv) + len(other.kv)
}

//go:noinline
func (s *settings) set(name string) {
	fixture.Announce(name, writes)
	s.rw.Lock()
	s.kv[name] = name
	s.rw.Unlock()
}

func twoRWMutexes() {
	a, b := &settings{kv: map[string]string{}}, &settings{kv: map[string]string{}}
	goOn := make(chan struct{})
	tell := func(name string) func() {
		return func() {
			meet(2)
			<-goOn
			fixture.Announce(name, fixture.RWRead)
		}
	}
	go a.merged(b, tell("ab"))
	go b.merged(a, tell("ba"))
	for atomic.LoadInt32(&arrived) < 2 {
		time.Sleep(time.Millisecond)
	}
	go a.set("setsA")
	go b.set("setsB")
	settle(2)
	close(goOn)
	settle(2)
	edge("setsA", "rwmutex-write", &a.rw, "ab")
	edge("setsB", "rwmutex-write", &b.rw, "ba")
	edge("ab", "rwmutex-read", &b.rw, "setsB", "ba")
	edge("ba", "rwmutex-read", &a.rw, "setsA", "ab")
	cycle("ab", "setsB", "ba", "setsA")
	stuck("ab", "ba", "setsA", "setsB")
}

// ---- A global of an unnamed type with its lock embedded.

type plugin interface{ init() error }

var plugins = struct {
	sync.RWMutex
	m     map[string]plugin
	order []string
}{m: map[string]plugin{}}

type slowPlugin struct{ in chan struct{} }

//go:noinline
func (p *slowPlugin) init() error {
	fixture.Announce("registers", fixture.Receive)
	<-p.in
	return nil
}

//go:noinline
func registerPlugin(name string, p plugin) error {
	plugins.Lock()
	defer plugins.Unlock()
	if err := p.init(); err != nil {
		return err
	}
	plugins.m[name] = p
	plugins.order = append(plugins.order, name)
	return nil
}

//go:noinline
func findPlugin(name string) plugin {
	fixture.Announce("finds", fixture.RWRead)
	plugins.RLock()
	p := plugins.m[name]
	plugins.RUnlock()
	return p
}

func pluginGlobal() {
	go registerPlugin("slow", &slowPlugin{gate})
	settle(1)
	go findPlugin("slow")
	settle(1)
	edge("finds", "rwmutex-read", &plugins.RWMutex, "registers")
}

// ---- Nothing is wrong here.

func healthyIdle() {
	q := newQueue(4)
	jobs := make(chan func())
	go q.take("consumer")
	for _, n := range []string{"idle1", "idle2", "idle3"} {
		n := n
		go func() {
			fixture.Announce(n, fixture.Receive)
			for j := range jobs {
				j()
			}
		}()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fixture.Fail(err.Error())
	}
	go func() {
		fixture.Announce("accepts", fixture.IO)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	go func() {
		t := time.NewTicker(time.Hour)
		defer t.Stop()
		fixture.Announce("ticks", fixture.Select)
		for {
			select {
			case <-t.C:
				q.put(func() int { return 1 })
			case <-gate:
				q.put(func() int { return 1 })
				close(jobs)
				return
			}
		}
	}()
	settle(6)
	releasing = append(releasing, func() { l.Close() })
	maybe("consumer", "cond", q.notEmpty, "ticks")
	for _, n := range []string{"idle1", "idle2", "idle3"} {
		maybe(n, "chan-receive", jobs, "ticks")
	}
}
