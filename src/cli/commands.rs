//! One function per command: open the session, run the analysis, hand the result to an output.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::{Command, Failure, TargetArgs, session::Session};
use crate::{
    analysis::{
        dominators::{Dominators, HolderTree},
        goroutines, histogram,
        liveness::{self, Liveness},
        paths,
    },
    base::{Addr, ObjectId, diag::Diagnostic, units},
    graph::{Root, RootKind, build::Built, typing::Typed},
    output,
    report::Envelope,
    runtime::{
        Runtime,
        layout::{Field, Global},
    },
};

pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Doctor { target, check_liveness } => doctor(&target, check_liveness),
        Command::Overview { target } => overview(&target),
        Command::Top { target, limit } => top(&target, limit),
        Command::Goroutines { target, limit } => goroutine_groups(&target, limit),
        Command::Why { target, addr, paths } => why(&target, &addr, paths),
    }
}

/// JSON, or the text that `text` writes; diagnostics follow the text as notes.
fn print<R: Serialize>(
    args: &TargetArgs,
    envelope: &Envelope<R>,
    text: impl FnOnce(&mut dyn Write, &R) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, envelope).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        text(&mut out, &envelope.result)?;
        let list: &[Diagnostic] = &envelope.diagnostics;
        output::diagnostics(&mut out, list)?;
        if let Some(ms) = envelope.hold.stopped_ms {
            writeln!(out, "\nThe process was held for {}.", units::duration_ns((ms * 1e6) as u64))?;
        }
    }
    Ok(out.flush()?)
}

#[derive(Serialize)]
struct DoctorResult {
    go_version: String,
    globals: Vec<FoundGlobal>,
    missing_globals: Vec<&'static str>,
    liveness: Option<Liveness>,
}

#[derive(Serialize)]
struct FoundGlobal {
    name: &'static str,
    addr: Addr,
    found_by: crate::image::FoundBy,
}

fn doctor(args: &TargetArgs, check: bool) -> Result<(), Failure> {
    let mut s = Session::open(args)?;
    let liveness = if check {
        let heap = s.heap()?;
        let built = s.graph(&heap)?;
        Some(s.stage("liveness", |_| liveness::check(&heap, &built.graph)))
    } else {
        None
    };
    let (mut globals, mut missing) = (Vec::new(), Vec::new());
    for &g in Global::ALL {
        match s.rt.globals.located(g) {
            Some(l) => globals.push(FoundGlobal { name: g.name(), addr: l.addr, found_by: l.found_by }),
            None => missing.push(g.name()),
        }
    }
    let result =
        DoctorResult { go_version: s.rt.image.go_version.raw.clone(), globals, missing_globals: missing, liveness };
    let e = s.envelope("doctor", result);
    print(args, &e, |out, r| {
        writeln!(
            out,
            "{} can be looked at: {}, layouts from DWARF, {} runtime variables located.",
            e.target.exe.as_deref().unwrap_or("the process".as_ref()).display(),
            r.go_version,
            r.globals.len()
        )?;
        r.liveness.as_ref().map_or(Ok(()), |l| output::liveness(out, l))
    })
}

#[derive(Serialize)]
struct OverviewResult {
    heap: HeapFigures,
    gc: GcFigures,
    goroutines: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct HeapFigures {
    live_objects: u64,
    live_bytes: u64,
    allocated_objects: u64,
    allocated_bytes: u64,
    unswept_dead_objects: u64,
    unswept_dead_bytes: u64,
    spans: u64,
    span_bytes: u64,
}

#[derive(Serialize)]
struct GcFigures {
    phase: &'static str,
    /// Collections begun since the start (`work.cycles`).
    cycles: Option<u32>,
    sweepgen: u32,
}

fn gc_cycles(rt: &Runtime) -> Option<u32> {
    let at = rt.globals.get(Global::Work)?.offset(rt.layout.field(Field::WorkCycles)?.offset.into());
    rt.target.read_u32(at).ok()
}

fn overview(args: &TargetArgs) -> Result<(), Failure> {
    let mut s = Session::open(args)?;
    let heap = s.heap()?;
    let built = s.graph(&heap)?;
    let mut states: BTreeMap<&'static str, u64> = BTreeMap::new();
    for g in &built.goroutines {
        *states.entry(g.status.text()).or_default() += 1;
    }
    let sum = |bits: &crate::base::Bitmap| {
        heap.spans
            .iter()
            .map(|sp| {
                let n = (0..sp.nelems as usize).filter(|i| bits.get(sp.first.index() + i)).count() as u64;
                (n, n * sp.elemsize)
            })
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let (live, allocated, dead) = (sum(&built.graph.reachable), sum(&heap.allocated), sum(&heap.dead));
    let result = OverviewResult {
        heap: HeapFigures {
            live_objects: live.0,
            live_bytes: live.1,
            allocated_objects: allocated.0 + dead.0,
            allocated_bytes: allocated.1 + dead.1,
            unswept_dead_objects: dead.0,
            unswept_dead_bytes: dead.1,
            spans: heap.spans.len() as u64,
            span_bytes: heap.spans.iter().map(|s| s.bytes).sum(),
        },
        gc: GcFigures {
            cycles: gc_cycles(&s.rt),
            phase: match s.rt.global_u32(Global::Gcphase) {
                Some(0) => "off",
                Some(1) => "mark",
                Some(2) => "mark termination",
                _ => "unknown",
            },
            sweepgen: heap.sweepgen,
        },
        goroutines: states,
    };
    let e = s.envelope("overview", result);
    print(args, &e, |out, r| {
        let h = &r.heap;
        writeln!(
            out,
            "{} on {:?}: {} alive in {} objects, of {} allocated in {} spans ({}).",
            e.target.go_version,
            e.target.arch,
            units::bytes(h.live_bytes),
            units::count(h.live_objects),
            units::bytes(h.allocated_bytes),
            units::count(h.spans),
            units::bytes(h.span_bytes)
        )?;
        writeln!(
            out,
            "Unreachable or dead: {}. Collector: phase {}, {} cycles begun.",
            units::bytes(h.allocated_bytes.saturating_sub(h.live_bytes)),
            r.gc.phase,
            r.gc.cycles.map_or("unknown".to_owned(), |n| units::count(n.into()))
        )?;
        let states: Vec<String> = r.goroutines.iter().map(|(k, n)| format!("{} {k}", units::count(*n))).collect();
        writeln!(out, "Goroutines: {}.", states.join(", "))
    })
}

fn top(args: &TargetArgs, limit: usize) -> Result<(), Failure> {
    let mut s = Session::open(args)?;
    let heap = s.heap()?;
    let built = s.graph(&heap)?;
    let typed = s.stage("types", |rt| Typed::new(rt, &heap, &built));
    s.rt.target.release();
    let mut h = s.stage("top", |_| histogram::live_by_type(&heap, &built.graph, &typed));
    if args.json && limit > 0 {
        h.rows.truncate(limit);
    }
    let e = s.envelope("top", h);
    print(args, &e, |out, r| output::top(out, r, limit))
}

/// CLOCK_MONOTONIC of this machine, which is the target's nanotime when the target runs here.
fn nanotime() -> Option<u64> {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(t.tv_sec()).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::try_from(t.tv_nsec()).ok()?)
}

fn goroutine_groups(args: &TargetArgs, limit: usize) -> Result<(), Failure> {
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

/// A root in words: the global it lies in, or the goroutine and function.
fn root_name(rt: &Runtime, built: &Built, root: &Root) -> String {
    match root.kind {
        RootKind::Data | RootKind::Bss => {
            let at = root.at.0.wrapping_sub(rt.image.bias);
            let vars = rt.image.dwarf.as_ref().map(|d| d.variables.as_slice()).unwrap_or_default();
            match vars.partition_point(|v| v.addr <= at).checked_sub(1).map(|i| &vars[i]) {
                Some(v) if v.addr == at => format!("global {}", v.name),
                Some(v) => format!("global {}+{}", v.name, at - v.addr),
                None => rt.image.name_global(root.at).unwrap_or_else(|| format!("global at {}", root.at)),
            }
        }
        RootKind::Stack | RootKind::Conservative => {
            let i = built.goroutines.iter().position(|g| g.goid == root.goid);
            let frame = i.and_then(|i| built.stacks[i].frames.get(root.frame as usize));
            let func = frame.and_then(|f| rt.image.pclntab.find(f.pc)).map_or("?", |f| f.name());
            format!("goroutine {} in {func}", root.goid)
        }
        RootKind::Goroutine => format!("goroutine {}", root.goid),
        _ => format!("{:?} at {}", root.kind, root.at),
    }
}

fn why(args: &TargetArgs, addr: &str, n: usize) -> Result<(), Failure> {
    let hex = addr.strip_prefix("0x").unwrap_or(addr);
    let addr = u64::from_str_radix(hex, 16)
        .map(Addr)
        .map_err(|_| Failure::new(format!("{addr:?} is not an address"), Some("a hex address such as 0xc000012000")))?;
    let mut s = Session::open(args)?;
    let heap = s.heap()?;
    let built = s.graph(&heap)?;
    let typed = s.stage("types", |rt| Typed::new(rt, &heap, &built));
    s.rt.target.release();
    let Some((id, _)) = heap.find(addr) else {
        return Err(Failure::new(format!("{addr} is not in the Go heap"), Some("gosleuth top PID for what is there")));
    };
    let graph = &built.graph;
    let tree = HolderTree { parent: vec![None], of_root: vec![0; graph.roots.len()] };
    let dom = Dominators::compute(graph, &tree, |o| heap.extent(o).1).map_err(|e| Failure::new(e.to_string(), None))?;
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
