//go:build go1.22

package main

import "gosleuth.test/fixtures/fixture"

var gPerIteration []func() int

func init() {
	plants = append(plants, func() {
		// Since 1.22 each iteration has its own variable: these are ten heap cells and not one.
		for i := range 10 {
			gPerIteration = append(gPerIteration, func() int { i++; return i })
		}
		fixture.Plant("gPerIteration", "slice", "global main.gPerIteration", gPerIteration)
		fixture.Plant("gPerIteration[3]", "closure", "global main.gPerIteration", gPerIteration[3])
	})
}
