//! The targets of all edges, in as many bytes as ids of the heap need.

use std::ops::Range;

use crate::{base::ObjectId, os::memory};

/// Ids below this number take three bytes.
const NARROW: usize = 1 << 24;
const MASK: u32 = 0xff_ffff;

/// Target of each edge.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Targets {
    /// Three bytes an edge, and one more at the end: four are read at once.
    narrow: Vec<u8>,
    wide: Vec<u32>,
    few: bool,
    len: usize,
}

impl Targets {
    /// For a heap of so many ids.
    pub fn of_slots(slots: usize) -> Targets {
        Targets { few: slots <= NARROW, ..Targets::default() }
    }

    /// Room for so many edges, as far as there is any: what is not used costs nothing until `shrink`.
    pub fn reserve(&mut self, edges: usize) {
        if self.few {
            let _ = self.narrow.try_reserve_exact(edges.saturating_mul(3));
            memory::huge(&mut self.narrow);
        } else {
            let _ = self.wide.try_reserve_exact(edges);
            memory::huge(&mut self.wide);
        }
    }

    /// Gives up the room that is not used.
    pub fn shrink(&mut self) {
        self.narrow.shrink_to_fit();
        self.wide.shrink_to_fit();
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ids must be below the number of slots that was given at first.
    pub fn push(&mut self, id: ObjectId) {
        self.extend(&[id]);
    }

    pub fn extend(&mut self, ids: &[ObjectId]) {
        if self.few {
            debug_assert!(ids.iter().all(|id| id.index() < NARROW));
            let from = 3 * self.len;
            self.narrow.resize(from + 3 * ids.len() + 1, 0);
            // Four at once.
            let (fours, rest) = ids.as_chunks::<4>();
            let (head, tail) = self.narrow[from..].split_at_mut(12 * fours.len());
            for (to, four) in head.as_chunks_mut::<12>().0.iter_mut().zip(fours) {
                let [a, b, c, d] = four.map(|id| u128::from(id.0 & MASK));
                to.copy_from_slice(&(a | b << 24 | c << 48 | d << 72).to_le_bytes()[..12]);
            }
            for (to, id) in tail.chunks_exact_mut(3).zip(rest) {
                to.copy_from_slice(&id.0.to_le_bytes()[..3]);
            }
        } else {
            self.wide.extend(ids.iter().map(|id| id.0));
        }
        self.len += ids.len();
    }

    /// Panics beyond the last edge.
    #[inline]
    pub fn get(&self, edge: usize) -> ObjectId {
        if self.few {
            let b = &self.narrow[3 * edge..3 * edge + 4];
            ObjectId(u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & MASK)
        } else {
            ObjectId(self.wide[edge])
        }
    }

    /// The edge will be asked for soon.
    #[inline]
    pub fn fetch(&self, edge: usize) {
        if self.few {
            memory::fetch(&self.narrow, 3 * edge);
        } else {
            memory::fetch(&self.wide, edge);
        }
    }

    /// Panics beyond the last edge.
    pub fn set(&mut self, edge: usize, id: ObjectId) {
        if self.few {
            self.narrow[3 * edge..3 * edge + 3].copy_from_slice(&id.0.to_le_bytes()[..3]);
        } else {
            self.wide[edge] = id.0;
        }
    }

    /// Some of them, in order.
    #[inline]
    pub fn range(&self, edges: Range<usize>) -> impl ExactSizeIterator<Item = ObjectId> + Clone + '_ {
        edges.map(|e| self.get(e))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = ObjectId> + Clone + '_ {
        self.range(0..self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back() {
        for slots in [1 << 24, (1 << 24) + 1] {
            let id = |i: usize| ObjectId((i * 7_654_321 % (slots - 1) + 1) as u32);
            let all: Vec<ObjectId> = (0..3000).map(id).collect();
            let mut targets = Targets::of_slots(slots);
            let (mut rest, mut n) = (all.as_slice(), 1);
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(n.min(rest.len()));
                targets.extend(head);
                (rest, n) = (tail, n * 3 % 101);
            }
            assert!(targets.iter().eq(all.iter().copied()), "{slots} slots");
            targets.set(1500, ObjectId(slots as u32 - 1));
            assert_eq!(
                (targets.get(1499), targets.get(1500), targets.get(1501)),
                (all[1499], ObjectId(slots as u32 - 1), all[1501])
            );
            assert_eq!(targets.len(), 3000);
        }
    }
}
