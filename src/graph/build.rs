//! Builds the graph in one pass: pointer-holding spans are read once, in large pieces, on all cores; noscan spans are
//! never read. The same pass takes down what the bytes say about types, so that no second read is needed.

use std::{cell::RefCell, collections::HashSet};

use rayon::prelude::*;

use super::{Graph, Hints, Root, RootKind, Rows, Targets, TypeWords, reach};
use crate::{
    base::{Addr, Goid, ObjectId, bytes},
    image::SegmentMask,
    os::memory,
    runtime::{
        Runtime,
        heap::{
            Heap, PointerMasks, SlotBits, Span,
            specials::{self, SpecialRoot, Specials},
        },
        layout::{Field, Global, Struct},
        sched::Goroutine,
        stack::{self, Stack},
        view::ReadError,
    },
    target::Fault,
};

/// Everything that was read: the graph, the goroutines with their stacks, and evidence of types.
#[derive(Default)]
pub struct Built {
    pub graph: Graph,
    pub goroutines: Vec<Goroutine>,
    pub stacks: Vec<Stack>,
    pub hints: Hints,
    /// Pointers from global variables to global variables: (where to, where the pointer is), sorted. Static data that
    /// the compiler made for `var x = &T{...}` has no name of its own: x leads to it.
    pub global_links: Vec<(Addr, Addr)>,
    /// Objects that the heap profile sampled, with the bucket of their allocation (`specials::stack`).
    pub samples: Vec<(ObjectId, Addr)>,
}

/// Bytes of heap that one task reads at once: small enough to stay in a core's own cache until it is scanned.
const BATCH_BYTES: u64 = 256 << 10;
/// Spans of one task, noscan spans included.
const BATCH_SPANS: usize = 1024;
/// Tasks per core between two joints: what they found is then moved to its place while the next ones run.
const WINDOW: usize = 16;

/// What one task looks at.
#[derive(Clone, Copy)]
enum Batch<'h> {
    Spans(&'h [Span]),
    /// Bytes [from, to) of a large object. The piece from 0 on carries its row.
    Piece {
        span: &'h Span,
        from: u64,
        to: u64,
    },
}

/// Cuts the heap into tasks, in the order of ids.
fn batches<'h>(spans: &'h [Span], masks: &PointerMasks) -> Vec<Batch<'h>> {
    let mut out = Vec::new();
    let mut rest = spans;
    while let Some(first) = rest.first() {
        if !first.noscan && first.bytes > 2 * BATCH_BYTES && masks.divisible(first) {
            for from in (0..first.bytes).step_by(BATCH_BYTES as usize) {
                out.push(Batch::Piece { span: first, from, to: first.bytes.min(from + BATCH_BYTES) });
            }
            rest = &rest[1..];
            continue;
        }
        let mut bytes = 0;
        let n = rest
            .iter()
            .take(BATCH_SPANS)
            .take_while(|s| {
                bytes += if s.noscan { 0 } else { s.bytes };
                bytes <= BATCH_BYTES
            })
            .count()
            .max(1);
        let (batch, tail) = rest.split_at(n);
        out.push(Batch::Spans(batch));
        rest = tail;
    }
    out
}

/// What one task found, with edges numbered from 0. Used again and again: fresh memory costs more than scanning it.
#[derive(Default)]
struct Part {
    /// Edges of each slot, in order; the pieces of a large object after the first add to the slot before.
    degrees: Vec<u32>,
    /// Edges that belong to the slot before the first of `degrees`.
    more: u32,
    edges: Found,
    hints: Hints,
}

/// Edges in order: the first `len` of each list. What lies behind them is room that is written over.
#[derive(Default)]
struct Found {
    target: Vec<ObjectId>,
    words: Vec<u32>,
    len: usize,
}

impl Found {
    /// Room for `n` further edges: targets and words.
    #[inline]
    fn room(&mut self, n: usize) -> (&mut [ObjectId], &mut [u32]) {
        let end = self.len + n;
        if self.target.len() < end {
            self.target.resize(end.next_power_of_two(), ObjectId(0));
            self.words.resize(end.next_power_of_two(), 0);
        }
        (&mut self.target[self.len..end], &mut self.words[self.len..end])
    }

    #[inline]
    fn push(&mut self, to: ObjectId, word: u32) {
        let (target, words) = self.room(1);
        (target[0], words[0]) = (to, word);
        self.len += 1;
    }

    fn target(&self) -> &[ObjectId] {
        &self.target[..self.len]
    }

    fn words(&self) -> &[u32] {
        &self.words[..self.len]
    }
}

thread_local! {
    /// The bytes that a task looks at.
    static MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Part {
    fn clear(&mut self) {
        self.degrees.clear();
        self.more = 0;
        self.edges.len = 0;
        self.hints.clear();
    }
}

/// All goroutines with their stacks. Cost: some reads a goroutine and a frame, on all cores.
pub fn goroutines(rt: &Runtime) -> Result<(Vec<Goroutine>, Vec<Stack>), ReadError> {
    let goroutines = crate::runtime::sched::read(rt)?;
    let stacks = stack::walk_all(rt, &goroutines);
    for (g, s) in goroutines.iter().zip(&stacks) {
        if let Some(why) = &s.truncated {
            rt.diag.note("goroutine stack cut short", format_args!("goroutine {}: {why}", g.goid));
        }
    }
    Ok((goroutines, stacks))
}

/// `words`: what counts as evidence of an interface; may be empty.
pub fn build(rt: &Runtime, heap: &Heap, words: &TypeWords) -> Result<Built, ReadError> {
    let (goroutines, stacks) = goroutines(rt)?;
    build_from(rt, heap, words, goroutines, stacks)
}

/// The same, where goroutines and stacks were read already.
pub fn build_from(
    rt: &Runtime,
    heap: &Heap,
    words: &TypeWords,
    goroutines: Vec<Goroutine>,
    stacks: Vec<Stack>,
) -> Result<Built, ReadError> {
    let masks = PointerMasks::new(rt);
    let batches = batches(&heap.spans, &masks);
    let slots = heap.slots as usize;
    let mut graph = Graph { rows: Rows::with_capacity(slots), target: Targets::of_slots(slots), ..Graph::default() };
    // No more pointers than words.
    let pointers = heap.spans.iter().filter(|s| !s.noscan).fold(0u64, |sum, s| sum.saturating_add(s.bytes / 8));
    graph.target.reserve(pointers.min(u32::MAX.into()) as usize);
    graph.words.reserve(pointers.min(u32::MAX.into()) as usize);
    let mut hints = Hints::default();
    let (mut found, mut filling): (Vec<Part>, Vec<Part>) = (Vec::new(), Vec::new());
    let mut fits = true;
    for window in batches.chunks(WINDOW * rayon::current_num_threads()) {
        filling.resize_with(window.len(), Part::default);
        rayon::join(
            || found.iter_mut().for_each(|p| fits &= append(&mut graph, &mut hints, p)),
            || {
                let parts = filling.par_iter_mut().zip(window);
                parts.with_max_len(1).for_each(|(part, batch)| scan(rt, heap, &masks, words, batch, part));
            },
        );
        std::mem::swap(&mut found, &mut filling);
    }
    fits = fits && found.iter_mut().all(|p| append(&mut graph, &mut hints, p));
    drop((found, filling));
    graph.target.shrink();
    graph.words.shrink();
    memory::give_back();
    if !fits {
        return Err(ReadError::Implausible {
            what: "the heap graph",
            addr: Addr::NULL,
            why: "it has more edges than 32-bit indices can name".into(),
        });
    }
    let mut global_links = Vec::new();
    let Specials { roots: specials, samples } = specials::read(rt, heap);
    graph.roots = roots(rt, heap, words, &goroutines, &stacks, &specials, &graph, &mut hints, &mut global_links);
    global_links.sort_unstable();
    graph.reachable = reach(&graph, graph.roots.iter().map(|r| r.target));
    Ok(Built { graph, goroutines, stacks, hints, global_links, samples })
}

/// Puts a part behind what is there and empties it. False if that would be too much.
fn append(graph: &mut Graph, hints: &mut Hints, p: &mut Part) -> bool {
    let base = graph.target.len() as u32;
    if graph.target.len() + p.edges.len >= u32::MAX as usize {
        return false;
    }
    graph.rows.add_to_last(p.more);
    graph.rows.extend(&p.degrees);
    graph.target.extend(p.edges.target());
    graph.words.extend(p.edges.words());
    hints.append(&p.hints, base);
    p.clear();
    true
}

fn scan(rt: &Runtime, heap: &Heap, masks: &PointerMasks, words: &TypeWords, batch: &Batch, part: &mut Part) {
    part.clear();
    MEMORY.with_borrow_mut(|memory| scan_into(rt, heap, masks, words, batch, memory, part));
}

fn scan_into(
    rt: &Runtime,
    heap: &Heap,
    masks: &PointerMasks,
    words: &TypeWords,
    batch: &Batch,
    memory: &mut Vec<u8>,
    part: &mut Part,
) {
    match *batch {
        Batch::Spans(spans) => scan_spans(rt, heap, masks, words, spans, memory, part),
        Batch::Piece { span, from, to } => {
            // One word more in front: the type word of an interface may be the last of the piece before.
            let lead = if from > 0 { 8 } else { 0 };
            memory.resize((to - from + lead) as usize, 0);
            let mem = &mut memory[..];
            if from == 0 {
                part.degrees.push(0);
                if !span.large_type.is_null() {
                    part.hints.headers.push((span.first, span.large_type));
                }
            }
            match rt.target.memory.read(Addr(span.start.0 + from - lead), mem) {
                Err(fault) => rt.diag.note("span memory unreadable", fault),
                Ok(()) => {
                    let mut edges = Edges { rt, heap, words, hull: words.hull(), part };
                    edges.closure(span.first, mem, 0, from == 0);
                    masks.pointers_in_piece(heap, span, from, to, |_, w| {
                        edges.add(mem, (8 * w + lead - from) as usize, w, true);
                    });
                }
            }
            let n = part.edges.len as u32;
            match part.degrees.last_mut() {
                Some(d) => *d = n,
                None => part.more = n,
            }
        }
    }
}

fn scan_spans(
    rt: &Runtime,
    heap: &Heap,
    masks: &PointerMasks,
    words: &TypeWords,
    spans: &[Span],
    memory: &mut Vec<u8>,
    part: &mut Part,
) {
    let read = read_spans(rt, spans, memory);
    let mut rest = memory.as_slice();
    let mut faults = read.into_iter().peekable();
    for (n, span) in spans.iter().enumerate() {
        let first = part.degrees.len();
        part.degrees.resize(first + span.nelems as usize, 0);
        if span.noscan {
            continue;
        }
        let (mem, tail) = rest.split_at(span.bytes as usize);
        rest = tail;
        if let Some((_, fault)) = faults.next_if(|f| f.0 == n) {
            rt.diag.note("span memory unreadable", fault);
            continue;
        }
        let header = span.elemsize > 512 && span.class != 0 && rt.layout.has(Field::MspanLargeType);
        let mut edges = Edges { rt, heap, words, hull: words.hull(), part: &mut *part };
        if let Some(bits) = masks.slot_bits(heap, span, mem) {
            edges.small(span, &bits, mem, first);
            continue;
        }
        for i in 0..span.nelems {
            let id = ObjectId(span.first.0 + i);
            let at = (u64::from(i) * span.elemsize) as usize;
            if header {
                if heap.is_allocated(id) {
                    edges.part.hints.headers.push((id, Addr(bytes::u64_at(mem, at).unwrap_or(0))));
                }
            } else {
                edges.closure(id, mem, at, true);
            }
        }
        // A span of small objects may still carry the type of the large one that was there before.
        if span.class == 0 && !span.large_type.is_null() {
            edges.part.hints.headers.push((span.first, span.large_type));
        }
        masks.pointers(heap, span, mem, |slot, w| {
            let at = (u64::from(slot) * span.elemsize + 8 * w) as usize;
            let found = edges.add(mem, at, w, w > 0);
            edges.part.degrees[first + slot as usize] += u32::from(found);
        });
    }
}

/// Reads the spans with pointers one behind the other into `memory`; neighbours in one piece, which costs the kernel less.
/// Answers which could not be read.
fn read_spans(rt: &Runtime, spans: &[Span], memory: &mut Vec<u8>) -> Vec<(usize, Fault)> {
    let total: u64 = spans.iter().filter(|s| !s.noscan).map(|s| s.bytes).sum();
    memory.resize(total as usize, 0);
    // Of each run of neighbours: the spans from which on and to before which it reaches.
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut ranges: Vec<(Addr, &mut [u8])> = Vec::new();
    let mut rest = memory.as_mut_slice();
    let mut at = 0;
    while at < spans.len() {
        let (from, start) = (at, spans[at].start);
        let mut end = start;
        while at < spans.len() && !spans[at].noscan && spans[at].start == end {
            end = end.offset(spans[at].bytes);
            at += 1;
        }
        if at == from {
            at += 1;
            continue;
        }
        let (head, tail) = std::mem::take(&mut rest).split_at_mut((end.0 - start.0) as usize);
        rest = tail;
        ranges.push((start, head));
        runs.push((from, at));
    }
    let ok = rt.target.memory.read_scattered(&mut ranges);
    let mut faults = Vec::new();
    for (((from, to), (_, piece)), result) in runs.into_iter().zip(ranges).zip(ok) {
        let Err(fault) = result else { continue };
        if to - from == 1 {
            faults.push((from, fault));
            continue;
        }
        // Only some of them, perhaps.
        let mut piece = piece;
        for (n, span) in spans.iter().enumerate().take(to).skip(from) {
            let (head, tail) = piece.split_at_mut(span.bytes as usize);
            piece = tail;
            if let Err(fault) = rt.target.memory.read(span.start, head) {
                faults.push((n, fault));
            }
        }
    }
    faults
}

/// Turns words of memory into edges.
struct Edges<'a> {
    rt: &'a Runtime,
    heap: &'a Heap,
    words: &'a TypeWords,
    /// Outside of this no word is one of `words`: start and length.
    hull: (u64, u64),
    part: &'a mut Part,
}

impl Edges<'_> {
    /// All slots of a span that has a bitmap of its own; `first`: where in `degrees` the first slot is.
    fn small(&mut self, span: &Span, bits: &SlotBits<'_>, mem: &[u8], first: usize) {
        let (heap, hull, size) = (self.heap, self.hull, span.elemsize as usize);
        let Part { degrees, edges, hints, .. } = &mut *self.part;
        let base = edges.len;
        let (target, words) = edges.room(mem.len() / 8);
        let mut n = 0;
        for ((i, degree), object) in (0u32..).zip(&mut degrees[first..]).zip(mem.chunks_exact(size)) {
            let id = ObjectId(span.first.0 + i);
            if !heap.is_allocated(id) {
                continue;
            }
            closure(self.rt, hints, id, bytes::u64_at(object, 0).unwrap_or(0));
            let before = n;
            let mut left = bits.of(i);
            while left != 0 {
                let w = left.trailing_zeros() as usize;
                left &= left - 1;
                let Some(value) = bytes::u64_at(object, 8 * w) else { break };
                let Some((to, offset, allocated)) = heap.find_allocated(Addr(value)) else { continue };
                if !allocated {
                    free(self.rt, value);
                    continue;
                }
                if w > 0 {
                    let before = bytes::u64_at(object, 8 * w - 8).unwrap_or(0);
                    if before.wrapping_sub(hull.0) < hull.1 && self.words.contains(before) {
                        hints.interfaces.push(((base + n) as u32, Addr(before)));
                    }
                }
                if offset > 0 {
                    hints.interior.push(((base + n) as u32, offset as u32));
                }
                let (Some(to_target), Some(to_word)) = (target.get_mut(n), words.get_mut(n)) else { break };
                (*to_target, *to_word) = (to, w as u32);
                n += 1;
            }
            *degree = (n - before) as u32;
        }
        edges.len = base + n;
    }

    /// The word at byte `at` of `mem`, which is word `w` of its slot, is a pointer by its mask. `before`: the word before
    /// it belongs to the same object. True if it is an edge.
    #[inline]
    fn add(&mut self, mem: &[u8], at: usize, w: u64, before: bool) -> bool {
        let Some(value) = bytes::u64_at(mem, at) else { return false };
        let Some((to, offset, allocated)) = self.heap.find_allocated(Addr(value)) else { return false };
        if !allocated {
            free(self.rt, value);
            return false;
        }
        let edge = self.part.edges.len as u32;
        if before
            && at >= 8
            && let Some(before) = bytes::u64_at(mem, at - 8)
            && before.wrapping_sub(self.hull.0) < self.hull.1
            && self.words.contains(before)
        {
            self.part.hints.interfaces.push((edge, Addr(before)));
        }
        if offset > 0 {
            self.part.hints.interior.push((edge, offset.min(u32::MAX.into()) as u32));
        }
        self.part.edges.push(to, w.min(u32::MAX.into()) as u32);
        true
    }

    fn closure(&mut self, id: ObjectId, mem: &[u8], at: usize, wanted: bool) {
        if wanted && self.heap.is_allocated(id) {
            closure(self.rt, &mut self.part.hints, id, bytes::u64_at(mem, at).unwrap_or(0));
        }
    }
}

/// Takes note of an object whose first word is the entry of a function.
#[inline]
fn closure(rt: &Runtime, hints: &mut Hints, id: ObjectId, word: u64) {
    // Few words lie in the text at all: this test is done before any search.
    if rt.image.pclntab.contains(Addr(word)) && is_entry(rt, Addr(word)) {
        hints.closures.push((id, Addr(word)));
    }
}

#[cold]
fn is_entry(rt: &Runtime, pc: Addr) -> bool {
    rt.image.pclntab.find(pc).is_some_and(|f| f.entry() == pc)
}

/// A pointer leads to a slot in which nothing lies.
#[cold]
fn free(rt: &Runtime, value: u64) {
    rt.diag.note("pointer to a free slot", format_args!("{value:#x}"));
}

#[allow(clippy::too_many_arguments)]
/// All roots of the collector (runtime/mgcmark.go): data and bss, finalizers and other specials, queued finalizers and
/// cleanups, tiny blocks, goroutine stacks.
fn roots(
    rt: &Runtime,
    heap: &Heap,
    words: &TypeWords,
    goroutines: &[Goroutine],
    stacks: &[Stack],
    specials: &[SpecialRoot],
    graph: &Graph,
    hints: &mut Hints,
    global_links: &mut Vec<(Addr, Addr)>,
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
                if root.is_none() && rt.image.modules.iter().any(|m| m.is_global(Addr(value))) {
                    global_links.push((Addr(value), at));
                    if words.contains(before) {
                        hints.link_interfaces.push((Addr(value), Addr(before)));
                    }
                }
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
    for &s in specials {
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
            roots.extend(graph.children(id).map(|target| Root {
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
    let mut walk = |head: Addr, block: u64, link: Field, cnt: Field, list: Field, entry: u64, kind: RootKind| {
        let (Some(link), Some(cnt), Some(list)) = (rt.layout.field(link), rt.layout.field(cnt), rt.layout.field(list))
        else {
            return;
        };
        let mut at = head;
        let mut seen = HashSet::new();
        while !at.is_null() {
            let read = rt.target.read_vec(at, block, 1 << 16).ok().filter(|_| seen.insert(at));
            let Some(raw) = read else {
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
