//! runtime::heap: which spans exist, which slots in them are objects, and where pointers lie in them.
//! Owns `Heap`, `Span`. Reads mheap_.allspans, mspan, heapArena (runtime/mheap.go). Used by `graph`.
//! Does not know object types, roots or output.

mod clusters;
mod masks;
mod read;
pub(crate) use read::scattered;
pub mod specials;

pub(crate) use masks::bits_at;
pub use masks::{PointerMasks, SlotBits};

use crate::base::{Addr, Bitmap, ObjectId};

pub const PAGE: u64 = 8192;

/// One span in state mSpanInUse (goroutine stacks and free spans are not here). Spans are kept in address order.
#[derive(Clone, Debug)]
pub struct Span {
    pub start: Addr,
    /// Bytes of the span: npages * 8192.
    pub bytes: u64,
    pub elemsize: u64,
    /// Slots; 1 for a large object.
    pub nelems: u32,
    /// End of valid object addresses (exclusive); not tight in 1.22 and 1.23, so test the index as well.
    pub limit: Addr,
    /// Id of slot 0; slot i has id first + i.
    pub first: ObjectId,
    /// Size class; 0 for a large object.
    pub class: u8,
    /// No pointers in any slot: memory is never read.
    pub noscan: bool,
    pub user_arena: bool,
    pub sweepgen: u32,
    pub alloc_count: u32,
    /// Type of a large object with pointers (Go 1.22+), else null.
    pub large_type: Addr,
    /// Head of the list of specials, null if none.
    pub specials: Addr,
    /// Address of the mspan.
    pub mspan: Addr,
}

impl Span {
    /// Bytes before the value in a slot: the malloc header of Go 1.22 and later, else 0.
    pub fn value_offset(&self, rt: &super::Runtime) -> u64 {
        let header = self.elemsize > 512 && self.class != 0 && !self.noscan && !self.user_arena;
        if header && rt.layout.has(super::layout::Field::MspanLargeType) { 8 } else { 0 }
    }

    pub fn slot_addr(&self, i: u32) -> Addr {
        self.start.offset(u64::from(i) * self.elemsize)
    }
}

/// All in-use spans, with a page index from addresses to slots.
pub struct Heap {
    /// By address.
    pub spans: Vec<Span>,
    /// Spans that the runtime uses for itself (mSpanManual): goroutine stacks and the collector's work buffers.
    /// (start, bytes), by address.
    pub manual: Vec<(Addr, u64)>,
    /// Bit per slot id: holds an allocated object that the collector has not found dead.
    pub allocated: Bitmap,
    /// Bit per slot id: allocated, but found dead by the last collection and not swept yet.
    pub dead: Bitmap,
    /// Bit per slot id: allocated since its span was last swept, so that no collection has judged it yet.
    pub fresh: Bitmap,
    /// Slots over all spans.
    pub slots: u32,
    /// mheap_.sweepgen.
    pub sweepgen: u32,
    /// Small spans keep their mark bits at their end.
    pub green_tea: bool,
    /// First page covered by `arenas`.
    first_page: u64,
    /// Block of `pages` of each arena from `first_page` on.
    arenas: Vec<u32>,
    /// What `find` needs of each page, in blocks of one arena.
    pages: Vec<Page>,
    /// Span of the first id of each block of ids; empty in heaps made by hand.
    blocks: Vec<u32>,
}

/// All in one place, so that a look-up touches one cache line.
#[derive(Clone, Copy, Default, Debug)]
struct Page {
    /// Id of the first slot of its span; where `magic` is 0: index of the span plus one, 0 for none.
    first: u32,
    /// 2^32 / elemsize, rounded up: (offset * magic) >> 32 is the slot, exactly so for offsets below 2^17 and slots of
    /// at most 2^15 bytes, because the product is then too large by less than 2^17 and so the quotient by less than
    /// 1 / elemsize. 0 for spans that are larger, or have larger slots or only one.
    magic: u32,
    elemsize: u16,
    /// Pages of the span before this one.
    before: u8,
    /// Every slot of the span holds an object.
    full: bool,
    /// Bytes of slots of the span, not beyond `Span::limit`.
    end: u32,
}

const MAX_MAGIC_SPAN: u64 = 1 << 17;
const MAX_MAGIC_SIZE: u64 = 1 << 15;

impl Page {
    /// The first page of a span; `index`: of that span.
    fn first_of(span: &Span, index: usize, full: bool) -> Page {
        let small = span.nelems > 1 && span.bytes <= MAX_MAGIC_SPAN && (8..=MAX_MAGIC_SIZE).contains(&span.elemsize);
        if !small {
            return Page::of_large(index);
        }
        let slots = u64::from(span.nelems) * span.elemsize;
        Page {
            first: span.first.0,
            magic: (1u64 << 32).div_ceil(span.elemsize) as u32,
            elemsize: span.elemsize as u16,
            before: 0,
            full,
            end: slots.min(span.limit.0.saturating_sub(span.start.0)).min(MAX_MAGIC_SPAN) as u32,
        }
    }

    fn of_large(index: usize) -> Page {
        Page { first: index as u32 + 1, ..Page::default() }
    }
}

/// Ids per entry of the table from ids to spans.
const BLOCK: usize = 32;

/// Pages of one arena (64 MiB).
const ARENA_PAGES: u64 = 8192;

impl Heap {
    /// A heap of given spans that cannot be searched by address, for tests of what works with ids.
    #[cfg(test)]
    pub(crate) fn of_spans(spans: Vec<Span>, allocated: Bitmap) -> Heap {
        let slots = spans.iter().map(|s| s.nelems).sum();
        let dead = Bitmap::new(slots as usize);
        Heap {
            spans,
            manual: Vec::new(),
            allocated,
            dead,
            fresh: Bitmap::new(slots as usize),
            slots,
            sweepgen: 2,
            green_tea: false,
            first_page: 0,
            arenas: Vec::new(),
            pages: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// A heap as a snapshot kept it; `spans` in order of addresses, with ids that count up, as the caller has checked.
    pub(crate) fn restore(
        spans: Vec<Span>,
        allocated: Bitmap,
        dead: Bitmap,
        sweepgen: u32,
    ) -> Result<Heap, super::view::ReadError> {
        let slots = spans.last().map_or(0, |s| s.first.0 + s.nelems);
        let mut heap = Heap {
            spans,
            manual: Vec::new(),
            allocated,
            dead,
            fresh: Bitmap::new(slots as usize),
            slots,
            sweepgen,
            green_tea: false,
            first_page: 0,
            arenas: Vec::new(),
            pages: Vec::new(),
            blocks: Vec::new(),
        };
        heap.index(Addr::NULL)?;
        Ok(heap)
    }

    #[inline]
    pub fn is_allocated(&self, id: ObjectId) -> bool {
        self.allocated.get(id.index())
    }

    /// What is known of the page of `addr`.
    #[inline]
    fn page(&self, addr: Addr) -> Option<&Page> {
        let page = (addr.0 / PAGE).wrapping_sub(self.first_page);
        let block = self.arenas.get((page / ARENA_PAGES) as usize)?;
        self.pages.get((u64::from(*block) * ARENA_PAGES + page % ARENA_PAGES) as usize)
    }

    /// The span of an address.
    pub fn span_at(&self, addr: Addr) -> Option<&Span> {
        match *self.page(addr)? {
            Page { first, magic: 0, .. } => self.spans.get((first as usize).checked_sub(1)?),
            Page { first, .. } => Some(self.span_of(ObjectId(first))),
        }
    }

    /// The slot that contains `addr` (interior pointers included), allocated or not, and the offset in it.
    /// Cost: two reads of flat tables, one of which is small, and a multiplication.
    #[inline]
    pub fn find(&self, addr: Addr) -> Option<(ObjectId, u64)> {
        self.find_full(addr).map(|(id, offset, _)| (id, offset))
    }

    /// The same, and whether all slots of its span are allocated.
    #[inline]
    fn find_full(&self, addr: Addr) -> Option<(ObjectId, u64, bool)> {
        let page = self.page(addr)?;
        if page.magic == 0 {
            return self.find_large(page.first, addr).map(|(id, offset)| (id, offset, false));
        }
        let off = u32::from(page.before) * PAGE as u32 + (addr.0 % PAGE) as u32;
        if off >= page.end {
            return None;
        }
        let slot = ((u64::from(off) * u64::from(page.magic)) >> 32) as u32;
        Some((ObjectId(page.first.wrapping_add(slot)), u64::from(off - slot * u32::from(page.elemsize)), page.full))
    }

    /// The same as `find`, and whether the slot is allocated.
    #[inline]
    pub fn find_allocated(&self, addr: Addr) -> Option<(ObjectId, u64, bool)> {
        let (id, offset, full) = self.find_full(addr)?;
        Some((id, offset, full || self.is_allocated(id)))
    }

    #[cold]
    fn find_large(&self, first: u32, addr: Addr) -> Option<(ObjectId, u64)> {
        let span = self.spans.get((first as usize).checked_sub(1)?)?;
        let slots = u64::from(span.nelems).saturating_mul(span.elemsize);
        let end = span.start.0.saturating_add(slots).min(span.limit.0);
        let off = addr.0.checked_sub(span.start.0).filter(|_| addr.0 < end)?;
        let slot = off / span.elemsize;
        (slot < u64::from(span.nelems)).then(|| (ObjectId(span.first.0 + slot as u32), off - slot * span.elemsize))
    }

    /// The span of an object.
    pub fn span_of(&self, id: ObjectId) -> &Span {
        let from = self.blocks.get(id.index() / BLOCK).map_or(0, |&b| b as usize);
        let to = self.blocks.get(id.index() / BLOCK + 1).map_or(self.spans.len(), |&b| b as usize + 1);
        // Most blocks lie in one span or two.
        let i = from + self.spans[from..to].partition_point(|s| s.first.0 <= id.0);
        &self.spans[i.saturating_sub(1)]
    }

    /// Address and slot size of an object. Large objects: the bytes of their pages, as the runtime counts them.
    pub fn extent(&self, id: ObjectId) -> (Addr, u64) {
        let span = self.span_of(id);
        (span.slot_addr(id.0 - span.first.0), span.elemsize)
    }
}
