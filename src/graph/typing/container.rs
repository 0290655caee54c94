//! The whole object around a part: `*F` leads to offset k of a slot; of the types of this binary, only S has an F at k and
//! fits the slot. So runtime-internal nodes and embedded structs get their containers.

use std::collections::HashMap;

use super::{
    engine::Engine,
    fit::{Fit, Level, class_size},
};
use crate::{
    base::ObjectId,
    runtime::types::{Kind, Origin, TypeId, TypeTable},
};

/// Places of one type inside larger ones that are remembered.
const MAX_PLACES: usize = 256;
/// Nested members that are entered for one type, and how deep.
const MAX_MEMBERS: usize = 512;
const MAX_DEPTH: usize = 6;

/// For a part: the types that contain it, and where.
type Places = HashMap<TypeId, Vec<(TypeId, u64)>>;

pub(super) fn complete(engine: &mut Engine<'_>) {
    // A container found may lead to further parts; few steps suffice in practice, and each one costs a pass.
    const PASSES: usize = 4;
    let places = places(engine.input.types);
    for _ in 0..PASSES {
        let e = &*engine;
        let found: Vec<(ObjectId, TypeId)> = e.among(
            |key| matches!(key.level(), Some(Level::Part | Level::Start)),
            |id, key| {
                let part = e.type_of_rank.get(key.rank()).copied().unwrap_or_default();
                container(e, &places, id, part, key.at()).map(|ty| (id, ty))
            },
        );
        if found.is_empty() {
            return;
        }
        for (id, ty) in found {
            engine.settle(id, ty, Fit { level: Level::Container, score: 0, at: 0 });
        }
        engine.run();
    }
}

/// The only type that can be around `part` at `at`.
fn container(e: &Engine<'_>, places: &Places, id: ObjectId, part: TypeId, at: u64) -> Option<TypeId> {
    let types = e.input.types;
    let slot = e.slots.get(id)?;
    // Where arrays of the part exist, the object may be one.
    let elem = if types.kind(part) == Kind::Backing { types.elem(part) } else { part };
    let arrays = types.kind(part) != Kind::Backing
        && types.backing_of(part).is_some()
        && at.is_multiple_of(types.size(part).max(1));
    if slot.user_arena || arrays {
        return None;
    }
    let mut fitting = places.get(&elem)?.iter().filter(|&&(ty, place)| {
        place == at
            && (types.ptr_bytes(ty) > 0) != slot.noscan
            && class_size(types.size(ty) + slot.data) == slot.size
            && e.agrees(id, ty, 0, slot.data, false)
    });
    let first = fitting.next()?.0;
    // Several names of one shape (copies of a generic type) are as good as one.
    fitting.all(|&(ty, _)| ty == first).then_some(first)
}

/// Where each type is contained in which structs.
fn places(types: &TypeTable) -> Places {
    let mut places = Places::new();
    for id in types.of_kind(Kind::Struct) {
        if matches!(types.origin(id), Origin::Module | Origin::RunTime | Origin::Dwarf) {
            let mut left = MAX_MEMBERS;
            enter(types, &mut places, id, id, 0, &mut left, MAX_DEPTH);
        }
    }
    places
}

fn enter(types: &TypeTable, places: &mut Places, whole: TypeId, ty: TypeId, base: u64, left: &mut usize, depth: usize) {
    if depth == 0 {
        return;
    }
    for field in types.fields(ty) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let at = base + field.offset;
        let list = places.entry(field.ty).or_default();
        if list.len() < MAX_PLACES {
            list.push((whole, at));
        }
        match types.kind(field.ty) {
            Kind::Struct => enter(types, places, whole, field.ty, at, left, depth - 1),
            Kind::Array => {
                // Slices of the array lead to its first element, as a rule.
                let list = places.entry(types.elem(field.ty)).or_default();
                if list.len() < MAX_PLACES {
                    list.push((whole, at));
                }
            }
            _ => {}
        }
    }
}
