//! Reads all spans of a still target: three rounds of batched reads (pointers, mspans, bitmaps), whatever their number.

use rayon::prelude::*;

use super::{ARENA_PAGES, BLOCK, Heap, PAGE, Page, Span, clusters::Clusters};
use crate::{
    base::{Addr, Bitmap, ObjectId, bytes},
    os::memory,
    runtime::{
        Runtime,
        layout::{Field, Global, Struct},
        view::{ReadError, Record},
    },
};

/// mSpanInUse, mSpanManual (runtime/mheap.go).
const IN_USE: u64 = 1;
const MANUAL: u64 = 2;
/// Spans whose bits are read together.
const BATCH: usize = 4096;
/// Arenas that one page index may cover: all of user space, since user arenas lie 64 TiB above the heap (runtime/malloc.go
/// mallocinit). Those in which nothing lies cost 24 bytes each.
const MAX_ARENAS: u64 = 1 << 21;
/// Largest slot and span of a size class (internal/runtime/gc/sizeclasses.go: 32 KiB, 10 pages), with room to grow.
const MAX_SMALL: u64 = 32 << 10;
const MAX_CLASS_PAGES: u64 = 64;
/// Spans may have this much more memory than the target: one that runs grows while it is read.
const SPARE: u64 = 256 << 20;
/// runtime._GCmarktermination.
const MARK_TERMINATION: u32 = 2;

/// Copies of structs of one size, in one piece.
pub(crate) struct Scattered {
    bytes: Vec<u8>,
    len: usize,
    read: Vec<bool>,
}

impl Scattered {
    /// In the order in which they were asked for; unreadable ones are `None`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.bytes.chunks_exact(self.len).zip(&self.read).map(|(bytes, &read)| read.then_some(bytes))
    }
}

/// Reads `len` bytes at each address, batched.
pub(crate) fn scattered(rt: &Runtime, at: &[Addr], len: usize) -> Scattered {
    let len = len.max(1);
    let memory = &*rt.target.memory;
    let clusters = Clusters::read(memory, at.iter().map(|&a| (a, len)));
    let mut bytes = vec![0; len * at.len()];
    let read =
        at.iter().zip(bytes.chunks_exact_mut(len)).map(|(&a, buf)| clusters.get(memory, a, buf).is_ok()).collect();
    Scattered { bytes, len, read }
}

/// A span in use with its freeindex, allocBits and gcmarkBits.
type RawSpan = (Span, u32, Addr, Addr);

/// What one mspan describes.
enum Described {
    InUse(RawSpan),
    Manual(Addr, u64),
    Nothing,
}

/// The spans in use and the manual ones.
type Spans = (Vec<RawSpan>, Vec<(Addr, u64)>);

/// The spans in use among the mspans at `addrs`, each of `size` bytes.
fn read_spans(rt: &Runtime, addrs: &[u64], size: usize) -> Result<Spans, ReadError> {
    let at: Vec<Addr> = addrs.iter().map(|&a| Addr(a)).collect();
    let (mut spans, mut manual) = (Vec::with_capacity(addrs.len()), Vec::new());
    for (&addr, raw) in at.iter().zip(scattered(rt, &at, size).iter()) {
        let Some(raw) = raw else {
            rt.diag.note("span unreadable", format_args!("mspan at {addr}"));
            continue;
        };
        match decode(&Record::new(&rt.layout, addr, raw)) {
            Ok(Described::InUse(s)) => spans.push(s),
            Ok(Described::Manual(start, bytes)) => manual.push((start, bytes)),
            Ok(Described::Nothing) => {}
            Err(e @ ReadError::Layout(_)) => return Err(e),
            Err(e) => rt.diag.note("span implausible", e),
        }
    }
    Ok((spans, manual))
}

impl Heap {
    pub fn read(rt: &Runtime) -> Result<Heap, ReadError> {
        let mheap = rt.globals.get(Global::Mheap).ok_or(ReadError::NoGlobal("runtime.mheap_"))?;
        let head = rt.record_up_to(Struct::Mheap, mheap, Field::MheapAllspans)?;
        let sweepgen = head.get(Field::MheapSweepgen)? as u32;
        let all = rt.words("mheap_.allspans", head.slice(Field::MheapAllspans)?)?;
        let size = rt.layout.size(Struct::Mspan).unwrap_or(0) as usize;
        let batches: Vec<Spans> =
            all.par_chunks(4096).map(|batch| read_spans(rt, batch, size)).collect::<Result<_, ReadError>>()?;
        // Parts are given up one by one: there may be millions of spans.
        let mut spans: Vec<RawSpan> = Vec::with_capacity(batches.iter().map(|b| b.0.len()).sum());
        let mut manual: Vec<(Addr, u64)> = Vec::new();
        for (used, others) in batches {
            spans.extend(used);
            manual.extend(others);
        }
        manual.sort_unstable();
        spans.sort_by_key(|s| s.0.start);
        spans.dedup_by(|b, a| {
            let overlap = b.0.start.0 < a.0.start.0 + a.0.bytes;
            if overlap {
                rt.diag.note("spans overlap", format_args!("{} and {}", a.0.start, b.0.start));
            }
            overlap
        });
        within_memory(rt, &mut spans);
        let mut first = 0u32;
        for (s, ..) in &mut spans {
            s.first = ObjectId(first);
            first = first.checked_add(s.nelems).ok_or(ReadError::Implausible {
                what: "the heap",
                addr: mheap,
                why: "it has more slots than 32-bit ids can name".into(),
            })?;
        }
        let mut heap = Heap {
            spans: Vec::new(),
            manual,
            allocated: Bitmap::new(first as usize),
            dead: Bitmap::new(first as usize),
            fresh: Bitmap::new(first as usize),
            slots: first,
            sweepgen,
            green_tea: false,
            first_page: 0,
            arenas: Vec::new(),
            pages: Vec::new(),
            blocks: Vec::new(),
        };
        heap.read_bits(rt, &spans);
        heap.spans = spans.into_iter().map(|s| s.0).collect();
        heap.index(mheap)?;
        memory::give_back();
        Ok(heap)
    }

    /// allocated(i) = i < freeindex or allocBits[i]; in spans that the last collection has not swept yet, only marked
    /// slots are alive.
    fn read_bits(&mut self, rt: &Runtime, spans: &[RawSpan]) {
        self.green_tea = rt.layout.has(Field::HeapArenaPageUseSpanInlineMarkBits) && green_tea(spans);
        // The world is stopped, marking is done, and no span has been swept since.
        let marked = rt.global_u32(Global::Gcphase) == Some(MARK_TERMINATION);
        let (sweepgen, green_tea) = (self.sweepgen, self.green_tea);
        let parts: Vec<Bits> = spans
            .par_chunks(BATCH)
            .map(|batch| {
                // The bits of a span, rounded up to whole 64-bit words.
                let words = |s: &Span| (s.nelems as usize).div_ceil(64);
                let len = |s: &Span| (s.nelems as usize).div_ceil(8);
                let memory = &*rt.target.memory;
                let clusters = Clusters::read(memory, batch.iter().map(|(s, _, alloc, _)| (*alloc, len(s))));
                let mut out = Bits::of(batch, sweepgen, green_tea, marked);
                let mut bits: Vec<u8> = Vec::new();
                for (span, freeindex, alloc, marks) in batch {
                    bits.clear();
                    bits.resize(8 * words(span), 0);
                    match clusters.get(memory, *alloc, &mut bits[..len(span)]) {
                        Ok(()) => out.set(rt, span, *freeindex, *marks, &bits),
                        Err(fault) => {
                            rt.diag.note("allocBits unreadable", format_args!("span {}: {fault}", span.start));
                        }
                    }
                }
                out
            })
            .collect();
        for part in parts {
            for (to, from) in
                [(&mut self.allocated, &part.allocated), (&mut self.dead, &part.dead), (&mut self.fresh, &part.fresh)]
            {
                for (to, from) in to.words_mut()[part.first / 64..].iter_mut().zip(from.words()) {
                    *to |= from;
                }
            }
        }
    }

    /// Fills the tables from ids and from pages to spans.
    pub(super) fn index(&mut self, mheap: Addr) -> Result<(), ReadError> {
        let mut at = 0;
        for id in (0..self.slots).step_by(BLOCK) {
            while self.spans.get(at + 1).is_some_and(|s| s.first.0 <= id) {
                at += 1;
            }
            self.blocks.push(at as u32);
        }
        let (Some(a), Some(b)) = (self.spans.first(), self.spans.last()) else { return Ok(()) };
        self.first_page = a.start.0 / PAGE;
        let chunks = ((b.start.0 + b.bytes) / PAGE - self.first_page).div_ceil(ARENA_PAGES);
        if chunks > MAX_ARENAS {
            return Err(ReadError::Implausible {
                what: "the heap",
                addr: mheap,
                why: format!("spans reach from {} to {}", a.start, b.start),
            });
        }
        // Blocks: the first for arenas without spans; one of its own for an arena of several spans.
        self.arenas = vec![0; chunks as usize];
        self.pages = vec![Page::default(); ARENA_PAGES as usize];
        for (i, s) in self.spans.iter().enumerate() {
            let (id, n) = (s.first.index(), s.nelems as usize);
            let page_of = Page::first_of(s, i, self.allocated.count_range(id, id + n) == n);
            let from = s.start.0 / PAGE - self.first_page;
            let end = from + s.bytes / PAGE;
            let mut page = from;
            // Arenas that lie within one span share a block.
            let mut inner = None;
            while page < end {
                let (number, offset) = ((page / ARENA_PAGES) as usize, page % ARENA_PAGES);
                let upto = end.min(page - offset + ARENA_PAGES);
                let whole = upto - page == ARENA_PAGES;
                if let Some(block) = inner.filter(|_| whole) {
                    self.arenas[number] = block;
                    page = upto;
                    continue;
                }
                if self.arenas[number] == 0 {
                    self.arenas[number] = (self.pages.len() as u64 / ARENA_PAGES) as u32;
                    self.pages.resize(self.pages.len() + ARENA_PAGES as usize, Page::default());
                }
                let block = self.arenas[number];
                let at = (u64::from(block) * ARENA_PAGES + offset) as usize;
                for (k, p) in self.pages[at..at + (upto - page) as usize].iter_mut().enumerate() {
                    let before = if page_of.magic == 0 { 0 } else { (page - from) as u8 + k as u8 };
                    *p = Page { before, ..page_of };
                }
                inner = whole.then_some(block);
                page = upto;
            }
        }
        Ok(())
    }
}

/// What the bits of some spans that follow each other say.
struct Bits {
    /// Id of the first bit, a multiple of 64.
    first: usize,
    allocated: Bitmap,
    dead: Bitmap,
    fresh: Bitmap,
    sweepgen: u32,
    green_tea: bool,
    /// Every mark counts, whatever the sweepgen of a span says.
    all_marked: bool,
}

impl Bits {
    fn of(spans: &[RawSpan], sweepgen: u32, green_tea: bool, all_marked: bool) -> Bits {
        let first = spans.first().map_or(0, |s| s.0.first.index()) / 64 * 64;
        let len = spans.last().map_or(0, |s| s.0.first.index() + s.0.nelems as usize - first);
        let empty = || Bitmap::new(len);
        Bits { first, allocated: empty(), dead: empty(), fresh: empty(), sweepgen, green_tea, all_marked }
    }

    /// Enters the slots of one span. `bits`: its allocBits, padded with zeros to whole words.
    fn set(&mut self, rt: &Runtime, span: &Span, freeindex: u32, marks: Addr, bits: &[u8]) {
        let unswept = self.all_marked
            || span.sweepgen == self.sweepgen.wrapping_sub(2)
            || span.sweepgen == self.sweepgen.wrapping_add(1)
            || span.sweepgen == self.sweepgen.wrapping_sub(1);
        let mut marked = Vec::new();
        let mut use_marks = false;
        if unswept {
            marked.resize(bits.len(), 0u8);
            let len = (span.nelems as usize).div_ceil(8);
            use_marks = rt.target.read(marks, &mut marked[..len]).is_ok();
            // Green Tea keeps the marks of small objects at the end of the span until it is swept.
            if use_marks && self.green_tea && (16..=512).contains(&span.elemsize) {
                let mut tail = [0u8; 128];
                if rt.target.read(Addr(span.start.0 + span.bytes - 128), &mut tail).is_ok() {
                    for (m, t) in marked.iter_mut().zip(&tail[64..127]) {
                        *m |= t;
                    }
                }
            }
            // A span in the middle of its sweep may already have its marks moved to allocBits.
            if span.sweepgen == self.sweepgen.wrapping_sub(1) && marked.iter().all(|&b| b == 0) && freeindex == 0 {
                use_marks = false;
            }
        }
        let low = |n: u64| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
        for i in 0..bits.len() / 8 {
            let base = 64 * i as u64;
            let within = low(u64::from(span.nelems) - base);
            let survived = bytes::u64_at(bits, 8 * i).unwrap_or(0) & within;
            let used = (survived | low(u64::from(freeindex).saturating_sub(base))) & within;
            let alive = if use_marks { bytes::u64_at(&marked, 8 * i).unwrap_or(0) } else { u64::MAX };
            let at = span.first.index() + 64 * i - self.first;
            self.allocated.or_word(at, used & alive);
            self.dead.or_word(at, used & !alive);
            // The sweeper makes the marks allocBits, and allocating sets none of them (mspan.nextFreeIndex).
            if !unswept {
                self.fresh.or_word(at, used & !survived);
            }
        }
    }
}

/// Drops spans that add up to more than the target's memory can hold: damaged ones, with lengths that would cost us
/// memory in proportion.
fn within_memory(rt: &Runtime, spans: &mut Vec<RawSpan>) {
    let budget = rt.target.readable_bytes().saturating_add(SPARE);
    if spans.iter().fold(0u64, |sum, s| sum.saturating_add(s.0.bytes)) <= budget {
        return;
    }
    let mut sum = 0u64;
    let (mut dropped, mut example) = (0, Addr::NULL);
    spans.retain(|(s, ..)| {
        let fits = sum.saturating_add(s.bytes) <= budget;
        if fits {
            sum += s.bytes;
        } else {
            dropped += 1;
            example = s.mspan;
        }
        fits
    });
    rt.diag.note_many("spans larger than the target's memory", dropped, format_args!("mspan at {example}"));
}

/// Does this heap keep inline mark bits (Green Tea: 1.26 by default, 1.25 as an experiment)? Told from the spans: those
/// with them have fewer slots than the heap bitmap alone would leave.
fn green_tea(spans: &[RawSpan]) -> bool {
    spans.iter().any(|(s, ..)| {
        let without = (PAGE - if s.noscan { 0 } else { 128 }) / s.elemsize;
        s.bytes == PAGE && (16..=512).contains(&s.elemsize) && u64::from(s.nelems) < without
    })
}

/// A span in use with its freeindex, allocBits and gcmarkBits; extents only of manual ones.
fn decode(r: &Record) -> Result<Described, ReadError> {
    match r.get(Field::MspanState)? {
        IN_USE => {}
        MANUAL => {
            let (start, npages) = (r.get(Field::MspanStartAddr)?, r.get(Field::MspanNpages)?);
            let plausible = start != 0 && start % PAGE == 0 && npages <= 1 << 30;
            return Ok(if plausible { Described::Manual(Addr(start), npages * PAGE) } else { Described::Nothing });
        }
        _ => return Ok(Described::Nothing),
    }
    let (start, npages, nelems) =
        (r.get(Field::MspanStartAddr)?, r.get(Field::MspanNpages)?, r.get(Field::MspanNelems)?);
    let (elemsize, freeindex) = (r.get(Field::MspanElemsize)?, r.get(Field::MspanFreeindex)?);
    let class = r.get(Field::MspanSpanclass)? as u8;
    let bytes = npages.wrapping_mul(PAGE);
    let plausible = match class >> 1 {
        0 => nelems == 1,
        _ => (8..=MAX_SMALL).contains(&elemsize) && elemsize % 8 == 0 && npages <= MAX_CLASS_PAGES,
    };
    if start == 0
        || start % PAGE != 0
        || npages == 0
        || npages > 1 << 30
        || elemsize == 0
        || !plausible
        || nelems == 0
        || nelems.checked_mul(elemsize).is_none_or(|n| n > bytes)
        || freeindex > nelems
        || start.checked_add(bytes).is_none()
    {
        return Err(ReadError::Implausible {
            what: "mspan",
            addr: r.addr,
            why: format!("start {start:#x}, {npages} pages, {nelems} x {elemsize} bytes, freeindex {freeindex}"),
        });
    }
    let span = Span {
        start: Addr(start),
        bytes,
        elemsize,
        nelems: nelems as u32,
        limit: r.ptr(Field::MspanLimit)?,
        first: ObjectId(0),
        class: class >> 1,
        noscan: class & 1 == 1,
        user_arena: r.opt(Field::MspanIsUserArenaChunk).unwrap_or(0) != 0,
        sweepgen: r.get(Field::MspanSweepgen)? as u32,
        alloc_count: r.get(Field::MspanAllocCount)? as u32,
        large_type: Addr(r.opt(Field::MspanLargeType).unwrap_or(0)),
        specials: r.ptr(Field::MspanSpecials)?,
        mspan: r.addr,
    };
    Ok(Described::InUse((span, freeindex as u32, r.ptr(Field::MspanAllocBits)?, r.ptr(Field::MspanGcmarkBits)?)))
}

/// Words of a byte block, little endian.
pub(crate) fn word(b: &[u8], i: usize) -> u64 {
    bytes::u64_at(b, 8 * i).unwrap_or(0)
}
