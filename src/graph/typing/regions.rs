//! Typed memory outside the heap: global variables by DWARF or by the code that uses them, and those of the runtime that
//! are found in any binary.

use std::collections::{HashMap, HashSet};

use super::{
    Region,
    seeds::{self, region_at},
};
use crate::{
    base::Addr,
    image::codetypes::{self, Place, Said},
    runtime::{
        Runtime,
        layout::Global,
        types::{Kind, PtrTo, TypeId, TypeTable},
    },
};

/// Sorted by start, each start once. `links`: pointers from global variables to global variables, (where to, where from);
/// `interfaces`: those that are data words of interfaces, with their type words.
pub fn regions(
    rt: &Runtime,
    types: &mut TypeTable,
    links: &[(Addr, Addr)],
    interfaces: &[(Addr, Addr)],
) -> Vec<Region> {
    let mut regions = Vec::new();
    let module = rt.image.modules.first().map(|m| m.types).unwrap_or_default();
    for v in rt.image.dwarf.iter().flat_map(|d| &d.variables) {
        let by_descriptor = v.runtime_type.and_then(|off| types.by_addr(module.offset(off)));
        let ty = by_descriptor.or_else(|| types.by_dwarf_name(&v.type_name));
        if let Some(ty) = ty {
            regions.push(Region { start: Addr(v.addr.wrapping_add(rt.image.bias)), ty });
        }
    }
    if rt.image.dwarf.is_none() {
        regions.extend(from_code(rt, types, links));
    }
    for (global, element) in [(Global::Allgs, "runtime.g"), (Global::Allp, "runtime.p")] {
        if let (Some(start), Some(ty)) = (rt.globals.get(global), slice_of_pointers(types, element)) {
            regions.push(Region { start, ty });
        }
    }
    if let (Some(start), Some(m)) = (rt.globals.get(Global::Allm), types.by_name("runtime.m")) {
        regions.push(Region { start, ty: types.pointer_to(m) });
    }
    let boxes: Vec<Region> = interfaces
        .iter()
        .filter_map(|&(start, word)| match seeds::boxed(types, word) {
            PtrTo::To(ty) => Some(Region { start, ty }),
            _ => None,
        })
        .collect();
    // Where a variable begins, what is declared says more than what a pointer leads to.
    let known: HashSet<Addr> = regions.iter().map(|r| r.start).collect();
    regions.extend(boxes.into_iter().filter(|r| !known.contains(&r.start)));
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

/// Globals of a binary without DWARF, and static data that they point to: what its code says of them. Where statements
/// contradict each other none counts.
fn from_code(rt: &Runtime, types: &mut TypeTable, links: &[(Addr, Addr)]) -> Vec<Region> {
    let leads: HashMap<Addr, Addr> = links.iter().map(|&(to, from)| (from, to)).collect();
    let mut out: Vec<Region> = Vec::new();
    for group in rt.image.code_types().chunk_by(|a, b| a.place == b.place) {
        let start = match group[0].place {
            Place { at, member: None } => at,
            Place { at, member: Some(member) } => match leads.get(&at) {
                Some(to) => to.offset(member.into()),
                None => continue,
            },
        };
        let receiver = |s: &Said| matches!(s, Said::PointerToReceiver(_) | Said::IsReceiver(_));
        let (weak, strong): (Vec<_>, Vec<_>) = group.iter().map(|s| s.said).partition(receiver);
        let strong: Vec<TypeId> = strong.into_iter().filter_map(|s| type_of(rt, types, s)).collect();
        // A method may be of an embedded struct at the start of the real type: only taken for want of better.
        let said =
            if strong.is_empty() { weak.into_iter().filter_map(|s| type_of(rt, types, s)).collect() } else { strong };
        if let Some(ty) = agreed(types, said) {
            out.push(Region { start, ty });
        }
    }
    out
}

fn type_of(rt: &Runtime, types: &mut TypeTable, said: Said) -> Option<TypeId> {
    let receiver = |types: &mut TypeTable, entry| {
        let function = rt.image.pclntab.find(entry)?;
        types.by_dwarf_name(&codetypes::receiver(function.name())?)
    };
    match said {
        Said::StartOf(t) if types.by_addr(t).is_some_and(|t| types.kind(t) == Kind::Array) => {
            let array = types.by_addr(t)?;
            Some(types.slice_of(types.elem(array)))
        }
        Said::PointerTo(t) | Said::StartOf(t) => {
            let t = types.by_addr(t)?;
            match types.name(t) {
                // An empty map literal: its own type is told where it is used.
                "runtime.hmap" | "maps.Map" => None,
                // Code that several instantiations share.
                name if name.contains("go.shape.") => None,
                _ => Some(types.pointer_to(t)),
            }
        }
        Said::SliceOf(t) => types.by_addr(t).map(|t| types.slice_of(t)),
        Said::Is(t) => types.by_addr(t),
        Said::Str => types.by_name("string"),
        Said::Bytes => types.by_name("uint8").map(|t| types.slice_of(t)),
        Said::PointerToReceiver(entry) => receiver(types, entry).map(|t| types.pointer_to(t)),
        Said::IsReceiver(entry) => receiver(types, entry),
    }
}

/// The one type that all name, or the largest struct where the others are what it begins with.
fn agreed(types: &TypeTable, mut said: Vec<TypeId>) -> Option<TypeId> {
    let pointed = |t: TypeId| if types.kind(t) == Kind::Pointer { types.elem(t) } else { t };
    said.sort_by_key(|&t| std::cmp::Reverse((types.size(pointed(t)), t)));
    said.dedup();
    let (&first, rest) = said.split_first()?;
    let whole = rest.iter().all(|&t| {
        (types.kind(t) == Kind::Pointer) == (types.kind(first) == Kind::Pointer)
            && types.has_part_at(pointed(first), 0, pointed(t))
    });
    whole.then_some(first)
}
