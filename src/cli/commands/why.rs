//! `why`: who keeps an object, or all objects of a type, alive.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{
    analysis::{
        dominators::Dominators,
        holders::{frame_of, local_name, root_name},
        paths,
        selection::{self, Spoken, Way},
    },
    base::{Addr, Goid, ObjectId, units},
    graph::RootKind,
    runtime::{Runtime, heap::Heap},
};

/// Who keeps an object, or the objects of a type, alive: paths from roots.
#[derive(Args, Debug)]
pub struct WhyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Address (0x..., any address inside the object), or the name of a type or a part of one.
    #[arg(value_name = "ADDR|TYPE")]
    what: String,
    /// How many truly different paths, or ways of a type, to show.
    #[arg(long, default_value_t = 3)]
    paths: usize,
    /// Show the tables inside maps as steps of their own, as --json always does.
    #[arg(long)]
    internals: bool,
}

#[derive(Serialize)]
struct WhyResult {
    /// The object that was asked for; for a type, the one that retains most.
    object: Step,
    /// `alive`, `garbage` or `free slot`.
    state: &'static str,
    retained_bytes: u64,
    paths: Vec<PathResult>,
    /// Where a type was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_type: Option<OfType>,
}

#[derive(Serialize)]
struct OfType {
    types: Vec<String>,
    objects: u64,
    bytes: u64,
    ways: Vec<Way>,
}

#[derive(Serialize)]
struct PathResult {
    root: RootName,
    steps: Vec<Step>,
    /// For the text: which steps are said, and the member that leads on from each.
    #[serde(skip)]
    spoken: Vec<Spoken>,
}

#[derive(Serialize)]
struct RootName {
    kind: RootKind,
    name: String,
    /// The local variable that holds it: `main.handler.req.Body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    /// Of roots on stacks: the goroutine, the frame counted from the innermost, and its function.
    #[serde(skip_serializing_if = "Option::is_none")]
    goid: Option<Goid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
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

/// `0x...`, or hexadecimal digits that can be nothing but an address.
fn address(word: &str) -> Option<Addr> {
    let hex = word.strip_prefix("0x").or_else(|| (word.len() >= 9).then_some(word))?;
    u64::from_str_radix(hex, 16).ok().map(Addr)
}

/// The slot that the address `word` lies in.
pub fn object_at(heap: &Heap, word: &str) -> Result<ObjectId, Failure> {
    let addr = address(word).ok_or_else(|| {
        Failure::new(format!("{word:?} is not an address"), Some("a hex address such as 0xc000012000"))
    })?;
    let found = heap.find(addr).map(|(id, _)| id);
    found.ok_or_else(|| {
        Failure::new(format!("{addr} is not in the Go heap"), Some("gosleuth top PID for what is there"))
    })
}

pub fn run(args: &WhyArgs) -> Result<(), Failure> {
    let mut s = Session::open_typed(&args.target)?;
    let scene = s.scene()?;
    let Scene { heap, built, typed } = &scene;
    let graph = &built.graph;
    let (types, objects) = match address(&args.what) {
        Some(_) => (Vec::new(), vec![object_at(heap, &args.what)?]),
        None => {
            let types = selection::types_named(typed, &args.what);
            let objects = selection::objects_of(heap, built, typed, &types, false);
            if objects.is_empty() {
                return Err(Failure::new(
                    format!("nothing alive is of a type called {:?}", args.what),
                    Some("gosleuth top PID --limit 0 for the types there are; addresses begin with 0x"),
                ));
            }
            (types, objects)
        }
    };
    let (holders, dom) = s.dominators(&scene)?;
    let retained = |id: ObjectId| dom.object(id).map_or(0, |d| dom.retained(d));
    // Of many equal ones the first, so that the answer is the same twice.
    let id = objects.iter().copied().min_by_key(|&o| (std::cmp::Reverse(retained(o)), o)).unwrap_or_default();
    let of_type = (!types.is_empty()).then(|| {
        let mut names: Vec<String> = objects.iter().filter_map(|&o| typed.name(o)).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        OfType {
            types: names,
            objects: objects.len() as u64,
            bytes: objects.iter().map(|&o| heap.extent(o).1).sum(),
            ways: s.stage("ways", |rt| selection::ways(rt, heap, built, typed, &holders, &objects)),
        }
    });
    let paths = s.stage("paths", |rt| paths_to(rt, &scene, &dom, id, args.paths));
    let state = match graph.reachable.get(id.index()) {
        true => "alive",
        false if heap.is_allocated(id) => "garbage",
        false => "free slot",
    };
    let result = WhyResult { object: step(&scene, id, None), state, retained_bytes: retained(id), paths, of_type };
    let e = s.envelope("why", result);
    print(&args.target, &e, |out, r| text(out, r, args.paths, args.internals))
}

fn step(scene: &Scene, o: ObjectId, edge: Option<usize>) -> Step {
    let (addr, bytes) = scene.heap.extent(o);
    let field = edge.map(|e| scene.typed.field(&scene.heap, &scene.built.graph, o, e));
    Step { addr, type_name: scene.typed.name(o).map(str::to_owned), field, bytes }
}

fn paths_to(rt: &Runtime, scene: &Scene, dom: &Dominators, id: ObjectId, n: usize) -> Vec<PathResult> {
    let graph = &scene.built.graph;
    // Globals explain best, then exact stack words; guesses last.
    let mut order: Vec<u32> = (0..graph.roots.len() as u32).collect();
    order.sort_by_key(|&r| (graph.roots[r as usize].kind, r));
    paths::distinct_paths(graph, dom, &order, id, n)
        .iter()
        .map(|p| PathResult {
            root: root(rt, scene, p.root),
            steps: p
                .hops
                .iter()
                .map(|h| step(scene, h.from, Some(h.edge)))
                .chain([step(scene, p.target, None)])
                .collect(),
            spoken: selection::spoken(&scene.heap, &scene.built, &scene.typed, p),
        })
        .collect()
}

fn root(rt: &Runtime, scene: &Scene, i: usize) -> RootName {
    let root = &scene.built.graph.roots[i];
    let frame = frame_of(rt, &scene.built, root);
    RootName {
        kind: root.kind,
        name: root_name(rt, &scene.built, &scene.typed, i),
        local: local_name(&scene.typed, i),
        goid: (root.goid.0 != 0).then_some(root.goid),
        frame: frame.map(|f| f.0),
        function: frame.map(|f| f.1.to_owned()),
    }
}

fn text(out: &mut dyn Write, r: &WhyResult, limit: usize, internals: bool) -> io::Result<()> {
    let name = |s: &Step| s.type_name.clone().unwrap_or_else(|| "(untyped)".into());
    let local = |w: &Way| w.local.as_ref().map(|l| format!(", local {l}")).unwrap_or_default();
    if let Some(t) = &r.of_type {
        writeln!(
            out,
            "{} {} ({}) are alive:",
            units::count(t.objects),
            if t.types.len() == 1 { t.types[0].clone() } else { format!("objects of {} types", t.types.len()) },
            units::bytes(t.bytes)
        )?;
        for w in t.ways.iter().take(limit.max(1)) {
            writeln!(out, "  {:>6}  through {}{}", units::percent(w.share_permille, 1000), w.holder, local(w))?;
            for s in &w.steps {
                writeln!(out, "            -> {s}")?;
            }
        }
        if t.ways.len() > limit.max(1) {
            writeln!(out, "  ... and {} more ways (--paths shows more)", t.ways.len() - limit.max(1))?;
        }
        writeln!(out, "\nThe one that retains most:")?;
    }
    if r.state != "alive" {
        let says = match r.state {
            "garbage" => {
                "is not reached from any root: it is garbage, and is freed when the next collection has swept it"
            }
            _ => "is a free slot: no object is there",
        };
        return writeln!(out, "{} {says}.", r.object.addr);
    }
    writeln!(
        out,
        "{} {} is alive and retains {}. {} to it:",
        r.object.addr,
        name(&r.object),
        units::bytes(r.retained_bytes),
        if r.paths.len() == 1 { "One way".to_owned() } else { format!("{} ways", r.paths.len()) }
    )?;
    for p in &r.paths {
        writeln!(out, "\n  {} ({})", p.root.name, p.root.kind.text())?;
        let folded =
            p.spoken.iter().map(|s| (&p.steps[s.at], Some(s.field.as_str()))).chain(p.steps.last().map(|s| (s, None)));
        let steps: Vec<(&Step, Option<&str>)> = match internals {
            true => p.steps.iter().map(|s| (s, s.field.as_deref())).collect(),
            false => folded.collect(),
        };
        // Long chains of equal things (lists) say it once.
        let mut i = 0;
        while i < steps.len() {
            let (s, field) = steps[i];
            let same = |(a, f): &&(&Step, Option<&str>)| a.type_name == s.type_name && *f == field && field.is_some();
            let run = steps[i..].iter().take_while(same).count().max(1);
            writeln!(out, "    -> {} {}{} ({})", s.addr, name(s), field.unwrap_or(""), units::bytes(s.bytes))?;
            if run > 3 {
                writeln!(out, "       ... {} more of these", run - 2)?;
                i += run - 1;
            } else {
                i += 1;
            }
        }
    }
    Ok(())
}
