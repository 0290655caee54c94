//! One file per command: open the session, run the analysis, hand the result to an output.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    Failure, TargetArgs,
    session::{Scene, Session},
};
use crate::{base::units, output, report::Envelope, runtime::sched::Goroutine};

pub mod debug;
pub mod demo;
pub mod diff;
mod diff_profiles;
pub mod doctor;
pub mod dump;
pub mod goroutines;
pub mod leaks;
pub mod locks;
pub mod objects;
pub mod overview;
pub mod retained;
pub mod show;
pub mod snapshot;
pub mod top;
pub mod waste;
pub mod why;

/// The target's nanotime: CLOCK_MONOTONIC of this machine where the target runs here. Of a core the latest time that a
/// goroutine has noted, which is no later than the time of the core: ages are then at least what is said.
pub(super) fn nanotime(s: &Session, goroutines: &[Goroutine]) -> Option<u64> {
    if !s.is_live() {
        return goroutines.iter().map(|g| g.waitsince).max().filter(|&t| t != 0);
    }
    goroutines::nanotime()
}

/// JSON, or the text that `text` writes; diagnostics follow the text as notes.
pub(super) fn print<R: Serialize>(
    args: &TargetArgs,
    envelope: &Envelope<R>,
    text: impl FnOnce(&mut dyn Write, &R) -> io::Result<()>,
) -> Result<(), Failure> {
    // Standard output by itself writes line by line.
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    if args.json {
        serde_json::to_writer_pretty(&mut out, envelope).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        text(&mut out, &envelope.result)?;
        output::diagnostics(&mut out, &envelope.diagnostics)?;
        if let Some(ms) = envelope.hold.stopped_ms {
            writeln!(out, "\nThe process was held for {}.", units::duration_ns((ms * 1e6) as u64))?;
        }
    }
    Ok(out.flush()?)
}
