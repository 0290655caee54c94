//go:build !go1.23

package main

import "time"

func init() {
	// From 1.23 on the collector takes tickers that nobody refers to; before, they stay in the timer heap.
	leaks["ticker-dropped"] = &Leak{
		pattern: "ticker-not-stopped", holder: "timer", typ: "time.Ticker", objects: 10000, bytes: 10000 * 80,
		add: func(b int) {
			for i := 0; i < 10000; i++ {
				time.NewTicker(far)
			}
		},
	}
}
