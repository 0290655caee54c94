//! Reading very many small things that lie close together (mspans, mark bits) by the pages that they lie in: a range costs
//! the kernel about a microsecond, however short it is.

use crate::{
    base::Addr,
    target::{Fault, Memory},
};

const PAGE: u64 = 4096;
/// Pages of one range.
const RUN: u64 = 16;

/// Pages that were read, found again by address.
pub(super) struct Clusters {
    /// (first address, where its bytes begin, bytes), by address.
    runs: Vec<(u64, usize, usize)>,
    bytes: Vec<u8>,
}

impl Clusters {
    /// Reads all pages that the ranges (address, length) touch. Cost: a sort of the ranges, one range of the kernel for each
    /// run of pages that follow each other. Memory: those pages.
    pub fn read(memory: &dyn Memory, wanted: impl Iterator<Item = (Addr, usize)>) -> Clusters {
        let mut pages: Vec<u64> = Vec::new();
        for (addr, len) in wanted {
            let first = addr.0 / PAGE;
            let last = addr.0.saturating_add(len.saturating_sub(1) as u64) / PAGE;
            // Nothing that is looked for here is longer than some pages; the rest is read by itself.
            pages.extend(first..=last.min(first + RUN));
        }
        pages.sort_unstable();
        pages.dedup();
        let mut runs: Vec<(u64, usize, usize)> = Vec::new();
        let mut at = 0;
        for &page in &pages {
            match runs.last_mut() {
                Some((start, _, len)) if *start + *len as u64 == page * PAGE && (*len as u64) < RUN * PAGE => {
                    *len += PAGE as usize;
                }
                _ => runs.push((page * PAGE, at, PAGE as usize)),
            }
            at += PAGE as usize;
        }
        let mut bytes = vec![0; at];
        let mut rest = bytes.as_mut_slice();
        let mut ranges: Vec<(Addr, &mut [u8])> = Vec::with_capacity(runs.len());
        for &(start, _, len) in &runs {
            let (head, tail) = rest.split_at_mut(len);
            ranges.push((Addr(start), head));
            rest = tail;
        }
        let results = memory.read_scattered(&mut ranges);
        let mut ok = results.iter().map(Result::is_ok);
        runs.retain(|_| ok.next().unwrap_or(false));
        Clusters { runs, bytes }
    }

    /// Fills `buf` from `addr`: from the pages, or by a read of its own where those could not be read as a whole.
    pub fn get(&self, memory: &dyn Memory, addr: Addr, buf: &mut [u8]) -> Result<(), Fault> {
        let (mut at, mut done) = (addr.0, 0);
        while done < buf.len() {
            let run = self.runs.partition_point(|r| r.0 <= at).checked_sub(1).map(|i| self.runs[i]);
            let Some((start, from, len)) = run.filter(|r| at - r.0 < r.2 as u64) else {
                return memory.read(Addr(at), &mut buf[done..]);
            };
            let skip = (at - start) as usize;
            let n = (len - skip).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&self.bytes[from + skip..from + skip + n]);
            done += n;
            at = at.saturating_add(n as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::fake::FakeMemory;

    /// Whatever lies where, whole pages or not: the same as reads one by one.
    #[test]
    fn equals_single_reads() {
        let mut memory = FakeMemory::new();
        let byte = |a: u64| (a ^ a >> 8 ^ a >> 16) as u8;
        for (start, len) in [(0x1000u64, 3 * 4096usize), (0x8000, 40 * 4096), (0x50010, 100), (0x60000, 5000)] {
            memory = memory.with(start, (0..len as u64).map(|i| byte(start + i)).collect::<Vec<u8>>());
        }
        let wanted: Vec<(Addr, usize)> =
            (0x0f00..0x62000u64).step_by(333).map(|a| (Addr(a), (a % 700) as usize + 1)).collect();
        let clusters = Clusters::read(&memory, wanted.iter().copied());
        for &(addr, len) in &wanted {
            let (mut one, mut many) = (vec![0; len], vec![0; len]);
            let single = memory.read(addr, &mut one);
            let clustered = clusters.get(&memory, addr, &mut many);
            assert_eq!(single.is_ok(), clustered.is_ok(), "{addr} {len}");
            if single.is_ok() {
                assert_eq!(one, many, "{addr} {len}");
            }
        }
    }
}
