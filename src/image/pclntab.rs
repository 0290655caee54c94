//! The Go function table (runtime/symtab.go, internal/abi/symtab.go): names, files, lines, frame sizes, stack maps and
//! the inline tree of every function, in all Go binaries, stripped or not.

use super::{Image, ImageError, Module};
use crate::{
    base::{Addr, bytes},
    target::Target,
};

const MAGIC_118: u32 = 0xffff_fff0;
const MAGIC_120: u32 = 0xffff_fff1;
/// Largest table that is read, in bytes: a 1 GB binary has about 250 MB.
const MAX_TABLE: u64 = 1 << 30;

/// Tables of PCDATA and FUNCDATA, same numbers in all releases (internal/abi/symtab.go).
pub const PCDATA_STACK_MAP: usize = 1;
const PCDATA_INLTREE: usize = 2;
pub const FUNCDATA_ARGS: usize = 0;
pub const FUNCDATA_LOCALS: usize = 1;
pub const FUNCDATA_STACK_OBJECTS: usize = 2;
const FUNCDATA_INLTREE: usize = 3;

/// Function flags.
pub const FLAG_TOP_FRAME: u8 = 1;
pub const FLAG_SP_WRITE: u8 = 2;

#[derive(Default)]
pub struct Pclntab {
    /// From the header to the end of the functions.
    data: Vec<u8>,
    text: Addr,
    quantum: u64,
    nfunc: usize,
    funcname: usize,
    cu: usize,
    file: usize,
    pc: usize,
    func: usize,
    gofunc: Addr,
    /// Everything from `gofunc` that funcdata may refer to.
    funcdata: Vec<u8>,
    funcdata_base: Addr,
    /// Go 1.20 and later.
    modern: bool,
}

/// One function of the table.
#[derive(Clone, Copy)]
pub struct Func<'t> {
    table: &'t Pclntab,
    rec: usize,
    pub entry: Addr,
}

/// A logical frame: the function a source line belongs to after inlining is undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location<'t> {
    pub function: &'t str,
    pub file: &'t str,
    pub line: u32,
    /// Number of the release's own enumeration (internal/abi FuncID).
    pub func_id: u8,
}

impl Pclntab {
    pub fn read(target: &Target, image: &Image, module: &Module) -> Result<Pclntab, ImageError> {
        let bad = |why: String| ImageError::Inconsistent { what: "the function table (pclntab)", why };
        let at = module.pc_header;
        let head = image.bytes(target, at, 72).ok_or_else(|| bad(format!("cannot read its header at {at}")))?;
        let word = |i: usize| bytes::u64_at(&head, 8 + 8 * i).unwrap_or(0);
        let magic = bytes::u32_at(&head, 0).unwrap_or(0);
        if magic != MAGIC_118 && magic != MAGIC_120 {
            return Err(bad(format!("magic {magic:#x} at {at} is not one of Go 1.18 to 1.27")));
        }
        let offsets: Vec<u64> = (3..8).map(word).collect();
        let func = offsets[4];
        let nfunc = word(0);
        if nfunc > 1 << 24 || offsets.iter().any(|&o| o > MAX_TABLE) {
            return Err(bad(format!("header at {at} names {nfunc} functions and offsets {offsets:x?}")));
        }
        // The last entry of functab is followed by the func records; the table ends where text ends: read what the
        // segment has, bounded by the last record.
        let functab =
            image.bytes(target, at.offset(func), nfunc * 8 + 4).ok_or_else(|| bad("functab is not readable".into()))?;
        let last = bytes::u32_at(&functab, (nfunc as usize).saturating_sub(1) * 8 + 4).unwrap_or(0);
        let len = func + u64::from(last) + 4096;
        let data = (0..12)
            .find_map(|k| image.bytes(target, at, len - 340 * k))
            .ok_or_else(|| bad(format!("cannot read {len} bytes at {at}")))?;
        // Funcdata lies behind go:func.*: in rodata (to 1.25) or behind the functions in .gopclntab (1.26+).
        let base = module.gofunc;
        let mut funcdata = Vec::new();
        let mut size = 64 << 20;
        while size >= 4096 && funcdata.is_empty() {
            funcdata = image.file_bytes(base, size).map(<[u8]>::to_vec).unwrap_or_default();
            size = size * 3 / 4;
        }
        Ok(Pclntab {
            data,
            text: module.text,
            quantum: u64::from(head[6].max(1)),
            nfunc: nfunc as usize,
            funcname: offsets[0] as usize,
            cu: offsets[1] as usize,
            file: offsets[2] as usize,
            pc: offsets[3] as usize,
            func: func as usize,
            gofunc: base,
            funcdata_base: base,
            funcdata,
            modern: magic == MAGIC_120,
        })
    }

    pub fn len(&self) -> usize {
        self.nfunc
    }

    pub fn is_empty(&self) -> bool {
        self.nfunc == 0
    }

    fn entry_off(&self, i: usize) -> Option<u32> {
        bytes::u32_at(&self.data, self.func + 8 * i)
    }

    /// The function that contains `pc`.
    pub fn find(&self, pc: Addr) -> Option<Func<'_>> {
        let off = u32::try_from(pc.distance_from(self.text)?).ok()?;
        let (mut lo, mut hi) = (0, self.nfunc);
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if self.entry_off(mid)? <= off { lo = mid + 1 } else { hi = mid }
        }
        let i = lo.checked_sub(1)?;
        (off < self.entry_off(i + 1)?).then(|| self.nth(i))?
    }

    /// The i-th function by address.
    pub fn nth(&self, i: usize) -> Option<Func<'_>> {
        let entry = self.text.offset(u64::from(self.entry_off(i)?));
        let rec = self.func + bytes::u32_at(&self.data, self.func + 8 * i + 4)? as usize;
        Some(Func { table: self, rec, entry })
    }

    fn name_at(&self, off: i32) -> &str {
        let at = usize::try_from(off).ok().and_then(|o| self.funcname.checked_add(o));
        at.and_then(|a| bytes::cstr_at(&self.data, a, 4096)).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or("?")
    }

    /// A pc-value table: the value at `target` (an offset from the function's entry).
    fn value(&self, table: u32, target: u64) -> Option<i32> {
        if table == 0 {
            return None;
        }
        let mut rest = self.data.get(self.pc.checked_add(table as usize)?..)?;
        let mut value = -1i32;
        let mut pc = 0u64;
        let mut first = true;
        loop {
            let (delta, n) = bytes::uvarint(rest)?;
            if delta == 0 && !first {
                return None;
            }
            first = false;
            let delta = delta as u32;
            let step = if delta & 1 == 1 { -((delta >> 1) as i32) - 1 } else { (delta >> 1) as i32 };
            value = value.wrapping_add(step);
            rest = &rest[n..];
            let (advance, n) = bytes::uvarint(rest)?;
            rest = &rest[n..];
            pc = pc.checked_add(advance.checked_mul(self.quantum)?)?;
            if target < pc {
                return Some(value);
            }
        }
    }

    /// Bytes of funcdata at a run-time address.
    pub fn funcdata_bytes(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(addr.distance_from(self.funcdata_base)?).ok()?;
        self.funcdata.get(at..at.checked_add(len)?)
    }
}

impl<'t> Func<'t> {
    fn u32(&self, off: usize) -> u32 {
        bytes::u32_at(&self.table.data, self.rec + off).unwrap_or(0)
    }

    fn u8(&self, off: usize) -> u8 {
        // Go 1.20 put startLine before funcID.
        let shift = if self.table.modern { 4 } else { 0 };
        bytes::u8_at(&self.table.data, self.rec + off + shift).unwrap_or(0)
    }

    pub fn name(&self) -> &'t str {
        self.table.name_at(self.u32(4) as i32)
    }

    /// Bytes of stack arguments and results; negative: unknown (assembly).
    pub fn args(&self) -> i32 {
        self.u32(8) as i32
    }

    pub fn deferreturn(&self) -> u32 {
        self.u32(12)
    }

    /// Number of the release's own enumeration (internal/abi FuncID).
    pub fn func_id(&self) -> u8 {
        self.u8(36)
    }

    pub fn flag(&self) -> u8 {
        self.u8(37)
    }

    /// Bytes between sp and the frame's end at `pc` (return address not included on amd64).
    pub fn sp_delta(&self, pc: Addr) -> Option<i32> {
        self.table.value(self.u32(16), pc.distance_from(self.entry)?)
    }

    fn tables(&self) -> usize {
        self.rec + if self.table.modern { 44 } else { 40 }
    }

    pub fn pcdata(&self, table: usize, pc: Addr) -> i32 {
        let n = self.u32(28) as usize;
        if table >= n.min(64) {
            return -1;
        }
        let off = bytes::u32_at(&self.table.data, self.tables() + 4 * table).unwrap_or(0);
        pc.distance_from(self.entry).and_then(|p| self.table.value(off, p)).unwrap_or(-1)
    }

    pub fn funcdata(&self, index: usize) -> Option<Addr> {
        if index >= self.u8(39) as usize {
            return None;
        }
        let n = (self.u32(28) as usize).min(64);
        let off = bytes::u32_at(&self.table.data, self.tables() + 4 * (n + index))?;
        (off != u32::MAX).then(|| self.table.gofunc.offset(u64::from(off)))
    }

    fn file(&self, number: i32) -> &'t str {
        let t = self.table;
        let off = usize::try_from(number)
            .ok()
            .and_then(|n| bytes::u32_at(&t.data, t.cu + 4 * (self.u32(32) as usize + n)))
            .filter(|&o| o != u32::MAX);
        off.and_then(|o| bytes::cstr_at(&t.data, t.file + o as usize, 4096))
            .and_then(|b| std::str::from_utf8(b).ok())
            .unwrap_or("?")
    }

    fn file_line(&self, off: u64) -> (&'t str, u32) {
        let file = self.table.value(self.u32(20), off).unwrap_or(-1);
        let line = self.table.value(self.u32(24), off).unwrap_or(0);
        (self.file(file), line.max(0) as u32)
    }

    /// Logical frames at `pc`, innermost first; the last is the function itself. `pc` is inside the instruction
    /// (return address minus one for callers).
    pub fn locations(&self, pc: Addr) -> Vec<Location<'t>> {
        let mut out = Vec::new();
        let Some(mut off) = pc.distance_from(self.entry) else { return out };
        let tree = self.funcdata(FUNCDATA_INLTREE);
        // Inlining nests a few dozen levels at most; a hostile table must not loop.
        if self.table.modern {
            while out.len() < 64 {
                let index = self.pcdata(PCDATA_INLTREE, self.entry.offset(off));
                let (file, line) = self.file_line(off);
                let entry = usize::try_from(index)
                    .ok()
                    .and_then(|i| self.table.funcdata_bytes(tree?.offset(16 * i as u64), 16));
                let Some(entry) = entry else {
                    out.push(Location { function: self.name(), file, line, func_id: self.func_id() });
                    return out;
                };
                let name = bytes::i32_at(entry, 4).unwrap_or(-1);
                out.push(Location { function: self.table.name_at(name), file, line, func_id: entry[0] });
                off = u64::from(bytes::u32_at(entry, 8).unwrap_or(0));
            }
        } else {
            let (mut file, mut line) = self.file_line(off);
            let mut index = self.pcdata(PCDATA_INLTREE, self.entry.offset(off));
            while index >= 0 && out.len() < 64 {
                let Some(e) = tree.and_then(|t| self.table.funcdata_bytes(t.offset(20 * index as u64), 20)) else {
                    break;
                };
                let name = bytes::i32_at(e, 12).unwrap_or(-1);
                out.push(Location { function: self.table.name_at(name), file, line, func_id: e[2] });
                file = self.file(bytes::i32_at(e, 4).unwrap_or(-1));
                line = bytes::u32_at(e, 8).unwrap_or(0);
                index = i32::from(bytes::u16_at(e, 0).unwrap_or(u16::MAX) as i16);
            }
            out.push(Location { function: self.name(), file, line, func_id: self.func_id() });
        }
        out
    }
}
