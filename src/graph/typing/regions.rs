//! Typed memory outside the heap: global variables by DWARF, and those of the runtime that are found in any binary.

use std::collections::HashSet;

use super::{Region, seeds::region_at};
use crate::{
    base::Addr,
    runtime::{
        Runtime,
        layout::Global,
        types::{PtrTo, TypeId, TypeTable},
    },
};

/// Sorted by start, each start once. `links`: pointers from global variables to global variables, (where to, where from).
pub fn regions(rt: &Runtime, types: &mut TypeTable, links: &[(Addr, Addr)]) -> Vec<Region> {
    let mut regions = Vec::new();
    let module = rt.image.modules.first().map(|m| m.types).unwrap_or_default();
    for v in rt.image.dwarf.iter().flat_map(|d| &d.variables) {
        let by_descriptor = v.runtime_type.and_then(|off| types.by_addr(module.offset(off)));
        let ty = by_descriptor.or_else(|| types.by_dwarf_name(&v.type_name));
        if let Some(ty) = ty {
            regions.push(Region { start: Addr(v.addr.wrapping_add(rt.image.bias)), ty });
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
    static_data(types, links, &mut regions);
    regions
}

/// What the compiler laid out for `var x = &T{...}` has no name; the type of x tells its type. Such data may lead to more.
fn static_data(types: &TypeTable, links: &[(Addr, Addr)], regions: &mut Vec<Region>) {
    const ROUNDS: usize = 4;
    let mut known: HashSet<Addr> = regions.iter().map(|r| r.start).collect();
    for _ in 0..ROUNDS {
        let found: Vec<Region> = links
            .iter()
            .filter(|(to, _)| !known.contains(to))
            .filter_map(|&(start, from)| {
                let (ty, off) = region_at(types, regions, from)?;
                match types.pointee(ty, off) {
                    PtrTo::To(ty) => Some(Region { start, ty }),
                    _ => None,
                }
            })
            .collect();
        if found.is_empty() {
            return;
        }
        known.extend(found.iter().map(|r| r.start));
        regions.extend(found);
        regions.sort();
        regions.dedup_by_key(|r| r.start);
    }
}

/// `[]*T`.
fn slice_of_pointers(types: &mut TypeTable, element: &str) -> Option<TypeId> {
    let element = types.by_name(element)?;
    let pointer = types.pointer_to(element);
    Some(types.slice_of(pointer))
}
