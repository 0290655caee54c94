//go:build go1.24

package main

import "runtime"

// Handle is kept by its own cleanup.
type Handle struct {
	FD   int
	Buf  []byte
	Next *Handle
}

// Tracker stands between cleanup and object: from 1.26 on the runtime refuses a closure that captures the
// object itself.
type Tracker struct{ handle *Handle }

func init() {
	leaks["cleanup-cycle"] = &Leak{
		pattern: "cleanup-cycle", holder: "cleanup", typ: "main.Handle", objects: 1000, bytes: 1000 * (40 + 2048),
		add: func(b int) {
			for i := 0; i < 1000; i++ {
				h := &Handle{FD: i, Buf: make([]byte, 2048)}
				t := &Tracker{h}
				runtime.AddCleanup(h, func(int) { t.handle.FD = -1 }, i)
			}
		},
	}
}
