//! Local variables of stopped frames without DWARF: what the code of their functions has put into the words that the stack maps
//! call live. A method keeps what it was called on, a function what it got from the allocator, while a call is under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

use super::locals::Locals;
use crate::{
    base::Addr,
    graph::{RootKind, build::Built},
    image::codetypes::{self, Said, Spilled},
    runtime::{
        Runtime,
        types::{PtrTo, Sources, TypeId, TypeTable},
    },
};

/// Distinct calls on all stacks together; the rest is not looked at.
const MAX_CALLS: usize = 1 << 16;

/// Cost: each function that is on some stack is read once; then a search for each root on a stack.
pub(super) fn find(rt: &Runtime, built: &Built, types: &mut TypeTable) -> Locals {
    let mut calls: BTreeMap<Addr, BTreeSet<Addr>> = BTreeMap::new();
    let frames = built.stacks.iter().flat_map(|s| &s.frames);
    for f in frames.take(MAX_CALLS) {
        calls.entry(f.func_entry).or_default().insert(f.pc);
    }
    let calls: Vec<(Addr, Vec<Addr>)> = calls.into_iter().map(|(f, pcs)| (f, pcs.into_iter().collect())).collect();
    let found: Vec<Spilled> = calls
        .par_iter()
        .filter_map(|(entry, pcs)| Some(rt.image.spilled(&rt.image.pclntab.find(*entry)?, pcs)))
        .flatten()
        .collect();
    let descriptors = found.iter().filter_map(|s| match s.said {
        Said::PointerTo(t) | Said::SliceOf(t) | Said::Is(t) => Some(t),
        _ => None,
    });
    types.load(Sources::of(rt), descriptors.collect::<BTreeSet<_>>());
    let mut says: HashMap<(Addr, i64), PtrTo> = HashMap::new();
    for s in found {
        if let Some(to) = pointee(rt, types, s.said) {
            says.insert((s.pc, s.offset), PtrTo::To(to));
        }
    }
    let mut out = Locals::default();
    for (i, root) in built.graph.roots.iter().enumerate().filter(|(_, r)| r.kind == RootKind::Stack) {
        let stack =
            built.goroutines.binary_search_by_key(&root.goid, |g| g.goid).ok().and_then(|g| built.stacks.get(g));
        let Some(frame) = stack.and_then(|s| s.frames.get(root.frame as usize)) else { continue };
        if let Some(&to) = says.get(&(frame.pc, root.at.0.wrapping_sub(frame.sp.0) as i64)) {
            out.pointers.push((i as u32, to));
        }
    }
    out
}

/// What a pointer in such a word leads to.
fn pointee(rt: &Runtime, types: &mut TypeTable, said: Said) -> Option<TypeId> {
    match said {
        Said::PointerTo(t) => {
            types.by_addr(t).filter(|&t| !super::asked::stands_for_others(types.name(t), types.package(t)))
        }
        Said::SliceOf(t) => types.by_addr(t).map(|t| types.backing(t)),
        Said::Is(t) => types.by_addr(t).and_then(|t| types.header_of(t)),
        Said::Str => Some(types.string_data()),
        Said::Bytes => types.by_name("uint8").map(|t| types.backing(t)),
        Said::PointerToReceiver(entry) => {
            types.by_dwarf_name(&codetypes::receiver(rt.image.pclntab.find(entry)?.name())?)
        }
        Said::StartOf(_) | Said::IsReceiver(_) => None,
    }
}
