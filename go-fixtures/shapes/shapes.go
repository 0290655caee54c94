// Package shapes holds types outside package main, so that type names with a package path are met.
package shapes

// Point is a small value without pointers.
type Point struct{ X, Y int32 }

// Node is a binary tree node.
type Node struct {
	Left, Right *Node
	Key         int
	Label       string
}

// Tree builds a perfect tree; depth 1 is a single node.
func Tree(depth, key int) *Node {
	if depth == 0 {
		return nil
	}
	return &Node{Tree(depth-1, 2*key), Tree(depth-1, 2*key+1), key, "label"}
}

// Area is an interface with value and pointer implementations.
type Area interface{ Area() int }

// Area makes Point an Area by value.
func (p Point) Area() int { return int(p.X * p.Y) }

// Big implements Area by pointer.
type Big struct {
	Sides [16]int
	Next  *Big
}

// Area multiplies the first two sides.
func (b *Big) Area() int { return b.Sides[0] * b.Sides[1] }

// Pair is a generic struct.
type Pair[K comparable, V any] struct {
	Key  K
	Val  V
	Next *Pair[K, V]
}

// Stack is a generic slice type with methods.
type Stack[T any] struct{ items []T }

// Push adds an element.
func (s *Stack[T]) Push(v T) { s.items = append(s.items, v) }

// Pusher returns a closure of a generic method.
func (s *Stack[T]) Pusher(v T) func() int {
	return func() int { s.Push(v); return len(s.items) }
}
