//! `demo`: the main job on the sample that comes with the program: two real cores of one Go process that leaks, a minute
//! apart, and its binary. They are unpacked into memory files, so that nothing is left behind.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Failure, Session, TargetArgs, leaks};
use crate::{analysis::leaks::Thresholds, os::mmap::MemoryFile};

const FIRST: &[u8] = include_bytes!("../../../testdata/demo/first.core.zst");
const SECOND: &[u8] = include_bytes!("../../../testdata/demo/second.core.zst");
const BINARY: &[u8] = include_bytes!("../../../testdata/demo/leaks.zst");
const SECONDS: &str = include_str!("../../../testdata/demo/seconds-between");

/// Run `leaks` on the sample that comes with gosleuth: two cores of one process, a minute apart.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

fn unpack(packed: &[u8], name: &str) -> Result<MemoryFile, Failure> {
    let bytes = zstd::decode_all(packed)?;
    Ok(MemoryFile::new(name, &bytes)?)
}

pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let (first, second, exe) = (unpack(FIRST, "first")?, unpack(SECOND, "second")?, unpack(BINARY, "leaks")?);
    let seconds: u64 = SECONDS.trim().parse().unwrap_or(60);
    let limits = Thresholds { bytes: 256 << 10, ..Thresholds::default() };
    let target = |core: &MemoryFile| TargetArgs { exe: Some(exe.path()), json: args.json, ..of(core.path()) };
    if !args.json {
        println!("Two cores of a Go service, {seconds} s apart, come with gosleuth. Its verdict on them:\n");
    }
    let mut session = Session::open(&target(&first))?;
    let (before, ..) = leaks::look(&mut session, limits)?;
    let mut session = Session::open(&target(&second))?;
    let (mut after, seen) = leaks::look(&mut session, limits)?;
    after.at = before.at + Duration::from_secs(seconds);
    leaks::answer(session, &target(&second), vec![before, after], limits, seen, None)
}

fn of(path: PathBuf) -> TargetArgs {
    TargetArgs { target: path.display().to_string(), ..TargetArgs::default() }
}
