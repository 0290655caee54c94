//! image::moduledata: `runtime.moduledata` of every module, read from target memory: bounds of text, data, types, and
//! the pointer masks of data and bss. Owns the places of its members (needed before any `Layout` exists).
//! Layout: runtime/symtab.go. The first 256 bytes are the same in all releases; the rest has six shapes.

use super::{Module, SegmentMask, elf::Elf, pclntab};
use crate::{
    base::{Addr, Diagnostics, bytes},
    target::{Fault, Target},
};

/// Offsets that differ between releases; 0 = no such member.
#[derive(Debug)]
struct Shape {
    /// First and last Go minor release with this shape.
    minors: (u32, u32),
    size: usize,
    types: usize,
    typedesclen: usize,
    etypes: usize,
    itaboffset: usize,
    rodata: usize,
    gofunc: usize,
    epclntab: usize,
    textsectmap: usize,
    typelinks: usize,
    itablinks: usize,
    pluginpath: usize,
    modulename: usize,
    bad: usize,
    gcdatamask: usize,
    next: usize,
}

/// From the DWARF of each release, but 1.20, which follows from its neighbours: covctrs is there, inittasks is not yet.
const SHAPES: &[Shape] = &[
    Shape {
        minors: (18, 19),
        size: 552,
        types: 280,
        typedesclen: 0,
        etypes: 288,
        itaboffset: 0,
        rodata: 296,
        gofunc: 304,
        epclntab: 0,
        textsectmap: 312,
        typelinks: 336,
        itablinks: 360,
        pluginpath: 408,
        modulename: 448,
        bad: 536,
        gcdatamask: 496,
        next: 544,
    },
    Shape {
        minors: (20, 20),
        size: 568,
        types: 296,
        typedesclen: 0,
        etypes: 304,
        itaboffset: 0,
        rodata: 312,
        gofunc: 320,
        epclntab: 0,
        textsectmap: 328,
        typelinks: 352,
        itablinks: 376,
        pluginpath: 424,
        modulename: 464,
        bad: 552,
        gcdatamask: 512,
        next: 560,
    },
    Shape {
        minors: (21, 22),
        size: 592,
        types: 296,
        typedesclen: 0,
        etypes: 304,
        itaboffset: 0,
        rodata: 312,
        gofunc: 320,
        epclntab: 0,
        textsectmap: 328,
        typelinks: 352,
        itablinks: 376,
        pluginpath: 424,
        modulename: 488,
        bad: 576,
        gcdatamask: 536,
        next: 584,
    },
    Shape {
        minors: (23, 25),
        size: 584,
        types: 296,
        typedesclen: 0,
        etypes: 304,
        itaboffset: 0,
        rodata: 312,
        gofunc: 320,
        epclntab: 0,
        textsectmap: 328,
        typelinks: 352,
        itablinks: 376,
        pluginpath: 424,
        modulename: 488,
        bad: 529,
        gcdatamask: 536,
        next: 576,
    },
    Shape {
        minors: (26, 26),
        size: 592,
        types: 296,
        typedesclen: 0,
        etypes: 304,
        itaboffset: 0,
        rodata: 312,
        gofunc: 320,
        epclntab: 328,
        textsectmap: 336,
        typelinks: 360,
        itablinks: 384,
        pluginpath: 432,
        modulename: 496,
        bad: 537,
        gcdatamask: 544,
        next: 584,
    },
    Shape {
        minors: (27, u32::MAX),
        size: 568,
        types: 296,
        typedesclen: 304,
        etypes: 312,
        itaboffset: 320,
        rodata: 336,
        gofunc: 344,
        epclntab: 352,
        textsectmap: 360,
        typelinks: 0,
        itablinks: 0,
        pluginpath: 408,
        modulename: 472,
        bad: 513,
        gcdatamask: 520,
        next: 560,
    },
];

/// The largest shape; the rest of a read beyond a smaller one is ignored.
const READ_LEN: usize = 592;
/// Pointer masks of this size, of all modules together, cover 4 GiB of globals.
const MAX_MASK: u64 = 64 << 20;
/// More modules than any program with plugins loads.
const MAX_MODULES: usize = 4096;
const MAX_NAME: u64 = 4096;

/// Why a candidate is not a moduledata, or is one that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("moduledata at {addr} cannot be read: {fault}")]
    Memory { addr: Addr, fault: Fault },
    #[error("the words at {addr} are not a moduledata: {why}")]
    NotOne { addr: Addr, why: &'static str },
}

/// A `moduledata` read from memory, its shape settled.
pub struct Raw {
    pub addr: Addr,
    bytes: Vec<u8>,
    shape: &'static Shape,
    /// First and last release whose shape fits (1.21 to 1.25 differ in two late members only).
    minors: (u32, u32),
    /// The masks prove the shape; otherwise it was only assumed from the release.
    pub proven: bool,
}

impl Raw {
    /// Reads and checks the structure at `addr`. `minor` is the release if known; where the masks contradict it, the
    /// shape that they fit is taken.
    pub fn read(target: &Target, addr: Addr, minor: Option<u32>) -> Result<Raw, ModuleError> {
        let mut buf = vec![0u8; READ_LEN];
        if target.read(addr, &mut buf).is_err() {
            // It may be the last thing on the last page.
            buf.truncate(SHAPES[0].size);
            target.read(addr, &mut buf).map_err(|fault| ModuleError::Memory { addr, fault })?;
            buf.resize(READ_LEN, 0);
        }
        Raw::of(addr, buf, minor)
    }

    fn of(addr: Addr, buf: Vec<u8>, minor: Option<u32>) -> Result<Raw, ModuleError> {
        let word = |i: usize| bytes::u64_at(&buf, i).unwrap_or(0);
        let not = |why| Err(ModuleError::NotOne { addr, why });
        if word(160) != word(176) {
            return not("minpc is not text");
        }
        if word(184) < word(168) || word(168) <= word(160) {
            return not("text, maxpc and etext are out of order");
        }
        if word(8) <= word(0) || word(8) - word(0) > 128 {
            return not("funcnametab does not follow pcHeader");
        }
        let pairs = [192, 208, 224, 240];
        if pairs.iter().any(|&o| word(o) > word(o + 8)) {
            return not("a data segment ends before it starts");
        }
        let data_words = (word(216) - word(208)) / 8;
        let bss_words = (word(232) - word(224)) / 8;
        let fits = |s: &Shape| {
            let nbits = |off| bytes::u32_at(&buf, off).map(u64::from);
            nbits(s.gcdatamask) == Some(data_words)
                && nbits(s.gcdatamask + 16) == Some(bss_words)
                && (word(s.gcdatamask + 8) != 0 || data_words == 0)
        };
        let named = minor.and_then(|m| SHAPES.iter().find(|s| (s.minors.0..=s.minors.1).contains(&m)));
        if let Some(shape) = named.filter(|s| fits(s)) {
            return Ok(Raw { addr, bytes: buf, shape, minors: shape.minors, proven: true });
        }
        let fitting: Vec<&'static Shape> = SHAPES.iter().filter(|s| fits(s)).collect();
        if let (Some(first), Some(last)) = (fitting.first(), fitting.last()) {
            let minors = (first.minors.0, last.minors.1);
            return Ok(Raw { addr, bytes: buf, shape: first, minors, proven: true });
        }
        match named {
            // Before the runtime has initialised itself the masks are empty.
            Some(shape) => Ok(Raw { addr, bytes: buf, shape, minors: shape.minors, proven: false }),
            None => not("its pointer masks fit no known release"),
        }
    }

    fn word(&self, off: usize) -> u64 {
        if off == 0 { 0 } else { bytes::u64_at(&self.bytes, off).unwrap_or(0) }
    }

    fn at(&self, off: usize) -> Addr {
        Addr(self.word(off))
    }

    pub fn pc_header(&self) -> Addr {
        Addr(bytes::u64_at(&self.bytes, 0).unwrap_or(0))
    }

    pub fn next(&self) -> Addr {
        self.at(self.shape.next)
    }

    /// Releases that fit.
    pub fn minors(&self) -> (u32, u32) {
        self.minors
    }

    /// The same bytes read as the shape of a release within `minors`.
    pub fn narrowed(self, minor: u32) -> Raw {
        match SHAPES.iter().find(|s| (s.minors.0..=s.minors.1).contains(&minor)) {
            Some(shape) => Raw { shape, minors: shape.minors, ..self },
            None => self,
        }
    }

    pub fn bad(&self) -> bool {
        bytes::u8_at(&self.bytes, self.shape.bad).is_some_and(|b| b != 0)
    }

    /// Copies the masks and decodes the rest.
    /// `masks`: bytes that they may have; what they have is taken from it.
    pub fn decode(&self, target: &Target, diag: &Diagnostics, masks: &mut u64) -> Module {
        let s = self.shape;
        let string = |off: usize| {
            let len = self.word(off + 8);
            if len == 0 || off == 0 {
                return String::new();
            }
            let bytes = target.read_vec(self.at(off), len, MAX_NAME).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let mut mask = |which: &str, start: usize, off: usize| {
            let (start, end) = (self.at(start), self.at(start + 8));
            let nbits = u64::from(bytes::u32_at(&self.bytes, off).unwrap_or(0));
            let bits = if nbits == 0 {
                Vec::new()
            } else {
                let read = target.read_vec(self.at(off + 8), nbits.div_ceil(8), *masks);
                *masks -= read.as_ref().map_or(0, |bits| bits.len() as u64);
                read.unwrap_or_else(|fault| {
                    diag.note("pointer mask of globals unreadable", format_args!("{which} of {}: {fault}", self.addr));
                    Vec::new()
                })
            };
            SegmentMask { start, end, bits }
        };
        Module {
            addr: self.addr,
            name: string(s.modulename),
            plugin_path: string(s.pluginpath),
            pc_header: self.pc_header(),
            epclntab: self.at(s.epclntab),
            minpc: self.at(160),
            maxpc: self.at(168),
            text: self.at(176),
            etext: self.at(184),
            noptrdata: self.at(192),
            enoptrdata: self.at(200),
            data: self.at(208),
            edata: self.at(216),
            bss: self.at(224),
            ebss: self.at(232),
            noptrbss: self.at(240),
            enoptrbss: self.at(248),
            types: self.at(s.types),
            etypes: self.at(s.etypes),
            rodata: self.at(s.rodata),
            gofunc: self.at(s.gofunc),
            typedesclen: self.word(s.typedesclen),
            itaboffset: self.word(s.itaboffset),
            itabsize: if s.itaboffset == 0 { 0 } else { self.word(s.itaboffset + 8) },
            typelinks: if s.typelinks == 0 {
                (Addr::NULL, 0)
            } else {
                (self.at(s.typelinks), self.word(s.typelinks + 8))
            },
            itablinks: if s.itablinks == 0 {
                (Addr::NULL, 0)
            } else {
                (self.at(s.itablinks), self.word(s.itablinks + 8))
            },
            textsectmap: (self.at(s.textsectmap), self.word(s.textsectmap + 8)),
            data_mask: mask("data", 208, s.gcdatamask),
            bss_mask: mask("bss", 224, s.gcdatamask + 16),
        }
    }
}

/// The list of modules that starts at `first`.
pub fn read_all(target: &Target, first: Raw, minor: Option<u32>, diag: &Diagnostics) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut masks = MAX_MASK;
    let mut raw = first;
    loop {
        let next = raw.next();
        if raw.bad() {
            diag.note("module marked bad by the runtime", raw.addr);
        } else {
            modules.push(raw.decode(target, diag, &mut masks));
        }
        if next.is_null() || modules.len() >= MAX_MODULES || modules.iter().any(|m: &Module| m.addr == next) {
            return modules;
        }
        match Raw::read(target, next, minor) {
            Ok(r) => raw = r,
            Err(e) => {
                diag.note("module list broken", e);
                return modules;
            }
        }
    }
}

/// Looks through writable memory for the moduledata that points to the pclntab at `header`: a word equal to `header`
/// whose neighbours fit. `ranges` are scanned in pieces.
pub fn scan(
    target: &Target,
    ranges: impl Iterator<Item = (Addr, Addr)>,
    header: Addr,
    names: Addr,
    minor: Option<u32>,
) -> Vec<Raw> {
    const PIECE: u64 = 4 << 20;
    let mut found = Vec::new();
    for (start, end) in ranges {
        let mut at = start;
        while at < end {
            let len = PIECE.min(end.0 - at.0);
            if let Ok(data) = target.read_vec(at, len, PIECE) {
                for (i, w) in data.chunks_exact(8).enumerate() {
                    if w != header.0.to_le_bytes() {
                        continue;
                    }
                    let m = at.offset(8 * i as u64);
                    let follows = target.read_ptr(m.offset(8)).is_ok_and(|a| a == names);
                    if follows && let Ok(raw) = Raw::read(target, m, minor) {
                        found.push(raw);
                    }
                }
            }
            at = at.offset(len);
        }
    }
    found
}

/// Where moduledata is told to be: by the linker's own section from Go 1.26 on.
pub fn section(elf: &Elf) -> Option<Addr> {
    elf.section(".go.module").filter(|s| s.addr != 0).map(|s| elf.run_time(s.addr))
}

/// Parts of a split text: (offset, its end, address).
pub fn text_sections(target: &Target, module: &Module) -> Vec<(u64, u64, u64)> {
    let (at, n) = module.textsectmap;
    if n <= 1 || n > pclntab::MAX_TEXT_SECTIONS as u64 {
        return Vec::new();
    }
    let raw = target.read_vec(at, 24 * n, 1 << 20).unwrap_or_default();
    let word = |c: &[u8], i| bytes::u64_at(c, i).unwrap_or(0);
    raw.chunks_exact(24).map(|c| (word(c, 0), word(c, 8), word(c, 16))).collect()
}
