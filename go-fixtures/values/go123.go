//go:build go1.23

package main

import (
	"iter"
	"runtime"
	"strings"
	"unique"

	"gosleuth.test/fixtures/fixture"
)

// Interned is made unique.
type Interned struct {
	Name string
	N    int
}

var (
	gUnique    unique.Handle[Interned]
	gUniqueStr unique.Handle[string]
	gNext      func() (*User, bool)
	gStop      func()
)

func users(yield func(*User) bool) {
	for i := range 10 {
		if !yield(&User{Age: i}) {
			return
		}
	}
}

//go:noinline
func rangeOverFunc() {
	for u := range users {
		if u.Age == 3 {
			fixture.Plant("rangeOverFunc.u", "pointer", "goroutine main.rangeOverFunc-range1", u)
			fixture.Announce("rangeOverFunc", "chan receive")
			<-park
			runtime.KeepAlive(u)
			return
		}
	}
}

func init() {
	parked++
	plants = append(plants, func() {
		gUnique = unique.Make(Interned{"unique", 1})
		gUniqueStr = unique.Make(strings.Repeat("unique", 3))
		fixture.PlantAt("gUnique", "unique-handle", "global main.gUnique", "main.Interned", handle(gUnique), 24)
		fixture.PlantAt("gUniqueStr", "unique-handle", "global main.gUniqueStr", "string", handleStr(gUniqueStr), 16)
		gNext, gStop = iter.Pull(iter.Seq[*User](users))
		u, _ := gNext()
		runtime.KeepAlive(u)
		fixture.Plant("gNext", "closure", "global main.gNext", gNext)
		go rangeOverFunc()
	})
}
