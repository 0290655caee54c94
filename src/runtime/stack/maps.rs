//! Stack maps and records of stack objects, as the compiler wrote them (runtime/symtab.go stackmap, runtime/stkframe.go
//! stackObjectRecord): bytes only, nothing of a stack.

use crate::{
    base::{Addr, bytes},
    image::Functions,
};

/// Stack objects of one function: the compiler sets no limit; each is a variable of the source.
const MAX_OBJECTS: u64 = 1 << 16;

/// A variable on the stack whose address is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    /// From the arguments where not negative, else from the end of the locals.
    pub offset: i32,
    pub size: u64,
    /// Bytes of it that hold pointers.
    pub ptr_bytes: u64,
    /// Of its pointer mask from `moduledata.rodata`.
    pub mask: u32,
    /// The mask is a GC program (up to Go 1.23, for large variables).
    pub program: bool,
}

/// Bitmap `index` (negative: the first) of the stack map at `map`, one bit a word: its width and its bytes. `most`: words that the
/// frame has; a wider bitmap is damaged.
pub fn bitmap(table: &Functions, map: Addr, index: i32, most: u64) -> Result<(u64, &[u8]), &'static str> {
    let head = table.funcdata_bytes(map, 8).ok_or("it cannot be read")?;
    let word = |at| u64::try_from(bytes::i32_at(head, at).unwrap_or(-1)).map_err(|_| "a count is negative");
    let (n, words) = (word(0)?, word(4)?);
    let index = index.max(0) as u64;
    if index >= n {
        return Err("it has fewer bitmaps");
    }
    if words > most {
        return Err("it has more words than the frame");
    }
    let len = words.div_ceil(8);
    let bits = table.funcdata_bytes(map.offset(8 + index * len), len as usize).ok_or("it ends too early")?;
    Ok((words, bits))
}

/// The records at `at`; `None` where they cannot be there.
pub fn objects(table: &Functions, at: Addr) -> Option<impl Iterator<Item = Object> + '_> {
    let n = bytes::u64_at(table.funcdata_bytes(at, 8)?, 0).filter(|&n| n < MAX_OBJECTS)?;
    let records = table.funcdata_bytes(at.offset(8), 16 * n as usize)?;
    Some(records.chunks_exact(16).map(|r| {
        let get = |o| bytes::i32_at(r, o).unwrap_or(0);
        Object {
            offset: get(0),
            size: get(4).max(0) as u64,
            // Negative: up to Go 1.23 it says that the mask is a program (stackObjectRecord.useGCProg).
            ptr_bytes: get(8).unsigned_abs().into(),
            mask: bytes::u32_at(r, 12).unwrap_or(0),
            program: get(8) < 0,
        }
    }))
}
