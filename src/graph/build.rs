//! Builds the graph in one pass: pointer-holding spans are read once, in large pieces, on all cores; noscan spans are
//! never read. The same pass takes down what the bytes say about types, so that no second read is needed.

use rayon::prelude::*;

use super::{Graph, Hints, Root, RootKind, TypeWords};
use crate::{
    base::{Addr, Bitmap, Goid, ObjectId, bytes},
    image::SegmentMask,
    runtime::{
        Runtime,
        heap::{
            Heap, PointerMasks, Span,
            specials::{self, SpecialRoot},
        },
        layout::{Field, Global, Struct},
        sched::Goroutine,
        stack::{self, Stack},
        view::ReadError,
    },
};

/// Everything that was read: the graph, the goroutines with their stacks, and evidence of types.
#[derive(Default)]
pub struct Built {
    pub graph: Graph,
    pub goroutines: Vec<Goroutine>,
    pub stacks: Vec<Stack>,
    pub hints: Hints,
}

/// Spans read together: bounded by number and by bytes.
const BATCH_SPANS: usize = 256;
const BATCH_BYTES: u64 = 8 << 20;

#[derive(Default)]
struct Part {
    /// (slots of the span, edges of each slot), in span order.
    degrees: Vec<u32>,
    target: Vec<ObjectId>,
    word: Vec<u16>,
    far: Vec<(u32, u32)>,
    hints: Hints,
}

/// `words`: what counts as evidence of an interface; may be empty.
pub fn build(rt: &Runtime, heap: &Heap, words: &TypeWords) -> Result<Built, ReadError> {
    let goroutines = crate::runtime::sched::read(rt)?;
    let stacks: Vec<Stack> = goroutines.par_iter().map(|g| stack::walk(rt, g)).collect();
    for (g, s) in goroutines.iter().zip(&stacks) {
        if let Some(why) = &s.truncated {
            rt.diag.note("goroutine stack cut short", format_args!("goroutine {}: {why}", g.goid));
        }
    }
    let masks = PointerMasks::new(rt);
    let mut batches: Vec<&[Span]> = Vec::new();
    let mut rest = heap.spans.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let n = rest
            .iter()
            .take(BATCH_SPANS)
            .take_while(|s| {
                let fits = bytes < BATCH_BYTES;
                bytes += if s.noscan { 0 } else { s.bytes };
                fits
            })
            .count()
            .max(1);
        let (batch, tail) = rest.split_at(n);
        batches.push(batch);
        rest = tail;
    }
    let parts: Vec<Part> = batches.par_iter().map(|b| scan(rt, heap, &masks, words, b)).collect();

    let edges: usize = parts.iter().map(|p| p.target.len()).sum();
    if edges >= u32::MAX as usize {
        return Err(ReadError::Implausible {
            what: "the heap graph",
            addr: Addr::NULL,
            why: format!("{edges} edges are more than 32-bit indices can name"),
        });
    }
    let mut graph = Graph { row: Vec::with_capacity(heap.slots as usize + 1), ..Graph::default() };
    graph.row.push(0);
    graph.target.reserve_exact(edges);
    graph.word.reserve_exact(edges);
    let mut hints = Hints::default();
    let mut total = 0u32;
    for p in parts {
        let base = graph.target.len() as u32;
        for d in p.degrees {
            total += d;
            graph.row.push(total);
        }
        graph.target.extend(p.target);
        graph.word.extend(p.word);
        graph.far_words.extend(p.far.into_iter().map(|(e, w)| (base + e, w)));
        hints.interior.extend(p.hints.interior.into_iter().map(|(e, at)| (base + e, at)));
        hints.interfaces.extend(p.hints.interfaces.into_iter().map(|(e, word)| (base + e, word)));
        hints.headers.extend(p.hints.headers);
        hints.closures.extend(p.hints.closures);
    }
    graph.roots = roots(rt, heap, words, &goroutines, &stacks, &graph, &mut hints);
    graph.reachable = reach(&graph, heap);
    Ok(Built { graph, goroutines, stacks, hints })
}

fn scan(rt: &Runtime, heap: &Heap, masks: &PointerMasks, words: &TypeWords, spans: &[Span]) -> Part {
    let mut part = Part::default();
    let total: u64 = spans.iter().filter(|s| !s.noscan).map(|s| s.bytes).sum();
    let mut memory = vec![0u8; total as usize];
    let mut ranges: Vec<(Addr, &mut [u8])> = Vec::new();
    let mut rest = memory.as_mut_slice();
    for s in spans.iter().filter(|s| !s.noscan) {
        let (head, tail) = rest.split_at_mut(s.bytes as usize);
        ranges.push((s.start, head));
        rest = tail;
    }
    let ok = rt.target.memory.read_scattered(&mut ranges);
    let mut read = ranges.into_iter().zip(ok);
    for span in spans {
        let first = part.degrees.len();
        part.degrees.resize(first + span.nelems as usize, 0);
        if span.noscan {
            continue;
        }
        let Some(((_, mem), result)) = read.next() else { continue };
        if let Err(fault) = result {
            rt.diag.note("span memory unreadable", fault);
            continue;
        }
        let mem: &[u8] = mem;
        let header = span.elemsize > 512 && span.class != 0 && rt.layout.has(Field::MspanLargeType);
        for i in 0..span.nelems {
            let id = ObjectId(span.first.0 + i);
            if !heap.is_allocated(id) {
                continue;
            }
            let at = (u64::from(i) * span.elemsize) as usize;
            let word0 = Addr(bytes::u64_at(mem, at).unwrap_or(0));
            if header {
                part.hints.headers.push((id, word0));
            } else if rt.image.pclntab.find(word0).is_some_and(|f| f.entry() == word0) {
                part.hints.closures.push((id, word0));
            }
        }
        if !span.large_type.is_null() {
            part.hints.headers.push((span.first, span.large_type));
        }
        masks.pointers(heap, span, mem, |slot, w| {
            let at = (u64::from(slot) * span.elemsize + 8 * w) as usize;
            let Some(value) = bytes::u64_at(mem, at) else { return };
            let Some((to, offset)) = heap.find(Addr(value)) else { return };
            if !heap.is_allocated(to) {
                rt.diag.note("pointer to a free slot", format_args!("{value:#x}"));
                return;
            }
            let edge = part.target.len() as u32;
            if w > 0
                && let Some(before) = bytes::u64_at(mem, at - 8)
                && words.contains(before)
            {
                part.hints.interfaces.push((edge, Addr(before)));
            }
            if offset > 0 {
                part.hints.interior.push((edge, offset.min(u32::MAX.into()) as u32));
            }
            part.degrees[first + slot as usize] += 1;
            if w >= u64::from(u16::MAX) {
                part.far.push((edge, w as u32));
            }
            part.target.push(to);
            part.word.push(w.min(u64::from(u16::MAX)) as u16);
        });
    }
    part
}

/// All roots of the collector (runtime/mgcmark.go): data and bss, finalizers and other specials, queued finalizers and
/// cleanups, tiny blocks, goroutine stacks.
fn roots(
    rt: &Runtime,
    heap: &Heap,
    words: &TypeWords,
    goroutines: &[Goroutine],
    stacks: &[Stack],
    graph: &Graph,
    hints: &mut Hints,
) -> Vec<Root> {
    let mut roots = Vec::new();
    let mut add = |kind, at: Addr, value: u64, goid: Goid, frame: u32| {
        let (target, offset) = heap.find(Addr(value))?;
        if heap.is_allocated(target) {
            roots.push(Root { kind, target, at, offset: offset.min(u64::from(u32::MAX)) as u32, goid, frame });
            return Some(roots.len() as u32 - 1);
        }
        if kind != RootKind::Conservative {
            rt.diag.note("root points to a free slot", format_args!("{kind:?} at {at}: {value:#x}"));
        }
        None
    };
    for m in &rt.image.modules {
        for (mask, kind) in [(&m.data_mask, RootKind::Data), (&m.bss_mask, RootKind::Bss)] {
            segment(rt, mask, |at, value, before| {
                let root = add(kind, at, value, Goid(0), 0);
                if let Some(root) = root.filter(|_| words.contains(before)) {
                    hints.root_interfaces.push((root, Addr(before)));
                }
            });
        }
    }
    for (g, stack) in goroutines.iter().zip(stacks) {
        for w in &stack.words {
            let kind = match (w.conservative, w.at.is_null()) {
                (true, _) => RootKind::Conservative,
                (false, true) => RootKind::Goroutine,
                (false, false) => RootKind::Stack,
            };
            add(kind, w.at, w.value, g.goid, w.frame);
        }
    }
    let mut finalized = Vec::new();
    for s in specials::roots(rt, heap) {
        match s {
            SpecialRoot::Finalizer { object, func, at } => {
                add(RootKind::Finalizer, at, func.0, Goid(0), 0);
                finalized.push((object, at));
            }
            SpecialRoot::Cleanup { word, at } => _ = add(RootKind::Cleanup, at, word.0, Goid(0), 0),
            SpecialRoot::WeakHandle { handle, at } => _ = add(RootKind::WeakHandle, at, handle.0, Goid(0), 0),
        }
    }
    queued(rt, |kind, at, value| _ = add(kind, at, value, Goid(0), 0));
    tiny_blocks(rt, |at, value| _ = add(RootKind::TinyBlock, at, value, Goid(0), 0));
    // The collector keeps what a finalized object points to, not the object itself.
    for (object, at) in finalized {
        if let Some((id, _)) = heap.find(object) {
            roots.extend(graph.children(id).iter().map(|&target| Root {
                kind: RootKind::Finalizer,
                target,
                at,
                offset: 0,
                goid: Goid(0),
                frame: 0,
            }));
        }
    }
    roots
}

/// Pointer words of a data or bss segment: (address, value, the word before it).
fn segment(rt: &Runtime, mask: &SegmentMask, mut f: impl FnMut(Addr, u64, u64)) {
    let len = mask.end.0.saturating_sub(mask.start.0);
    let mem = match rt.target.read_vec(mask.start, len, 8 << 30) {
        Ok(m) => m,
        Err(e) => return rt.diag.note("data segment unreadable", e),
    };
    for (i, value) in mem.chunks_exact(8).enumerate() {
        if mask.bits.get(i / 8).is_some_and(|b| b >> (i % 8) & 1 == 1) {
            let value = bytes::u64_at(value, 0).unwrap_or(0);
            let before = if i > 0 { bytes::u64_at(&mem, 8 * i - 8).unwrap_or(0) } else { 0 };
            f(mask.start.offset(8 * i as u64), value, before);
        }
    }
}

/// Blocks of queued finalizers and cleanups (runtime/mfinal.go, mcleanup.go).
fn queued(rt: &Runtime, mut f: impl FnMut(RootKind, Addr, u64)) {
    const MAX_BLOCKS: usize = 1 << 20;
    let mut walk = |head: Addr, block: u64, link: Field, cnt: Field, list: Field, entry: u64, kind: RootKind| {
        let (Some(link), Some(cnt), Some(list)) = (rt.layout.field(link), rt.layout.field(cnt), rt.layout.field(list))
        else {
            return;
        };
        let mut at = head;
        for _ in 0..MAX_BLOCKS {
            if at.is_null() {
                return;
            }
            let Ok(raw) = rt.target.read_vec(at, block, 1 << 16) else {
                return rt.diag.note("finalizer queue broken", format_args!("block at {at}"));
            };
            let n = u64::from(bytes::u32_at(&raw, cnt.offset as usize).unwrap_or(0)) * entry;
            let from = u64::from(list.offset);
            for off in (from..(from + n).min(block)).step_by(8) {
                f(kind, at.offset(off), bytes::u64_at(&raw, off as usize).unwrap_or(0));
            }
            at = Addr(bytes::u64_at(&raw, link.offset as usize).unwrap_or(0));
        }
    };
    let entry = rt.layout.size(Struct::Finalizer).unwrap_or(40);
    let head = rt.global_ptr(Global::Allfin).unwrap_or_default();
    let q = RootKind::FinalizerQueue;
    walk(head, 4096, Field::FinBlockAlllink, Field::FinBlockCnt, Field::FinBlockFin, entry, q);
    if let Some(all) = rt.layout.field(Field::CleanupQueueAll)
        && let Some(queue) = rt.globals.get(Global::GcCleanups)
    {
        let head = rt.target.read_ptr(queue.offset(all.offset.into())).unwrap_or_default();
        let entry = if rt.image.go_version.minor >= 26 { 24 } else { 8 };
        let block = rt.layout.size(Struct::CleanupBlock).unwrap_or(512);
        walk(
            head,
            block,
            Field::CleanupBlockAlllink,
            Field::CleanupBlockN,
            Field::CleanupBlockCleanups,
            entry,
            RootKind::Cleanup,
        );
    }
}

/// mcache.tiny of every P.
fn tiny_blocks(rt: &Runtime, mut f: impl FnMut(Addr, u64)) {
    let Some(allp) = rt.globals.get(Global::Allp) else { return };
    let (Some(mcache), Some(tiny)) = (rt.layout.field(Field::PMcache), rt.layout.field(Field::McacheTiny)) else {
        return;
    };
    let (Ok(data), Ok(len)) = (rt.target.read_ptr(allp), rt.target.read_u64(allp.offset(8))) else { return };
    for i in 0..len.min(1 << 16) {
        let value = rt.target.read_ptr(data.offset(8 * i)).and_then(|p| {
            let cache = rt.target.read_ptr(p.offset(mcache.offset.into()))?;
            let at = cache.offset(tiny.offset.into());
            Ok((at, rt.target.read_u64(at)?))
        });
        if let Ok((at, value)) = value {
            f(at, value);
        }
    }
}

/// Everything the roots reach. Depth-first on a flat stack: on this access pattern the memory latency of the bitmap and
/// the rows is the bound, not the bookkeeping.
fn reach(graph: &Graph, heap: &Heap) -> Bitmap {
    let mut seen = Bitmap::new(heap.slots as usize);
    let mut stack: Vec<ObjectId> = Vec::new();
    for r in &graph.roots {
        if seen.insert(r.target.index()) {
            stack.push(r.target);
        }
    }
    while let Some(o) = stack.pop() {
        for &t in graph.children(o) {
            if seen.insert(t.index()) {
                stack.push(t);
            }
        }
    }
    seen
}
