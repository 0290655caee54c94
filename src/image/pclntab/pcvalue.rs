//! pc-value tables: runs of (value, length in pc quanta), delta coded (runtime/symtab.go, `pcvalue`).

use std::cell::RefCell;

use crate::base::bytes;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Key {
    pub table: u32,
    pub off: u32,
    pub entry: u32,
    pub within: u32,
}

/// Goroutines park in few places: the same (table, pc) is asked for again and again.
const SLOTS: usize = 1024;

thread_local! {
    static CACHE: RefCell<Vec<(Key, Option<i32>)>> = RefCell::new(vec![(Key::default(), None); SLOTS]);
}

pub(super) fn cached(key: Key, compute: impl FnOnce() -> Option<i32>) -> Option<i32> {
    CACHE.with(|cache| {
        let mix = key.off ^ key.within.wrapping_mul(0x9e37_79b1) ^ key.entry.rotate_left(11);
        let slot = (mix.wrapping_mul(0x85eb_ca6b) >> 22) as usize % SLOTS;
        let Ok(mut cache) = cache.try_borrow_mut() else { return compute() };
        let entry = &mut cache[slot];
        if entry.0 != key {
            *entry = (key, compute());
        }
        entry.1
    })
}

/// The value that holds `within` bytes behind the function's entry; `None` where the table says nothing or is damaged.
pub(super) fn lookup(mut data: &[u8], quantum: u64, within: u64, size: u32) -> Option<i32> {
    let mut value = -1i32;
    let mut pc = 0u64;
    // Steps are at least one quantum long in what the linker writes; the slack is for damaged tables only.
    for step in 0..2 * u64::from(size) + 64 {
        let (delta, n) = uvarint32(data)?;
        if delta == 0 && step != 0 {
            return None;
        }
        data = data.get(n..)?;
        value = value.wrapping_add(if delta & 1 != 0 { !(delta >> 1) } else { delta >> 1 } as i32);
        let (run, n) = uvarint32(data)?;
        data = data.get(n..)?;
        pc += u64::from(run) * quantum;
        if within < pc {
            return Some(value);
        }
    }
    None
}

/// One-byte numbers are nearly all there are.
fn uvarint32(data: &[u8]) -> Option<(u32, usize)> {
    match data.first()? {
        &b if b < 0x80 => Some((u32::from(b), 1)),
        _ => bytes::uvarint(data).and_then(|(v, n)| Some((u32::try_from(v).ok()?, n))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_their_ends() {
        // -1 +1 = 0 for 4 bytes, +8 for 2, -8 for 1, end.
        let table = [2, 4, 16, 2, 15, 1, 0];
        let at = |pc| lookup(&table, 1, pc, 7);
        assert_eq!([0, 3, 4, 5, 6, 7].map(at), [Some(0), Some(0), Some(8), Some(8), Some(0), None]);
        assert_eq!(lookup(&table, 4, 16, 28), Some(8));
        // A first delta of zero keeps -1 and is not an end.
        assert_eq!(lookup(&[0, 5, 2, 1, 0], 1, 0, 6), Some(-1));
        for n in 0..table.len() - 1 {
            assert_eq!(lookup(&table[..n], 1, 6, 7), None);
        }
    }
}
