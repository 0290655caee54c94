//! `why`: who keeps an object alive.

use clap::Args;
use serde::Serialize;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{
    analysis::{
        dominators::Dominators,
        holders::{Holders, root_name},
        paths,
    },
    base::{Addr, ObjectId, units},
    graph::RootKind,
};

/// Who keeps an object alive: paths from roots.
#[derive(Args, Debug)]
pub struct WhyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Address of the object (any address inside it).
    addr: String,
    /// How many truly different paths to look for.
    #[arg(long, default_value_t = 3)]
    paths: usize,
}

#[derive(Serialize)]
struct WhyResult {
    object: Step,
    retained_bytes: u64,
    paths: Vec<PathResult>,
}

#[derive(Serialize)]
struct PathResult {
    root: RootName,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct RootName {
    kind: RootKind,
    name: String,
}

#[derive(Serialize)]
struct Step {
    addr: Addr,
    #[serde(rename = "type")]
    type_name: Option<String>,
    /// Where in this object the pointer to the next one lies.
    field: Option<String>,
    bytes: u64,
}

pub fn run(args: &WhyArgs) -> Result<(), Failure> {
    let (addr, n, args) = (&args.addr, args.paths, &args.target);
    let hex = addr.strip_prefix("0x").unwrap_or(addr);
    let addr = u64::from_str_radix(hex, 16)
        .map(Addr)
        .map_err(|_| Failure::new(format!("{addr:?} is not an address"), Some("a hex address such as 0xc000012000")))?;
    let mut s = Session::open_typed(args)?;
    let Scene { heap, built, typed } = s.scene()?;
    let Some((id, _)) = heap.find(addr) else {
        return Err(Failure::new(format!("{addr} is not in the Go heap"), Some("gosleuth top PID for what is there")));
    };
    let graph = &built.graph;
    let holders = Holders::of(&s.rt, &built);
    let dom = Dominators::compute(graph, &holders.tree, |o| heap.extent(o).1)
        .map_err(|e| Failure::new(e.to_string(), None))?;
    // Globals explain best, then exact stack words; guesses last.
    let mut order: Vec<u32> = (0..graph.roots.len() as u32).collect();
    order.sort_by_key(|&r| (graph.roots[r as usize].kind, r));
    let found = s.stage("paths", |_| paths::distinct_paths(graph, &dom, &order, id, n));
    let step = |o: ObjectId, edge: Option<usize>| {
        let (addr, bytes) = heap.extent(o);
        Step {
            addr,
            type_name: typed.name(o).map(str::to_owned),
            field: edge.map(|e| typed.field(&heap, graph, o, e)),
            bytes,
        }
    };
    let result = WhyResult {
        object: step(id, None),
        retained_bytes: dom.object(id).map_or(0, |d| dom.retained(d)),
        paths: found
            .iter()
            .map(|p| PathResult {
                root: RootName { kind: graph.roots[p.root].kind, name: root_name(&s.rt, &built, &graph.roots[p.root]) },
                steps: p.hops.iter().map(|h| step(h.from, Some(h.edge))).chain([step(p.target, None)]).collect(),
            })
            .collect(),
    };
    let e = s.envelope("why", result);
    print(args, &e, |out, r| {
        let name = |s: &Step| s.type_name.clone().unwrap_or_else(|| "(untyped)".into());
        if r.paths.is_empty() {
            return writeln!(out, "{} is not reached from any root: it is garbage.", r.object.addr);
        }
        writeln!(
            out,
            "{} {} is alive and retains {}. {} way(s) to it:",
            r.object.addr,
            name(&r.object),
            units::bytes(r.retained_bytes),
            r.paths.len()
        )?;
        for p in &r.paths {
            writeln!(out, "\n  {} ({:?})", p.root.name, p.root.kind)?;
            for s in &p.steps {
                let field = s.field.as_deref().unwrap_or("");
                writeln!(out, "    -> {} {}{field} ({} bytes)", s.addr, name(s), s.bytes)?;
            }
        }
        Ok(())
    })
}
