//! A target as the library sees it: heap, graph and types.

use std::{collections::HashMap, sync::Arc};

use gosleuth::{
    base::ObjectId,
    graph::{
        TypeWords,
        build::{self, Built},
        typing::Typed,
    },
    runtime::{OpenOptions, Runtime, heap::Heap},
    target::Target,
};

pub struct View {
    pub rt: Runtime,
    pub heap: Heap,
    pub built: Built,
    pub typed: Typed,
}

/// Everything of a target; panics where it cannot be read.
pub fn view(target: &Arc<Target>, opts: &OpenOptions) -> View {
    let rt = Runtime::open(target.clone(), opts).and_then(|rt| rt.on(target.clone())).unwrap_or_else(|e| panic!("{e}"));
    let heap = Heap::read(&rt).expect("a heap");
    let built = build::build(&rt, &heap, &TypeWords::of(&rt)).expect("a graph");
    let typed = Typed::new(&rt, &heap, &built);
    View { rt, heap, built, typed }
}

/// Same slots, objects, edges, roots, reachable objects, goroutines and stacks.
pub fn assert_same_heap(a: &View, b: &View, what: &str) {
    assert_eq!(a.heap.slots, b.heap.slots, "{what}");
    assert!(a.heap.allocated.words() == b.heap.allocated.words(), "{what}: other objects");
    assert!(a.heap.dead.words() == b.heap.dead.words(), "{what}: other dead objects");
    let (x, y) = (&a.built, &b.built);
    if x.graph.rows != y.graph.rows || x.graph.target != y.graph.target {
        let (p, q) = (objects(a), objects(b));
        let other: Vec<_> = p.iter().filter(|(at, o)| q.get(at) != Some(o)).map(|(at, o)| (at, o, q.get(at))).collect();
        panic!("{what}: other edges: {other:x?}");
    }
    assert_eq!(x.graph.roots, y.graph.roots, "{what}");
    assert!(x.graph.reachable.words() == y.graph.reachable.words(), "{what}: others reachable");
    assert_eq!(x.goroutines.len(), y.goroutines.len(), "{what}");
    for (g, h) in x.goroutines.iter().zip(&y.goroutines) {
        assert_eq!((g.goid, g.status, &g.wait_reason), (h.goid, h.status, &h.wait_reason), "{what}");
    }
    for (s, t) in x.stacks.iter().zip(&y.stacks) {
        assert_eq!((&s.frames, &s.words, &s.truncated), (&t.frames, &t.words, &t.truncated), "{what}");
    }
}

/// Every allocated object by address: its size, whether it is reached, and the addresses it points to.
pub fn objects(v: &View) -> HashMap<u64, (u64, bool, Vec<u64>)> {
    let g = &v.built.graph;
    v.heap
        .allocated
        .iter_ones()
        .map(|i| {
            let id = ObjectId(i as u32);
            let (addr, bytes) = v.heap.extent(id);
            let to = g.children(id).map(|t| v.heap.extent(t).0.0).collect();
            (addr.0, (bytes, g.reachable.get(i), to))
        })
        .collect()
}
