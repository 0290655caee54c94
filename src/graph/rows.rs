//! Which edges belong to which object, in a byte and a half for each object.

use std::ops::Range;

use crate::os::memory;

/// Objects of one group.
const GROUP: usize = 8;
/// In place of the first start of a group (which is 0): starts of this group lie too far apart, and are kept aside.
const WIDE: u8 = u8::MAX;

/// Where the edges of eight objects begin: the first of them, and how far behind it the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Group {
    base: u32,
    within: [u8; GROUP],
}

/// The first edge of every object id. Objects are added in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    groups: Vec<Group>,
    /// Starts of groups with more than 255 edges before their last object: rare, since such objects are large.
    wide: Vec<[u32; GROUP]>,
    /// Starts of the group that is not complete.
    open: [u32; GROUP],
    objects: usize,
    total: u32,
}

impl Rows {
    pub fn with_capacity(objects: usize) -> Rows {
        let mut groups = Vec::with_capacity(objects / GROUP + 1);
        memory::huge(&mut groups);
        Rows { groups, ..Rows::default() }
    }

    pub fn of_degrees(degrees: impl IntoIterator<Item = u32>) -> Rows {
        let mut rows = Rows::default();
        degrees.into_iter().for_each(|d| rows.push(d));
        rows
    }

    /// Adds an object with so many edges. The caller sees to it that all together fit into 32 bits.
    #[inline]
    pub fn push(&mut self, degree: u32) {
        self.open[self.objects % GROUP] = self.total;
        self.total = self.total.saturating_add(degree);
        self.objects += 1;
        if self.objects.is_multiple_of(GROUP) {
            self.close();
        }
    }

    /// Adds the next objects.
    pub fn extend(&mut self, degrees: &[u32]) {
        let head = degrees.len().min((GROUP - self.objects % GROUP) % GROUP);
        let (head, rest) = degrees.split_at(head);
        head.iter().for_each(|&d| self.push(d));
        let (groups, tail) = rest.as_chunks::<GROUP>();
        for group in groups {
            let mut sum = self.total;
            for (open, &d) in self.open.iter_mut().zip(group) {
                *open = sum;
                sum = sum.saturating_add(d);
            }
            self.total = sum;
            self.objects += GROUP;
            self.close();
        }
        tail.iter().for_each(|&d| self.push(d));
    }

    /// Adds edges to the last object.
    pub fn add_to_last(&mut self, more: u32) {
        self.total = self.total.saturating_add(more);
    }

    fn close(&mut self) {
        let base = self.open[0];
        let mut within = [0; GROUP];
        if self.open[GROUP - 1] - base <= u32::from(u8::MAX) {
            for (to, from) in within.iter_mut().zip(self.open) {
                *to = (from - base) as u8;
            }
        } else {
            within[0] = WIDE;
            within[4..].copy_from_slice(&(self.wide.len() as u32).to_le_bytes());
            self.wide.push(self.open);
        }
        self.groups.push(Group { base, within });
    }

    /// Number of objects.
    #[inline]
    pub fn len(&self) -> usize {
        self.objects
    }

    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }

    /// Edges of all objects.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// First edge of an object; of one beyond the last: the number of edges.
    #[inline]
    pub fn start(&self, object: usize) -> u32 {
        if object >= self.objects {
            return self.total;
        }
        match self.groups.get(object / GROUP) {
            Some(g) if g.within[0] != WIDE => g.base + u32::from(g.within[object % GROUP]),
            Some(g) => {
                let i = u32::from_le_bytes([g.within[4], g.within[5], g.within[6], g.within[7]]);
                self.wide[i as usize][object % GROUP]
            }
            None => self.open[object % GROUP],
        }
    }

    /// The object's edges will be asked for soon.
    #[inline]
    pub fn fetch(&self, object: usize) {
        memory::fetch(&self.groups, object / GROUP);
    }

    /// Edges of an object; none for one beyond the last.
    #[inline]
    pub fn edges(&self, object: usize) -> Range<usize> {
        self.start(object) as usize..self.start(object + 1) as usize
    }

    /// The object to which `edge` belongs: the last one that begins at or before it. Cost: a binary search.
    pub fn object_of(&self, edge: usize) -> usize {
        self.search(edge, 0, self.objects + 1)
    }

    /// The same from `object` on, which begins before it. Cost: as many steps as the distance has bits.
    pub fn object_from(&self, edge: usize, object: usize) -> usize {
        let mut step = 1;
        while object + step <= self.objects && self.start(object + step) as usize <= edge {
            step *= 2;
        }
        self.search(edge, object + step / 2, (object + step).min(self.objects + 1))
    }

    fn search(&self, edge: usize, mut from: usize, mut to: usize) -> usize {
        while from < to {
            let middle = from + (to - from) / 2;
            if self.start(middle) as usize <= edge { from = middle + 1 } else { to = middle }
        }
        from.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_of_few_and_many_edges() {
        let degrees: Vec<u32> =
            (0..5000u32).map(|i| [0, 3, 1, 0, 40, 36, 300, 7, 0, 0, 100_000][i as usize % 11]).collect();
        for n in [0, 1, 7, 8, 9, 16, 17, 4999, 5000] {
            let rows = Rows::of_degrees(degrees[..n].iter().copied());
            let mut at = 0usize;
            for (i, &d) in degrees[..n].iter().enumerate() {
                assert_eq!(rows.edges(i), at..at + d as usize, "object {i} of {n}");
                for edge in [at, at + d as usize / 2].into_iter().filter(|_| d > 0) {
                    assert_eq!(rows.object_of(edge), i, "edge {edge}");
                    for before in [0, i / 2, i.saturating_sub(9), i.saturating_sub(1), i] {
                        assert_eq!(rows.object_from(edge, before), i, "edge {edge} from {before}");
                    }
                }
                at += d as usize;
            }
            assert_eq!(
                (rows.len(), rows.total() as usize, rows.edges(n).len(), rows.edges(n + 9).len()),
                (n, at, 0, 0)
            );
        }
    }

    #[test]
    fn the_last_object_grows() {
        for n in 1..20 {
            let mut rows = Rows::of_degrees((0..n).map(|_| 100));
            rows.add_to_last(1000);
            rows.push(5);
            let n = n as usize;
            assert_eq!((rows.edges(n - 1).len(), rows.edges(n).len()), (1100, 5), "{n} objects");
        }
    }
}
