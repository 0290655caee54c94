//! gosleuth: looks into a Go process, live or dead, and says what is alive, what leaks and who holds it.
//!
//! Data flows down this list; a room uses the rooms above it and never one below.
//!
//! | room       | owns |
//! |------------|------|
//! | `base`     | addresses, units, bitmaps, diagnostics, evidence: no knowledge of anything else |
//! | `os`       | the only unsafe code: ptrace, process_vm_readv, signals, mmap, /proc |
//! | `target`   | a still view of one process: memory, mappings, threads, registers (live, core, fake) |
//! | `image`    | what compiler and linker wrote down: ELF, build info, pclntab, moduledata, DWARF |
//! | `runtime`  | the Go runtime as a model: layouts, types, heap, goroutines, stacks, values |
//! | `graph`    | objects and edges in flat arrays, roots with their evidence |
//! | `profile`  | pprof profiles: read, written, compared in common terms (imports `base` only) |
//! | `analysis` | one file per question, plain results, no text |
//! | `snapshot` | a file of structure only, and everything above filled from one |
//! | `report`   | the envelope of every answer: schema version, tool, target, diagnostics, result |
//! | `output`   | text and JSON from the report; computes nothing |
//! | `cli`      | arguments, the session that opens stages lazily, one file per command |
//! | `raw`      | for tests only: every parser of foreign bytes, as a function of bytes |
#![deny(unsafe_code)]

pub mod analysis;
pub mod base;
pub mod cli;
pub mod graph;
pub mod image;
#[allow(unsafe_code)]
pub mod os;
pub mod output;
pub mod profile;
#[doc(hidden)]
pub mod raw;
pub mod report;
pub mod runtime;
pub mod snapshot;
pub mod target;
