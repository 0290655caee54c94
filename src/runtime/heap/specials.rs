//! Special records of spans that are roots: finalizers, cleanups, weak handles (runtime/mheap.go specials).
//! The kind numbers were renumbered in 1.23 and 1.25: they come from the layout's constants.

use super::Heap;
use crate::{
    base::{Addr, bytes},
    runtime::{
        Runtime,
        layout::{Constant, Field, Struct},
    },
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialRoot {
    /// Closure of a finalizer, and the object it is set on (whose *contents* are roots).
    Finalizer {
        object: Addr,
        func: Addr,
        at: Addr,
    },
    Cleanup {
        word: Addr,
        at: Addr,
    },
    WeakHandle {
        handle: Addr,
        at: Addr,
    },
}

/// Specials of one span that are followed; a list that is longer is corrupt or absurd.
const MAX_PER_SPAN: usize = 1 << 20;

/// All specials that are roots.
pub fn roots(rt: &Runtime, heap: &Heap) -> Vec<SpecialRoot> {
    let l = &rt.layout;
    let (Some(next), Some(offset), Some(kind), Some(fn_)) = (
        l.field(Field::SpecialNext),
        l.field(Field::SpecialOffset),
        l.field(Field::SpecialKind),
        l.field(Field::SpecialFinalizerFn)
            .or(l.size(Struct::Special).map(|s| crate::runtime::layout::FieldLoc { offset: s as u32, width: 8 })),
    ) else {
        return Vec::new();
    };
    let number = |c: Constant| l.constant(c).unwrap_or(-1);
    let finalizer = number(Constant::KindSpecialFinalizer);
    let weak = number(Constant::KindSpecialWeakHandle);
    let cleanup = number(Constant::KindSpecialCleanup);
    let mut out = Vec::new();
    for span in heap.spans.iter().filter(|s| !s.specials.is_null()) {
        let mut at = span.specials;
        for step in 0.. {
            if at.is_null() {
                break;
            }
            // The largest special record has 56 bytes (specialCleanup in 1.26).
            let read = rt.target.read_vec(at, 56, 56).or_else(|_| rt.target.read_vec(at, 24, 24));
            let (Ok(raw), true) = (read, step < MAX_PER_SPAN) else {
                rt.diag.note("specials list broken", format_args!("span {} at {at}", span.start));
                break;
            };
            let get = |f: crate::runtime::layout::FieldLoc| {
                bytes::uint_at(&raw, f.offset as usize, f.width as usize).unwrap_or(0)
            };
            let word = |off: u32| Addr(bytes::u64_at(&raw, off as usize).unwrap_or(0));
            let k = get(kind) as i64;
            if k == finalizer {
                let object = span.start.offset(get(offset));
                out.push(SpecialRoot::Finalizer { object, func: word(fn_.offset), at });
            } else if k == weak {
                out.push(SpecialRoot::WeakHandle { handle: word(fn_.offset), at });
            } else if k == cleanup {
                // 1.24, 1.25: one word; 1.26+: call, fn, arg.
                let words = if l.has(Field::SpecialCleanupCleanup) { 3 } else { 1 };
                out.extend((0..words).map(|i| SpecialRoot::Cleanup { word: word(fn_.offset + 8 * i), at }));
            }
            at = Addr(get(next));
        }
    }
    out
}
