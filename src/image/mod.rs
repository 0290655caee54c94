//! image: the binary as compiler and linker wrote it down: ELF, build info, pclntab, moduledata, symbols, DWARF.
//! Reads the executable file and, where the file does not have it (relocated words), target memory.
//! Used by `runtime`. Does not know the heap.

use std::{path::PathBuf, sync::Arc};

use crate::base::{Addr, GoVersion};

pub mod dwarf;

/// Where a fact about the binary comes from; printed by `doctor` and in the JSON envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundBy {
    /// Told by the user (`--assume-go`, `--exe`, `--layout`).
    Told,
    BuildInfo,
    Dwarf,
    Symtab,
    Section,
    /// A unique memory pattern, verified by content.
    Pattern,
    /// An instruction of a function named by pclntab loads the address.
    Disassembly,
}

/// Pointer mask of a module's data or bss segment: one bit a word, in target memory (`moduledata.gcdatamask`).
#[derive(Clone, Debug, Default)]
pub struct SegmentMask {
    pub start: Addr,
    /// Exclusive.
    pub end: Addr,
    /// Bit i (byte i/8, bit i%8) says that the word at start + 8*i is a pointer.
    pub bits: Vec<u8>,
}

/// One `runtime.moduledata`; all addresses are run-time addresses. Fields absent in a release are null.
#[derive(Clone, Debug, Default)]
pub struct Module {
    pub addr: Addr,
    pub text: Addr,
    pub etext: Addr,
    pub noptrdata: Addr,
    pub enoptrdata: Addr,
    pub data: Addr,
    pub edata: Addr,
    pub bss: Addr,
    pub ebss: Addr,
    pub noptrbss: Addr,
    pub enoptrbss: Addr,
    pub types: Addr,
    pub etypes: Addr,
    pub rodata: Addr,
    pub gofunc: Addr,
    /// Go 1.27: bytes from `types` that hold type descriptors one after the other; 0 before.
    pub typedesclen: u64,
    /// Go 1.27: itabs lie at types+itaboffset, itabsize bytes; 0 before.
    pub itaboffset: u64,
    pub itabsize: u64,
    /// To Go 1.26: int32 offsets from `types` (address, count).
    pub typelinks: (Addr, u64),
    /// To Go 1.26: pointers to itabs (address, count).
    pub itablinks: (Addr, u64),
    pub data_mask: SegmentMask,
    pub bss_mask: SegmentMask,
}

/// The binary, opened and located in the target's address space.
pub struct Image {
    /// File that was opened.
    pub path: PathBuf,
    /// Run-time address minus ELF address.
    pub bias: u64,
    pub build_id: Option<Vec<u8>>,
    pub go_version: GoVersion,
    pub go_version_source: FoundBy,
    pub has_symtab: bool,
    pub modules: Vec<Module>,
    /// How the first module was found.
    pub modules_found_by: FoundBy,
    pub dwarf: Option<Arc<dwarf::Dwarf>>,
}
