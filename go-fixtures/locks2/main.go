// locks2 is a second set of lock chains with known holders, written as services are written: `locks2 SCENARIO`, `locks2 list`.
// It was written after the inference of holders and before gosleuth was run on it; docs/LOCKS.md has the first figures.
package main

import (
	"net"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"gosleuth.test/fixtures/fixture"
)

var (
	ids     = map[string]int64{}
	arrived int32
	// What a healthy goroutine waits for until `release`.
	gate      = make(chan struct{})
	releasing []func()
)

func settle(n int) {
	for name, id := range fixture.Settle(n) {
		ids[name] = id
	}
}

//go:noinline
func meet(n int32) {
	atomic.AddInt32(&arrived, 1)
	for atomic.LoadInt32(&arrived) < n {
		time.Sleep(time.Millisecond)
	}
}

func addr(p any) fixture.Hex { return fixture.Hex((*[2]uintptr)(unsafe.Pointer(&p))[1]) }

// writes is what a writer waits for: the mutex among writers, or the readers.
const writes = fixture.RWWrite + "|sync.Mutex.Lock"

// hidden stands for a primitive whose address the program cannot tell: private to the library.
const hidden = fixture.Hex(0)

func goids(names []string) []int64 {
	all := []int64{}
	for _, n := range names {
		id, ok := ids[n]
		if !ok {
			fixture.Fail("no goroutine " + n)
		}
		all = append(all, id)
	}
	return all
}

// edge tells who waits for whom. No holders: nobody holds it. Several: all of them are right answers.
func edge(waiter, kind string, primitive any, holders ...string) {
	tell(waiter, kind, primitive, false, holders)
}

// maybe is an edge that a right answer may leave out (several goroutines could serve the channel, by way of data).
func maybe(waiter, kind string, primitive any, holders ...string) {
	tell(waiter, kind, primitive, true, holders)
}

func tell(waiter, kind string, primitive any, optional bool, holders []string) {
	at, ok := primitive.(fixture.Hex)
	if !ok {
		at = addr(primitive)
	}
	fixture.Append("edges", "waiter", goids([]string{waiter})[0], "holders", goids(holders), "kind", kind, "addr", at,
		"optional", optional, "waiter_name", waiter, "holder_name", strings.Join(holders, ","))
}

func cycle(names ...string) { fixture.Append("cycles", "goids", goids(names)) }

// stuck are goroutines that can never go on, whether that can be proven or not.
func stuck(names ...string) {
	for _, id := range goids(names) {
		never = append(never, id)
	}
}

var never = []int64{}

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
	releasing = append(releasing, func() { client.Close() })
	keepConns = append(keepConns, client)
	return server
}

var keepConns []net.Conn

// pipe is the reading end of a pipe, blocking.
func pipe() int {
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		fixture.Fail(err.Error())
	}
	releasing = append(releasing, func() { syscall.Close(p[1]) })
	return p[0]
}

// alive are the numbers of the goroutines that the runtime lists.
func alive() []int64 {
	buf := make([]byte, 1<<20)
	var all []int64
	for _, block := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		words := strings.Fields(block)
		if len(words) > 1 && words[0] == "goroutine" {
			if id, err := strconv.ParseInt(words[1], 10, 64); err == nil {
				all = append(all, id)
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all
}

func main() {
	fixture.Begin("locks2", "conn-pool-dial")
	fixture.Choose(scenarios)
	fixture.Fact("stuck", never)
	fixture.Serve(fixture.Options{
		Release: func() {
			close(gate)
			for _, f := range releasing {
				f()
			}
			time.Sleep(200 * time.Millisecond)
		},
		Handle: map[string]func(string) string{
			"progress": func(string) string { return fixture.Members("alive", alive()) },
			// With GOMAXPROCS=1 and without asynchronous preemption: from now on nothing else runs, and 8 goroutines stay as they
			// were born. No further command is answered.
			"born": func(string) string {
				go func() {
					// Some may run when the scheduler takes the processor in between: then others follow.
					for started := int32(0); started-ran.Load() < 8; started++ {
						go newborn()
					}
					for {
						born++
					}
				}()
				return ""
			},
		},
	})
}

var (
	born int
	// Those of newborn that ran.
	ran atomic.Int32
)

// newborn has variables on its stack that pointers lead to.
//
//go:noinline
func newborn() {
	var list [4]*int
	for i := range list {
		list[i] = &born
	}
	use(&list)
	ran.Add(1)
}

//go:noinline
func use(list *[4]*int) { *list[0]++ }

var scenarios = map[string]func(){
	"conn-pool-dial":          connPoolDial,
	"sql-pool-exhausted":      sqlPoolExhausted,
	"semaphore-weighted":      semaphoreWeighted,
	"cache-load-under-lock":   cacheLoad,
	"sharded-map":             shardedMap,
	"striped-locks":           stripedLocks,
	"keyed-mutex":             keyedMutex,
	"singleflight":            singleflight,
	"generic-cache":           genericCache,
	"cache-refresh-downgrade": downgrade,
	"copied-struct":           copiedStruct,
	"slice-of-items":          sliceOfItems,

	"errgroup":               errGroup,
	"fan-in-wait-first":      fanInWaitFirst,
	"worker-pool-stats":      workerPoolStats,
	"pubsub-unsubscribe":     pubsub,
	"rate-limiter":           rateLimiter,
	"graceful-shutdown":      gracefulShutdown,
	"context-tree":           contextTree,
	"cond-queue":             condQueue,
	"cond-relock":            condRelock,
	"actors-call-each-other": actors,
	"background-flusher":     flusher,
	"job-handed-over":        jobHandedOver,
	"http-session":           httpSession,
	"registry-each-remove":   registryEach,
	"store-abba-interfaces":  abba,
	"config-two-rwmutexes":   twoRWMutexes,
	"plugin-global":          pluginGlobal,
	"healthy-idle-service":   healthyIdle,

	"once-network":            onceNetwork,
	"nested-locker-interface": nestedLocker,
	"method-values":           methodValues,
	"unlock-func-returned":    unlockFunc,
	"defer-in-loop":           deferInLoop,
	"trylock-busy":            tryLockBusy,
	"recovered-then-idle":     recovered,
	"panicking-now":           panickingNow,
	"error-path-exit":         errorPath,
	"inlined-helpers":         inlinedHelpers,
	"readers-three-ways":      readersThreeWays,
	"flag-decides-mode":       flagDecides,
	"unlock-around-slow-call": unlockAround,
	"timer-callback":          timerCallback,
	"local-mutex-closures":    localMutex,
	"std-logger-pipe":         stdLogger,
	"std-io-pipe":             stdPipe,
	"std-conn-two-writers":    twoWriters,
	"finalizer-blocked":       finalizerBlocked,
	"select-under-lock":       selectUnderLock,
}
