//go:build go1.23

package main

import (
	"iter"

	"gosleuth.test/fixtures/fixture"
)

func count(yield func(int) bool) {
	for i := 0; yield(i); i++ {
	}
}

//go:noinline
func rangeBody() {
	for i := range count {
		if i == 2 {
			fixture.Announce("rangeOverFunc", "chan receive")
			<-park
		}
	}
}

var next func() (int, bool)

func init() {
	plants = append(plants, func() {
		start(rangeBody)
		// The goroutine of a coroutine that waits to be resumed.
		next, _ = iter.Pull(iter.Seq[int](count))
		next()
		fixture.Fact("coroutines", 1)
	})
}
