//! Evidence of types that lies next to the pointers, gathered while the graph is built: that pass has every byte in its
//! hands already. `graph::typing` reads it. Order within each list does not matter; words are kept as they were found,
//! and judged later.

use crate::{
    base::{Addr, ObjectId},
    runtime::{
        Runtime,
        types::{Sources, word_ranges},
    },
};

/// Address ranges in which type descriptors and itabs lie (a word inside one may name a type; any other word cannot).
/// Sorted, disjoint, exclusive ends. `runtime::types::word_ranges` finds them.
#[derive(Clone, Debug, Default)]
pub struct TypeWords {
    pub ranges: Vec<(u64, u64)>,
}

impl TypeWords {
    pub fn of(rt: &Runtime) -> TypeWords {
        TypeWords { ranges: word_ranges(Sources::of(rt)) }
    }

    /// Start and length of the stretch in which all ranges lie.
    pub fn hull(&self) -> (u64, u64) {
        let start = self.ranges.iter().map(|r| r.0).min().unwrap_or(0);
        let end = self.ranges.iter().map(|r| r.1).max().unwrap_or(0);
        (start, end.saturating_sub(start))
    }

    /// Could `word` be the address of a type descriptor or an itab?
    pub fn contains(&self, word: u64) -> bool {
        // Mostly one to three ranges: a scan is as quick as a search, and most words lie outside the hull.
        word.is_multiple_of(8) && self.ranges.iter().any(|&(start, end)| start <= word && word < end)
    }
}

/// What was seen next to pointers. `interior` must be complete; the others may be empty: typing then knows less.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Edges whose pointer does not point to the first byte of its target's slot: (edge, offset in the slot; u32::MAX
    /// for what does not fit). Behind a malloc header the object proper begins at offset 8, so such pointers are listed
    /// as well. Sorted by edge.
    pub interior: Vec<(u32, u32)>,
    /// Word 0 of objects with a malloc header, `mspan.largeType` of large ones (Go 1.22+): the type of one element.
    pub headers: Vec<(ObjectId, Addr)>,
    /// Edges (index into `Graph::target`) whose pointer follows directly behind a word that `TypeWords` accepts:
    /// an interface with its data, as a rule.
    pub interfaces: Vec<(u32, Addr)>,
    /// The same for roots (index into `Graph::roots`) in data and bss.
    pub root_interfaces: Vec<(u32, Addr)>,
    /// The same for pointers from global variables to global variables: (where to, the word).
    pub link_interfaces: Vec<(Addr, Addr)>,
    /// Objects of spans with pointers whose word 0 is not a pointer by its mask and equals the entry of a function.
    pub closures: Vec<(ObjectId, Addr)>,
}

impl Hints {
    pub(super) fn clear(&mut self) {
        self.interior.clear();
        self.headers.clear();
        self.interfaces.clear();
        self.root_interfaces.clear();
        self.link_interfaces.clear();
        self.closures.clear();
    }

    /// Adds those of `other`, whose edges count from `base` on.
    pub(super) fn append(&mut self, other: &Hints, base: u32) {
        self.interior.extend(other.interior.iter().map(|&(edge, at)| (base + edge, at)));
        self.interfaces.extend(other.interfaces.iter().map(|&(edge, word)| (base + edge, word)));
        self.headers.extend_from_slice(&other.headers);
        self.closures.extend_from_slice(&other.closures);
    }
}
