package main

import (
	"container/list"
	"context"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"gosleuth.test/fixtures/fixture"
	"gosleuth.test/fixtures/leaks/registry"
)

// User is what caches hold.
type User struct {
	ID    int
	Name  string
	Prefs [24]uint64
	Boss  *User
}

// Event is what lists, channels and listeners hold.
type Event struct {
	Kind string
	Data [240]byte
	Next *Event
}

// Conn has a buffer, like a connection.
type Conn struct {
	ID  int
	Buf []byte
}

// App holds its sessions in a field, not in a global of their own.
type App struct {
	name     string
	sessions map[uint64]*User
}

// Lru forgets to evict.
type Lru struct {
	order *list.List
	index map[int]*list.Element
}

// Knot and its twin refer to each other, and one has a finalizer.
type Knot struct {
	Twin *Knot
	Data [1000]byte
}

func (c *Conn) handle(e *Event) { c.ID++ }

var (
	cache      = map[string]*User{}
	history    []*Event
	listeners  []func(*Event)
	subs       []func(*Event)
	handlers   = map[string]func() int{}
	app        = &App{name: "app", sessions: map[uint64]*User{}}
	pool       sync.Pool
	headers    [][]byte
	tokens     []string
	backlog    chan *Event
	lru        = &Lru{list.New(), map[int]*list.Element{}}
	sparse     = map[int][4]uint64{}
	chain      *Event
	labels     []string
	reserves   [][]byte
	syncCache  sync.Map
	rootCtx, _ = context.WithCancel(context.Background())
	poolBlocks int
	steps      chan int
)

type requestKey struct{}

const (
	waitStart = 10 * time.Millisecond
	far       = 1000 * time.Hour
)

func users(from, n int, put func(int, *User)) {
	for i := from; i < from+n; i++ {
		put(i, &User{ID: i, Name: "user-" + strconv.Itoa(i)})
	}
}

// newBuffer is not inlined, so that the buffer is on the heap and not in the caller's frame.
//
//go:noinline
func newBuffer(n int) []byte { return make([]byte, n) }

//go:noinline
func newConn(id, n int) *Conn { return &Conn{ID: id, Buf: make([]byte, n)} }

//go:noinline
func consume(c chan *Event, started chan struct{}) {
	buffer := newBuffer(16 << 10)
	started <- struct{}{}
	for e := range c {
		copy(buffer, e.Data[:])
	}
	runtime.KeepAlive(buffer)
}

//go:noinline
func deliver(out chan<- []byte, body []byte, started chan struct{}) {
	started <- struct{}{}
	out <- body
}

//go:noinline
func pollForever(id int, started chan struct{}) {
	ticker := time.NewTicker(far)
	c := newConn(id, 16<<10)
	started <- struct{}{}
	for range ticker.C {
		c.ID++
	}
}

// settleDown gives goroutines that announced themselves the moment they need to block.
func settleDown(started chan struct{}, n int) {
	for i := 0; i < n; i++ {
		<-started
	}
	time.Sleep(waitStart)
}

//go:noinline
func deferLoop(steps chan int, done chan struct{}) {
	for n := range steps {
		for i := 0; i < n; i++ {
			c := &Conn{ID: i, Buf: make([]byte, 1024)}
			defer func() { c.Buf = nil }()
		}
		done <- struct{}{}
	}
}

var stepDone = make(chan struct{})

var leaks = map[string]*Leak{
	"global-map": {
		pattern: "global-map", holder: "global main.cache", typ: "main.User", objects: 5000, bytes: 5000 * 224,
		add: func(b int) {
			users(b*5000, 5000, func(i int, u *User) { cache[u.Name] = u })
		},
	},
	"struct-field-map": {
		pattern: "global-map", holder: "global main.app", typ: "main.User", objects: 5000, bytes: 5000 * 224,
		add: func(b int) {
			users(b*5000, 5000, func(i int, u *User) { app.sessions[uint64(i)] = u })
		},
	},
	"sync-map": {
		pattern: "global-map", holder: "global main.syncCache", typ: "main.User", objects: 5000, bytes: 5000 * 224,
		add: func(b int) {
			users(b*5000, 5000, func(i int, u *User) { syncCache.Store(i, u) })
		},
	},
	"global-slice": {
		pattern: "global-slice", holder: "global main.history", typ: "main.Event", objects: 5000, bytes: 5000 * 264,
		add: func(b int) {
			for i := 0; i < 5000; i++ {
				history = append(history, &Event{Kind: "history"})
			}
		},
	},
	"package-slice": {
		pattern: "global-slice", holder: "global gosleuth.test/fixtures/leaks/registry.items", typ: "registry.Item",
		objects: 5000, bytes: 5000 * 224,
		add: func(b int) {
			for i := 0; i < 5000; i++ {
				registry.Register("item")
			}
		},
	},
	"listener-list": {
		pattern: "listener-list", holder: "global main.listeners", typ: "main.Conn", objects: 1000, bytes: 1000 * (32 + 2048),
		also: []string{"closure-capture"},
		add: func(b int) {
			for i := 0; i < 1000; i++ {
				c := &Conn{ID: i, Buf: make([]byte, 2048)}
				listeners = append(listeners, func(e *Event) { c.ID += len(e.Kind) })
			}
		},
	},
	"method-listeners": {
		pattern: "listener-list", holder: "global main.subs", typ: "main.Conn", objects: 1000, bytes: 1000 * (32 + 2048),
		also: []string{"closure-capture"},
		add: func(b int) {
			for i := 0; i < 1000; i++ {
				subs = append(subs, (&Conn{ID: i, Buf: make([]byte, 2048)}).handle)
			}
		},
	},
	"closure-capture": {
		pattern: "closure-capture", holder: "global main.handlers", typ: "main.Conn", objects: 1000, bytes: 1000 * (32 + 2048),
		also: []string{"global-map"},
		add: func(b int) {
			for i := 0; i < 1000; i++ {
				c := &Conn{ID: i, Buf: make([]byte, 2048)}
				handlers["/"+strconv.Itoa(b*1000+i)] = func() int { c.ID++; return len(c.Buf) }
			}
		},
	},
	"goroutine-pile-up": {
		pattern: "goroutine-pile-up", holder: "goroutine main.consume", typ: "[]uint8", objects: 200, bytes: 200 << 14,
		add: func(b int) {
			started := make(chan struct{})
			for i := 0; i < 200; i++ {
				go consume(make(chan *Event), started)
			}
			settleDown(started, 200)
		},
	},
	"blocked-senders": {
		pattern: "goroutine-pile-up", holder: "goroutine main.deliver", typ: "[]uint8", objects: 200, bytes: 200 << 13,
		add: func(b int) {
			started := make(chan struct{})
			for i := 0; i < 200; i++ {
				go deliver(make(chan []byte), make([]byte, 8192), started)
			}
			settleDown(started, 200)
		},
	},
	"timer-not-stopped": {
		pattern: "timer-not-stopped", holder: "timer", typ: "main.Conn", objects: 500, bytes: 500 * (32 + 4096),
		add: func(b int) {
			for i := 0; i < 500; i++ {
				c := &Conn{ID: i, Buf: make([]byte, 4096)}
				time.AfterFunc(far, func() { c.ID++ })
			}
		},
	},
	"ticker-not-stopped": {
		pattern: "ticker-not-stopped", holder: "goroutine main.pollForever", typ: "main.Conn", objects: 100,
		bytes: 100 * (32 + 16<<10), also: []string{"goroutine-pile-up"},
		add: func(b int) {
			started := make(chan struct{})
			for i := 0; i < 100; i++ {
				go pollForever(i, started)
			}
			settleDown(started, 100)
		},
	},
	"context-not-cancelled": {
		pattern: "context-not-cancelled", holder: "global main.rootCtx", typ: "main.Conn", objects: 500, bytes: 500 * (32 + 4096),
		add: func(b int) {
			for i := 0; i < 500; i++ {
				ctx := context.WithValue(rootCtx, requestKey{}, &Conn{ID: i, Buf: make([]byte, 4096)})
				_, cancel := context.WithCancel(ctx)
				runtime.KeepAlive(cancel)
			}
		},
	},
	"context-timeouts": {
		pattern: "context-not-cancelled", holder: "timer", typ: "main.Conn", objects: 500, bytes: 500 * (32 + 4096),
		also: []string{"timer-not-stopped"},
		add: func(b int) {
			for i := 0; i < 500; i++ {
				ctx := context.WithValue(context.Background(), requestKey{}, &Conn{ID: i, Buf: make([]byte, 4096)})
				_, cancel := context.WithTimeout(ctx, far)
				runtime.KeepAlive(cancel)
			}
		},
	},
	"finalizer-cycle": {
		pattern: "finalizer-cycle", holder: "finalizer", typ: "main.Knot", objects: 2000, bytes: 2000 * 1008,
		add: func(b int) {
			for i := 0; i < 1000; i++ {
				k := &Knot{}
				k.Twin = &Knot{Twin: k}
				runtime.SetFinalizer(k, func(*Knot) {})
			}
		},
	},
	"pool-hoard": {
		pattern: "pool-hoard", holder: "global main.pool", typ: "main.Conn", objects: 50, bytes: 50 * (32 + 64<<10),
		add:    func(b int) { poolBlocks = (b + 1) * 50 },
		refill: hoard,
	},
	"subslice-pin": {
		pattern: "subslice-pin", holder: "global main.headers", typ: "[]uint8", objects: 50, bytes: 50 * 64 << 10,
		add: func(b int) {
			for i := 0; i < 50; i++ {
				body := make([]byte, 64<<10)
				headers = append(headers, body[100:116])
			}
		},
	},
	"substring-pin": {
		pattern: "substring-pin", holder: "global main.tokens", typ: "string", objects: 50, bytes: 50 * 64 << 10,
		add: func(b int) {
			for i := 0; i < 50; i++ {
				body := strings.Repeat("0123456789abcdef", 4096)
				tokens = append(tokens, body[i:i+20])
			}
		},
	},
	"response-body-not-closed": {
		pattern: "response-body-not-closed", holder: "goroutine net/http.(*persistConn).readLoop", typ: "net/http.persistConn",
		objects: 40, bytes: 40 * 8192, also: []string{"goroutine-pile-up"},
		prepare: closeBody, add: leakBodies,
	},
	"channel-backlog": {
		pattern: "channel-backlog", holder: "global main.backlog", typ: "main.Event", objects: 5000, bytes: 5000 * 264,
		add: func(b int) {
			if backlog == nil {
				backlog = make(chan *Event, 1<<17)
			}
			for i := 0; i < 5000; i++ {
				select {
				case backlog <- &Event{Kind: "queued"}:
				default:
					fixture.Fail("the backlog is full")
				}
			}
		},
	},
	"lru-without-eviction": {
		pattern: "global-map", holder: "global main.lru", typ: "main.User", objects: 5000, bytes: 5000 * 224,
		also: []string{"linked-list"},
		add: func(b int) {
			users(b*5000, 5000, func(i int, u *User) { lru.index[i] = lru.order.PushFront(u) })
		},
	},
	"sparse-map": {
		pattern: "sparse-map", holder: "global main.sparse", typ: "map[int][4]uint64", objects: 1, once: true,
		add: func(b int) {
			// A map never gives back its tables: the larger peak decides.
			peak := 25000 << uint(b)
			if b > 6 {
				peak = 25000 << 6
			}
			for i := 0; i < peak; i++ {
				sparse[i] = [4]uint64{1}
			}
			for i := 0; i < peak-10; i++ {
				delete(sparse, i)
			}
		},
	},
	"linked-list": {
		pattern: "linked-list", holder: "global main.chain", typ: "main.Event", objects: 5000, bytes: 5000 * 264,
		add: func(b int) {
			for i := 0; i < 5000; i++ {
				chain = &Event{Kind: "chained", Next: chain}
			}
		},
	},
	"duplicate-strings": {
		pattern: "duplicate-strings", holder: "global main.labels", typ: "string", objects: 10000, bytes: 10000 * 63,
		also: []string{"global-slice"},
		add: func(b int) {
			base := []byte(strings.Repeat("environment=production,", 3)[:63])
			for i := 0; i < 10000; i++ {
				base[0] = 'a' + byte(i%4)
				labels = append(labels, string(base))
			}
		},
	},
	"slack-capacity": {
		pattern: "slack-capacity", holder: "global main.reserves", typ: "[]uint8", objects: 50, bytes: 50 * 64 << 10,
		also: []string{"global-slice"},
		add: func(b int) {
			for i := 0; i < 50; i++ {
				reserves = append(reserves, make([]byte, 10, 64<<10))
			}
		},
	},
	"defer-in-loop": {
		pattern: "defer-in-loop", holder: "goroutine main.deferLoop", typ: "main.Conn", objects: 1000, bytes: 1000 * (32 + 1024),
		also: []string{"goroutine-pile-up"},
		add: func(b int) {
			if steps == nil {
				steps = make(chan int)
				go deferLoop(steps, stepDone)
			}
			steps <- 1000
			<-stepDone
		},
	},
}

// hoard fills the pool as a burst of requests would: far more buffers than are ever in use at once.
func hoard() {
	for i := 0; i < poolBlocks; i++ {
		pool.Put(&Conn{ID: i, Buf: make([]byte, 64<<10)})
	}
}
