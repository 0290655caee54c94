//! Where evidence begins: malloc headers, interfaces, closures, and words of known type outside the heap.

use super::{
    Region, Slot,
    engine::Engine,
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
    for &(edge, word) in &hints.interfaces {
        if edge as usize >= graph.target.len() {
            continue;
        }
        let target = graph.target.get(edge as usize);
        let offset = engine.edge_offset(edge as usize);
        seed_interface(engine, target, offset, word);
    }
    for &(root, word) in &hints.root_interfaces {
        let Some(&Root { target, offset, .. }) = graph.roots.get(root as usize) else { continue };
        seed_interface(engine, target, u64::from(offset), word);
    }
}

fn seed_interface(engine: &mut Engine<'_>, target: ObjectId, offset: u64, word: Addr) {
    let to = boxed(engine.input.types, word);
    engine.seed(target, to, offset, Level::Interface);
}

/// What local variables say of the roots in them.
fn locals(engine: &mut Engine<'_>) {
    let (graph, locals) = (engine.input.graph, engine.input.locals);
    for &(root, to) in &locals.pointers {
        let Some(&Root { target, offset, .. }) = graph.roots.get(root as usize) else { continue };
        engine.seed(target, to, u64::from(offset), Level::Whole);
    }
    for &(root, word) in &locals.interfaces {
        let Some(&Root { target, offset, .. }) = graph.roots.get(root as usize) else { continue };
        seed_interface(engine, target, u64::from(offset), word);
    }
}

fn roots(engine: &mut Engine<'_>) {
    let (graph, types, regions) = (engine.input.graph, engine.input.types, engine.input.regions);
    for root in &graph.roots {
        let to = match root.kind {
            RootKind::TinyBlock => PtrTo::To(types.tiny_block()),
            _ => region_at(types, regions, root.at).map_or(PtrTo::Untyped, |(ty, off)| types.pointee(ty, off)),
        };
        if root.kind != RootKind::Conservative {
            engine.seed(root.target, to, u64::from(root.offset), Level::Whole);
        }
    }
}

/// The typed region that contains `addr`, and the offset in it.
pub(super) fn region_at(types: &TypeTable, regions: &[Region], addr: Addr) -> Option<(TypeId, u64)> {
    let i = regions.partition_point(|r| r.start <= addr);
    let region = regions[..i].last()?;
    let offset = addr.distance_from(region.start)?;
    let inside = offset < types.size(region.ty) || types.kind(region.ty) == Kind::Unknown;
    inside.then_some((region.ty, offset))
}
