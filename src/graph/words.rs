//! Where in its holder each edge's pointer lies: half a byte or one an edge, and a short list for what does not fit.

use std::ops::Range;

use crate::os::memory;

/// Edges per entry of the index into `high`.
const BLOCK: usize = 4096;
/// Edges that are kept alike: in half a byte each, if all of them fit.
const RUN: usize = 256;
/// Edges whose words are given out together.
pub const PACK: usize = 64;
/// Unit in which starts of runs are counted.
const UNIT: usize = RUN / 2;

/// Word index of the pointer of every edge. The low byte is kept per edge; the rest changes rarely from one edge to the
/// next (objects of up to 2 KiB have none, large arrays have a new one every 256 edges) and is kept as runs.
#[derive(Clone, Debug, Default)]
pub struct EdgeWords {
    /// Low bytes of complete runs of `RUN` edges: nibbles where all words of a run are below 16 (objects of up to 128
    /// bytes).
    low: Vec<u8>,
    /// Of each complete run: where it begins in `low` in units, times two, and one if it has bytes.
    runs: Vec<u32>,
    /// Low bytes of the run that is not complete.
    open: Vec<u8>,
    /// (edge, word / 256) from that edge on; sorted by edge; zero before the first entry.
    high: Vec<(u32, u32)>,
    /// Entries of `high` before the first edge of each block.
    blocks: Vec<u32>,
}

impl EdgeWords {
    pub fn len(&self) -> usize {
        self.runs.len() * RUN + self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Room for the low bytes of so many edges, as far as there is any: what is not used costs nothing until `shrink`.
    pub fn reserve(&mut self, edges: usize) {
        let _ = self.low.try_reserve_exact(edges);
        memory::huge(&mut self.low);
    }

    /// Gives up the room that is not used.
    pub fn shrink(&mut self) {
        self.low.shrink_to_fit();
    }

    /// Adds the word of the next edge.
    pub fn push(&mut self, word: u32) {
        let edge = self.len();
        if edge.is_multiple_of(BLOCK) {
            self.blocks.push(self.high.len() as u32);
        }
        let high = word >> 8;
        if high != self.high.last().map_or(0, |h| h.1) {
            self.high.push((edge as u32, high));
        }
        self.open.push(word as u8);
        if self.open.len() == RUN {
            self.close();
        }
    }

    fn close(&mut self) {
        let at = (self.low.len() / UNIT) as u32;
        let first = (self.runs.len() * RUN) as u32;
        let high = self.high.last().is_some_and(|&(edge, high)| high != 0 || edge >= first);
        let wide = high || self.open.iter().fold(0, |all, &w| all | w) > 15;
        self.runs.push(at << 1 | u32::from(wide));
        if wide {
            self.low.extend_from_slice(&self.open);
        } else {
            self.low.extend(self.open.chunks_exact(2).map(|w| w[0] | w[1] << 4));
        }
        self.open.clear();
    }

    /// Adds the words of the next edges.
    pub fn extend(&mut self, words: &[u32]) {
        let mut rest = words;
        while !rest.is_empty() {
            if self.open.is_empty()
                && self.high.last().is_none_or(|h| h.1 == 0)
                && let Some((run, tail)) = rest.split_first_chunk::<RUN>()
                && run.iter().fold(0, |all, &w| all | w) < 16
            {
                // A whole run of half a byte each, as most are.
                if self.len().is_multiple_of(BLOCK) {
                    self.blocks.push(self.high.len() as u32);
                }
                self.runs.push((self.low.len() / UNIT) as u32 * 2);
                self.low.extend(run.as_chunks::<2>().0.iter().map(|w| (w[0] | w[1] << 4) as u8));
                rest = tail;
                continue;
            }
            let (head, tail) = rest.split_at((RUN - self.open.len()).min(rest.len()));
            rest = tail;
            // Nothing but low bytes, as nearly always.
            let plain = head.iter().fold(0, |all, &w| all | w) < 256 && self.high.last().is_none_or(|h| h.1 == 0);
            if !plain {
                head.iter().for_each(|&w| self.push(w));
                continue;
            }
            if self.len().is_multiple_of(BLOCK) {
                self.blocks.push(self.high.len() as u32);
            }
            self.open.extend(head.iter().map(|&w| w as u8));
            if self.open.len() == RUN {
                self.close();
            }
        }
    }

    /// Low byte of an edge's word. Panics beyond the last edge.
    #[inline]
    fn low(&self, edge: usize) -> u8 {
        let (run, i) = (edge / RUN, edge % RUN);
        match self.runs.get(run) {
            None if run == self.runs.len() => self.open[i],
            None => panic!("edge {edge} of {}", self.len()),
            Some(&r) => {
                let at = (r >> 1) as usize * UNIT;
                if r & 1 == 1 { self.low[at + i] } else { self.low[at + i / 2] >> (4 * (i & 1)) & 15 }
            }
        }
    }

    /// Word of the source slot in which the pointer of `edge` lies. Panics beyond the last edge.
    #[inline]
    pub fn get(&self, edge: usize) -> u64 {
        let low = u64::from(self.low(edge));
        if self.high.is_empty() { low } else { self.high_of(edge) << 8 | low }
    }

    /// The words of edges 64 * `block` and the 63 after it, half a byte each, the low half first; `None` where they take more.
    #[inline]
    pub fn packed(&self, block: usize) -> Option<&[u8; PACK / 2]> {
        let &r = self.runs.get(block / (RUN / PACK))?;
        let at = (r >> 1) as usize * UNIT + block % (RUN / PACK) * (PACK / 2);
        if r & 1 == 1 { None } else { self.low.get(at..)?.first_chunk() }
    }

    /// Bit i: one of the edges lies in word i. `None` where that cannot be told at a glance.
    #[inline]
    pub fn held(&self, edges: Range<usize>) -> Option<u16> {
        let mut held = 0;
        let mut at = edges.start;
        while at < edges.end {
            let packed = self.packed(at / PACK)?;
            let end = edges.end.min((at / PACK + 1) * PACK);
            for i in at % PACK..at % PACK + (end - at) {
                held |= 1 << (packed[i / 2] >> (4 * (i & 1)) & 15);
            }
            at = end;
        }
        Some(held)
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
        let (mut run, mut low, mut wide) = (usize::MAX, [].as_slice(), true);
        edges.map(move |edge| {
            if edge / RUN != run {
                run = edge / RUN;
                (low, wide) = match self.runs.get(run) {
                    Some(&r) => (&self.low[(r >> 1) as usize * UNIT..], r & 1 == 1),
                    None => (self.open.as_slice(), true),
                };
            }
            let i = edge % RUN;
            let byte = if wide { low[i] } else { low[i / 2] >> (4 * (i & 1)) & 15 };
            if rest.get(next).is_some_and(|h| h.0 as usize == edge) {
                high = u64::from(rest[next].1) << 8;
                next += 1;
            }
            high | u64::from(byte)
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
            // Long stretches of small objects, so that some runs have half a byte an edge.
            let n = if object / 200 % 2 == 0 { n.min(3) * 100 } else { n };
            words.extend(
                (0..n)
                    .map(|w| w * [1, 7, 130][object as usize % 3] % if object / 200 % 2 == 0 { 16 } else { u32::MAX }),
            );
        }
        let whole: EdgeWords = words.iter().copied().collect();
        let mut joined = EdgeWords::default();
        let (mut rest, mut n) = (words.as_slice(), 1);
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(n.min(rest.len()));
            joined.extend(head);
            (rest, n) = (tail, n * 3 % 10007);
        }
        for (i, &w) in words.iter().enumerate().step_by(13) {
            assert_eq!((whole.get(i), joined.get(i)), (w.into(), w.into()), "edge {i}");
        }
        let mut packed = 0;
        for (block, want) in words.as_chunks::<PACK>().0.iter().enumerate() {
            let Some(low) = joined.packed(block) else { continue };
            packed += 1;
            let got = low.iter().flat_map(|b| [u32::from(b & 15), u32::from(b >> 4)]);
            assert!(got.eq(want.iter().copied()), "block {block}");
        }
        assert!(packed > words.len() / PACK / 20, "{packed} of {}", words.len() / PACK);
        let mut told = 0;
        for from in 0..words.len() - 150 {
            let n = from % 151;
            if let Some(held) = joined.held(from..from + n) {
                let want = words[from..from + n].iter().fold(0u32, |all, &w| all | 1 << w);
                assert_eq!(u32::from(held), want, "{n} from {from}");
                told += usize::from(n > 100);
            }
        }
        assert!(told > words.len() / 100, "{told}");
        for from in (0..words.len()).step_by(977) {
            let to = words.len().min(from + 5000);
            assert!(joined.iter(from..to).eq(words[from..to].iter().map(|&w| u64::from(w))), "from {from}");
        }
    }
}
