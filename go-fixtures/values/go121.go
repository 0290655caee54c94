//go:build go1.21

package main

import (
	"context"
	"sync"
	"time"

	"gosleuth.test/fixtures/fixture"
)

var (
	gWithoutCancel context.Context
	gAfterFuncStop func() bool
	gOnceValue     func() *User
	gCause         context.Context
)

func init() {
	plants = append(plants, func() {
		gWithoutCancel = context.WithoutCancel(gCtx)
		gCause, _ = context.WithDeadlineCause(gWithoutCancel, time.Now().Add(9*time.Hour), context.Canceled)
		seen := &User{Name: "after func"}
		gAfterFuncStop = context.AfterFunc(gCause, func() { seen.Age++ })
		gOnceValue = sync.OnceValue(func() *User { return &User{Name: "once value"} })
		gOnceValue()
		fixture.Plant("gCause", "context", "global main.gCause", gCause)
		fixture.Plant("gOnceValue()", "pointer", "global main.gOnceValue", gOnceValue())
	})
}
