//! Types of objects that nothing typed points to: of the binary's types those whose size class is the slot's, whose
//! pointers are where the object has pointers, and whose members agree with what is known of the objects behind them.
//! The result is marked as guessed, and what it says of further objects too.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use super::{
    Slot,
    engine::{Engine, Key},
    fit::{Fit, Level, class_size},
};
use crate::{
    base::ObjectId,
    runtime::types::{Kind, Origin, PtrTo, TypeId},
};

/// More candidates than this for one slot say nothing.
const MAX_CANDIDATES: usize = 24;
const PASSES: usize = 3;
/// Shapes that are remembered, and the most pointers of one.
const MAX_SHAPES: usize = 1 << 16;
const MAX_POINTERS: usize = 64;

/// Slot size, first data byte, and the bytes at which an object has pointers.
type Shape = (u64, u64, Vec<u64>);

/// Candidates by shape: a large program has thousands of types of one size, and many objects of one shape.
#[derive(Default)]
struct Shapes(RwLock<HashMap<Shape, Arc<Vec<TypeId>>>>);

impl Shapes {
    /// Those of `all` whose pointers are where the object has pointers.
    fn fitting(&self, e: &Engine<'_>, id: ObjectId, slot: &Slot, all: &[TypeId]) -> Arc<Vec<TypeId>> {
        let work_out = || Arc::new(all.iter().copied().filter(|&ty| e.agrees(id, ty, 0, slot.data, false)).collect());
        let edges = e.input.graph.edges(id);
        if edges.len() > MAX_POINTERS {
            return work_out();
        }
        let shape = (slot.size, slot.data, edges.map(|edge| e.edge_at(edge)).collect::<Vec<_>>());
        if let Some(known) = self.0.read().unwrap_or_else(|e| e.into_inner()).get(&shape) {
            return known.clone();
        }
        let found: Arc<Vec<TypeId>> = work_out();
        let mut known = self.0.write().unwrap_or_else(|e| e.into_inner());
        if known.len() < MAX_SHAPES {
            known.insert(shape, found.clone());
        }
        found
    }
}

pub(super) fn complete(engine: &mut Engine<'_>) {
    let by_class = candidates(engine);
    let shapes = Shapes::default();
    for _ in 0..PASSES {
        let e = &*engine;
        let found: Vec<(ObjectId, TypeId, u8)> = e.among(
            |key| key == Key::default(),
            |id, _| {
                let guess = e.input.heap.is_allocated(id).then(|| best_guess(e, &by_class, &shapes, id));
                guess.flatten().map(|(ty, score)| (id, ty, score))
            },
        );
        if found.is_empty() {
            return;
        }
        for (id, ty, score) in found {
            engine.settle(id, ty, Fit { level: Level::Guess, score, at: 0 });
        }
        engine.run();
    }
}

/// Types with pointers by the slot that one value of them gets: (class without header, class with header).
fn candidates(e: &Engine<'_>) -> HashMap<(u64, u64), Vec<TypeId>> {
    let types = e.input.types;
    let mut map: HashMap<(u64, u64), Vec<TypeId>> = HashMap::new();
    for id in types.ids() {
        let made =
            types.origin(id) == Origin::Made && types.kind(id) != Kind::MapHeader && types.kind(id) != Kind::Closure;
        let plain = matches!(types.kind(id), Kind::Struct | Kind::Array | Kind::MapHeader | Kind::Closure);
        // Groups, buckets and closure structs are objects under other names.
        let name = types.name(id);
        if !plain
            || made
            || types.ptr_bytes(id) == 0
            || name.starts_with("map.")
            || name.starts_with("struct { F uintptr")
        {
            continue;
        }
        let size = types.size(id);
        for data in [0, 8] {
            map.entry((class_size(size + data), data)).or_default().push(id);
        }
    }
    map
}

fn best_guess(
    e: &Engine<'_>,
    by_class: &HashMap<(u64, u64), Vec<TypeId>>,
    shapes: &Shapes,
    id: ObjectId,
) -> Option<(TypeId, u8)> {
    let slot = e.slots.get(id)?;
    // Without a pointer there is nothing to tell types apart by.
    if slot.noscan || slot.user_arena || e.input.graph.edges(id).is_empty() {
        return None;
    }
    let all = by_class.get(&(slot.size, slot.data))?;
    let mut fitting: Vec<(u32, TypeId)> = shapes
        .fitting(e, id, slot, all)
        .iter()
        .filter_map(|&ty| agreement(e, id, ty, slot.data).map(|n| (n, ty)))
        .take(MAX_CANDIDATES + 1)
        .collect();
    if fitting.is_empty() || fitting.len() > MAX_CANDIDATES {
        return None;
    }
    // Most agreeing children first; names decide between equals, so that every run guesses the same.
    fitting.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| e.input.types.name(a.1).cmp(e.input.types.name(b.1))));
    let (agreeing, ty) = fitting[0];
    Some((ty, agreeing.min(200) as u8))
}

/// How many pointers of the object lead to what the type says; `None` if one leads to something else.
fn agreement(e: &Engine<'_>, id: ObjectId, ty: TypeId, data: u64) -> Option<u32> {
    let types = e.input.types;
    let mut agreeing = 0;
    for edge in e.input.graph.edges(id) {
        let offset = e.edge_at(edge).checked_sub(data)?;
        let Some((child, key)) = e.best(e.input.graph.target.get(edge)) else { continue };
        if key.level() <= Some(Level::Start) {
            continue;
        }
        let expected = match e.plan.pointee(types, ty, offset) {
            PtrTo::To(to) => to,
            PtrTo::Directory(to) => to,
            PtrTo::Code if types.kind(child) == Kind::Closure => child,
            PtrTo::Code => return None,
            PtrTo::NoPointer => return None,
            PtrTo::Untyped | PtrTo::Interface => continue,
        };
        let same = expected == child
            || types.elem(expected) == child
            || types.elem(child) == expected
            || types.map_part(expected) == child
            || types.has_part_at(child, e.edge_offset(edge), expected);
        if !same {
            return None;
        }
        agreeing += 1;
    }
    Some(agreeing)
}
