package main

import (
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"gosleuth.test/fixtures/fixture"
)

func word(v any) uintptr { return (*[2]uintptr)(unsafe.Pointer(&v))[1] }

// hexRaw is the address that a pointer, chan or map holds.
func hexRaw(v any) fixture.Hex { return fixture.Hex(word(v)) }

func hexOf(v any) string { return `"0x` + strconv.FormatUint(uint64(word(v)), 16) + `"` }

// mutexBits says whether the mutex inside a sync.Once is locked: its state follows the done word.
func mutexBits(o *sync.Once) bool {
	return atomic.LoadInt32((*int32)(unsafe.Add(unsafe.Pointer(o), 4)))&1 != 0
}
