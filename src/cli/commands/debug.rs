//! `debug`: what the rooms below see, for tests, scripts and bug reports. Not part of the command line's contract.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use clap::{Args, Subcommand};

use super::Failure;
use crate::{
    image::{BuildInfo, dwarf::Dwarf, elf::Elf},
    os::mmap::MappedFile,
    runtime::layout::{self, Layout},
};

/// What the rooms below see: for scripts and bug reports; the output may change at any time.
#[derive(Args, Debug)]
pub struct DebugArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Layouts that the DWARF of a binary (not a process) describes, in the lines of the layout table.
    Layout { exe: PathBuf },
}

pub fn run(args: &DebugArgs) -> Result<(), Failure> {
    match &args.what {
        What::Layout { exe } => print_layout(exe),
    }
}

fn print_layout(exe: &std::path::Path) -> Result<(), Failure> {
    let bad = |why: String| Failure::new(format!("{}: {why}", exe.display()), None);
    let elf = Elf::open(exe).map_err(|e| bad(e.to_string()))?;
    let file = Arc::new(MappedFile::open(exe)?);
    let dwarf = Dwarf::open(&file, &layout::wants)
        .map_err(|e| bad(e.to_string()))?
        .ok_or_else(|| bad("has no DWARF".into()))?;
    let layout = Layout::from_dwarf(&dwarf).map_err(|e| bad(e.to_string()))?;
    let release = BuildInfo::of(&elf).map(|b| b.go_version).unwrap_or_default();
    let mut out = io::stdout().lock();
    writeln!(out, "release\t{release}\narch\t{}", layout::arch_name(elf.arch))?;
    for (kind, key, value) in layout.rows() {
        writeln!(out, "{kind}\t{key}\t{value}")?;
    }
    Ok(out.flush()?)
}
