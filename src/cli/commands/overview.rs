//! `overview`: the process at a glance.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{Failure, Session, TargetArgs, print};
use crate::{
    analysis::ledger::{self, Kernel, Ledger},
    base::units,
    output,
    runtime::{
        Runtime,
        layout::{Field, Global},
    },
};

/// The process at a glance: heap, collector, goroutines.
#[derive(Args, Debug)]
pub struct OverviewArgs {
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Serialize)]
struct OverviewResult {
    heap: HeapFigures,
    gc: GcFigures,
    goroutines: BTreeMap<&'static str, u64>,
    /// Absent only in snapshots of another kind.
    ledger: Option<Ledger>,
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

#[derive(Serialize, Default)]
struct GcFigures {
    phase: String,
    /// Collections begun since the start (`work.cycles`).
    cycles: Option<u32>,
    sweepgen: u32,
}

pub(super) fn gc_phase(rt: &Runtime) -> &'static str {
    match rt.global_u32(Global::Gcphase) {
        Some(0) => "off",
        Some(1) => "mark",
        Some(2) => "mark termination",
        _ => "unknown",
    }
}

pub(super) fn gc_cycles(rt: &Runtime) -> Option<u32> {
    let at = rt.globals.get(Global::Work)?.offset(rt.layout.field(Field::WorkCycles)?.offset.into());
    rt.target.read_u32(at).ok()
}

pub fn run(args: &OverviewArgs) -> Result<(), Failure> {
    let args = &args.target;
    let mut s = Session::open(args)?;
    let mut gc = GcFigures::default();
    let (heap, built, ledger);
    if let Some(meta) = s.saved().map(|f| f.meta.clone()) {
        let scene = s.scene_without_edges()?;
        (heap, built, ledger) = (scene.heap, scene.built, meta.ledger);
        (gc.phase, gc.cycles) = (meta.gc_phase, meta.gc_cycles);
    } else {
        let kernel = s.stage("residency", Kernel::look);
        heap = s.heap()?;
        built = s.graph(&heap)?;
        ledger = Some(s.stage("ledger", |rt| ledger::ledger(rt, &heap, &built, kernel.as_ref())));
        (gc.phase, gc.cycles) = (gc_phase(&s.rt).to_owned(), gc_cycles(&s.rt));
        // Counting needs no memory of the process any more.
        s.let_go()?;
    }
    gc.sweepgen = heap.sweepgen;
    let mut states: BTreeMap<&'static str, u64> = BTreeMap::new();
    for g in &built.goroutines {
        *states.entry(g.status.text()).or_default() += 1;
    }
    let sum = |bits: &crate::base::Bitmap| {
        heap.spans
            .iter()
            .map(|sp| {
                let n = bits.count_range(sp.first.index(), sp.first.index() + sp.nelems as usize) as u64;
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
        gc,
        goroutines: states,
        ledger,
    };
    let (release, arch) = (s.rt.image.go_version.raw.clone(), s.rt.target.arch);
    let e = s.envelope("overview", result);
    print(args, &e, |out, r| {
        let h = &r.heap;
        writeln!(
            out,
            "{} on {}: {} alive in {} objects, of {} allocated in {} spans ({}).",
            release,
            arch,
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
        writeln!(out, "Goroutines: {}.", states.join(", "))?;
        r.ledger.as_ref().map_or(Ok(()), |l| output::ledger::text(out, l, h.live_bytes))
    })
}
