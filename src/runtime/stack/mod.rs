//! runtime::stack: unwinding goroutine stacks by pclntab, and which words of each frame are live pointers.
//! Reads pcsp, stack maps, stack objects (runtime/symtab.go, stkframe.go). Used by `graph` (roots) and `analysis`.
