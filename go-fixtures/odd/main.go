// odd has stacks that few programs have: `odd reflect|gcprog|handler`.
package main

import (
	"reflect"

	"gosleuth.test/fixtures/fixture"
)

// Held is held by one word of a stack each.
type Held struct {
	next *Held
	n    [5]int
}

var (
	park      = make(chan struct{})
	scenarios = map[string]func(){"reflect": stubs, "gcprog": program}
	handle    = map[string]func(string) string{}
)

func (h *Held) Wait(b, c, d, e, f, g, i, j, k, l, m *Held) {
	fixture.Announce("method", "chan receive")
	<-park
}

type many func(a, b, c, d, e, f, g, h, i, j, k, l *Held)

//go:noinline
func call(f many) {
	f(new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held))
}

// stubs calls functions that reflection made: their arguments lie in the frames of reflect.makeFuncStub and
// reflect.methodValueCall only, nine as in registers, the rest as on the stack.
func stubs() {
	made := reflect.MakeFunc(reflect.TypeOf(many(nil)), func([]reflect.Value) []reflect.Value {
		fixture.Announce("made", "chan receive")
		<-park
		return nil
	}).Interface().(many)
	go call(made)
	go func() {
		h := new(Held)
		wait := reflect.ValueOf(h).Method(0).Interface().(func(b, c, d, e, f, g, i, j, k, l, m *Held))
		h = nil
		wait(new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held), new(Held))
	}()
	fixture.Settle(2)
}

const slots, planted = 20000, 1000

//go:noinline
func same(p *[slots]*Held) *[slots]*Held { return p }

//go:noinline
func count(p *[slots]*Held) (n int) {
	for _, h := range p {
		if h != nil {
			n++
		}
	}
	return n
}

//go:noinline
func bigLocal() {
	var a [slots]*Held
	p := same(&a)
	for i := 0; i < planted; i++ {
		p[i*slots/planted] = new(Held)
	}
	fixture.Announce("bigLocal", "chan receive")
	<-park
	count(p)
}

// program has a variable on its stack that is so large that up to Go 1.23 its pointers are described by a program.
func program() {
	go bigLocal()
	fixture.Settle(1)
	fixture.Count("main.Held", planted)
}

func main() {
	fixture.Begin("odd", "reflect")
	fixture.Choose(scenarios)
	fixture.Serve(fixture.Options{Handle: handle})
}
