//! `top`: the live heap by type.

use clap::Args;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{
    analysis::{
        groups::{self, By},
        histogram,
        holders::Holders,
    },
    output,
};

/// The live heap by type, package, module, size class, or who holds it.
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// What the rows are.
    #[arg(long, value_enum, default_value_t = By::Type)]
    by: By,
    /// Also tell what each group of objects retains: what would be freed without it.
    #[arg(long)]
    retained: bool,
    /// Rows to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
}

pub fn run(args: &TopArgs) -> Result<(), Failure> {
    let (by, retained, limit, args) = (args.by, args.retained, args.limit, &args.target);
    let mut s = Session::open_typed(args)?;
    let retained = retained || by == By::Retained;
    let scene = if by.is_holder() || retained { s.scene()? } else { s.scene_without_edges()? };
    let Scene { heap, built, typed } = &scene;
    let mut h = match by {
        By::Type if !retained => s.stage("top", |_| histogram::live_by_type(heap, &built.graph, typed)),
        By::Frame => {
            let holders = s.stage("holders", |rt| Holders::by_frame(rt, built));
            let dom = s.dominators_over(&scene, &holders)?;
            s.stage("top", |rt| groups::live_by_holder(rt, built, typed, (&holders, &dom), by))
        }
        By::Root | By::Global | By::Goroutine => {
            let (holders, dom) = s.dominators(&scene)?;
            s.stage("top", |rt| groups::live_by_holder(rt, built, typed, (&holders, &dom), by))
        }
        _ if retained => {
            let (_, dom) = s.dominators(&scene)?;
            s.stage("top", |rt| groups::live_by(rt, heap, &built.graph, typed, by, Some(&dom)))
        }
        _ => s.stage("top", |rt| groups::live_by(rt, heap, &built.graph, typed, by, None)),
    };
    if args.json && limit > 0 {
        h.rows.truncate(limit);
    }
    let e = s.envelope("top", h);
    print(args, &e, |out, r| output::top(out, r, by, retained, limit))
}
