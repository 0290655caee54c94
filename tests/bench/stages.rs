//! How long each hot stage of an answer takes by itself, on cores of real programs: `cargo bench`. A stage's input is made once, outside of
//! what is timed. The program is a million small objects of one type, and a million of many types and sizes; the core
//! lies in the page cache, so reading costs a copy and no disk. `cargo bench -- mixed/types` runs one.

#[path = "../common/mod.rs"]
mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{Fixture, answer};
use criterion::{BatchSize, Criterion};
use gosleuth::{
    analysis::{dominators::Dominators, histogram::live_by_type, holders::Holders, leaks::Evidence},
    base::ObjectId,
    graph::{TypeWords, build, reach::reach, typing::Typed},
    runtime::{OpenOptions, Runtime, heap::Heap},
    target::Target,
};

const RELEASE: &str = "1.26";
const OBJECTS: &str = "1000000";

fn stages(c: &mut Criterion, shape: &str, core: &Path) {
    let target = Arc::new(Target::open_core(core, None).expect("our own core"));
    let open = || Runtime::open(target.clone(), &OpenOptions::default()).and_then(|rt| rt.on(target.clone()));
    let v = common::view::view(&target, &OpenOptions::default());
    let (rt, heap, built) = (&v.rt, &v.heap, &v.built);
    let words = TypeWords::of(rt);
    let holders = Holders::of(rt, built);
    let roots = || built.graph.roots.iter().map(|r| r.target);
    let size = |o: ObjectId| heap.extent(o).1;

    let mut g = c.benchmark_group(shape);
    g.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    g.bench_function("binary", |b| {
        b.iter(|| open().map(|rt| rt.globals.get(gosleuth::runtime::layout::Global::Mheap)))
    });
    g.bench_function("heap", |b| b.iter_with_large_drop(|| Heap::read(rt).expect("a heap")));
    g.bench_function("stacks", |b| b.iter_with_large_drop(|| build::goroutines(rt).expect("goroutines")));
    // The scan of all pointer-holding spans, and what it reaches.
    g.bench_function("graph", |b| {
        let read = || build::goroutines(rt).expect("goroutines");
        let run = |(goroutines, stacks)| build::build_from(rt, heap, &words, goroutines, stacks).expect("a graph");
        b.iter_batched(read, run, BatchSize::PerIteration);
    });
    g.bench_function("reach", |b| b.iter_with_large_drop(|| reach(&built.graph, roots())));
    g.bench_function("types", |b| b.iter_with_large_drop(|| Typed::new(rt, heap, built)));
    g.bench_function("top", |b| b.iter(|| live_by_type(heap, &built.graph, &v.typed)));
    g.bench_function("evidence", |b| b.iter(|| Evidence::gather(rt, heap, built, &v.typed)));
    g.bench_function("dominators", |b| {
        b.iter_with_large_drop(|| Dominators::compute(&built.graph, &holders.tree, size).expect("within bounds"));
    });
    g.finish();
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    for shape in ["small", "mixed"] {
        let Some(f) = Fixture::start(RELEASE, "dwarf", "heap", &[shape, OBJECTS]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let core = dir.path().join("core");
        if answer(&["dump", &f.pid(), "-o", &core.display().to_string()]).is_none() {
            continue;
        }
        drop(f);
        stages(&mut c, shape, &core);
    }
    c.final_summary();
}
