//! What sampled objects were allocated as. The heap profile keeps the stack of each sampled allocation that is still alive
//! (runtime/mprof.go); the call in it that leads to the allocator has the type descriptor as an argument. For binaries
//! without DWARF, where little else types the first object of a pile.

use std::collections::HashMap;

use crate::{
    base::{Addr, ObjectId},
    image::codetypes::Asked,
    runtime::{
        Runtime,
        heap::specials,
        types::{Sources, TypeId, TypeTable},
    },
};

/// Frames in which the allocator itself may be.
const DEPTH: usize = 8;

/// Functions of the runtime that hand on the type they were given (runtime/malloc.go, runtime/slice.go).
fn hands_on(name: &str) -> bool {
    let plain = name.strip_prefix("runtime.").unwrap_or_default();
    ["mallocgc", "newobject", "makeslice", "growslice", "profilealloc", "mProf_Malloc"]
        .iter()
        .any(|p| plain.starts_with(p))
}

/// A type of the compiler: that of code which several instantiations share, the captured variables of a closure, which its
/// function names better, or the header of any map.
pub(super) fn stands_for_others(name: &str, package: &str) -> bool {
    let map = package == "internal/runtime/maps" || name == "runtime.hmap";
    map || name.contains("go.shape.") || name.trim_start_matches("noalg.").starts_with("struct { F uintptr")
}

/// The types that sampled objects were asked for with; of those made by the runtime itself nothing, for containers tell
/// them better. Cost: two reads per stack; the code was read before.
pub(super) fn read(rt: &Runtime, samples: &[(ObjectId, Addr)], types: &mut TypeTable) -> Vec<(ObjectId, TypeId)> {
    if rt.image.dwarf.is_some() {
        return Vec::new();
    }
    let mut known: HashMap<Addr, Option<TypeId>> = HashMap::new();
    let mut out = Vec::new();
    for &(id, bucket) in samples {
        let ty = *known.entry(bucket).or_insert_with(|| of_stack(rt, &specials::stack(rt, bucket)?, types));
        out.extend(ty.map(|ty| (id, ty)));
    }
    out
}

/// What the caller of the allocator in `stack` (return addresses, innermost first) asks it for.
fn of_stack(rt: &Runtime, stack: &[Addr], types: &mut TypeTable) -> Option<TypeId> {
    for &pc in stack.iter().take(DEPTH) {
        // A return address may be the first of the next function.
        let function = rt.image.pclntab.find(Addr(pc.0.checked_sub(1)?))?;
        if hands_on(function.name()) {
            continue;
        }
        if ["runtime.", "internal/runtime/"].iter().any(|p| function.name().starts_with(p)) {
            return None;
        }
        let asked = rt.image.asked_at(pc)?;
        let (Asked::One(descriptor) | Asked::Elements(descriptor)) = asked;
        types.load(Sources::of(rt), [descriptor]);
        let ty = types.by_addr(descriptor).filter(|&ty| !stands_for_others(types.name(ty), types.package(ty)))?;
        return Some(match asked {
            Asked::One(_) => ty,
            Asked::Elements(_) => types.backing(ty),
        });
    }
    None
}
