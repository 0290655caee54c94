//! `top`: the live heap by type.

use clap::Args;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{analysis::histogram, output};

/// The live heap by type.
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Rows to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
}

pub fn run(args: &TopArgs) -> Result<(), Failure> {
    let (limit, args) = (args.limit, &args.target);
    let mut s = Session::open_typed(args)?;
    let Scene { heap, built, typed } = s.scene()?;
    let mut h = s.stage("top", |_| histogram::live_by_type(&heap, &built.graph, &typed));
    if args.json && limit > 0 {
        h.rows.truncate(limit);
    }
    let e = s.envelope("top", h);
    print(args, &e, |out, r| output::top(out, r, limit))
}
