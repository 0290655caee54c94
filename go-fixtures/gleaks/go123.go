//go:build go1.23

package main

import (
	"time"

	"gosleuth.test/fixtures/fixture"
)

// Before 1.23 a timer that was stopped stays in the runtime's heap of timers for a while, and its channel with it.
func init() {
	patterns = append(patterns, pattern{"stopped-timer", stoppedTimer, true})
}

// stoppedTimer: a timer that was stopped sends no more.
func stoppedTimer(healthy bool) int {
	t := time.NewTimer(time.Hour)
	t.Stop()
	go func() {
		id := enter(healthy, "stopped-timer", fixture.Receive)
		<-t.C
		leave(id)
	}()
	onRelease(healthy, func() { t.Reset(time.Microsecond) })
	return 1
}
