//! runtime::sched: goroutines, Ms, Ps, wait reasons, sudogs, semaphores, timers.
//! Reads allgs, g, m, p (runtime/runtime2.go). Used by `graph` (roots) and `analysis`.
