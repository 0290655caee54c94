//! Agreement with the collector: what we reach from the roots against what it keeps.
//!
//! "marked" is what the collector holds alive: allocated slots, less those that the last collection found dead and has not
//! swept, and less those that were allocated since and are not reached: no collection has judged them (package unique,
//! for one, makes closures in the background after each collection of Go 1.23 and 1.24). In a quiet program right after a
//! forced collection both sets are equal but for what was born during the mark and dropped at once.

use serde::Serialize;

use crate::{
    base::{Addr, ObjectId},
    graph::Graph,
    runtime::heap::Heap,
};

#[derive(Clone, Debug, Serialize)]
pub struct Liveness {
    pub reachable_objects: u64,
    pub marked_objects: u64,
    pub both: u64,
    pub only_reachable: u64,
    pub only_marked: u64,
    /// Allocated since the last collection and not reached; in none of the counts above.
    pub unjudged_objects: u64,
    /// 1e6 * both / (both + only_reachable + only_marked).
    pub agreement_ppm: u64,
    pub examples_only_marked: Vec<Example>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Example {
    pub addr: Addr,
    pub bytes: u64,
}

pub fn check(heap: &Heap, graph: &Graph) -> Liveness {
    let (mut both, mut only_reachable, mut only_marked, mut unjudged) = (0u64, 0u64, 0u64, 0u64);
    let words = heap.allocated.words().iter().zip(heap.fresh.words());
    for ((m, fresh), r) in words.zip(graph.reachable.words()) {
        unjudged += u64::from((m & fresh & !r).count_ones());
        let m = m & !(fresh & !r);
        both += u64::from((m & r).count_ones());
        only_reachable += u64::from((r & !m).count_ones());
        only_marked += u64::from((m & !r).count_ones());
    }
    let examples = heap
        .allocated
        .iter_ones()
        .filter(|&i| !graph.reachable.get(i) && !heap.fresh.get(i))
        .take(8)
        .map(|i| {
            let (addr, bytes) = heap.extent(ObjectId(i as u32));
            Example { addr, bytes }
        })
        .collect();
    let all = both + only_reachable + only_marked;
    Liveness {
        reachable_objects: both + only_reachable,
        marked_objects: both + only_marked,
        both,
        only_reachable,
        only_marked,
        unjudged_objects: unjudged,
        agreement_ppm: (1_000_000 * both).checked_div(all).unwrap_or(1_000_000),
        examples_only_marked: examples,
    }
}
