// heap plants N objects of one shape: `heap SHAPE N`.
package main

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gosleuth.test/fixtures/fixture"
)

// Session is a small object of 96 bytes with pointers.
type Session struct {
	ID    uint64
	Next  *Session
	Owner *User
	Name  string
	Tags  [5]uint64
	Last  *Session
}

// User is an object of 48 bytes.
type User struct {
	Name  string
	Mail  string
	Peers *User
	Age   int
}

// Node is a list element of 64 bytes.
type Node struct {
	Next  *Node
	Value [6]uint64
	Prev  *Node
}

// Record is what the wide map holds.
type Record struct {
	Key   uint64
	Owner *User
	Data  [4]uint64
}

// Request, Header, Route and Server make the mixed, server-like heap.
type Request struct {
	ID      uint64
	Method  string
	Path    string
	Headers map[string]string
	Body    []byte
	Session *Session
	Done    chan struct{}
}

// Route is reached through an interface.
type Route struct {
	Pattern string
	Handler func(*Request) int
	Hits    []*Request
}

// Handler is implemented by *Route.
type Handler interface{ Serve(*Request) int }

// Serve answers a request.
func (r *Route) Serve(q *Request) int { return r.Handler(q) }

// Server is the root of the mixed heap.
type Server struct {
	Routes   map[string]Handler
	Sessions map[uint64]*Session
	Users    []*User
	Log      []string
	Cache    map[string][]byte
	Any      []any
}

var (
	gSessions []*Session
	gList     *Node
	gMap      map[uint64]*Record
	gBytes    [][]byte
	gServer   *Server
	gUser     *User
	park      = make(chan struct{})
	gChans    []chan *Session
	sink      []byte
)

func small(n int) {
	gUser = &User{Name: "owner"}
	gSessions = make([]*Session, n)
	for i := range gSessions {
		s := &Session{ID: uint64(i), Owner: gUser, Name: "session"}
		if i > 0 {
			s.Next = gSessions[i-1]
			s.Last = gSessions[i/2]
		}
		gSessions[i] = s
	}
	fixture.Count("main.Session", n)
	fixture.Count("main.User", 1)
	fixture.Plant("gSessions", "slice", "global main.gSessions", gSessions)
	fixture.Fact("type_bytes", n*96)
}

func list(n int) {
	for i := 0; i < n; i++ {
		e := &Node{Next: gList}
		e.Value[0] = uint64(i)
		if gList != nil {
			gList.Prev = e
		}
		gList = e
	}
	fixture.Count("main.Node", n)
	if n > 0 {
		fixture.Plant("gList", "pointer", "global main.gList", gList)
	}
	fixture.Fact("type_bytes", n*64)
}

func wideMap(n int) {
	gUser = &User{Name: "owner"}
	gMap = map[uint64]*Record{}
	for i := 0; i < n; i++ {
		gMap[uint64(i)] = &Record{Key: uint64(i), Owner: gUser}
	}
	fixture.Count("main.Record", n)
	fixture.Count("main.User", 1)
	fixture.Plant("gMap", "map", "global main.gMap", gMap)
	fixture.Fact("type_bytes", n*48)
}

func byteSlices(mib int) {
	for i := 0; i < mib; i++ {
		b := make([]byte, 1<<20)
		for at := 0; at < len(b); at += 4096 {
			b[at] = byte(i)
		}
		gBytes = append(gBytes, b)
	}
	fixture.Count("[]uint8", mib)
	fixture.Plant("gBytes", "slice", "global main.gBytes", gBytes)
	fixture.Fact("type_bytes", mib<<20)
}

func mixed(n int) {
	s := &Server{
		Routes:   map[string]Handler{},
		Sessions: map[uint64]*Session{},
		Cache:    map[string][]byte{},
	}
	requests, sessions, users, strs, bodies, maps := 0, 0, 0, 0, 0, 0
	var routes []*Route
	for i := 0; i < 16; i++ {
		weight := i
		r := &Route{Pattern: "/r/" + strconv.Itoa(i), Handler: func(q *Request) int { return len(q.Body) + weight }}
		routes = append(routes, r)
		s.Routes[r.Pattern] = r
	}
	made := 0
	for i := 0; made < n; i++ {
		switch i % 6 {
		case 0:
			s.Users = append(s.Users, &User{Name: "user-" + strconv.Itoa(i), Age: i})
			users++
			strs++
			made += 2
		case 1:
			e := &Session{ID: uint64(i), Owner: s.Users[len(s.Users)/2]}
			s.Sessions[e.ID] = e
			sessions++
			made++
		case 2:
			q := &Request{ID: uint64(i), Method: "GET", Path: "/p/" + strconv.Itoa(i), Body: make([]byte, 200+i%800)}
			if i%5 == 0 {
				q.Headers = map[string]string{"Accept": "*/*", "X-Id": strconv.Itoa(i)}
				q.Done = make(chan struct{})
				maps++
				made += 4
			}
			r := routes[i%len(routes)]
			r.Hits = append(r.Hits, q)
			requests++
			bodies++
			made += 3
		case 3:
			s.Log = append(s.Log, "event number "+strconv.Itoa(i)+" of the log")
			strs++
			made++
		case 4:
			s.Cache["cache/"+strconv.Itoa(i)] = make([]byte, 64+i%1000)
			bodies++
			made += 2
		case 5:
			s.Any = append(s.Any, i, &User{Age: i}, "text "+strconv.Itoa(i))
			users++
			made += 4
		}
	}
	gServer = s
	fixture.Count("main.Server", 1)
	fixture.Count("main.Route", len(routes))
	fixture.Count("main.Request", requests)
	fixture.Count("main.Session", sessions)
	fixture.Count("main.User", users)
	fixture.Fact("request_header_maps", maps)
	fixture.Plant("gServer", "pointer", "global main.gServer", gServer)
	fixture.Plant("gServer.Sessions", "map", "global main.gServer", s.Sessions)
	fixture.Plant("gServer.Cache", "map", "global main.gServer", s.Cache)
	fixture.Plant("gServer.Log", "slice", "global main.gServer", s.Log)
}

// garbage fills n spans and drops them; nothing collects them, because the collector is off.
func garbage(n int) {
	debug.SetGCPercent(-1)
	for i := 0; i < n; i++ {
		sink = make([]byte, 8192)
		sink[0] = 1
	}
	sink = nil
	fixture.Fact("garbage_spans", n)
	fixture.Fact("garbage_bytes", n*8192)
}

func waitOwn(c chan *Session, started *int32) {
	atomic.AddInt32(started, 1)
	s := <-c
	runtime.KeepAlive(s)
}

func waitShared(started *int32) {
	atomic.AddInt32(started, 1)
	<-park
}

// goroutines starts n of them, every second one on a channel of its own, the others all on one.
func goroutines(n int) {
	started := new(int32)
	for i := 0; i < n; i++ {
		if i%2 == 0 {
			c := make(chan *Session)
			gChans = append(gChans, c)
			go waitOwn(c, started)
		} else {
			go waitShared(started)
		}
	}
	for atomic.LoadInt32(started) < int32(n) {
		time.Sleep(time.Millisecond)
	}
	// Announced is not yet parked: what is missing is a few instructions.
	time.Sleep(100 * time.Millisecond)
	fixture.Fact("blocked_goroutines", n)
	fixture.Member("goroutine_functions", "main.waitOwn", (n+1)/2)
	fixture.Member("goroutine_functions", "main.waitShared", n/2)
}

func release() {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		close(park)
		for _, c := range gChans {
			close(c)
		}
	}()
	wg.Wait()
}

func main() {
	fixture.Begin("heap", "small")
	n := fixture.ArgInt(0, 10000)
	fixture.Fact("n", n)
	quiet := fixture.Options{Handle: map[string]func(string) string{"fork": plainFork}}
	switch fixture.Scenario {
	case "small":
		small(n)
	case "list":
		list(n)
	case "map":
		wideMap(n)
	case "bytes":
		byteSlices(n)
	case "mixed":
		mixed(n)
	case "garbage":
		garbage(n)
		// A collection would sweep what this scenario is about.
		quiet.Busy = true
	case "goroutines":
		goroutines(n)
		quiet.Release = release
	default:
		fixture.Fail("unknown shape: small list map bytes mixed garbage goroutines")
	}
	fixture.Serve(quiet)
}
