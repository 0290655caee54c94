// Package registry leaks from a global outside package main.
package registry

// Item is what piles up.
type Item struct {
	Name string
	Data [200]byte
	Next *Item
}

var items []*Item

// Register adds an item for ever.
func Register(name string) { items = append(items, &Item{Name: name}) }
