//go:build go1.24

package main

import (
	"runtime"
	"weak"

	"gosleuth.test/fixtures/fixture"
	"gosleuth.test/fixtures/shapes"
)

// CleanupArg is held by a pending cleanup only.
type CleanupArg struct{ A [6]int }

// Weak is what weak pointers point to.
type Weak struct {
	A [10]int
	P *User
}

// Alias is a generic alias.
type Alias[T any] = shapes.Pair[string, T]

var (
	gCleaned   *Weak
	gWeakLive  weak.Pointer[Weak]
	gWeakDead  weak.Pointer[Weak]
	gWeakOwner *Weak
	gAlias     *Alias[*Weak]
)

func init() {
	plants = append(plants, func() {
		gCleaned = &Weak{}
		arg := &CleanupArg{}
		runtime.AddCleanup(gCleaned, func(a *CleanupArg) { a.A[0]++ }, arg)
		gWeakOwner = &Weak{}
		gWeakLive = weak.Make(gWeakOwner)
		gWeakDead = weak.Make(&Weak{})
		gAlias = &Alias[*Weak]{Key: "alias", Val: gWeakOwner}
		fixture.Count("main.CleanupArg", 1)
		fixture.Count("main.Weak", 2)
		fixture.Plant("gCleaned", "cleanup", "global main.gCleaned", gCleaned)
		fixture.Plant("gCleaned.arg", "cleanup-argument", "cleanup of main.gCleaned", arg)
		fixture.Plant("gWeakOwner", "weak-target", "global main.gWeakOwner", gWeakOwner)
		fixture.Plant("gAlias", "generic", "global main.gAlias", gAlias)
	})
}
