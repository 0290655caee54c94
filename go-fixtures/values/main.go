// values plants every kind of Go value.
package main

import (
	"context"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"gosleuth.test/fixtures/fixture"
	"gosleuth.test/fixtures/shapes"
)

// Session is planted a thousand times.
type Session struct {
	ID    uint64
	Name  string
	User  *User
	Attrs map[string]string
	Next  *Session
}

// User is shared by the sessions.
type User struct {
	Name string
	Age  int
	self *User
}

// Address is embedded by value.
type Address struct {
	Street string
	Geo    shapes.Point
}

// Nested has a struct in a struct in an array, and embeds.
type Nested struct {
	Address
	Inner struct {
		A [3]Address
		P *int64
	}
	Flags [7]bool
	F     float64
	C     complex128
	U8    uint8
}

// WideKey and WideElem are above 128 bytes, so that maps hold them indirectly.
type WideKey struct {
	N   int
	Pad [20]uint64
}

// WideElem has a pointer after its padding.
type WideElem struct {
	Pad [20]uint64
	P   *User
}

// StructKey is a map key of several fields.
type StructKey struct {
	A string
	B int32
	C int32
}

// Padded is an object with pointers of 1 KiB: from 1.22 on it has a malloc header.
type Padded struct {
	P   *User
	Pad [1000]byte
	Q   *User
}

// Medium is just above 512 bytes; Large is above 32 KiB.
type Medium struct {
	Ptrs [65]*User
}

// Large is an object with pointers of its own span.
type Large struct {
	P   [3000]*User
	Pad [40000]byte
	Q   *User
}

// Row is the element of a big array of structs.
type Row struct {
	ID   int64
	Name string
	U    *User
}

// Shouter is implemented by a pointer and by a value type.
type Shouter interface{ Shout() string }

// Shout by pointer.
func (u *User) Shout() string { return u.Name }

// Number implements Shouter by a non-pointer.
type Number struct{ A, B int64 }

// Shout by value.
func (n Number) Shout() string { return strconv.Itoa(int(n.A)) }

// OnePointer is pointer-shaped though it is a struct: it is stored directly in an interface.
type OnePointer struct{ P *User }

// ListNode makes a singly linked list; Cycle refers to itself.
type ListNode struct {
	Next *ListNode
	Val  int
}

// Cycle refers to itself.
type Cycle struct {
	Self *Cycle
	Peer *Cycle
	N    int
}

// OnlyStack, OnlyClosure, OnlyDefer, OnlyPanic and the like are each reached in one way only.
type OnlyStack struct {
	N    int
	Name string
	Next *OnlyStack
}

// OnlyClosure is reached from a closure only.
type OnlyClosure struct{ A, B, C int }

// OnlyDefer is reached from a pending deferred call only.
type OnlyDefer struct{ A, B, C, D int }

// OnlyPanic is reached from the value of a panic in progress.
type OnlyPanic struct{ A, B, C, D, E int }

// OnlyFinalizer is reached from the finalizer's closure only.
type OnlyFinalizer struct{ A, B int }

// OnlyChan is reached from a channel's buffer only.
type OnlyChan struct{ A, B, C, D, E, F int }

// OnlySender sits in the frame of a blocked sender.
type OnlySender struct{ A [9]int }

// Pooled sits in a sync.Pool.
type Pooled struct{ A [12]int }

// TimerArg is held by a pending timer's function.
type TimerArg struct{ A [5]int }

// ContextValue hangs on a context.
type ContextValue struct{ A [3]int }

var (
	gSessions  []*Session
	gUser      *User
	gNested    *Nested
	gNestedVal Nested
	gInts      []int
	gSub       []int
	gStrings   []string
	gBigString string
	gSubstring string
	gNamed     [4]*User
	gNilSlice  []int
	gEmptySl   = []int{}
	gRows      []Row
	gTiny      []*int32

	gMapSmall     map[int]int
	gMapStr       map[string]*User
	gMapLarge     map[uint64]uint64
	gMapLargePtr  map[string]*Session
	gMapShrunk    map[int]*User
	gMapGrown     map[int32]string
	gMapWideKey   map[WideKey]int
	gMapWideElem  map[int]WideElem
	gMapStructKey map[StructKey]int
	gMapIface     map[any]any
	gMapSet       map[string]struct{}
	gMapBool      map[uint8]bool
	gMapNil       map[int]int
	gMapEmpty     map[string]int
	gMapOfMaps    map[string]map[int]*User
	gMapFloat     map[float64][2]string

	gChanInt    chan int
	gChanPtr    chan *OnlyChan
	gChanNone   chan struct{}
	gChanClosed chan string
	gChanZero   chan *User
	gChanStruct chan Row
	gChanIface  chan any

	gEfacePtr, gEfaceVal, gEfaceInt, gEfaceStr, gEfaceOne, gEfaceFunc, gEfaceMap any
	gIfacePtr, gIfaceVal                                                         Shouter
	gIfaces                                                                      []Shouter
	gAreas                                                                       []shapes.Area

	gClosureVal, gClosureRef, gClosureOnly, gGenericClosure func() int
	gMethodValue                                            func() string
	gMethodExpr                                             func(*User) string
	gFuncs                                                  map[string]func() int

	gTree     *shapes.Node
	gList     *ListNode
	gCycle    *Cycle
	gPair     *shapes.Pair[string, *User]
	gPairInt  *shapes.Pair[int, shapes.Point]
	gStack    *shapes.Stack[*Session]
	gPadded   *Padded
	gMedium   *Medium
	gLarge    *Large
	gPaddeds  []*Padded
	gUnsafe   unsafe.Pointer
	gUintptr  uintptr
	gInterior *int64
	gArrayPtr *[100]*User

	gFinalized *Cycle
	gPool      sync.Pool
	gSyncMap   sync.Map
	gOnce      sync.Once
	gTimer     *time.Timer
	gAfter     *time.Timer
	gTicker    *time.Ticker
	gCtx       context.Context
	gCancel    context.CancelFunc
	gBuilder   *strings.Builder

	park = make(chan struct{})
	// More planting, by files for newer releases.
	plants []func()
	// Goroutines that those files start.
	parked int
)

func sessions() {
	gUser = &User{Name: "shared", Age: 40}
	gUser.self = gUser
	for i := 0; i < 1000; i++ {
		s := &Session{ID: uint64(i), Name: "session-" + strconv.Itoa(i), User: gUser}
		if i%10 == 0 {
			s.Attrs = map[string]string{"k": s.Name}
		}
		if i > 0 {
			s.Next = gSessions[i-1]
		}
		gSessions = append(gSessions, s)
	}
	fixture.Count("main.Session", 1000)
	fixture.Plant("gSessions", "slice", "global main.gSessions", gSessions)
	fixture.Plant("gUser", "pointer", "global main.gUser", gUser)
	fixture.Plant("gSessions[500]", "pointer", "global main.gSessions", gSessions[500])
}

func structs() {
	n := int64(7)
	gNested = &Nested{F: 1.5, C: 2 + 3i, U8: 9}
	gNested.Street = strings.Repeat("s", 20)
	gNested.Inner.A[1].Street = strings.Repeat("i", 30)
	gNested.Inner.P = &n
	gNestedVal.Inner.P = &n
	fixture.Count("main.Nested", 1)
	fixture.Plant("gNested", "pointer", "global main.gNested", gNested)
	fixture.Plant("gNested.Inner.P", "pointer", "global main.gNested", gNested.Inner.P)
	fixture.Plant("gNested.Inner.A[1].Street", "string", "global main.gNested", gNested.Inner.A[1].Street)
	gInterior = &(&struct {
		A [10]int64
		P *User
	}{}).A[7]
	fixture.PlantAt("gInterior", "interior-pointer", "global main.gInterior", "int64", uintptr(unsafe.Pointer(gInterior)), 8,
		"object", fixture.Hex(uintptr(unsafe.Pointer(gInterior))-56), "object_size", 88)

	gPadded = &Padded{P: gUser, Q: &User{Name: "padded"}}
	gMedium = &Medium{}
	gMedium.Ptrs[64] = &User{Name: "medium"}
	gLarge = &Large{Q: &User{Name: "large"}}
	gLarge.P[2999] = &User{Name: "large-p"}
	for i := 0; i < 50; i++ {
		gPaddeds = append(gPaddeds, &Padded{Q: &User{Age: i}})
	}
	gArrayPtr = new([100]*User)
	gArrayPtr[99] = gUser
	fixture.Count("main.Padded", 51)
	fixture.Count("main.Medium", 1)
	fixture.Count("main.Large", 1)
	fixture.Plant("gPadded", "pointer", "global main.gPadded", gPadded)
	fixture.Plant("gPadded.Q", "pointer", "global main.gPadded", gPadded.Q)
	fixture.Plant("gMedium", "pointer", "global main.gMedium", gMedium)
	fixture.Plant("gMedium.Ptrs[64]", "pointer", "global main.gMedium", gMedium.Ptrs[64])
	fixture.Plant("gLarge", "pointer", "global main.gLarge", gLarge)
	fixture.Plant("gLarge.Q", "pointer", "global main.gLarge", gLarge.Q)
	fixture.Plant("gArrayPtr", "pointer", "global main.gArrayPtr", gArrayPtr)
	gRows = make([]Row, 5000)
	for i := range gRows {
		gRows[i] = Row{int64(i), "row", nil}
	}
	gRows[4999].U = &User{Name: "last row"}
	fixture.Plant("gRows", "slice", "global main.gRows", gRows)
	fixture.Plant("gRows[4999].U", "pointer", "global main.gRows", gRows[4999].U)
	for i := 0; i < 100; i++ {
		v := new(int32)
		*v = int32(i)
		gTiny = append(gTiny, v)
	}
	fixture.Fact("tiny_allocations", 100)
	gUnsafe = unsafe.Pointer(&User{Name: "unsafe"})
	fixture.Plant("gUnsafe", "pointer", "global main.gUnsafe", (*User)(gUnsafe))

	gTree = shapes.Tree(8, 1)
	fixture.Count("shapes.Node", 255)
	fixture.Plant("gTree", "pointer", "global main.gTree", gTree)
	for i := 0; i < 300; i++ {
		gList = &ListNode{gList, i}
	}
	fixture.Count("main.ListNode", 300)
	fixture.Plant("gList", "pointer", "global main.gList", gList)
	gCycle = &Cycle{N: 1}
	gCycle.Self = gCycle
	gCycle.Peer = &Cycle{Peer: gCycle, N: 2}
	fixture.Plant("gCycle", "pointer", "global main.gCycle", gCycle)
	fixture.Plant("gCycle.Peer", "pointer", "global main.gCycle", gCycle.Peer)
}

func slicesAndStrings() {
	gInts = make([]int, 100, 128)
	big := make([]int, 100000)
	gSub = big[99990:99993:99995]
	fixture.Plant("gInts", "slice", "global main.gInts", gInts)
	fixture.Plant("gSub", "sub-slice", "global main.gSub", gSub,
		"base", fixture.Hex(uintptr(unsafe.Pointer(&big[0]))), "base_size", 800000)
	for i := 0; i < 50; i++ {
		gStrings = append(gStrings, "string number "+strconv.Itoa(i))
	}
	fixture.Plant("gStrings", "slice", "global main.gStrings", gStrings)
	gBigString = strings.Repeat("x", 10000)
	pinned := strings.Repeat("y", 200000)
	gSubstring = pinned[1000:1016]
	fixture.Plant("gBigString", "string", "global main.gBigString", gBigString)
	fixture.Plant("gSubstring", "substring", "global main.gSubstring", gSubstring,
		"base", fixture.Hex(baseOf(pinned)), "base_size", 200000)
	for i := range gNamed {
		gNamed[i] = &User{Age: i}
	}
	fixture.Plant("gNamed[3]", "pointer", "global main.gNamed", gNamed[3])
	gBuilder = &strings.Builder{}
	gBuilder.WriteString(strings.Repeat("b", 3000))
	fixture.Plant("gBuilder", "pointer", "global main.gBuilder", gBuilder)
}

func baseOf(s string) uintptr { return *(*uintptr)(unsafe.Pointer(&s)) }

func mapTruth(name string, m any, expect int) {
	fixture.Plant(name, "map", "global main."+name, m)
	fixture.Member("map_len", name, expect)
}

func maps() {
	gMapSmall = map[int]int{1: 1, 2: 2, 3: 3}
	mapTruth("gMapSmall", gMapSmall, 3)
	gMapStr = map[string]*User{}
	for i := 0; i < 8; i++ {
		gMapStr["user"+strconv.Itoa(i)] = &User{Age: i}
	}
	mapTruth("gMapStr", gMapStr, 8)
	gMapLarge = make(map[uint64]uint64, 10000)
	gMapLargePtr = map[string]*Session{}
	gMapGrown = map[int32]string{}
	for i := 0; i < 10000; i++ {
		gMapLarge[uint64(i)] = uint64(i)
		gMapLargePtr["s"+strconv.Itoa(i)] = gSessions[i%1000]
	}
	mapTruth("gMapLarge", gMapLarge, 10000)
	mapTruth("gMapLargePtr", gMapLargePtr, 10000)
	// An old-style map stays half evacuated when it stops growing right after a doubling; 13 times a power
	// of two divided by two is the load at which it doubles.
	for i := 0; i < 13*256/2+2; i++ {
		gMapGrown[int32(i)] = "grown"
	}
	mapTruth("gMapGrown", gMapGrown, 13*256/2+2)
	gMapShrunk = map[int]*User{}
	for i := 0; i < 5000; i++ {
		gMapShrunk[i] = gUser
	}
	for i := 0; i < 4990; i++ {
		delete(gMapShrunk, i)
	}
	mapTruth("gMapShrunk", gMapShrunk, 10)
	gMapWideKey = map[WideKey]int{}
	gMapWideElem = map[int]WideElem{}
	gMapStructKey = map[StructKey]int{}
	gMapIface = map[any]any{}
	gMapSet = map[string]struct{}{}
	gMapBool = map[uint8]bool{}
	gMapFloat = map[float64][2]string{}
	for i := 0; i < 100; i++ {
		gMapWideKey[WideKey{N: i}] = i
		gMapWideElem[i] = WideElem{P: &User{Age: i}}
		gMapStructKey[StructKey{A: "k" + strconv.Itoa(i), B: int32(i)}] = i
		gMapSet["e"+strconv.Itoa(i)] = struct{}{}
		gMapBool[uint8(i)] = true
		gMapFloat[float64(i)] = [2]string{"a" + strconv.Itoa(i), "b"}
	}
	mapTruth("gMapWideKey", gMapWideKey, 100)
	mapTruth("gMapWideElem", gMapWideElem, 100)
	mapTruth("gMapStructKey", gMapStructKey, 100)
	mapTruth("gMapSet", gMapSet, 100)
	mapTruth("gMapBool", gMapBool, 100)
	mapTruth("gMapFloat", gMapFloat, 100)
	gMapIface[1] = &User{Name: "by int"}
	gMapIface["two"] = 2
	gMapIface[shapes.Point{X: 1, Y: 2}] = Number{1, 2}
	gMapIface[gUser] = "by pointer"
	gMapIface[3.5] = []int{1, 2, 3}
	mapTruth("gMapIface", gMapIface, 5)
	gMapEmpty = map[string]int{}
	mapTruth("gMapEmpty", gMapEmpty, 0)
	gMapOfMaps = map[string]map[int]*User{"a": {1: gUser, 2: gUser}, "b": {}}
	mapTruth("gMapOfMaps", gMapOfMaps, 2)
}

func chans() {
	gChanInt = make(chan int, 16)
	for i := 0; i < 20; i++ {
		gChanInt <- i
		if i < 10 {
			<-gChanInt
		}
	}
	gChanPtr = make(chan *OnlyChan, 8)
	for i := 0; i < 5; i++ {
		gChanPtr <- &OnlyChan{A: i}
	}
	// Take two and put one back, so that the buffer wraps round with a stale slot in it.
	<-gChanPtr
	<-gChanPtr
	gChanPtr <- &OnlyChan{A: 5}
	gChanNone = make(chan struct{}, 100)
	for i := 0; i < 3; i++ {
		gChanNone <- struct{}{}
	}
	gChanClosed = make(chan string, 4)
	gChanClosed <- "left over"
	close(gChanClosed)
	gChanZero = make(chan *User)
	gChanStruct = make(chan Row, 4)
	gChanStruct <- Row{1, "in a channel", gUser}
	gChanIface = make(chan any, 4)
	gChanIface <- &User{Name: "in an interface in a channel"}
	gChanIface <- 12345
	fixture.Count("main.OnlyChan", 4)
	for _, c := range []struct {
		name string
		c    any
	}{{"gChanInt", gChanInt}, {"gChanPtr", gChanPtr}, {"gChanNone", gChanNone}, {"gChanClosed", gChanClosed},
		{"gChanZero", gChanZero}, {"gChanStruct", gChanStruct}, {"gChanIface", gChanIface}} {
		fixture.Plant(c.name, "chan", "global main."+c.name, c.c)
	}
}

func interfaces() {
	gEfacePtr = &User{Name: "eface"}
	gEfaceVal = Number{3, 4}
	gEfaceInt = 1234567
	gEfaceStr = strings.Repeat("e", 5)
	gEfaceOne = OnePointer{&User{Name: "one pointer"}}
	gEfaceMap = map[string]int{"in": 1}
	k := 5
	gEfaceFunc = func() int { k++; return k }
	gIfacePtr = &User{Name: "iface"}
	gIfaceVal = Number{5, 6}
	fixture.Plant("gEfacePtr", "eface-pointer", "global main.gEfacePtr", gEfacePtr)
	fixture.PlantAt("gEfaceVal", "eface-value", "global main.gEfaceVal", "main.Number", word(&gEfaceVal), 16)
	fixture.PlantAt("gEfaceInt", "eface-value", "global main.gEfaceInt", "int", word(&gEfaceInt), 8)
	fixture.PlantAt("gEfaceStr", "eface-value", "global main.gEfaceStr", "string", word(&gEfaceStr), 16)
	fixture.PlantAt("gEfaceOne", "eface-direct", "global main.gEfaceOne", "main.User", word(&gEfaceOne), unsafe.Sizeof(User{}))
	fixture.Plant("gEfaceFunc", "closure", "global main.gEfaceFunc", gEfaceFunc)
	fixture.Plant("gEfaceMap", "map", "global main.gEfaceMap", gEfaceMap)
	fixture.Plant("gIfacePtr", "iface-pointer", "global main.gIfacePtr", gIfacePtr)
	fixture.PlantAt("gIfaceVal", "iface-value", "global main.gIfaceVal", "main.Number", wordOf(&gIfaceVal), 16)
	for i := 0; i < 40; i++ {
		if i%2 == 0 {
			gIfaces = append(gIfaces, &User{Age: i})
			gAreas = append(gAreas, &shapes.Big{})
		} else {
			gIfaces = append(gIfaces, Number{int64(i), 0})
			gAreas = append(gAreas, shapes.Point{X: int32(i), Y: 2})
		}
	}
	fixture.Count("shapes.Big", 20)
	fixture.Plant("gIfaces", "slice", "global main.gIfaces", gIfaces)
	fixture.Plant("gAreas", "slice", "global main.gAreas", gAreas)
}

func word(p *any) uintptr       { return (*[2]uintptr)(unsafe.Pointer(p))[1] }
func wordOf(p *Shouter) uintptr { return (*[2]uintptr)(unsafe.Pointer(p))[1] }

func closures() {
	user, n := &User{Name: "captured"}, 42
	gClosureVal = func() int { return user.Age + n }
	counter := 0
	gClosureRef = func() int { counter++; return counter }
	only := &OnlyClosure{1, 2, 3}
	gClosureOnly = func() int { return only.A }
	gMethodValue = (&User{Name: "method value"}).Shout
	gMethodExpr = (*User).Shout
	gStack = &shapes.Stack[*Session]{}
	gGenericClosure = gStack.Pusher(gSessions[0])
	gGenericClosure()
	gPair = &shapes.Pair[string, *User]{Key: "k", Val: gUser}
	gPairInt = &shapes.Pair[int, shapes.Point]{Key: 1, Next: &shapes.Pair[int, shapes.Point]{Key: 2}}
	gFuncs = map[string]func() int{}
	for i := 0; i < 10; i++ {
		j := i
		gFuncs["f"+strconv.Itoa(i)] = func() int { return j }
	}
	fixture.Count("main.OnlyClosure", 1)
	fixture.Plant("gClosureVal", "closure", "global main.gClosureVal", gClosureVal)
	fixture.Plant("gClosureVal.user", "captured-pointer", "closure main.closures.func1", user)
	fixture.Plant("gClosureRef", "closure", "global main.gClosureRef", gClosureRef)
	fixture.Plant("gClosureRef.counter", "captured-by-reference", "closure main.closures.func2", &counter)
	fixture.Plant("gClosureOnly", "closure", "global main.gClosureOnly", gClosureOnly)
	fixture.Plant("gClosureOnly.only", "captured-pointer", "closure main.closures.func3", only)
	fixture.Plant("gMethodValue", "method-value", "global main.gMethodValue", gMethodValue)
	fixture.Plant("gGenericClosure", "closure", "global main.gGenericClosure", gGenericClosure)
	fixture.Plant("gStack", "generic", "global main.gStack", gStack)
	fixture.Plant("gPair", "generic", "global main.gPair", gPair)
	fixture.Plant("gPairInt", "generic", "global main.gPairInt", gPairInt)
	fixture.Plant("gFuncs", "map", "global main.gFuncs", gFuncs)
}

func library() {
	gFinalized = &Cycle{N: 3}
	kept := &OnlyFinalizer{1, 2}
	runtime.SetFinalizer(gFinalized, func(c *Cycle) { kept.A++ })
	fixture.Count("main.OnlyFinalizer", 1)
	fixture.Plant("gFinalized", "finalizer", "global main.gFinalized", gFinalized)
	fixture.Plant("gFinalized.kept", "finalizer-closure-capture", "finalizer of main.gFinalized", kept)
	for i := 0; i < 100; i++ {
		gSyncMap.Store(i, &User{Age: i})
	}
	fixture.Fact("sync_map_len", 100)
	gOnce.Do(func() {})
	arg := &TimerArg{}
	gTimer = time.NewTimer(10 * time.Hour)
	gAfter = time.AfterFunc(10*time.Hour, func() { arg.A[0]++ })
	gTicker = time.NewTicker(10 * time.Hour)
	fixture.Count("main.TimerArg", 1)
	fixture.Plant("gTimer", "timer", "global main.gTimer", gTimer)
	fixture.Plant("gAfter", "timer", "global main.gAfter", gAfter)
	fixture.Plant("gAfter.arg", "timer-function-capture", "timer", arg)
	fixture.Plant("gTicker", "ticker", "global main.gTicker", gTicker)
	value := &ContextValue{}
	type key struct{}
	base, cancel := context.WithCancel(context.Background())
	withValue := context.WithValue(base, key{}, value)
	gCtx, gCancel = context.WithTimeout(withValue, 10*time.Hour)
	runtime.KeepAlive(cancel)
	fixture.Count("main.ContextValue", 1)
	fixture.Plant("gCtx", "context", "global main.gCtx", gCtx)
	fixture.Plant("gCtx.value", "context-value", "global main.gCtx", value)
	runtime.KeepAlive(gCancel)
}

// fillPool runs right before the last collection, which moves the pool's content to its victim cache.
func fillPool() {
	for i := 0; i < 10; i++ {
		gPool.Put(new(Pooled))
	}
}

//go:noinline
func holdLocals() {
	first := &OnlyStack{N: 1, Name: strings.Repeat("f", 40)}
	first.Next = &OnlyStack{N: 2}
	slice := make([]*OnlyStack, 3, 10)
	slice[2] = &OnlyStack{N: 3}
	m := map[string]*OnlyStack{"four": {N: 4}}
	var any1 any = &OnlyStack{N: 5}
	onStack := OnlyStack{N: 6, Name: strings.Repeat("g", 50)}
	holder := "goroutine main.holdLocals"
	fixture.Count("main.OnlyStack", 5)
	fixture.Plant("first", "pointer", holder, first)
	fixture.Plant("first.Next", "pointer", holder, first.Next)
	fixture.Plant("slice", "slice", holder, slice)
	fixture.Plant("slice[2]", "pointer", holder, slice[2])
	fixture.Plant("m", "map", holder, m)
	fixture.Plant("m[four]", "pointer", holder, m["four"])
	fixture.Plant("any1", "pointer", holder, any1)
	fixture.Plant("onStack.Name", "string", holder, onStack.Name)
	fixture.Announce("holdLocals", "chan receive")
	<-park
	runtime.KeepAlive(first)
	runtime.KeepAlive(slice)
	runtime.KeepAlive(m)
	runtime.KeepAlive(any1)
	use(&onStack)
}

//go:noinline
func use(s *OnlyStack) { s.N++ }

//go:noinline
func blockInDefer() {
	d := &OnlyDefer{A: 1}
	fixture.Plant("deferred", "pointer", "goroutine main.blockInDefer", d)
	defer func() {
		fixture.Announce("deferInProgress", "chan receive")
		<-park
		d.A++
	}()
}

//go:noinline
func pendingDefers() {
	// In a loop, so that the records are on the heap and not open-coded.
	for i := 0; i < 3; i++ {
		d := &OnlyDefer{A: i}
		fixture.Plant("pendingDefer"+strconv.Itoa(i), "pointer", "goroutine main.pendingDefers", d)
		defer func() { d.B++ }()
	}
	fixture.Announce("pendingDefers", "chan receive")
	<-park
}

//go:noinline
func blockInPanic() {
	defer func() {
		fixture.Announce("panicBeingRecovered", "chan receive")
		<-park
		_ = recover()
	}()
	p := &OnlyPanic{A: 1}
	fixture.Count("main.OnlyPanic", 1)
	fixture.Plant("panicValue", "pointer", "goroutine main.blockInPanic", p)
	panic(p)
}

//go:noinline
func blockSender() {
	s := &OnlySender{}
	fixture.Count("main.OnlySender", 1)
	fixture.Plant("sent", "pointer", "goroutine main.blockSender", s)
	c := make(chan *OnlySender)
	fixture.Plant("senderChan", "chan", "goroutine main.blockSender", c)
	fixture.Announce("blockSender", "chan send")
	c <- s
}

//go:noinline
func closureGoroutine() {
	captured := &User{Name: "captured by a goroutine"}
	fixture.Plant("goroutineCapture", "captured-pointer", "goroutine main.closureGoroutine.func1", captured)
	go func() {
		fixture.Announce("closureGoroutine", "chan receive")
		<-park
		captured.Age++
	}()
}

func main() {
	fixture.Begin("values", "all")
	sessions()
	structs()
	slicesAndStrings()
	maps()
	chans()
	interfaces()
	closures()
	library()
	go holdLocals()
	go blockInDefer()
	go pendingDefers()
	go blockInPanic()
	go blockSender()
	closureGoroutine()
	for _, plant := range plants {
		plant()
	}
	fixture.Settle(6 + parked)
	// One whose deferred call is running, three whose calls are pending.
	fixture.Count("main.OnlyDefer", 4)
	fixture.Count("main.Pooled", 10)
	fixture.Serve(fixture.Options{LastMinute: fillPool})
}
