//go:build cgo

package main

/*
#include <stdlib.h>
#include <string.h>
extern int goCallback(int);
static void *grab(size_t n) { void *p = malloc(n); memset(p, 1, n); return p; }
static int call_back(int n) { return goCallback(n) + 1; }
*/
import "C"

import (
	"unsafe"

	"gosleuth.test/fixtures/fixture"
)

var gCMemory unsafe.Pointer

//export goCallback
func goCallback(n C.int) C.int {
	// Blocks below C frames: this stack goes Go, C, Go.
	fixture.Announce("cgoCallback", "chan receive")
	<-park
	return n
}

func init() {
	parked++
	plants = append(plants, func() {
		gCMemory = C.grab(1 << 20)
		fixture.PlantAt("gCMemory", "c-memory", "global main.gCMemory", "unsafe.Pointer", uintptr(gCMemory), 1<<20)
		go func() { C.call_back(1) }()
	})
}
