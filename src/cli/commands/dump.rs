//! `dump`: a core file of a live process, without gdb.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, Session, TargetArgs, print};
use crate::{base::units, target::DumpOptions};

/// Write a core file of a live process, for gosleuth, gdb, viewcore and Delve.
#[derive(Args, Debug)]
pub struct DumpArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The file to write. It holds the process's memory, secrets included; only its owner may read it.
    #[arg(short, long)]
    output: PathBuf,
    /// Compress with zstd; gosleuth reads such files as they are, other tools after `zstd -d`.
    #[arg(long)]
    compress: bool,
    /// Put the read-only pages of mapped files into the core too, so that it stands alone.
    #[arg(long)]
    with_files: bool,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

pub fn run(args: &DumpArgs) -> Result<(), Failure> {
    let mut s = Session::open(&args.target)?;
    s.needs_memory("a core file")?;
    let opts = DumpOptions { compress: args.compress, force: args.force, with_files: args.with_files };
    let figures = s.stage("dump", |rt| rt.target.dump(&args.output, opts));
    let e = s.envelope("dump", figures.map_err(|e| Failure::new(e.to_string(), None))?);
    print(&args.target, &e, |out, f| {
        writeln!(
            out,
            "Wrote {}: {} of memory in {} segments, {} threads. It holds whatever the process held, secrets included.",
            f.path.display(),
            units::bytes(f.saved_bytes),
            f.segments,
            f.threads
        )?;
        if f.unreadable_pages > 0 {
            writeln!(out, "{} pages could not be read and are zeros in it.", units::count(f.unreadable_pages))?;
        }
        Ok(())
    })
}
