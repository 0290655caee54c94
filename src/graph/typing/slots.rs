//! From an object id to its slot, fast: spans are found through a table over blocks of ids.

use std::collections::HashMap;

use crate::{
    base::ObjectId,
    runtime::heap::{Heap, Span},
};

/// Ids per entry of the block table: a span is found within as many steps.
const BLOCK: u32 = 32;
/// Objects with pointers above this size have a malloc header (runtime/mbitmap.go, minSizeForMallocHeader).
const MAX_WITHOUT_HEADER: u64 = 512;

/// What matters of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

/// All slots of a heap. What is asked for most lies close together: a span takes 8 bytes.
pub struct Slots {
    /// First id of each span, ascending.
    firsts: Vec<u32>,
    /// What the slots of each span are like: which of `kinds`.
    kind_of: Vec<u32>,
    kinds: Vec<Slot>,
    /// Index of the span that holds the first id of each block.
    blocks: Vec<u32>,
    /// Ids in all.
    end: u32,
}

impl Slots {
    pub fn new(heap: &Heap, malloc_headers: bool) -> Slots {
        let firsts: Vec<u32> = heap.spans.iter().map(|s| s.first.0).collect();
        let mut kinds: Vec<Slot> = Vec::new();
        let mut known: HashMap<Slot, u32> = HashMap::new();
        let mut number = |s: &Span| {
            let slot = slot(s, malloc_headers);
            *known.entry(slot).or_insert_with(|| {
                kinds.push(slot);
                kinds.len() as u32 - 1
            })
        };
        let kind_of = heap.spans.iter().map(&mut number).collect();
        let mut blocks = Vec::with_capacity(heap.slots as usize / BLOCK as usize + 1);
        let mut at = 0;
        for first in (0..heap.slots).step_by(BLOCK as usize) {
            while firsts.get(at + 1).is_some_and(|&f| f <= first) {
                at += 1;
            }
            blocks.push(at as u32);
        }
        Slots { firsts, kind_of, kinds, blocks, end: heap.slots }
    }

    /// `None` for ids beyond the heap.
    #[inline]
    pub fn get(&self, id: ObjectId) -> Option<&Slot> {
        self.kind(self.index(id)?)
    }

    /// The slots of the span that holds `id`: the first id, the end of ids, and what they are like.
    pub fn span(&self, id: ObjectId) -> Option<(u32, u32, &Slot)> {
        let at = self.index(id)?;
        Some((*self.firsts.get(at)?, self.firsts.get(at + 1).copied().unwrap_or(self.end), self.kind(at)?))
    }

    #[inline]
    fn kind(&self, span: usize) -> Option<&Slot> {
        self.kinds.get(*self.kind_of.get(span)? as usize)
    }

    #[inline]
    fn index(&self, id: ObjectId) -> Option<usize> {
        let mut at = *self.blocks.get((id.0 / BLOCK) as usize)? as usize;
        while self.firsts.get(at + 1).is_some_and(|&f| f <= id.0) {
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
