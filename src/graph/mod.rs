//! graph: objects and edges in flat arrays, roots with their evidence, the reachable set.
//! Built in one pass over pointer-holding spans. Used by `analysis`. Does not know questions or output.

use std::ops::Range;

pub mod build;
mod hints;
pub mod reach;
mod rows;
mod targets;
pub mod typing;
mod words;

pub use hints::{Hints, TypeWords};
pub use reach::reach;
pub use rows::Rows;
pub use targets::Targets;
pub use words::EdgeWords;

use crate::base::{Addr, Bitmap, Goid, ObjectId};

/// What kind of root; printed to users.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RootKind {
    Data,
    Bss,
    /// A live word of a goroutine's frame, by exact stack map.
    Stack,
    /// A word of an interrupted frame or a register, taken as a pointer because it looks like one.
    Conservative,
    /// g._defer, g._panic, g.sched.ctxt and the like.
    Goroutine,
    /// A finalizer's closure, or what the finalized object points to (the collector keeps both).
    Finalizer,
    Cleanup,
    /// Queued finalizer or cleanup, about to run.
    FinalizerQueue,
    WeakHandle,
    /// The current tiny block of a P.
    TinyBlock,
    Other,
}

impl RootKind {
    /// What it is, in words.
    pub fn text(self) -> &'static str {
        match self {
            RootKind::Data | RootKind::Bss => "global variable",
            RootKind::Stack => "stack of a goroutine",
            RootKind::Conservative => "stack or register of an interrupted goroutine, by value",
            RootKind::Goroutine => "record of a goroutine: defers, panics, closure being started",
            RootKind::Finalizer => "finalizer",
            RootKind::Cleanup => "cleanup",
            RootKind::FinalizerQueue => "queued finalizer or cleanup",
            RootKind::WeakHandle => "weak handle",
            RootKind::TinyBlock => "allocator's current tiny block",
            RootKind::Other => "the runtime",
        }
    }
}

/// One word outside the heap (or in a special record) that keeps an object alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    pub kind: RootKind,
    pub target: ObjectId,
    /// Where the word is: address of the global's word, stack slot, special record; null for a register.
    pub at: Addr,
    /// Byte offset in the target slot to which the word points.
    pub offset: u32,
    /// Goroutine of stack roots, else 0.
    pub goid: Goid,
    /// Index of the frame from the innermost, for stack roots.
    pub frame: u32,
}

/// Compressed sparse rows over object ids. Only slots of spans with pointers have rows that may be non-empty.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The edges of each object.
    pub rows: Rows,
    /// Target object of each edge.
    pub target: Targets,
    /// Word index in the source slot that holds each edge's pointer.
    pub words: EdgeWords,
    pub roots: Vec<Root>,
    /// Objects reached from `roots`.
    pub reachable: Bitmap,
}

impl Graph {
    /// A graph from a list of edges (tests, snapshots); the source word of each edge counts up within its object.
    pub fn from_edges(slots: usize, edges: impl IntoIterator<Item = (ObjectId, ObjectId)>, roots: Vec<Root>) -> Graph {
        let mut edges: Vec<_> = edges.into_iter().collect();
        edges.sort_by_key(|e| e.0);
        let mut graph = Graph { roots, reachable: Bitmap::new(slots), ..Graph::default() };
        let mut degrees = vec![0u32; slots];
        for (from, to) in edges {
            graph.target.push(to);
            graph.words.push(degrees[from.index()]);
            degrees[from.index()] += 1;
        }
        graph.rows = Rows::of_degrees(degrees);
        graph
    }

    /// Word of the source slot that holds the edge's pointer.
    pub fn word_of(&self, edge: usize) -> u64 {
        self.words.get(edge)
    }

    /// The object that holds edge `edge` (binary search over the rows).
    pub fn source_of(&self, edge: usize) -> ObjectId {
        ObjectId(self.rows.object_of(edge) as u32)
    }

    /// Number of object ids, free slots included.
    pub fn slots(&self) -> usize {
        self.rows.len()
    }

    #[inline]
    pub fn edges(&self, id: ObjectId) -> Range<usize> {
        self.rows.edges(id.index())
    }

    /// The edges of neighbouring objects, by their ids.
    #[inline]
    pub fn edges_of(&self, ids: Range<usize>) -> Range<usize> {
        self.rows.start(ids.start) as usize..self.rows.start(ids.end) as usize
    }

    #[inline]
    pub fn children(&self, id: ObjectId) -> impl ExactSizeIterator<Item = ObjectId> + Clone + '_ {
        self.target.range(self.edges(id))
    }
}
