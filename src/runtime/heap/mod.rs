//! runtime::heap: which spans exist, which slots in them are objects, and where pointers lie in them.
//! Owns `Heap`, `Span`. Reads mheap_.allspans, mspan, heapArena (runtime/mheap.go). Used by `graph`.
//! Does not know object types, roots or output.

use crate::base::{Addr, Bitmap, ObjectId};

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
    /// u32 magic to divide an offset by elemsize (mspan.divMul); 0 for large objects.
    pub div_mul: u32,
    pub sweepgen: u32,
    pub freeindex: u32,
    pub alloc_count: u32,
    /// Type of a large object with pointers (Go 1.22+), else null.
    pub large_type: Addr,
    /// Head of the list of specials, null if none.
    pub specials: Addr,
    /// Address of the mspan.
    pub mspan: Addr,
}

/// All in-use spans, with a page index from addresses to slots.
pub struct Heap {
    /// By address.
    pub spans: Vec<Span>,
    /// Bit per slot id: holds an allocated object.
    pub allocated: Bitmap,
    /// Bit per slot id: marked by the collector (valid as `mark_state` says).
    pub marked: Bitmap,
    /// Slots over all spans.
    pub slots: u32,
}

impl Heap {
    pub fn is_allocated(&self, id: ObjectId) -> bool {
        self.allocated.get(id.index())
    }
}
