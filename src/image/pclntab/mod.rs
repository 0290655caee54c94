//! image::pclntab: the table of functions that every Go binary carries, stripped or not: names, files, lines, frame
//! sizes, safe points, inlining. Owns `Pclntab` and `Func`. Reads bytes only (of the file, or copied from memory).
//! Layout: runtime/symtab.go and cmd/link/internal/ld/pcln.go; one format from Go 1.18 on, with small steps per release.

use std::{
    ops::Range,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use super::elf::Bytes;
use crate::base::{Addr, bytes};

mod func;
mod funcid;
mod pcvalue;
mod saved;

pub use func::{Frame, Func, FuncFlags, InlineFrames};
pub use funcid::FuncId;
pub use saved::{SavedFrame, SavedFunc, SavedFunctions};

/// Size of `runtime.pcHeader`.
pub const HEADER_LEN: usize = 72;
pub const MAGIC_118: u32 = 0xffff_fff0;
pub const MAGIC_120: u32 = 0xffff_fff1;
/// More functions than any program has; also keeps offsets within u32.
const MAX_FUNCS: u64 = 1 << 24;
/// `moduledata.textsectmap` has one entry per 64 MiB or so of text.
pub(super) const MAX_TEXT_SECTIONS: usize = 4096;

/// PCDATA tables, runtime/symtab.go (`internal/abi.PCDATA_*`); the same in all releases.
pub mod pcdata {
    pub const UNSAFE_POINT: u32 = 0;
    pub const STACK_MAP_INDEX: u32 = 1;
    pub const INL_TREE_INDEX: u32 = 2;
    pub const ARG_LIVE_INDEX: u32 = 3;
}

/// FUNCDATA records, runtime/symtab.go (`internal/abi.FUNCDATA_*`); the same in all releases.
pub mod funcdata {
    pub const ARGS_POINTER_MAPS: u32 = 0;
    pub const LOCALS_POINTER_MAPS: u32 = 1;
    pub const STACK_OBJECTS: u32 = 2;
    pub const INL_TREE: u32 = 3;
    pub const OPEN_CODED_DEFER_INFO: u32 = 4;
    pub const ARG_INFO: u32 = 5;
    pub const ARG_LIVE_INFO: u32 = 6;
    pub const WRAP_INFO: u32 = 7;
}

/// What pclntab alone does not say; from moduledata.
#[derive(Clone, Default)]
pub struct Place {
    /// Run-time address of the header.
    pub addr: Addr,
    /// `moduledata.text`.
    pub text: Addr,
    /// Exclusive end of text (`moduledata.maxpc`).
    pub etext: Addr,
    /// `moduledata.gofunc`: funcdata offsets count from here.
    pub gofunc: Addr,
    /// Bytes from `gofunc` on, for the inline trees.
    pub gofunc_bytes: Bytes,
    /// (virtual offset, its end, address) of each part of a split text; empty or one entry: not split.
    pub sections: Vec<(u64, u64, u64)>,
    /// The 26 of Go 1.26.
    pub minor: u32,
}

/// The fixed part of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub magic: u32,
    pub quantum: u8,
    pub nfunc: u32,
    pub nfiles: u64,
    /// Unused (zero) since Go 1.26; not relocated in the file of a PIE.
    pub text_start: u64,
    /// funcnametab, cutab, filetab, pctab, pclntable: offsets from the header.
    pub tables: [u64; 5],
}

impl Header {
    /// Decodes and checks a header. `any_magic` accepts the number that an obfuscator put there, if the rest fits.
    pub fn parse(data: &[u8], any_magic: bool) -> Option<Header> {
        let magic = bytes::u32_at(data, 0)?;
        if bytes::u16_at(data, 4)? != 0 || !matches!(data.get(6)?, 1 | 4) || *data.get(7)? != 8 {
            return None;
        }
        if !any_magic && magic != MAGIC_118 && magic != MAGIC_120 {
            return None;
        }
        let word = |i: usize| bytes::u64_at(data, i);
        let header = Header {
            magic,
            quantum: data[6],
            nfunc: u32::try_from(word(8).filter(|n| (1..MAX_FUNCS).contains(n))?).ok()?,
            nfiles: word(16)?,
            text_start: word(24)?,
            tables: [word(32)?, word(40)?, word(48)?, word(56)?, word(64)?],
        };
        let ordered = header.tables.is_sorted() && header.tables[4] < 1 << 32;
        ((65..=128).contains(&header.tables[0]) && ordered).then_some(header)
    }
}

/// Finds a header in `data` (which starts 8-aligned in memory), from `from` on: its offset.
pub fn find_header(data: &[u8], from: usize, any_magic: bool) -> Option<usize> {
    let mut at = from.next_multiple_of(8);
    while let Some(word) = bytes::u64_at(data, at) {
        // Bytes 4 to 7 are 0, 0, quantum, 8: a cheap test that hardly anything else passes.
        let high = word >> 32;
        if (high == 0x0801_0000 || high == 0x0804_0000)
            && Header::parse(&data[at..], any_magic).is_some_and(|h| functab_is_sane(&data[at..], &h))
        {
            return Some(at);
        }
        at += 8;
    }
    None
}

/// Are the first entries of the function table in order?
fn functab_is_sane(data: &[u8], h: &Header) -> bool {
    let base = h.tables[4] as usize;
    let entry = |i: usize| bytes::u32_at(data, base + 8 * i);
    let n = (h.nfunc as usize).min(64);
    (0..n).all(|i| matches!((entry(i), entry(i + 1)), (Some(a), Some(b)) if a <= b))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PclntabError {
    #[error("there is no pclntab header at {0}")]
    NoHeader(Addr),
    #[error("the pclntab at {addr} is cut short: its {table} starts at offset {offset:#x} of {len:#x} bytes")]
    Short { addr: Addr, table: &'static str, offset: u64, len: u64 },
}

/// The function table of one module.
pub struct Pclntab {
    bytes: Bytes,
    place: Place,
    header: Header,
    names: usize,
    cutab: usize,
    files: usize,
    pctab: usize,
    funcs: usize,
    /// Bytes of a func record before its pcdata offsets.
    record_len: usize,
    /// Distinguishes tables in the per-thread cache of pc values.
    id: u32,
    by_name: OnceLock<Vec<u32>>,
}

impl Pclntab {
    pub fn parse(bytes: Bytes, place: Place) -> Result<Pclntab, PclntabError> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let header = Header::parse(&bytes, true).ok_or(PclntabError::NoHeader(place.addr))?;
        let len = bytes.len() as u64;
        let functab_end = header.tables[4] + 8 * u64::from(header.nfunc) + 4;
        for (table, offset) in ["funcnametab", "cutab", "filetab", "pctab", "pclntable"].into_iter().zip(header.tables)
        {
            if offset > len {
                return Err(PclntabError::Short { addr: place.addr, table, offset, len });
            }
        }
        if functab_end > len {
            return Err(PclntabError::Short { addr: place.addr, table: "functab's end", offset: functab_end, len });
        }
        let [names, cutab, files, pctab, funcs] = header.tables.map(|o| o as usize);
        let old = header.magic == MAGIC_118 || (header.magic != MAGIC_120 && place.minor < 20);
        let record_len = if old { 40 } else { 44 };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Pclntab {
            bytes,
            place,
            header,
            names,
            cutab,
            files,
            pctab,
            funcs,
            record_len,
            id,
            by_name: OnceLock::new(),
        })
    }

    /// A table of no functions.
    fn nothing(header: Header, place: Place) -> Pclntab {
        Pclntab {
            bytes: Bytes::default(),
            place,
            header,
            names: 0,
            cutab: 0,
            files: 0,
            pctab: 0,
            funcs: 0,
            record_len: 44,
            id: 0,
            by_name: OnceLock::new(),
        }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.header.nfunc as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is `pc` inside this module's text? (It may still be in a gap, or in C code.)
    #[inline]
    pub fn contains(&self, pc: Addr) -> bool {
        self.place.text <= pc && pc < self.place.etext
    }

    /// The function that contains `pc`. Binary search, no allocation. A return address behind a call that never
    /// returns belongs to the next function: ask for `pc - 1` there.
    pub fn find(&self, pc: Addr) -> Option<Func<'_>> {
        let off = self.text_offset(pc)?;
        let data: &[u8] = &self.bytes;
        let table = data.get(self.funcs..self.funcs + 8 * self.len() + 4)?;
        let (mut lo, mut hi) = (0, self.len());
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if bytes::u32_at(table, 8 * mid)? <= off { lo = mid + 1 } else { hi = mid }
        }
        if lo == self.len() && off >= bytes::u32_at(table, 8 * lo)? {
            return None;
        }
        self.func(lo.checked_sub(1)?)
    }

    /// The function with this index in address order.
    pub fn func(&self, index: usize) -> Option<Func<'_>> {
        if index >= self.len() {
            return None;
        }
        let at = self.funcs + 8 * index;
        let record = self.funcs.checked_add(bytes::u32_at(&self.bytes, at + 4)? as usize)?;
        let record = self.bytes.get(record..)?;
        (record.len() >= self.record_len).then_some(Func { tab: self, record, index: index as u32, saved: None })
    }

    /// All functions in address order.
    pub fn funcs(&self) -> impl Iterator<Item = Func<'_>> {
        (0..self.len()).filter_map(|i| self.func(i))
    }

    /// The first function (in address order) of exactly this name. The index of names is built on first use.
    pub fn find_name(&self, name: &str) -> Option<Func<'_>> {
        let index = self.by_name.get_or_init(|| {
            let mut order: Vec<u32> = (0..self.header.nfunc).collect();
            order.sort_by_cached_key(|&i| self.raw_name_of(i));
            order
        });
        let i = index.partition_point(|&i| self.raw_name_of(i) < name.as_bytes());
        let f = self.func(*index.get(i)? as usize)?;
        (f.raw_name() == name.as_bytes()).then_some(f)
    }

    fn raw_name_of(&self, index: u32) -> &[u8] {
        self.func(index as usize).map_or(&[][..], |f| f.raw_name())
    }

    /// Run-time address of an offset from text, through the map of a split text.
    fn text_addr(&self, off: u32) -> Addr {
        let off = u64::from(off);
        match self.place.sections.iter().find(|(start, end, _)| *start <= off && off < *end) {
            Some((start, _, base)) if self.place.sections.len() > 1 => Addr(base.wrapping_add(off - start)),
            _ => self.place.text.offset(off),
        }
    }

    fn text_offset(&self, pc: Addr) -> Option<u32> {
        if !self.contains(pc) {
            return None;
        }
        if self.place.sections.len() > 1 {
            return self.place.sections.iter().find_map(|(start, end, base)| {
                let within = pc.0.checked_sub(*base)?;
                (within < end.saturating_sub(*start)).then(|| u32::try_from(start + within).ok())?
            });
        }
        u32::try_from(pc.distance_from(self.place.text)?).ok()
    }

    fn entry_offset(&self, index: usize) -> Option<u32> {
        bytes::u32_at(&self.bytes, self.funcs + 8 * index)
    }

    fn str_at(&self, table: usize, off: u64) -> &[u8] {
        /// No symbol or path is longer; the linker's own limit is lower.
        const MAX_NAME: usize = 1 << 16;
        let at = usize::try_from(off).ok().and_then(|o| table.checked_add(o));
        at.and_then(|at| bytes::cstr_at(&self.bytes, at, MAX_NAME)).unwrap_or_default()
    }

    /// Path of a file by compilation unit offset and number in it.
    fn file(&self, cu_offset: u32, number: i32) -> Option<&str> {
        let slot = u64::from(cu_offset).checked_add(u64::try_from(number).ok()?)?;
        let at = self.cutab.checked_add(usize::try_from(slot.checked_mul(4)?).ok()?)?;
        let off = bytes::u32_at(&self.bytes, at).filter(|o| *o != u32::MAX)?;
        text(self.str_at(self.files, u64::from(off)))
    }

    /// Value of the table at `off` in pctab for a pc that lies `within` bytes behind the entry of a function of
    /// `size` bytes. The last answers are cached per thread.
    fn pc_value(&self, off: u32, entry: u32, size: u32, within: u64) -> Option<i32> {
        if off == 0 {
            return None;
        }
        let key = pcvalue::Key { table: self.id, off, entry, within: u32::try_from(within).ok()? };
        pcvalue::cached(key, || {
            let data = self.bytes.get(self.pctab.checked_add(off as usize)?..)?;
            pcvalue::lookup(data, u64::from(self.header.quantum), within, size)
        })
    }

    /// `len` bytes of funcdata at a run-time address.
    pub fn funcdata_at(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(addr.distance_from(self.place.gofunc)?).ok()?;
        self.place.gofunc_bytes.get(at..at.checked_add(len)?)
    }

    /// Range of the table's own bytes in memory.
    pub fn extent(&self) -> Range<Addr> {
        self.place.addr..self.place.addr.offset(self.bytes.len() as u64)
    }
}

fn text(b: &[u8]) -> Option<&str> {
    match std::str::from_utf8(b) {
        Ok(s) => Some(s),
        Err(e) => std::str::from_utf8(&b[..e.valid_up_to()]).ok(),
    }
    .filter(|s| !s.is_empty())
}
