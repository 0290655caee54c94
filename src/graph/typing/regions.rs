//! Typed memory outside the heap: global variables by DWARF, and those of the runtime that are found in any binary.

use super::Region;
use crate::runtime::{
    Runtime,
    layout::Global,
    types::{TypeId, TypeTable},
};

/// Sorted by start, each start once.
pub fn regions(rt: &Runtime, types: &mut TypeTable) -> Vec<Region> {
    let mut regions = Vec::new();
    let module = rt.image.modules.first().map(|m| m.types).unwrap_or_default();
    for v in rt.image.dwarf.iter().flat_map(|d| &d.variables) {
        let by_descriptor = v.runtime_type.and_then(|off| types.by_addr(module.offset(off)));
        let ty = by_descriptor.or_else(|| types.by_dwarf_name(&v.type_name));
        if let Some(ty) = ty {
            regions.push(Region { start: crate::base::Addr(v.addr.wrapping_add(rt.image.bias)), ty });
        }
    }
    for (global, element) in [(Global::Allgs, "runtime.g"), (Global::Allp, "runtime.p")] {
        if let (Some(start), Some(ty)) = (rt.globals.get(global), slice_of_pointers(types, element)) {
            regions.push(Region { start, ty });
        }
    }
    if let (Some(start), Some(m)) = (rt.globals.get(Global::Allm), types.by_name("runtime.m")) {
        regions.push(Region { start, ty: types.pointer_to(m) });
    }
    regions.sort();
    regions.dedup_by_key(|r| r.start);
    regions
}

/// `[]*T`.
fn slice_of_pointers(types: &mut TypeTable, element: &str) -> Option<TypeId> {
    let element = types.by_name(element)?;
    let pointer = types.pointer_to(element);
    Some(types.slice_of(pointer))
}
