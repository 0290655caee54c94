//! From an object id to its slot, fast: spans are found through a table over blocks of ids.

use crate::{
    base::ObjectId,
    runtime::heap::{Heap, Span},
};

/// Ids per entry of the block table: a span is found within as many steps.
const BLOCK: u32 = 32;
/// Objects with pointers above this size have a malloc header (runtime/mbitmap.go, minSizeForMallocHeader).
const MAX_WITHOUT_HEADER: u64 = 512;

/// What matters of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Bytes of the slot; of a large object: of its pages.
    pub size: u64,
    /// Where the object begins in the slot: 8 behind a malloc header, else 0.
    pub data: u64,
    pub noscan: bool,
    /// A span of its own.
    pub large: bool,
    /// Objects inside are not delimited.
    pub user_arena: bool,
}

impl Slot {
    /// Bytes for the object itself.
    pub fn room(&self) -> u64 {
        self.size - self.data
    }
}

/// All slots of a heap.
pub struct Slots {
    /// (first id, slot), by id.
    spans: Vec<(u32, Slot)>,
    /// Index of the span that holds the first id of each block.
    blocks: Vec<u32>,
    /// Ids in all.
    end: u32,
}

impl Slots {
    pub fn new(heap: &Heap, malloc_headers: bool) -> Slots {
        let spans: Vec<_> = heap.spans.iter().map(|s| (s.first.0, slot(s, malloc_headers))).collect();
        let mut blocks = Vec::with_capacity(heap.slots as usize / BLOCK as usize + 1);
        let mut at = 0;
        for first in (0..heap.slots).step_by(BLOCK as usize) {
            while spans.get(at + 1).is_some_and(|s| s.0 <= first) {
                at += 1;
            }
            blocks.push(at as u32);
        }
        Slots { spans, blocks, end: heap.slots }
    }

    /// `None` for ids beyond the heap.
    #[inline]
    pub fn get(&self, id: ObjectId) -> Option<&Slot> {
        self.spans.get(self.index(id)?).map(|s| &s.1)
    }

    /// The slots of the span that holds `id`: the first id, the end of ids, and what they are like.
    pub fn span(&self, id: ObjectId) -> Option<(u32, u32, &Slot)> {
        let at = self.index(id)?;
        let (first, slot) = self.spans.get(at)?;
        Some((*first, self.spans.get(at + 1).map_or(self.end, |s| s.0), slot))
    }

    #[inline]
    fn index(&self, id: ObjectId) -> Option<usize> {
        let mut at = *self.blocks.get((id.0 / BLOCK) as usize)? as usize;
        while self.spans.get(at + 1).is_some_and(|s| s.0 <= id.0) {
            at += 1;
        }
        Some(at)
    }
}

fn slot(span: &Span, malloc_headers: bool) -> Slot {
    let large = span.class == 0;
    let header = malloc_headers && !span.noscan && !large && !span.user_arena && span.elemsize > MAX_WITHOUT_HEADER;
    Slot {
        size: span.elemsize,
        data: if header { 8.min(span.elemsize) } else { 0 },
        noscan: span.noscan,
        large,
        user_arena: span.user_arena,
    }
}
