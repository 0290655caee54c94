//! Special records of spans: roots (finalizers, cleanups, weak handles) and samples of the heap profile (runtime/mheap.go
//! specials).
//! The kind numbers were renumbered in 1.23 and 1.25: they come from the layout's constants.

use std::collections::HashSet;

use super::{Heap, Span};
use crate::{
    base::{Addr, ObjectId, bytes},
    runtime::{
        Runtime,
        layout::{Constant, Field, FieldLoc, Struct},
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

/// Specials that are followed; more are corrupt or absurd.
const MAX_RECORDS: usize = 1 << 26;
/// The largest special record (specialCleanup in 1.26).
const LARGEST: u64 = 56;

/// One special record.
struct Record<'a> {
    span: &'a Span,
    at: Addr,
    kind: i64,
    /// Of the object from the start of the span.
    offset: u64,
    raw: &'a [u8],
}

impl Record<'_> {
    fn word(&self, off: u32) -> Addr {
        Addr(bytes::u64_at(self.raw, off as usize).unwrap_or(0))
    }
}

/// What is attached to an object; none of it keeps the object alive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Attached {
    /// Entry of the finalizer's function; null where it could not be read.
    Finalizer(Addr),
    Cleanup,
    /// weak.Pointer or unique.Handle values may lead to it.
    WeakHandle,
}

/// Visits the special records of all spans. Cost: one small read per record.
fn each(rt: &Runtime, heap: &Heap, mut f: impl FnMut(Record<'_>)) {
    let l = &rt.layout;
    let (Some(next), Some(offset), Some(kind)) =
        (l.field(Field::SpecialNext), l.field(Field::SpecialOffset), l.field(Field::SpecialKind))
    else {
        rt.diag.note("layout of special records unknown: finalizers and cleanups are left out", "runtime.special");
        return;
    };
    // A record belongs to one list and stands in it once.
    let mut seen = HashSet::new();
    for span in heap.spans.iter().filter(|s| !s.specials.is_null()) {
        let mut at = span.specials;
        while !at.is_null() {
            let read = rt.target.read_vec(at, LARGEST, LARGEST).or_else(|_| rt.target.read_vec(at, 24, 24));
            let (Ok(raw), true) = (read, seen.insert(at) && seen.len() <= MAX_RECORDS) else {
                rt.diag.note("specials list broken", format_args!("span {} at {at}", span.start));
                break;
            };
            let get = |f: FieldLoc| bytes::uint_at(&raw, f.offset as usize, f.width as usize).unwrap_or(0);
            let then = Addr(get(next));
            f(Record { span, at, kind: get(kind) as i64, offset: get(offset), raw: &raw });
            at = then;
        }
    }
}

/// Specials that are roots, and samples of the heap profile.
#[derive(Default)]
pub struct Specials {
    pub roots: Vec<SpecialRoot>,
    /// Objects that the profile sampled, with the address of the bucket that has their allocation stack
    /// (runtime/mheap.go specialprofile, runtime/mprof.go bucket).
    pub samples: Vec<(ObjectId, Addr)>,
}

pub fn read(rt: &Runtime, heap: &Heap) -> Specials {
    let l = &rt.layout;
    // Every record begins with a runtime.special.
    let behind = l.size(Struct::Special).map(|s| FieldLoc { offset: s as u32, width: 8 });
    let Some(first) = l.field(Field::SpecialFinalizerFn).or(behind) else { return Specials::default() };
    for (kind, since) in
        [(Constant::KindSpecialFinalizer, 0), (Constant::KindSpecialWeakHandle, 23), (Constant::KindSpecialCleanup, 24)]
    {
        if rt.image.go_version.minor >= since && l.constant(kind).is_none() {
            rt.diag.note("kind of special records unknown: what they hold is taken for dead", kind.name());
        }
    }
    let number = |c: Constant| l.constant(c).unwrap_or(-1);
    let finalizer = number(Constant::KindSpecialFinalizer);
    let weak = number(Constant::KindSpecialWeakHandle);
    let cleanup = number(Constant::KindSpecialCleanup);
    let bucket = l.field(Field::SpecialProfileB).zip(l.constant(Constant::KindSpecialProfile));
    // 1.24, 1.25: one word; 1.26+: call, fn, arg.
    let words = if l.has(Field::SpecialCleanupCleanup) { 3 } else { 1 };
    let Specials { mut roots, mut samples } = Specials::default();
    each(rt, heap, |r| {
        if r.kind == finalizer {
            let object = r.span.start.offset(r.offset);
            roots.push(SpecialRoot::Finalizer { object, func: r.word(first.offset), at: r.at });
        } else if r.kind == weak {
            roots.push(SpecialRoot::WeakHandle { handle: r.word(first.offset), at: r.at });
        } else if r.kind == cleanup {
            roots.extend((0..words).map(|i| SpecialRoot::Cleanup { word: r.word(first.offset + 8 * i), at: r.at }));
        } else if let Some((bucket, _)) = bucket.filter(|b| b.1 == r.kind)
            && let Some((id, _)) = heap.find(r.span.start.offset(r.offset)).filter(|f| heap.is_allocated(f.0))
        {
            samples.push((id, r.word(bucket.offset)));
        }
    });
    Specials { roots, samples }
}

/// Finalizers, cleanups and weak handles by object, sorted. The target must be held.
pub fn attached(rt: &Runtime, heap: &Heap) -> Vec<(ObjectId, Attached)> {
    let l = &rt.layout;
    let is = |r: &Record<'_>, c: Constant| l.constant(c) == Some(r.kind);
    let behind = l.size(Struct::Special).unwrap_or(0) as u32;
    let func = l.field(Field::SpecialFinalizerFn).map_or(behind, |f| f.offset);
    let mut out = Vec::new();
    each(rt, heap, |r| {
        let Some((id, _)) = heap.find(r.span.start.offset(r.offset)) else { return };
        if is(&r, Constant::KindSpecialFinalizer) {
            out.push((id, Attached::Finalizer(rt.target.read_ptr(r.word(func)).unwrap_or_default())));
        } else if is(&r, Constant::KindSpecialCleanup) {
            out.push((id, Attached::Cleanup));
        } else if is(&r, Constant::KindSpecialWeakHandle) {
            out.push((id, Attached::WeakHandle));
        }
    });
    out.sort_unstable();
    out.dedup();
    out
}

/// Return addresses of the allocation that a bucket stands for, innermost first. `None` where there is no such bucket.
pub fn stack(rt: &Runtime, bucket: Addr) -> Option<Vec<Addr>> {
    /// runtime/mprof.go: frames at most (GODEBUG profstackdepth), and the frames skipped in front of them.
    const MAX_DEPTH: u64 = 1024 + 16;
    let depth = rt.layout.field(Field::BucketNstk)?;
    let size = rt.layout.size(Struct::Bucket)?;
    let depth = rt.target.read_u64(bucket.offset(depth.offset.into())).ok().filter(|&n| n <= MAX_DEPTH)?;
    let raw = rt.target.read_vec(bucket.offset(size), 8 * depth, 8 * MAX_DEPTH).ok()?;
    Some(raw.chunks_exact(8).filter_map(|w| bytes::u64_at(w, 0)).map(Addr).collect())
}
