//! `locks`: who waits for whom, deadlocks, and goroutines that can never go on.

use clap::Args;

use super::{Failure, Session, TargetArgs, nanotime, print};
use crate::{
    analysis::{
        holders,
        locks::{
            self, Locks,
            chains::{self, Doing},
            leaks,
        },
        places::Places,
    },
    os::descriptors::Descriptors,
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
    /// Print the waits-for graph as an image.
    #[arg(long, conflicts_with_all = ["json", "dot"])]
    svg: bool,
    /// Lines of each list to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
}

const SUSPECTED: &str = "only global variables lead to what they wait for, and no goroutine that can go on has it on its stack or is in code that refers to them";
const IDLE: &str =
    "only global variables lead to what they wait for, and they come back to it in a loop, as workers do";

pub fn run(args: &LocksArgs) -> Result<(), Failure> {
    let (dot, svg, limit, args) = (args.dot, args.svg, args.limit, &args.target);
    let mut s = Session::open_typed(args)?;
    s.needs_memory("who holds which lock")?;
    let heap = s.heap()?;
    let mut built = s.graph(&heap)?;
    let waits = s.stage("waits", |rt| waits::read(rt, &built.goroutines, &built.stacks));
    let held = s.stage("holders", |rt| locks::infer(rt, &built, &waits));
    let typed = s.typed(&heap, &built);
    let mut descriptors = s.rt.target.pid.filter(|_| s.is_live()).map(Descriptors::new);
    let now = nanotime(&s, &built.goroutines);
    s.let_go()?;
    let mut result = s.stage("edges", |rt| {
        let places = Places::new(rt, &heap, &built, &typed, locks::objects_to_name(&heap, &waits));
        let mut edges = held.edges(&places, &waits, now);
        locks::keepers(&mut edges, &places, &waits);
        let index = |goid| built.goroutines.binary_search_by_key(&goid, |g| g.goid).ok();
        let chains = chains::chains(&edges, |g| {
            index(g).map_or(Doing::default(), |i| chains::doing(rt, &built, &waits, i, descriptors.as_mut(), now))
        });
        let (proven, suspected) = leaks::proven_and_suspected(rt, &heap, &built, &waits);
        let name = |i| locks::waits_for(&places, &waits, i);
        let (idle, suspected) = locks::split_idle(rt, &built, &waits, &suspected);
        let [suspected, idle] = [(suspected, SUSPECTED), (idle, IDLE)].map(|(list, reason)| {
            let mut groups = leaks::groups(rt, &built, &waits, &list, now, name);
            // Goroutines of the runtime and the standard library wait for work all their lives.
            groups.retain(|g| !chains::library(&g.created_by));
            groups.iter_mut().for_each(|g| g.reason = Some(reason.into()));
            groups
        });
        let mut counts = std::collections::BTreeMap::new();
        for w in &waits {
            *counts.entry(w.kind.text()).or_insert(0) += 1;
        }
        Locks {
            cycles: chains::cycles(&edges),
            chains,
            proven_leaks: proven.iter().map(|&i| built.goroutines[i].goid).collect(),
            leak_groups: leaks::groups(rt, &built, &waits, &proven, now, name),
            suspected,
            idle,
            leaked_bytes: 0,
            waits: counts,
            edges,
        }
    });
    s.stage("retained", |_| {
        holders::hand_over_records(&heap, &mut built);
        let lists = [&mut result.leak_groups, &mut result.suspected, &mut result.idle];
        let [kept, ..] = leaks::measure(&heap, &built, lists);
        result.leaked_bytes = kept + result.leak_groups.iter().map(|g| g.stack_bytes).sum::<u64>();
    });
    let e = s.envelope("locks", result);
    if dot {
        return Ok(output::locks::dot(&mut std::io::stdout().lock(), &e.result)?);
    }
    if svg {
        return Ok(output::locks_svg::svg(&mut std::io::stdout().lock(), &e.result)?);
    }
    print(args, &e, |out, r| output::locks::text(out, r, limit))
}
