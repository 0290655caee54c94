//! `top`: the live heap by type.

use clap::Args;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{
    analysis::{
        groups::{self, By},
        histogram,
    },
    output,
};

/// The live heap by type, package, module, size class, root, or what it retains.
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// What the rows are.
    #[arg(long, value_enum, default_value_t = By::Type)]
    by: By,
    /// Rows to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
}

pub fn run(args: &TopArgs) -> Result<(), Failure> {
    let (by, limit, args) = (args.by, args.limit, &args.target);
    let mut s = Session::open_typed(args)?;
    let scene = match by {
        By::Root | By::Retained => s.scene()?,
        _ => s.scene_without_edges()?,
    };
    let Scene { heap, built, typed } = &scene;
    let mut h = match by {
        By::Type => s.stage("top", |_| histogram::live_by_type(heap, &built.graph, typed)),
        By::Root => {
            let (holders, dom) = s.dominators(&scene)?;
            s.stage("top", |rt| groups::live_by_root(rt, built, typed, &holders, &dom))
        }
        By::Retained => {
            let (_, dom) = s.dominators(&scene)?;
            s.stage("top", |rt| groups::live_by(rt, heap, &built.graph, typed, by, Some(&dom)))
        }
        _ => s.stage("top", |rt| groups::live_by(rt, heap, &built.graph, typed, by, None)),
    };
    if args.json && limit > 0 {
        h.rows.truncate(limit);
    }
    let e = s.envelope("top", h);
    print(args, &e, |out, r| output::top(out, r, by, limit))
}
