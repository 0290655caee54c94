//! Where evidence begins: malloc headers, interfaces, closures, and words of known type outside the heap.

use super::{
    Region, Slot,
    engine::{Engine, Seed},
    fit::{Fit, Level, TINY, class_size},
};
use crate::{
    base::{Addr, ObjectId},
    graph::{Root, RootKind},
    runtime::types::{Kind, PtrTo, TypeId, TypeTable},
};

pub(super) fn sow(engine: &mut Engine<'_>) {
    headers(engine);
    asked(engine);
    closures(engine);
    interfaces(engine);
    roots(engine);
    locals(engine);
}

/// A header names the type of one element; whether the object is one of it or an array of them, its size tells.
fn headers(engine: &mut Engine<'_>) {
    for &(id, addr) in &engine.input.hints.headers {
        let Some(&slot) = engine.slots.get(id) else { continue };
        let Some(ty) = engine.input.types.by_addr(addr) else { continue };
        let Some(found) = whole(engine.input.types, &slot, ty) else { continue };
        if engine.input.heap.is_allocated(id) && engine.agrees(id, found, 0, slot.data, false) {
            // What the runtime declares as its own parts of maps is known better from the map.
            let vague = matches!(engine.input.types.package(ty), "internal/runtime/maps");
            let level = if vague { Level::Container } else { Level::Header };
            engine.settle(id, found, Fit { level, score: 0, at: 0 });
        }
    }
}

/// The object in `slot` whose malloc header names `ty`.
fn whole(types: &TypeTable, slot: &Slot, ty: TypeId) -> Option<TypeId> {
    let size = types.size(ty);
    if size == 0 || size > slot.room() {
        return None;
    }
    // Parts of maps have names of their own.
    let array = types.backing_of(ty);
    if let Some(part) = array.filter(|&a| types.key(a).is_known()) {
        return Some(part);
    }
    if class_size(size + slot.data) == slot.size { Some(ty) } else { array.or(Some(ty)) }
}

/// What the allocator was asked for is what it made. Bytes are another matter: a string is often built in a slice of them, so
/// whoever holds them knows better.
fn asked(engine: &mut Engine<'_>) {
    for &(id, ty) in engine.input.asked {
        let types = engine.input.types;
        let Some(&slot) = engine.slots.get(id) else { continue };
        let (size, array) = (types.size(ty), types.kind(ty) == Kind::Backing);
        let fits = if array { size <= slot.room() } else { class_size(size + slot.data) == slot.size };
        let shared = slot.noscan && slot.size == TINY;
        if size == 0 || !fits || shared || slot.noscan != (types.ptr_bytes(ty) == 0) {
            continue;
        }
        if engine.input.heap.is_allocated(id) && engine.agrees(id, ty, 0, slot.data, false) {
            let level = if array && slot.noscan { Level::Elements } else { Level::Header };
            engine.settle(id, ty, Fit { level, score: 0, at: 0 });
        }
    }
}

fn closures(engine: &mut Engine<'_>) {
    for &(id, entry) in &engine.input.hints.closures {
        let Some(ty) = engine.input.types.closure_at(entry) else { continue };
        let Some(&slot) = engine.slots.get(id) else { continue };
        let size = engine.input.types.size(ty);
        // Captured variables that do not fit belong to something else that begins with a code pointer.
        if slot.data == 0 && (size <= 8 || class_size(size) == slot.size) && engine.agrees(id, ty, 0, 0, false) {
            engine.settle(id, ty, Fit { level: Level::Closure, score: 0, at: 0 });
        }
    }
}

/// What the data word behind the type word `word` points to.
pub(super) fn boxed(types: &TypeTable, word: Addr) -> PtrTo {
    match types.by_type_word(word) {
        Some(ty) if types.is_direct(ty) => types.pointee(ty, 0),
        Some(ty) => PtrTo::To(ty),
        None => PtrTo::Untyped,
    }
}

fn interfaces(engine: &mut Engine<'_>) {
    let (graph, hints) = (engine.input.graph, engine.input.hints);
    engine.seed_all(&hints.interfaces, |engine, &(edge, word)| {
        let edge = edge as usize;
        (edge < graph.target.len()).then(|| behind(engine, graph.target.get(edge), engine.edge_offset(edge), word))
    });
    engine.seed_all(&hints.root_interfaces, |engine, &(root, word)| {
        let &Root { target, offset, .. } = graph.roots.get(root as usize)?;
        Some(behind(engine, target, offset.into(), word))
    });
}

/// What the type word `word` says of the object in the data word behind it.
fn behind(engine: &Engine<'_>, target: ObjectId, offset: u64, word: Addr) -> Seed {
    Seed { target, to: boxed(engine.input.types, word), offset, cap: Level::Interface }
}

/// What local variables say of the roots in them.
fn locals(engine: &mut Engine<'_>) {
    let (graph, locals) = (engine.input.graph, engine.input.locals);
    engine.seed_all(&locals.pointers, |_, &(root, to)| {
        let &Root { target, offset, .. } = graph.roots.get(root as usize)?;
        Some(Seed { target, to, offset: offset.into(), cap: Level::Whole })
    });
    engine.seed_all(&locals.interfaces, |engine, &(root, word)| {
        let &Root { target, offset, .. } = graph.roots.get(root as usize)?;
        Some(behind(engine, target, offset.into(), word))
    });
}

fn roots(engine: &mut Engine<'_>) {
    let (graph, types, regions) = (engine.input.graph, engine.input.types, engine.input.regions);
    engine.seed_all(&graph.roots, |_, root| {
        let to = match root.kind {
            RootKind::TinyBlock => PtrTo::To(types.tiny_block()),
            RootKind::Conservative => return None,
            _ => region_at(types, regions, root.at).map_or(PtrTo::Untyped, |(ty, off)| types.pointee(ty, off)),
        };
        Some(Seed { target: root.target, to, offset: root.offset.into(), cap: Level::Whole })
    });
}

/// The typed region that contains `addr`, and the offset in it.
pub(super) fn region_at(types: &TypeTable, regions: &[Region], addr: Addr) -> Option<(TypeId, u64)> {
    let i = regions.partition_point(|r| r.start <= addr);
    let region = regions[..i].last()?;
    let offset = addr.distance_from(region.start)?;
    let inside = offset < types.size(region.ty) || types.kind(region.ty) == Kind::Unknown;
    inside.then_some((region.ty, offset))
}
