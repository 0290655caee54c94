//! image: the binary as compiler and linker wrote it down: ELF, build info, pclntab, moduledata, symbols, DWARF.
//! Reads the executable file and, where the file does not have it (relocated words), target memory.
//! Used by `runtime`. Does not know the heap.

use std::{path::PathBuf, sync::OnceLock};

use crate::{
    base::{Addr, GoVersion},
    target::Target,
};

pub mod buildinfo;
pub mod codeindex;
pub mod codetypes;
pub mod disasm;
pub mod dwarf;
pub mod elf;
pub mod flow;
mod functions;
pub mod moduledata;
mod open;
pub mod pclntab;
mod release;
pub mod symbols;

pub use buildinfo::BuildInfo;
pub use elf::Bytes;
pub use functions::Functions;
pub use open::{NEWEST_KNOWN, OLDEST_KNOWN, SavedImage, SavedVariable};
pub use pclntab::{Frame, Func, FuncId, Pclntab};

/// What the user may say about the binary.
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    /// The executable, where the target's own word for it does not help (`--exe`).
    pub exe: Option<PathBuf>,
    /// A separate file with symbols and DWARF (`--debug-file`).
    pub debug_file: Option<PathBuf>,
    /// Go release to assume, whatever the binary says (`--assume-go`).
    pub assume_go: Option<GoVersion>,
    /// Use neither symbols nor DWARF, of the binary or of a debug file: as if it was stripped (`--as-stripped`).
    pub nameless: bool,
}

/// Why a binary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("the executable of this target is not known: name it with --exe")]
    NoExecutable,
    #[error("cannot open the executable {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{path} cannot be used: {why}", path = path.display())]
    BadElf { path: PathBuf, why: String },
    #[error("{path} is not the binary of this target: its build id is {file}, memory says {memory}; name the right one with --exe", path = path.display())]
    WrongBinary { path: PathBuf, file: String, memory: String },
    #[error("{path} is not a Go program{hint} (tried {tried})", path = path.display())]
    NotGo { path: PathBuf, hint: &'static str, tried: String },
    #[error("{path} is a Go program, but its moduledata cannot be found: packed, obfuscated or damaged? (tried {tried})", path = path.display())]
    NoModuledata { path: PathBuf, tried: String },
    #[error("{path} was built by {version}: gosleuth reads Go 1.18 and later", path = path.display())]
    TooOld { path: PathBuf, version: String },
    #[error("{path} does not say which Go release built it: its shape is of go1.{} to go1.{}, and the names of the runtime's functions do not tell more (obfuscated?); name the release with --assume-go", shape.0, shape.1.min(NEWEST_KNOWN), path = path.display())]
    UnknownRelease { path: PathBuf, shape: (u32, u32) },
    #[error("{path} has no DWARF{why}", path = path.display())]
    NoDwarf { path: PathBuf, why: &'static str },
    #[error(transparent)]
    Pclntab(#[from] pclntab::PclntabError),
}

/// Where a fact about the binary comes from; printed by `doctor` and in the JSON envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
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
    /// Path name of a plugin or shared library's module; empty for the program itself.
    pub name: String,
    pub plugin_path: String,
    /// The pclntab header.
    pub pc_header: Addr,
    /// Go 1.26+: exclusive end of pclntab, funcdata and findfunctab.
    pub epclntab: Addr,
    pub minpc: Addr,
    /// Exclusive end of Go text.
    pub maxpc: Addr,
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
    /// Map of a split text (address, count); one entry where it is in one piece.
    pub textsectmap: (Addr, u64),
    pub data_mask: SegmentMask,
    pub bss_mask: SegmentMask,
}

/// The binary, opened and located in the target's address space.
pub struct Image {
    /// File that was opened.
    pub path: PathBuf,
    /// Run-time address minus ELF address.
    pub bias: u64,
    /// GNU build id (Go 1.24+, or an external linker).
    pub build_id: Option<Vec<u8>>,
    /// The Go linker's own build id.
    pub go_build_id: Option<String>,
    pub build_info: Option<BuildInfo>,
    pub go_version: GoVersion,
    pub go_version_source: FoundBy,
    /// A symbol table is at hand, in the binary or in its debug file.
    pub has_symtab: bool,
    /// The program first, then plugins; never empty.
    pub modules: Vec<Module>,
    /// How the first module was found.
    pub modules_found_by: FoundBy,
    /// Functions of all modules.
    pub pclntab: Functions,
    pub dwarf: Option<dwarf::Dwarf>,
    /// Symbol table, where there is one.
    pub symbols: Option<symbols::Symbols>,
    /// The file itself: segments and sections.
    pub elf: elf::Elf,
    /// Separate file with symbols and DWARF, if one was used.
    pub debug_path: Option<PathBuf>,
    code_index: OnceLock<codeindex::CodeIndex>,
    code_types: OnceLock<codetypes::CodeTypes>,
}

impl Image {
    /// Run-time address of a variable that DWARF or the symbol table names, and which of them does.
    pub fn variable(&self, name: &str) -> Option<(Addr, FoundBy)> {
        if let Some(addr) = self.dwarf.as_ref().and_then(|d| d.variable(name)) {
            return Some((self.elf.run_time(addr), FoundBy::Dwarf));
        }
        self.symbols.as_ref()?.find(name).map(|s| (s.addr, FoundBy::Symtab))
    }

    /// Exactly `len` bytes at a run-time address, from the file's read-only segments: what memory holds too, without
    /// a read, and also where a core left the page out.
    pub fn file_bytes(&self, addr: Addr, len: u64) -> Option<&[u8]> {
        self.elf.constant_bytes(addr, len)
    }

    /// Read-only bytes at `addr`: from the file, else from memory.
    pub fn bytes(&self, target: &Target, addr: Addr, len: u64) -> Option<Vec<u8>> {
        const LIMIT: u64 = 1 << 30;
        match self.file_bytes(addr, len) {
            Some(b) => Some(b.to_vec()),
            None => target.read_vec(addr, len, LIMIT).ok(),
        }
    }

    /// Machine code from `addr` to the end of the segment.
    pub fn code_from(&self, addr: Addr) -> Option<&[u8]> {
        self.elf.segment_at(addr).filter(|s| s.exec && !s.write)?;
        self.elf.initial_bytes(addr)
    }

    /// The module whose data, bss or text contains `addr`.
    pub fn module_of(&self, addr: Addr) -> Option<&Module> {
        self.modules.iter().find(|m| m.owns(addr))
    }
}

impl Module {
    /// Segments of global variables: (name, start, end), pointer-free ones included.
    pub fn data_segments(&self) -> [(&'static str, Addr, Addr); 4] {
        [
            ("noptrdata", self.noptrdata, self.enoptrdata),
            ("data", self.data, self.edata),
            ("bss", self.bss, self.ebss),
            ("noptrbss", self.noptrbss, self.enoptrbss),
        ]
    }

    /// Does `addr` lie in a segment of global variables?
    pub fn is_global(&self, addr: Addr) -> bool {
        self.data_segments().iter().any(|(_, start, end)| *start <= addr && addr < *end)
    }

    pub fn owns(&self, addr: Addr) -> bool {
        self.is_global(addr) || (self.text <= addr && addr < self.etext) || (self.types <= addr && addr < self.etypes)
    }
}
