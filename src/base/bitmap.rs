//! A fixed-size bitmap in 64-bit words, and the same with atomic words for parallel marking.

use std::sync::atomic::{AtomicU64, Ordering};

/// `len` bits, all clear at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    pub fn new(len: usize) -> Self {
        Bitmap { words: vec![0; len.div_ceil(64)], len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// False for an index beyond the end.
    #[inline]
    pub fn get(&self, i: usize) -> bool {
        self.words.get(i / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }

    /// Does nothing for an index beyond the end.
    pub fn set(&mut self, i: usize) {
        if i < self.len {
            self.words[i / 64] |= 1 << (i % 64);
        }
    }

    /// Sets the bits `at + k` for every bit k of `bits`; those beyond the end are ignored.
    pub fn or_word(&mut self, at: usize, bits: u64) {
        let bits = match self.len.saturating_sub(at) {
            0 => return,
            room @ 1..64 => bits & ((1 << room) - 1),
            _ => bits,
        };
        self.words[at / 64] |= bits << (at % 64);
        let high = bits.checked_shr(64 - (at % 64) as u32).unwrap_or(0);
        if high != 0 {
            self.words[at / 64 + 1] |= high;
        }
    }

    /// Sets the bit; true if it was clear before.
    pub fn insert(&mut self, i: usize) -> bool {
        let was = self.get(i);
        self.set(i);
        !was && i < self.len
    }

    pub fn clear(&mut self, i: usize) {
        if i < self.len {
            self.words[i / 64] &= !(1 << (i % 64));
        }
    }

    pub fn count_ones(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Set bits among `from..to`; those beyond the end are clear.
    pub fn count_range(&self, from: usize, to: usize) -> usize {
        let to = to.min(self.len);
        if from >= to {
            return 0;
        }
        let (first, last) = (from / 64, (to - 1) / 64);
        let head = u64::MAX << (from % 64);
        let tail = u64::MAX >> (63 - (to - 1) % 64);
        if first == last {
            return (self.words[first] & head & tail).count_ones() as usize;
        }
        let between: usize = self.words[first + 1..last].iter().map(|w| w.count_ones() as usize).sum();
        between + ((self.words[first] & head).count_ones() + (self.words[last] & tail).count_ones()) as usize
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Indices of set bits, ascending.
    pub fn iter_ones(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(wi, &word)| {
            std::iter::successors((word != 0).then_some(word), |w| {
                let rest = w & (w - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |w| wi * 64 + w.trailing_zeros() as usize)
        })
    }
}

/// Bits that several threads set at once.
pub struct AtomicBitmap {
    words: Vec<AtomicU64>,
    len: usize,
}

impl AtomicBitmap {
    pub fn new(len: usize) -> Self {
        AtomicBitmap { words: (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), len }
    }

    /// Sets the bit; true if this call was the one that set it.
    #[inline]
    pub fn insert(&self, i: usize) -> bool {
        if i >= self.len {
            return false;
        }
        let bit = 1u64 << (i % 64);
        let word = &self.words[i / 64];
        // Look before writing: most visits find the bit set, and a plain load does not take the cache line away.
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Sets all of `bits` in the word of bit 64 * `word`, and answers those that this call set; those beyond the end are
    /// ignored.
    #[inline]
    pub fn insert_word(&self, word: usize, bits: u64) -> u64 {
        let bits = if word == self.len / 64 { bits & ((1 << (self.len % 64)) - 1) } else { bits };
        match self.words.get(word) {
            Some(w) if w.load(Ordering::Relaxed) & bits != bits => bits & !w.fetch_or(bits, Ordering::Relaxed),
            _ => 0,
        }
    }

    pub fn get(&self, i: usize) -> bool {
        self.words.get(i / 64).is_some_and(|w| w.load(Ordering::Relaxed) >> (i % 64) & 1 == 1)
    }

    /// No bit is set.
    pub fn is_clear(&self) -> bool {
        self.words.iter().all(|w| w.load(Ordering::Relaxed) == 0)
    }

    pub fn clear(&self, i: usize) {
        if let Some(word) = self.words.get(i / 64) {
            word.fetch_and(!(1 << (i % 64)), Ordering::Relaxed);
        }
    }

    pub fn into_bitmap(self) -> Bitmap {
        Bitmap { words: self.words.into_iter().map(AtomicU64::into_inner).collect(), len: self.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_entered_at_any_bit() {
        for at in [0, 1, 63, 64, 100, 130, 199, 200, 300] {
            let mut by_word = Bitmap::new(200);
            by_word.or_word(at, 0x8000_0000_0000_00f1);
            let mut by_bit = Bitmap::new(200);
            for k in [0, 4, 5, 6, 7, 63] {
                by_bit.set(at + k);
            }
            assert_eq!(by_word, by_bit, "at {at}");
        }
    }

    #[test]
    fn ranges_are_counted() {
        let mut b = Bitmap::new(200);
        (0..200).filter(|i| i % 3 == 0).for_each(|i| b.set(i));
        for from in [0, 1, 63, 64, 65, 127, 190, 200, 300] {
            for to in [0, 1, 62, 64, 65, 128, 199, 200, 400] {
                let slowly = (from..to).filter(|&i| b.get(i)).count();
                assert_eq!(b.count_range(from, to), slowly, "{from}..{to}");
            }
        }
    }

    #[test]
    fn ones_are_listed_in_order() {
        let mut b = Bitmap::new(200);
        for i in [0, 63, 64, 130, 199] {
            b.set(i);
        }
        b.set(200);
        assert_eq!(b.iter_ones().collect::<Vec<_>>(), [0, 63, 64, 130, 199]);
        assert_eq!(b.count_ones(), 5);
    }
}
