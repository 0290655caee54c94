//! `goroutines`: groups of equal stacks.

use clap::Args;

use super::{Failure, Session, TargetArgs, print};
use crate::{analysis::goroutines, graph::build::Built, output};

/// Goroutines, grouped by equal stacks.
#[derive(Args, Debug)]
pub struct GoroutinesArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Groups to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
}

/// CLOCK_MONOTONIC of this machine, which is the target's nanotime when the target runs here.
fn nanotime() -> Option<u64> {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(t.tv_sec()).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::try_from(t.tv_nsec()).ok()?)
}

pub fn run(args: &GoroutinesArgs) -> Result<(), Failure> {
    let (limit, args) = (args.limit, &args.target);
    let mut s = Session::open(args)?;
    let now = nanotime();
    let found = s.stage("goroutines", |rt| -> Result<_, Failure> {
        let goroutines = crate::runtime::sched::read(rt)?;
        let stacks: Vec<_> = goroutines.iter().map(|g| crate::runtime::stack::walk(rt, g)).collect();
        Ok((goroutines, stacks))
    });
    let (goroutines, stacks) = found?;
    s.rt.target.release();
    let built = Built { goroutines, stacks, ..Built::default() };
    let mut g = s.stage("group", |rt| goroutines::group(rt, &built, now));
    if args.json && limit > 0 {
        g.groups.truncate(limit);
    }
    let e = s.envelope("goroutines", g);
    print(args, &e, |out, r| output::goroutines(out, r, limit))
}
