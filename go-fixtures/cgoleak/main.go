//go:build cgo

// cgoleak leaks memory that the Go heap does not know: `cgoleak [leak|healthy] [BATCHES]`.
package main

/*
#include <stdlib.h>
#include <string.h>
static void leak_block(size_t n) { void *volatile p = malloc(n); if (p) memset(p, 7, n); }
static void use_block(size_t n) { void *p = malloc(n); if (p) { memset(p, 7, n); free(p); } }
*/
import "C"

import (
	"strconv"

	"gosleuth.test/fixtures/fixture"
)

const (
	blocks = 1000
	size   = 4000
)

var batches int

func grow(n int) {
	for i := 0; i < n; i++ {
		for k := 0; k < blocks; k++ {
			if fixture.Scenario == "leak" {
				C.leak_block(size)
			} else {
				C.use_block(size)
			}
		}
		batches++
	}
	fixture.Forget()
	fixture.Fact("batches", batches)
	fixture.Fact("healthy", fixture.Scenario != "leak")
	if fixture.Scenario != "leak" {
		fixture.Fact("leaks", fixture.Raw("[]"))
		return
	}
	fixture.Append("leaks", "pattern", "cgo-memory", "also", []string{}, "holder", "c", "type", "",
		"objects", batches*blocks, "bytes", batches*blocks*size, "retained_bytes", batches*blocks*size, "stack_bytes", 0)
}

func main() {
	fixture.Begin("cgoleak", "leak")
	run := func() { grow(fixture.ArgInt(0, 4)) }
	fixture.Choose(map[string]func(){"leak": run, "healthy": run})
	fixture.Serve(fixture.Options{Handle: map[string]func(string) string{
		"grow": func(arg string) string {
			n, err := strconv.Atoi(arg)
			if err != nil {
				n = 1
			}
			grow(n)
			return fixture.Reprint
		},
	}})
}
