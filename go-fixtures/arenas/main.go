//go:build goexperiment.arenas

// arenas plants objects in user arenas (package arena, an experiment since Go 1.20): objects of the ordinary heap that only an
// arena holds, a slice that fills most of a chunk, and an arena that was freed.
package main

import (
	"arena"
	"runtime"
	"strconv"
	"unsafe"

	"gosleuth.test/fixtures/fixture"
)

// Node lives in an arena.
type Node struct {
	Next *Node
	Leaf *Leaf
	Data []byte
	N    uint64
}

// Leaf lives on the ordinary heap.
type Leaf struct {
	A [5]uint64
	P *Leaf
}

const (
	nodes = 3000
	slots = 200000
	// A chunk that is not full goes to the next arena when its own is freed, with all that it holds.
	chunk = 8 << 20
)

var (
	gArena, gFreed *arena.Arena
	gList          *Node
	gSlots         []*Leaf
	// What an arena holds that only its own objects lead to.
	gInner *Node
	freed  [100]uintptr
)

func plant(name string, l *Leaf) {
	fixture.PlantAt(name, "pointer", "an arena", "main.Leaf", uintptr(unsafe.Pointer(l)), unsafe.Sizeof(*l))
}

func fill(a *arena.Arena, bytes int) *Node {
	var head *Node
	for i := 0; i < nodes; i++ {
		n := arena.New[Node](a)
		*n = Node{Next: head, Leaf: &Leaf{P: &Leaf{}}, Data: arena.MakeSlice[byte](a, bytes, bytes), N: uint64(i)}
		head = n
	}
	return head
}

//go:noinline
func drop() {
	gFreed = arena.NewArena()
	for n := fill(gFreed, 3*chunk/nodes); n != nil; n = n.Next {
		// Hidden from the collector.
		if n.N < uint64(len(freed)) {
			freed[n.N] = ^uintptr(unsafe.Pointer(n.Leaf))
		}
	}
	gFreed.Free()
	gFreed = nil
}

func main() {
	fixture.Begin("arenas", "all")
	gArena = arena.NewArena()
	gList = fill(gArena, 24)
	gSlots = arena.MakeSlice[*Leaf](gArena, slots, slots)
	for i := 0; i < slots; i += 100 {
		gSlots[i] = &Leaf{}
	}
	inner := arena.NewArena()
	gInner = fill(inner, 24)
	drop()
	runtime.GC()
	for i, n := 0, gList; n != nil; n, i = n.Next, i+1 {
		if i%300 == 0 {
			plant("leaf"+strconv.Itoa(i), n.Leaf)
			plant("behind"+strconv.Itoa(i), n.Leaf.P)
		}
	}
	plant("slot", gSlots[100])
	plant("last-slot", gSlots[slots-100])
	plant("inner", gInner.Leaf)
	for _, at := range freed {
		fixture.Append("freed", "addr", fixture.Hex(^at))
	}
	fixture.Count("main.Leaf", 2*2*nodes+slots/100)
	fixture.Serve(fixture.Options{})
	runtime.KeepAlive(inner)
}
