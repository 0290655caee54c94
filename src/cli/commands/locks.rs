//! `locks`: who waits for whom, deadlocks, and goroutines that can never go on.

use clap::Args;

use super::{Failure, Session, TargetArgs, print};
use crate::{
    analysis::{
        locks::{self, Locks, leaks},
        places::Places,
    },
    graph::typing::Typed,
    output,
    runtime::sched::waits,
};

/// Who waits for whom: lock holders, deadlocks, goroutines that can never go on.
#[derive(Args, Debug)]
pub struct LocksArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Print the waits-for graph for Graphviz instead of text.
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// Lines of each list to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
}

pub fn run(args: &LocksArgs) -> Result<(), Failure> {
    let (dot, limit, args) = (args.dot, args.limit, &args.target);
    let mut s = Session::open(args)?;
    s.needs_memory("who holds which lock")?;
    let heap = s.heap()?;
    let built = s.graph(&heap)?;
    let waits = s.stage("waits", |rt| waits::read(rt, &built.goroutines, &built.stacks));
    let held = s.stage("holders", |rt| locks::infer(rt, &built, &waits));
    let typed = s.stage("types", |rt| Typed::new(rt, &heap, &built));
    s.let_go()?;
    let result = s.stage("edges", |rt| {
        let places = Places::new(rt, &heap, &built, &typed, locks::objects_to_name(&heap, &waits));
        let edges = held.edges(&places, &waits);
        let index = |goid| built.goroutines.binary_search_by_key(&goid, |g| g.goid).ok();
        let chains = locks::chains(&edges, |g| index(g).map_or(String::new(), |i| locks::does(rt, &built, &waits, i)));
        let proven = leaks::proven(&heap, &built, &waits);
        let mut counts = std::collections::BTreeMap::new();
        for w in &waits {
            *counts.entry(w.kind.text()).or_insert(0) += 1;
        }
        Locks {
            cycles: locks::cycles(&edges),
            chains,
            proven_leaks: proven.iter().map(|&i| built.goroutines[i].goid).collect(),
            leak_groups: leaks::groups(rt, &built, &waits, &proven),
            waits: counts,
            edges,
        }
    });
    let e = s.envelope("locks", result);
    if dot {
        return Ok(output::locks::dot(&mut std::io::stdout().lock(), &e.result)?);
    }
    print(args, &e, |out, r| output::locks::text(out, r, limit))
}
