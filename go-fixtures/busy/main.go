// busy allocates, frees and collects on all cores while it checks its own data: `busy churn [WORKERS]`.
// `busy gap [NODES]` does nothing but hold NODES objects and watch the clock, to measure how long it was stopped.
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

// Node carries a checksum, so that a changed or lost word is noticed.
type Node struct {
	Key   uint64
	Left  *Node
	Right *Node
	Text  string
	Sum   uint64
	Bytes []byte
}

// Worker counts what it did; only its own goroutine writes.
type Worker struct {
	rounds   uint64
	bad      uint64
	table    map[uint64]*Node
	ring     [256]*Node
	_padding [64]byte
}

var (
	workers  []*Worker
	born     uint64
	died     uint64
	threads  uint64
	gap      int64
	keepOnly []*Node
)

func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

func newNode(key uint64, depth int) *Node {
	n := &Node{Key: key, Text: "node-" + strconv.FormatUint(key, 16), Bytes: make([]byte, 16+key%240)}
	for i := range n.Bytes {
		n.Bytes[i] = byte(key) + byte(i)
	}
	n.Sum = mix(key)
	if depth > 0 {
		n.Left = newNode(mix(key), depth-1)
		n.Right = newNode(mix(key+1), depth-1)
	}
	return n
}

func (n *Node) good() bool {
	if n.Sum != mix(n.Key) || n.Text != "node-"+strconv.FormatUint(n.Key, 16) {
		return false
	}
	for i, b := range n.Bytes {
		if b != byte(n.Key)+byte(i) {
			return false
		}
	}
	if n.Left == nil {
		return n.Right == nil
	}
	return n.Left.Key == mix(n.Key) && n.Right.Key == mix(n.Key+1) && n.Left.good() && n.Right.good()
}

func (w *Worker) work(seed uint64) {
	w.table = map[uint64]*Node{}
	for r := uint64(0); ; r++ {
		key := mix(seed + r)
		n := newNode(key, 3)
		w.table[key] = n
		old := w.ring[r%256]
		if old != nil {
			if w.table[old.Key] != old || !old.good() {
				atomic.AddUint64(&w.bad, 1)
			}
			delete(w.table, old.Key)
		}
		w.ring[r%256] = n
		if r%4096 == 4095 {
			fresh := make(map[uint64]*Node, len(w.table))
			for k, v := range w.table {
				fresh[k] = v
			}
			w.table = fresh
		}
		if r%64 == 0 {
			runtime.Gosched()
		}
		atomic.AddUint64(&w.rounds, 1)
	}
}

// spawn keeps goroutines being born, growing their stacks, talking over channels and dying.
func spawn(bad *uint64) {
	for {
		var wg sync.WaitGroup
		for i := 0; i < 32; i++ {
			wg.Add(1)
			atomic.AddUint64(&born, 1)
			go func(i int) {
				defer wg.Done()
				c := make(chan *Node, i%3)
				go func() { c <- newNode(uint64(i), 1) }()
				if n := <-c; !n.good() || deep(i*8) != i*8 {
					atomic.AddUint64(bad, 1)
				}
				atomic.AddUint64(&died, 1)
			}(i)
		}
		wg.Wait()
		time.Sleep(time.Millisecond)
	}
}

//go:noinline
func deep(n int) int {
	if n == 0 {
		return 0
	}
	var pad [64]byte
	pad[n%64] = 1
	return deep(n-1) + int(pad[n%64])
}

// mortalThreads ends goroutines while they are locked to a thread, which ends the thread too.
func mortalThreads() {
	for {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			atomic.AddUint64(&threads, 1)
			close(done)
		}()
		<-done
		time.Sleep(2 * time.Millisecond)
	}
}

// watchClock spins on the clock: the longest step it sees is how long the program stood still (or how long
// the machine gave it no core).
func watchClock(pause time.Duration) {
	runtime.LockOSThread()
	last := time.Now()
	for {
		now := time.Now()
		if d := int64(now.Sub(last)); d > atomic.LoadInt64(&gap) {
			atomic.StoreInt64(&gap, d)
		}
		last = now
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

func collect() {
	for {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
}

func main() {
	fixture.Begin("busy", "churn")
	var bad uint64
	n, kept := 0, 64
	switch fixture.Scenario {
	case "churn":
		n = fixture.ArgInt(0, runtime.GOMAXPROCS(0))
	case "gap":
		kept = (fixture.ArgInt(0, 64*31) + 30) / 31
		debug.SetGCPercent(-1)
	default:
		fixture.Fail("unknown scenario: churn gap")
	}
	for i := 0; i < kept; i++ {
		keepOnly = append(keepOnly, newNode(uint64(i), 4))
	}
	if fixture.Scenario == "churn" {
		for i := 0; i < n; i++ {
			w := new(Worker)
			workers = append(workers, w)
			go w.work(uint64(i) << 40)
		}
		go spawn(&bad)
		go mortalThreads()
		go watchClock(20 * time.Microsecond)
		go collect()
	} else {
		go watchClock(0)
	}
	time.Sleep(50 * time.Millisecond)
	atomic.StoreInt64(&gap, 0)
	fixture.Fact("workers", n)
	fixture.Fact("kept_nodes", kept*31)
	fixture.Serve(fixture.Options{Busy: true, Handle: map[string]func(string) string{
		"resetgap": func(string) string { atomic.StoreInt64(&gap, 0); return "" },
		"progress": func(string) string {
			wrong := atomic.LoadUint64(&bad)
			var rounds []int64
			for _, w := range workers {
				rounds = append(rounds, int64(atomic.LoadUint64(&w.rounds)))
				wrong += atomic.LoadUint64(&w.bad)
			}
			for i, k := range keepOnly {
				if k.Key != uint64(i) || !k.good() {
					wrong++
				}
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return fixture.Members("workers", rounds, "num_gc", int(m.NumGC), "goroutines_born", atomic.LoadUint64(&born),
				"goroutines_died", atomic.LoadUint64(&died), "threads_died", atomic.LoadUint64(&threads),
				"max_gap_ns", atomic.LoadInt64(&gap), "wrong", wrong, "ok", wrong == 0)
		},
	}})
}
