//! Distinct pieces of evidence, by number: an object then needs four bytes, and most objects share few of them.

use std::{
    collections::HashMap,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use super::engine::Key;

/// Numbers of the first block; each further one has twice as many.
const FIRST: usize = 1 << 10;
/// Blocks for all numbers of 32 bits.
const BLOCKS: usize = 23;
/// Entries of the table of numbers that were asked for last.
const RECENT: usize = 1 << 12;

/// Numbers that threads give out and look up at once. 0 is no evidence.
pub(super) struct Numbers {
    /// Keys by number. Blocks do not move, so that a look needs no lock.
    blocks: [OnceLock<Box<[AtomicU64]>>; BLOCKS],
    /// Numbers by a hash of their keys; 0 for none.
    recent: Box<[AtomicU32]>,
    all: Mutex<HashMap<u64, u32>>,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers {
            blocks: [const { OnceLock::new() }; BLOCKS],
            recent: (0..RECENT).map(|_| AtomicU32::new(0)).collect(),
            all: Mutex::default(),
        }
    }
}

/// Block of a number, and the place in it.
#[inline]
fn place(number: u32) -> (usize, usize) {
    let n = number as usize + FIRST;
    let block = (n.ilog2() - FIRST.ilog2()) as usize;
    (block, n - (FIRST << block))
}

impl Numbers {
    /// The evidence of a number that was given out.
    #[inline]
    pub fn key(&self, number: u32) -> Key {
        if number == 0 {
            return Key::default();
        }
        let (block, at) = place(number);
        self.blocks[block].get().and_then(|b| b.get(at)).map_or(Key::default(), |k| Key(k.load(Ordering::Acquire)))
    }

    /// The number of a key, a new one if it has none.
    pub fn of(&self, key: Key) -> u32 {
        if key == Key::default() {
            return 0;
        }
        let recent = &self.recent[(key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RECENT.ilog2())) as usize];
        let number = recent.load(Ordering::Acquire);
        if number != 0 && self.key(number) == key {
            return number;
        }
        let mut all = self.all.lock().unwrap_or_else(|e| e.into_inner());
        let next = all.len() as u32 + 1;
        let number = *all.entry(key.0).or_insert(next);
        if number == next {
            let (block, at) = place(number);
            let fresh = || (0..FIRST << block).map(|_| AtomicU64::new(0)).collect();
            self.blocks[block].get_or_init(fresh)[at].store(key.0, Ordering::Release);
        }
        recent.store(number, Ordering::Release);
        number
    }

    /// All keys, by number.
    pub fn into_keys(self) -> Vec<Key> {
        let n = self.all.lock().unwrap_or_else(|e| e.into_inner()).len() as u32;
        (0..=n).map(|number| self.key(number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_keys() {
        let numbers = Numbers::default();
        let keys: Vec<Key> = (0..20_000u64).map(|i| Key(i * i % 7919 * 1_000_003)).collect();
        let given: Vec<Vec<u32>> = std::thread::scope(|s| {
            let one = || keys.iter().map(|&k| numbers.of(k)).collect::<Vec<u32>>();
            let all: Vec<_> = (0..4).map(|_| s.spawn(one)).collect();
            all.into_iter().map(|t| t.join().expect("a thread")).collect()
        });
        for (i, &key) in keys.iter().enumerate() {
            assert!(given.iter().all(|g| g[i] == given[0][i] && numbers.key(g[i]) == key), "key {i}");
        }
        let distinct: std::collections::BTreeSet<u64> = keys.iter().map(|k| k.0).chain([0]).collect();
        assert_eq!(numbers.into_keys().len(), distinct.len());
    }
}
