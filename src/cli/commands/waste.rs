//! `waste`: memory that is alive and does no work.

use clap::Args;

use super::{Failure, Session, TargetArgs, print};
use crate::{analysis::waste, output};

/// Memory that is alive and does no work: equal strings, unused capacity, empty maps, fragmentation.
#[derive(Args, Debug)]
pub struct WasteArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Rows of each list to show; 0 for all.
    #[arg(long, default_value_t = 10)]
    limit: usize,
}

pub fn run(args: &WasteArgs) -> Result<(), Failure> {
    let mut s = Session::open_typed(&args.target)?;
    s.needs_memory("how much of strings, slices and maps is used")?;
    let (_, result) = s.scene_and(|rt, x| Ok(waste::waste(rt, &x.heap, &x.built, &x.typed, args.limit)))?;
    let e = s.envelope("waste", result);
    print(&args.target, &e, |out, r| output::waste::text(out, r, args.limit))
}
