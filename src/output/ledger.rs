//! The ledger of resident memory as text.

use std::io::{self, Write};

use super::table;
use crate::{
    analysis::ledger::{Ledger, LedgerSource, Owner},
    base::units,
};

/// Name and meaning.
fn words(owner: Owner) -> (&'static str, &'static str) {
    match owner {
        Owner::HeapLive => ("Go heap: alive", "objects that something still reaches"),
        Owner::HeapGarbage => ("Go heap: garbage", "nothing reaches it; the next collection frees it"),
        Owner::HeapDead => ("Go heap: dead, not swept", "the last collection found it dead; sweeping makes it free"),
        Owner::HeapFree => ("Go heap: free in spans", "free slots and rounding between objects of the same size"),
        Owner::HeapIdle => ("Go heap: idle pages", "no objects; kept for reuse until the scavenger returns them"),
        Owner::GoroutineStacks => ("goroutine stacks", "stacks of the goroutines that exist"),
        Owner::RuntimeSpans => ("stack pools, GC buffers", "stacks of threads and ended goroutines, GC work buffers"),
        Owner::RuntimeMetadata => ("runtime metadata", "span records, bitmaps, page index, profile buckets"),
        Owner::ProgramFile => ("program file", "mapped pages of the executable: code and constants"),
        Owner::ProgramVariables => ("program variables", "global variables"),
        Owner::OtherFiles => ("libraries, other files", "mapped files; shared with other processes"),
        Owner::KernelMappings => ("kernel mappings", "the first thread's stack, vdso"),
        Owner::ThreadStacks => ("C thread stacks", "stacks of threads that C made"),
        Owner::CHeap => ("C heap (brk)", "malloc by C code (cgo)"),
        Owner::OtherAnonymous => ("other anonymous memory", "mmap and malloc arenas of C code, or mmap by the program"),
    }
}

/// `live`: bytes of live objects, resident or not.
pub fn text(out: &mut dyn Write, l: &Ledger, live: u64) -> io::Result<()> {
    match (l.source, l.resident_bytes) {
        (LedgerSource::Kernel, Some(rss)) => {
            writeln!(
                out,
                "\nResident memory: {} counted by the kernel, {} of it explained{}.",
                units::bytes(rss),
                units::percent(l.explained_bytes.min(rss), rss),
                match l.swapped_bytes {
                    0 => String::new(),
                    n => format!("; {} more are swapped out", units::bytes(n)),
                }
            )?;
        }
        _ => writeln!(
            out,
            "\nMemory in use: {}. A core does not say what was resident: heap in use counts as if it was, and elsewhere \
             what is not all zeros. Pages of files are left out.",
            units::bytes(l.explained_bytes)
        )?,
    }
    let whole = l.resident_bytes.unwrap_or(l.explained_bytes);
    let rows = l.rows.iter().map(|r| {
        let (name, meaning) = words(r.owner);
        vec![units::bytes(r.bytes), units::percent(r.bytes, whole), format!("{name:<26} {meaning}")]
    });
    writeln!(out, "{}", table(&["bytes", "share", "what"], rows))?;
    let resident = l.rows.iter().find(|r| r.owner == Owner::HeapLive).map_or(0, |r| r.bytes);
    let untouched = live.saturating_sub(resident);
    if l.source == LedgerSource::Kernel && untouched > live / 100 {
        writeln!(
            out,
            "Of the {} alive in the Go heap, {} lie in pages that are not resident: never written, or swapped out.",
            units::bytes(live),
            units::bytes(untouched)
        )?;
    }
    if let (Some(kept), Some(returned)) = (l.counters.heap_idle_kept_bytes, l.counters.heap_returned_bytes) {
        writeln!(
            out,
            "The heap's idle address space: {} kept, {} returned to the kernel.",
            units::bytes(kept),
            units::bytes(returned)
        )?;
    }
    Ok(())
}
