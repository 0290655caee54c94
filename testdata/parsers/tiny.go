// The smallest program that has something of everything that gosleuth parses: see scripts/parser-corpus.
package main

import (
	"syscall"
)

type shape interface{ area() int }

type square struct {
	side int
	name string
	next *square
}

func (s *square) area() int { return s.side * s.side }

type pair[K comparable, V any] struct {
	key   K
	value V
	list  []V
}

var (
	byName = map[string]*square{}
	big    = map[int][4]*square{}
	shapes []shape
	pairs  = &pair[string, *square]{key: "k", list: make([]*square, 300)}
	wait   = make(chan *square, 4)
	called func() int
	blob   = make([]byte, 40000)
)

//go:noinline
func park(depth int, s *square) int {
	var held [6]*square
	held[depth%6] = s
	local := &held
	defer func() { called = func() int { return len(local) } }()
	if depth > 0 {
		return park(depth-1, s) + len(local)
	}
	return (<-wait).side + local[0].side
}

func main() {
	var last *square
	for i := 0; i < 60; i++ {
		last = &square{side: i, name: string(rune('a' + i%26)), next: last}
		byName[last.name] = last
		big[i] = [4]*square{last}
		shapes = append(shapes, last)
		pairs.list[i] = last
	}
	never := make(chan *square)
	for i := 0; i < 4; i++ {
		s := &square{side: i}
		go func() { <-never; println(park(1, s)) }()
	}
	wait = never
	for i := 0; i < 3; i++ {
		go park(3*i, last)
	}
	var b [1]byte
	for i := 0; i < 1000; i++ {
		syscall.Getpid()
	}
	println("ready")
	syscall.Read(0, b[:])
	println(len(blob), len(shapes), called != nil)
}
