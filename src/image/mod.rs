//! image: the binary as compiler and linker wrote it down: ELF, build info, pclntab, moduledata, symbols, DWARF.
//! Reads the executable file and, where the file does not have it (relocated words), target memory.
//! Used by `runtime`. Does not know the heap.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use object::{Object, ObjectSegment};

use crate::{
    base::{Addr, GoVersion},
    os::mmap::MappedFile,
    target::Target,
};

mod buildinfo;
pub mod dwarf;
mod moduledata;
pub mod pclntab;

use dwarf::Dwarf;
use pclntab::Pclntab;

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
    /// The pclntab header.
    pub pc_header: Addr,
    pub data_mask: SegmentMask,
    pub bss_mask: SegmentMask,
}

/// The binary, opened and located in the target's address space.
pub struct Image {
    /// File that was opened.
    pub path: PathBuf,
    file: Arc<MappedFile>,
    /// (run-time start, end, offset in the file) of read-only segments.
    readonly: Vec<(Addr, Addr, u64)>,
    /// Run-time address minus ELF address.
    pub bias: u64,
    pub go_version: GoVersion,
    pub go_version_source: FoundBy,
    pub has_symtab: bool,
    pub modules: Vec<Module>,
    pub dwarf: Option<Dwarf>,
    pub pclntab: Pclntab,
}

/// Why the binary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("the target's executable is not known")]
    NoExe,
    #[error("cannot open the executable {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("cannot parse {path}: {source}", path = path.display())]
    Elf { path: PathBuf, source: object::Error },
    #[error("{path} is not a Go program: it has neither Go build info nor a Go function table", path = path.display())]
    NotGo { path: PathBuf },
    #[error("{path} has no DWARF; this version of gosleuth reads layouts from DWARF only", path = path.display())]
    NoDwarf { path: PathBuf },
    #[error(transparent)]
    Dwarf(#[from] dwarf::DwarfError),
    #[error("{what}: {why}")]
    Inconsistent { what: &'static str, why: String },
}

impl Image {
    /// Opens the executable of `target` (or `exe`), finds where it lies and reads its tables.
    pub fn open(
        target: &Target,
        exe: Option<&Path>,
        want: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Image, ImageError> {
        let path = exe.map(Path::to_owned).or_else(|| target.exe_file.clone()).ok_or(ImageError::NoExe)?;
        let file = MappedFile::open(&path).map_err(|source| ImageError::Open { path: path.clone(), source })?;
        let file = Arc::new(file);
        let elf = object::File::parse(&**file).map_err(|source| ImageError::Elf { path: path.clone(), source })?;
        let raw = buildinfo::version(&elf).or_else(|| buildinfo::scan(&file));
        let raw = raw.ok_or_else(|| ImageError::NotGo { path: path.clone() })?;
        let go_version = GoVersion::parse(&raw).ok_or_else(|| ImageError::Inconsistent {
            what: "Go release",
            why: format!("the build info says {raw:?}, which names no release"),
        })?;
        // AT_ENTRY is the entry point as mapped; the ELF header has it as linked.
        let entry = target.auxv.iter().find(|(k, _)| *k == 9).map(|&(_, v)| v).unwrap_or(elf.entry());
        let bias = entry.wrapping_sub(elf.entry());
        let readonly = elf
            .segments()
            .filter(|s| matches!(s.flags(), object::SegmentFlags::Elf { p_flags } if p_flags & 2 == 0))
            .map(|s| {
                let start = Addr(s.address().wrapping_add(bias));
                (start, start.offset(s.file_range().1), s.file_range().0)
            })
            .collect();
        let has_symtab = elf.symbol_table().is_some();
        let dwarf = Dwarf::open(&file, want)?.ok_or_else(|| ImageError::NoDwarf { path: path.clone() })?;
        let mut image = Image {
            path,
            file: file.clone(),
            readonly,
            bias,
            go_version,
            go_version_source: FoundBy::BuildInfo,
            has_symtab,
            modules: Vec::new(),
            dwarf: Some(dwarf),
            pclntab: Pclntab::default(),
        };
        image.modules = moduledata::read_all(target, &image)?;
        let first = image
            .modules
            .first()
            .ok_or(ImageError::Inconsistent { what: "runtime.firstmoduledata", why: "no module was found".into() })?;
        image.pclntab = Pclntab::read(target, &image, first)?;
        Ok(image)
    }

    /// Run-time address of a runtime variable that DWARF names.
    pub fn variable(&self, name: &str) -> Option<Addr> {
        Some(Addr(self.dwarf.as_ref()?.variable(name)?.wrapping_add(self.bias)))
    }

    /// Bytes of a read-only segment, from the file: cores leave them out.
    pub fn file_bytes(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        let &(start, _, offset) = self.readonly.iter().find(|(s, e, _)| *s <= addr && addr < *e)?;
        let at = usize::try_from(offset.checked_add(addr.distance_from(start)?)?).ok()?;
        self.file.get(at..at.checked_add(len)?)
    }

    /// Read-only bytes at `addr`: from the file, else from memory.
    pub fn bytes(&self, target: &Target, addr: Addr, len: u64) -> Option<Vec<u8>> {
        const LIMIT: u64 = 1 << 30;
        if len > LIMIT {
            return None;
        }
        match self.file_bytes(addr, len as usize) {
            Some(b) => Some(b.to_vec()),
            None => target.read_vec(addr, len, LIMIT).ok(),
        }
    }
}
