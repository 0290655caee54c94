//go:build cgo

package main

/*
#include <unistd.h>
extern int goBlocks(int);
static int c_read(int fd) { char c; return read(fd, &c, 1); }
static int c_inner(int n) { return goBlocks(n) + 1; }
static int c_outer(int n) { return c_inner(n) + 1; }
*/
import "C"

import "gosleuth.test/fixtures/fixture"

//export goBlocks
func goBlocks(n C.int) C.int {
	fixture.Announce("cgoCallback", "chan receive")
	<-park
	return n
}

//go:noinline
func inC(fd int) { C.c_read(C.int(fd)) }

func init() {
	plants = append(plants, func() {
		r, _, err := pipe()
		if err != nil {
			fixture.Fail(err.Error())
		}
		start(func() {
			fixture.Announce("cgoCall", "syscall", "fd", r)
			inC(r)
		})
		start(func() { C.c_outer(1) })
	})
}
