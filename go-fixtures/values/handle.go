//go:build go1.23

package main

import (
	"unique"
	"unsafe"
)

func handle(h unique.Handle[Interned]) uintptr  { return *(*uintptr)(unsafe.Pointer(&h)) }
func handleStr(h unique.Handle[string]) uintptr { return *(*uintptr)(unsafe.Pointer(&h)) }
