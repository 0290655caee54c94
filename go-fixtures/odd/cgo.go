//go:build cgo

package main

/*
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static volatile int entered;
static void handler(int s) { entered = 1; for (;;) pause(); }
static void install(void) {
	struct sigaction a;
	memset(&a, 0, sizeof a);
	a.sa_handler = handler;
	a.sa_flags = SA_ONSTACK;
	sigfillset(&a.sa_mask);
	sigaction(SIGUSR2, &a, 0);
}
static int has_entered(void) { return entered; }
static int tid(void) { return syscall(SYS_gettid); }
static void send(int tid) { syscall(SYS_tgkill, getpid(), tid, SIGUSR2); }
*/
import "C"

import (
	"runtime"
	"sync/atomic"
	"time"

	"gosleuth.test/fixtures/fixture"
)

var (
	thread int32
	turns  uint64
)

//go:noinline
func spinForever(h *Held) int {
	for {
		atomic.AddUint64(&turns, 1)
		if h.next != nil {
			return 1
		}
	}
}

//go:noinline
func interrupted() {
	runtime.LockOSThread()
	h := new(Held)
	atomic.StoreInt32(&thread, int32(C.tid()))
	spinForever(h)
}

// handler: on the command `signal` the thread of a goroutine that runs Go code enters a handler of the C part on the signal stack
// and stays there.
func init() {
	scenarios["handler"] = func() {}
	handle["signal"] = func(string) string {
		C.install()
		go interrupted()
		for atomic.LoadUint64(&turns) < 1000 {
			time.Sleep(time.Millisecond)
		}
		C.send(C.int(atomic.LoadInt32(&thread)))
		for C.has_entered() == 0 {
			time.Sleep(time.Millisecond)
		}
		return fixture.Members("tid", int(thread))
	}
}
