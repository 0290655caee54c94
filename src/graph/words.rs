//! Where in its holder each edge's pointer lies: one byte an edge, and a short list for what does not fit.

use std::ops::Range;

/// Edges per entry of the index into `high`.
const BLOCK: usize = 4096;

/// Word index of the pointer of every edge. The low byte is kept per edge; the rest changes rarely from one edge to the
/// next (objects of up to 2 KiB have none, large arrays have a new one every 256 edges) and is kept as runs.
#[derive(Clone, Debug, Default)]
pub struct EdgeWords {
    low: Vec<u8>,
    /// (edge, word / 256) from that edge on; sorted by edge; zero before the first entry.
    high: Vec<(u32, u32)>,
    /// Entries of `high` before the first edge of each block.
    blocks: Vec<u32>,
}

impl EdgeWords {
    pub fn len(&self) -> usize {
        self.low.len()
    }

    pub fn is_empty(&self) -> bool {
        self.low.is_empty()
    }

    /// Adds the word of the next edge.
    pub fn push(&mut self, word: u32) {
        if self.low.len().is_multiple_of(BLOCK) {
            self.blocks.push(self.high.len() as u32);
        }
        let high = word >> 8;
        if high != self.high.last().map_or(0, |h| h.1) {
            self.high.push((self.low.len() as u32, high));
        }
        self.low.push(word as u8);
    }

    pub fn clear(&mut self) {
        self.low.clear();
        self.high.clear();
        self.blocks.clear();
    }

    /// Adds all of `other` behind.
    pub fn append(&mut self, other: &EdgeWords) {
        let base = self.low.len() as u32;
        if other.high.first().is_none_or(|h| h.0 > 0) && !other.is_empty() && self.high.last().is_some_and(|h| h.1 > 0)
        {
            self.high.push((base, 0));
        }
        let high = self.high.len() as u32;
        self.high.extend(other.high.iter().map(|&(edge, word)| (base + edge, word)));
        self.low.extend_from_slice(&other.low);
        // Entries of blocks that begin within `other`.
        let mut at = high as usize;
        while self.blocks.len() * BLOCK < self.low.len() {
            let first = (self.blocks.len() * BLOCK) as u32;
            while self.high.get(at).is_some_and(|h| h.0 < first) {
                at += 1;
            }
            self.blocks.push(at as u32);
        }
    }

    /// Word of the source slot in which the pointer of `edge` lies. Panics beyond the last edge.
    #[inline]
    pub fn get(&self, edge: usize) -> u64 {
        let low = u64::from(self.low[edge]);
        if self.high.is_empty() { low } else { self.high_of(edge) << 8 | low }
    }

    fn high_of(&self, edge: usize) -> u64 {
        self.entry_of(edge).checked_sub(1).map_or(0, |i| self.high[i].1.into())
    }

    /// Entries of `high` at or before `edge`.
    fn entry_of(&self, edge: usize) -> usize {
        let block = edge / BLOCK;
        let from = self.blocks[block] as usize;
        let to = self.blocks.get(block + 1).map_or(self.high.len(), |&b| b as usize);
        from + if from == to { 0 } else { self.high[from..to].partition_point(|h| h.0 as usize <= edge) }
    }

    /// The words of some edges, in order; quicker than asking for each. Panics beyond the last edge.
    #[inline]
    pub fn iter(&self, edges: Range<usize>) -> impl Iterator<Item = u64> + '_ {
        let mut next = if self.high.is_empty() || edges.is_empty() { 0 } else { self.entry_of(edges.start) };
        let mut high = next.checked_sub(1).map_or(0, |i| u64::from(self.high[i].1) << 8);
        let rest = &self.high[..];
        self.low[edges.clone()].iter().zip(edges).map(move |(&low, edge)| {
            if rest.get(next).is_some_and(|h| h.0 as usize == edge) {
                high = u64::from(rest[next].1) << 8;
                next += 1;
            }
            high | u64::from(low)
        })
    }
}

impl FromIterator<u32> for EdgeWords {
    fn from_iter<I: IntoIterator<Item = u32>>(words: I) -> EdgeWords {
        let mut out = EdgeWords::default();
        words.into_iter().for_each(|w| out.push(w));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Objects of all sizes, in pieces of all sizes: what was pushed comes back.
    #[test]
    fn words_come_back() {
        let mut words: Vec<u32> = Vec::new();
        for object in 0..2000u32 {
            let n = [1, 3, 300, 0, 9000][object as usize % 5];
            words.extend((0..n).map(|w| w * [1, 7, 130][object as usize % 3]));
        }
        let whole: EdgeWords = words.iter().copied().collect();
        let mut joined = EdgeWords::default();
        let (mut rest, mut n) = (words.as_slice(), 1);
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(n.min(rest.len()));
            joined.append(&head.iter().copied().collect());
            (rest, n) = (tail, n * 3 % 10007);
        }
        for (i, &w) in words.iter().enumerate().step_by(13) {
            assert_eq!((whole.get(i), joined.get(i)), (w.into(), w.into()), "edge {i}");
        }
        for from in (0..words.len()).step_by(977) {
            let to = words.len().min(from + 5000);
            assert!(joined.iter(from..to).eq(words[from..to].iter().map(|&w| u64::from(w))), "from {from}");
        }
    }
}
