// trouble changes under the eyes of whoever looks at it: it replaces its program, has children, gives memory back, has
// very many threads.
package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gosleuth.test/fixtures/fixture"
)

// How often the program was replaced: in its environment, where it can be read from outside.
const execs = "TROUBLE_EXECS"

var (
	rounds  uint64
	bad     uint64
	stop    uint32
	stopped sync.WaitGroup
	keep    [][]*uint64
)

// exec replaces the program by itself, again and again. Only the first one prints a ready line.
func exec(pause time.Duration) {
	time.Sleep(pause)
	n, _ := strconv.Atoi(os.Getenv(execs))
	os.Setenv(execs, strconv.Itoa(n+1))
	if err := syscall.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		fixture.Fail(err.Error())
	}
}

// forks starts children and waits for them: for that one and for no other.
func forks() {
	defer stopped.Done()
	for atomic.LoadUint32(&stop) == 0 {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
		if err != nil {
			fixture.Fail(err.Error())
		}
		var status syscall.WaitStatus
		for {
			got, err := syscall.Wait4(pid, &status, 0, nil)
			if err == syscall.EINTR {
				continue
			}
			if got != pid || err != nil || !status.Exited() || status.ExitStatus() != 0 {
				atomic.AddUint64(&bad, 1)
			}
			break
		}
		atomic.AddUint64(&rounds, 1)
	}
}

// unmap takes memory and gives it back, in the heap and beside it.
func unmap() {
	defer stopped.Done()
	for atomic.LoadUint32(&stop) == 0 {
		beside, err := syscall.Mmap(-1, 0, 16<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			fixture.Fail(err.Error())
		}
		for i := 0; i < len(beside); i += 4096 {
			beside[i] = 1
		}
		keep = nil
		for i := 0; i < 64; i++ {
			part := make([]*uint64, 8192)
			for j := range part {
				part[j] = new(uint64)
				*part[j] = uint64(j)
			}
			keep = append(keep, part)
		}
		for _, part := range keep {
			for j := range part {
				if *part[j] != uint64(j) {
					atomic.AddUint64(&bad, 1)
				}
			}
		}
		keep = nil
		debug.FreeOSMemory()
		if err := syscall.Munmap(beside); err != nil {
			fixture.Fail(err.Error())
		}
		atomic.AddUint64(&rounds, 1)
	}
}

// threads starts n threads, one half in system calls, the other waiting for channels.
func threads(n int) {
	debug.SetMaxThreads(n + 100)
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil {
		fixture.Fail(err.Error())
	}
	var ready sync.WaitGroup
	never := make(chan struct{})
	for i := 0; i < n; i++ {
		ready.Add(1)
		go func(i int) {
			runtime.LockOSThread()
			ready.Done()
			if i%2 == 0 {
				<-never
			}
			var one [1]byte
			for {
				syscall.Read(pipe[0], one[:])
			}
		}(i)
	}
	ready.Wait()
	time.Sleep(100 * time.Millisecond)
}

func main() {
	fixture.Begin("trouble", "list")
	run := func(n int, f func()) func() {
		return func() {
			stopped.Add(n)
			for i := 0; i < n; i++ {
				go f()
			}
		}
	}
	fixture.Choose(map[string]func(){
		"exec": func() {
			go exec(time.Duration(fixture.ArgInt(0, 20)) * time.Millisecond)
			if os.Getenv(execs) != "" {
				var one [1]byte
				syscall.Read(0, one[:])
				os.Exit(0)
			}
		},
		"forks":   run(2, forks),
		"unmap":   run(1, unmap),
		"threads": func() { threads(fixture.ArgInt(0, 100)) },
	})
	fixture.Serve(fixture.Options{Busy: true, Handle: map[string]func(string) string{
		"progress": func(string) string {
			wrong := atomic.LoadUint64(&bad)
			return fixture.Members("rounds", atomic.LoadUint64(&rounds), "wrong", wrong, "ok", wrong == 0)
		},
		"pause": func(string) string {
			atomic.StoreUint32(&stop, 1)
			stopped.Wait()
			return ""
		},
	}})
}
