//! Objects by type: what a user means by a type's name, and the merged ways by which all of them are reached.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    holders::Holders,
    paths::{BreadthFirst, Path},
};
use crate::{
    base::{Bitmap, ObjectId},
    graph::{build::Built, typing::Typed},
    runtime::{Runtime, heap::Heap, types::TypeId},
};

/// Types whose name is `wanted`, or, if there is none, all whose names contain it.
pub fn types_named(typed: &Typed, wanted: &str) -> Vec<TypeId> {
    let exact: Vec<TypeId> = typed.types.ids().filter(|&t| typed.types.name(t) == wanted).collect();
    if !exact.is_empty() {
        return exact;
    }
    typed.types.ids().filter(|&t| typed.types.name(t).contains(wanted)).collect()
}

/// Objects of these types, in order of address: reachable ones, or all that are allocated.
pub fn objects_of(heap: &Heap, built: &Built, typed: &Typed, types: &[TypeId], garbage_too: bool) -> Vec<ObjectId> {
    let mut wanted = Bitmap::new(typed.types.len());
    for t in types {
        wanted.set(t.index());
    }
    let among: &Bitmap = if garbage_too { &heap.allocated } else { &built.graph.reachable };
    among.iter_ones().map(|i| ObjectId(i as u32)).filter(|&id| wanted.get(typed.typing.type_of(id).index())).collect()
}

/// Objects that are reached in the same way: same holder, same types on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Way {
    pub objects: u64,
    /// Parts per thousand of all objects of the type.
    pub share_permille: u64,
    pub holder: String,
    /// Types from the holder to the object, with the member that leads on; repeats are shortened.
    pub steps: Vec<String>,
}

/// How the objects are first reached from the roots, globals first: merged by holder and types. Cost: one walk over the
/// graph, and the length of each object's path; beyond a bound a sample of the objects, evenly spread.
pub fn ways(
    rt: &Runtime,
    heap: &Heap,
    built: &Built,
    typed: &Typed,
    holders: &Holders,
    objects: &[ObjectId],
) -> Vec<Way> {
    const MAX_SAMPLE: usize = 100_000;
    /// Hops of one path that count for its likeness: the first ones from the object upwards.
    const MAX_HOPS: usize = 24;
    let graph = &built.graph;
    let mut order: Vec<u32> = (0..graph.roots.len() as u32).collect();
    order.sort_by_key(|&r| (graph.roots[r as usize].kind, r));
    let walk = BreadthFirst::walk(graph, &order, None, None);
    let stride = objects.len().div_ceil(MAX_SAMPLE).max(1);
    let mut groups: HashMap<(u32, Vec<TypeId>), (u64, ObjectId)> = HashMap::new();
    let mut sampled = 0u64;
    for &id in objects.iter().step_by(stride) {
        let Some(path) = walk.path(graph, id) else { continue };
        sampled += 1;
        let mut types: Vec<TypeId> = path.hops.iter().map(|h| typed.typing.type_of(h.from)).collect();
        types.dedup();
        if types.len() > MAX_HOPS {
            types.drain(..types.len() - MAX_HOPS);
        }
        let holder = holders.top(holders.tree.of_root.get(path.root).copied().unwrap_or_default());
        groups.entry((holder, types)).or_insert((0, id)).0 += 1;
    }
    let mut out: Vec<Way> = groups
        .into_iter()
        .map(|((holder, _), (n, example))| Way {
            objects: n * objects.len() as u64 / sampled.max(1),
            share_permille: n * 1000 / sampled.max(1),
            holder: holders.name(rt, built, holder),
            steps: walk.path(graph, example).map(|p| steps(heap, built, typed, &p)).unwrap_or_default(),
        })
        .collect();
    out.sort_by(|a, b| b.objects.cmp(&a.objects).then_with(|| a.holder.cmp(&b.holder)));
    out
}

fn steps(heap: &Heap, built: &Built, typed: &Typed, path: &Path) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut last = TypeId::UNKNOWN;
    let mut repeats = 0;
    for h in &path.hops {
        let ty = typed.typing.type_of(h.from);
        if ty.is_known() && ty == last {
            repeats += 1;
            continue;
        }
        if repeats > 0 {
            out.push(format!("... {repeats} more of these"));
            repeats = 0;
        }
        last = ty;
        let name = typed.name(h.from).unwrap_or("(untyped)");
        out.push(format!("{name}{}", typed.field(heap, &built.graph, h.from, h.edge)));
    }
    if repeats > 0 {
        out.push(format!("... {repeats} more of these"));
    }
    out
}
