// locals plants objects that only local variables of parked goroutines hold: each tells its address, its type and the
// variable, `function.variable`, that holds it.
package main

import (
	"runtime"
	"strings"
	"unsafe"

	"gosleuth.test/fixtures/fixture"
)

// Types of one size and shape, so that nothing but the variable tells them apart. Nothing converts most of them to an
// interface, so that they have no descriptors of their own.
type (
	// Direct is behind a plain pointer.
	Direct struct {
		P *int
		N int
	}
	// Elem is behind elements.
	Elem struct {
		P *int
		N int
	}
	// Arg is behind parameters.
	Arg struct {
		P *int
		N int
	}
	// Result is behind results.
	Result struct {
		P *int
		N int
	}
	// Kept is behind captured variables.
	Kept struct {
		P *int
		N int
	}
	// Deferred is behind arguments of deferred calls.
	Deferred struct {
		P *int
		N int
	}
	// Dead is what a variable held that is dead by now.
	Dead struct {
		P *int
		N int
	}
	// Escaped is a variable that the compiler moved to the heap.
	Escaped struct {
		P *int
		N int
	}
	// Inlined is behind a variable of an inlined function.
	Inlined struct {
		P *int
		N int
	}
	// Member is behind a member of a struct on the stack.
	Member struct {
		P *int
		N int
	}
	// Speaker is behind interfaces.
	Speaker struct {
		P *int
		N int
	}
	// Generic is behind variables of generic functions.
	Generic struct {
		P *int
		N int
	}
)

// Say makes an interface of it.
func (s *Speaker) Say() int { return s.N }

// Method blocks with its receiver in use.
//
//go:noinline
func (a *Arg) Method() {
	plant("main.(*Arg).Method.a", "main.Arg", unsafe.Pointer(a))
	wait("method")
	runtime.KeepAlive(a)
}

// Sayer is implemented by Speaker.
type Sayer interface{ Say() int }

// Pair is a struct that is held by value.
type Pair struct {
	First *Member
	Name  string
	Rest  []*Member
}

var (
	park    = make(chan struct{})
	started int
	sink    *Escaped
	leaked  unsafe.Pointer
	one     = 1
)

//go:noinline
func number() int { return one }

// plant tells of an object, and lets it escape to the heap.
//
//go:noinline
func plant(holder, typ string, at unsafe.Pointer) {
	leaked = at
	leaked = nil
	fixture.Append("locals", "holder", holder, "type", typ, "addr", fixture.Hex(uintptr(at)))
}

//go:noinline
func wait(name string) {
	fixture.Announce(name, "chan receive")
	<-park
}

// word is the pointer that a map, channel or func value is.
//
//go:noinline
func word(at unsafe.Pointer) unsafe.Pointer { return *(*unsafe.Pointer)(at) }

func ofMap(m map[string]*Elem) unsafe.Pointer { return word(unsafe.Pointer(&m)) }
func ofChan(c chan *Elem) unsafe.Pointer      { return word(unsafe.Pointer(&c)) }
func ofFunc(f func() int) unsafe.Pointer      { return word(unsafe.Pointer(&f)) }

//go:noinline
func bytesOf(s string) unsafe.Pointer { return word(unsafe.Pointer(&s)) }

//go:noinline
func makeMap() map[string]*Elem { return make(map[string]*Elem, number()) }

//go:noinline
func makeSayer(n int) Sayer { return &Speaker{N: n} }

//go:noinline
func makeAny(n int) any { return &Speaker{N: n} }

//go:noinline
func makeFunc() func() int {
	kept := &Kept{N: 1}
	plant("", "main.Kept", unsafe.Pointer(kept))
	return func() int { return kept.N }
}

//go:noinline
func makeMember(n int) *Member { return &Member{N: n} }

//go:noinline
func makeElem(n int) *Elem { return &Elem{N: n} }

//go:noinline
func makePair() Pair {
	return Pair{makeMember(1), strings.Repeat("pair", number()), []*Member{makeMember(2)}}
}

//go:noinline
func touch(p *Direct) { p.N++ }

//go:noinline
func pointer() {
	p := &Direct{N: 1}
	plant("main.pointer.p", "main.Direct", unsafe.Pointer(p))
	wait("pointer")
	touch(p)
}

//go:noinline
func slice() {
	s := make([]*Elem, 3*number())
	s[1] = makeElem(1)
	plant("main.slice.s", "[]*main.Elem", unsafe.Pointer(&s[0]))
	plant("", "main.Elem", unsafe.Pointer(s[1]))
	wait("slice")
	runtime.KeepAlive(s)
}

//go:noinline
func sliceOfStructs() {
	s := make([]Elem, 5*number())
	plant("main.sliceOfStructs.s", "[]main.Elem", unsafe.Pointer(&s[0]))
	wait("sliceOfStructs")
	for i := range s {
		s[i].N++
	}
}

//go:noinline
func text() {
	s := strings.Repeat("text held by a local. ", 2*number())
	plant("main.text.s", "string (bytes)", bytesOf(s))
	wait("text")
	fixture.Fact("said", len(s)+strings.Count(s, "e"))
}

//go:noinline
func mapping() {
	m := makeMap()
	m["key"] = makeElem(2)
	plant("main.mapping.m", "map[string]*main.Elem", ofMap(m))
	plant("", "main.Elem", unsafe.Pointer(m["key"]))
	wait("mapping")
	runtime.KeepAlive(m)
}

//go:noinline
func channel() {
	c := make(chan *Elem, 3*number())
	c <- makeElem(3)
	plant("main.channel.c", "chan *main.Elem", ofChan(c))
	wait("channel")
	<-c
}

//go:noinline
func interfaces() {
	i := makeSayer(1)
	a := makeAny(2)
	plant("main.interfaces.i", "main.Speaker", unsafe.Pointer(i.(*Speaker)))
	plant("main.interfaces.a", "main.Speaker", unsafe.Pointer(a.(*Speaker)))
	wait("interfaces")
	runtime.KeepAlive(a)
	fixture.Fact("spoke", i.Say())
}

//go:noinline
func closure() {
	f := makeFunc()
	plant("main.closure.f", "func main.makeFunc.func1", ofFunc(f))
	wait("closure")
	fixture.Fact("kept", f())
}

//go:noinline
func byValue() {
	v := makePair()
	plant("main.byValue.v.First", "main.Member", unsafe.Pointer(v.First))
	plant("main.byValue.v.Rest", "[]*main.Member", unsafe.Pointer(&v.Rest[0]))
	plant("main.byValue.v.Name", "string (bytes)", bytesOf(v.Name))
	wait("byValue")
	usePair(&v)
}

//go:noinline
func usePair(p *Pair) { p.First.N += len(p.Name) + len(p.Rest) }

//go:noinline
func array() {
	var a [4]*Elem
	a[2*number()] = makeElem(4)
	plant("main.array.a[2]", "main.Elem", unsafe.Pointer(a[2*number()]))
	wait("array")
	useArray(&a)
}

//go:noinline
func useArray(a *[4]*Elem) { a[number()] = nil }

// onStack has things on the stack that have no names, and pointers to them.
//
//go:noinline
func onStack() {
	p := &Pair{First: makeMember(5)}
	s := []*Elem{makeElem(5), makeElem(6)}
	m := map[string]*Elem{"k": makeElem(7)}
	plant("main.onStack.p.First", "main.Member", unsafe.Pointer(p.First))
	plant("main.onStack.s[1]", "main.Elem", unsafe.Pointer(s[1]))
	plant("main.onStack.m", "main.Elem", unsafe.Pointer(m["k"]))
	wait("onStack")
	usePair(p)
	useSlice(s)
	runtime.KeepAlive(m["k"])
}

//go:noinline
func useSlice(s []*Elem) { s[0].N++ }

func inlined(n int) {
	q := &Inlined{N: n}
	plant("main.inlined.q", "main.Inlined", unsafe.Pointer(q))
	wait("inlined")
	runtime.KeepAlive(q)
}

//go:noinline
func outer() {
	before := &Direct{N: 3}
	plant("main.outer.before", "main.Direct", unsafe.Pointer(before))
	inlined(2)
	touch(before)
}

//go:noinline
func parameter(p *Arg, list []*Arg, m map[string]*Elem) {
	plant("main.parameter.p", "main.Arg", unsafe.Pointer(p))
	plant("main.parameter.list", "[]*main.Arg", unsafe.Pointer(&list[0]))
	plant("main.parameter.m", "map[string]*main.Elem", ofMap(m))
	wait("parameter")
	runtime.KeepAlive(p)
	runtime.KeepAlive(list)
	runtime.KeepAlive(m)
}

// manyParameters has more than there are registers.
//
//go:noinline
func manyParameters(a, b, c, d, e, f, g, h, i int, last *Arg) {
	plant("main.manyParameters.last", "main.Arg", unsafe.Pointer(last))
	wait("manyParameters")
	runtime.KeepAlive(last)
}

//go:noinline
func result() (res *Result, list []*Result) {
	res = &Result{N: 1}
	list = make([]*Result, 4*number())
	plant("main.result.res", "main.Result", unsafe.Pointer(res))
	plant("main.result.list", "[]*main.Result", unsafe.Pointer(&list[0]))
	wait("result")
	return res, list
}

//go:noinline
func ranged() {
	list := make([]*Elem, 2*number())
	for i := range list {
		list[i] = makeElem(i)
	}
	for _, v := range list {
		// It is held by the list as well.
		plant("main.ranged.v", "main.Elem", unsafe.Pointer(v))
		wait("ranged")
		v.N++
	}
}

func captured() {
	kept := &Kept{N: 2}
	plant("main.captured.func1.kept", "main.Kept", unsafe.Pointer(kept))
	start(func() {
		wait("captured")
		kept.N++
	})
}

//go:noinline
func deferred() {
	d := &Deferred{N: 1}
	plant("", "main.Deferred", unsafe.Pointer(d))
	defer func(p *Deferred) { p.N++ }(d)
	wait("deferred")
}

//go:noinline
func deferredInLoop() {
	for i := 0; i < 2*number(); i++ {
		d := &Deferred{N: i}
		plant("", "main.Deferred", unsafe.Pointer(d))
		defer func() { d.N++ }()
	}
	wait("deferredInLoop")
}

//go:noinline
func escaped() {
	x := Escaped{N: 1}
	plant("main.escaped.x", "main.Escaped", unsafe.Pointer(&x))
	sink = &x
	sink = nil
	wait("escaped")
	x.N++
}

// reused has variables that are dead, in places that others may use by now.
//
//go:noinline
func reused() {
	{
		d := &Dead{N: 1}
		runtime.KeepAlive(touchDead(d))
	}
	{
		p := &Direct{N: 4}
		plant("main.reused.p", "main.Direct", unsafe.Pointer(p))
		wait("reused")
		touch(p)
	}
}

//go:noinline
func touchDead(d *Dead) *Dead { d.N++; return d }

//go:noinline
func generic[T any](v *T, list []T) {
	wait("generic")
	runtime.KeepAlive(v)
	runtime.KeepAlive(list)
}

func startGeneric() {
	list := make([]*Generic, 2*number())
	plant("main.generic[...].v", "?[]*main.Generic", unsafe.Pointer(&list[0]))
	generic(&list[0], list)
}

func start(f func()) {
	started++
	go f()
}

func main() {
	fixture.Begin("locals", "all")
	for _, f := range []func(){
		pointer, slice, sliceOfStructs, text, mapping, channel, interfaces, closure, byValue, array, onStack, outer,
		ranged, deferred, deferredInLoop, escaped, reused, startGeneric,
	} {
		start(f)
	}
	captured()
	start(func() { parameter(&Arg{N: 1}, make([]*Arg, 2*number()), makeMap()) })
	start(func() { manyParameters(1, 2, 3, 4, 5, 6, 7, 8, 9, &Arg{N: 2}) })
	start(func() { (&Arg{N: 3}).Method() })
	start(func() {
		r, l := result()
		runtime.KeepAlive(r)
		runtime.KeepAlive(l)
	})
	fixture.Settle(started)
	fixture.Serve(fixture.Options{})
}
