//! image::elf: the executable file: segments, sections, notes, and where it lies in the target's memory.
//! Owns `Elf` (a mapped file and its load bias). Knows nothing of Go but the name of its build note.

use std::{
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use object::{
    LittleEndian as LE, elf,
    read::elf::{FileHeader, ProgramHeader, SectionHeader},
};

use super::ImageError;
use crate::{
    base::{Addr, bytes},
    os::mmap::MappedFile,
    target::{Arch, Target},
};

type Header = elf::FileHeader64<LE>;

const AT_PHDR: u64 = 3;
const AT_ENTRY: u64 = 9;
/// More segments or sections than any linker writes: a hostile header.
const MAX_SECTIONS: usize = 1 << 16;

/// Loadable segments and notes; linkers write some ten. Each is searched as a whole.
const MAX_SEGMENTS: usize = 256;

/// Bytes that are kept alive by whoever holds them: a part of a mapped file, or a copy.
#[derive(Clone)]
pub enum Bytes {
    Mapped { file: Arc<MappedFile>, range: Range<usize> },
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Memory that they take.
    pub fn copied(&self) -> u64 {
        match self {
            Bytes::Mapped { .. } => 0,
            Bytes::Owned(b) => b.len() as u64,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped { file, range } => file.get(range.clone()).unwrap_or_default(),
            Bytes::Owned(b) => b,
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Bytes {
        Bytes::Owned(v.into())
    }
}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::Owned(Arc::from([]))
    }
}

/// A PT_LOAD segment, in ELF addresses (before the load bias).
#[derive(Clone, Debug)]
pub struct Segment {
    pub vaddr: u64,
    pub memsz: u64,
    pub offset: u64,
    /// Bytes in the file; the rest up to `memsz` is zero (bss).
    pub filesz: u64,
    pub write: bool,
    pub exec: bool,
}

/// A section header, in ELF addresses. `addr` is 0 for sections that are not loaded.
#[derive(Clone, Debug)]
pub struct Section {
    pub name: String,
    pub addr: u64,
    pub size: u64,
    pub offset: u64,
    pub kind: u32,
    pub flags: u64,
}

/// An opened ELF executable.
pub struct Elf {
    pub path: PathBuf,
    file: Arc<MappedFile>,
    pub arch: Arch,
    /// Position independent (ET_DYN).
    pub dynamic: bool,
    pub entry: u64,
    /// Run-time address minus ELF address (wrapping).
    pub bias: u64,
    pub segments: Vec<Segment>,
    pub sections: Vec<Section>,
    /// ELF address of the program headers, for the bias.
    phdr_vaddr: Option<u64>,
    /// What the file says is made read-only after relocation, in ELF addresses.
    pub relro: Option<Range<u64>>,
    /// ELF address ranges of PT_NOTE.
    notes: Vec<Range<u64>>,
    pub build_id: Option<Vec<u8>>,
    /// Text of the Go linker's own note (`-buildid`).
    pub go_build_id: Option<String>,
}

impl Elf {
    /// Where there is no file: no segments, no sections.
    pub fn absent(path: &Path, arch: Arch) -> Elf {
        Elf {
            path: path.to_owned(),
            file: Arc::new(MappedFile::empty()),
            arch,
            dynamic: false,
            entry: 0,
            bias: 0,
            segments: Vec::new(),
            sections: Vec::new(),
            phdr_vaddr: None,
            relro: None,
            notes: Vec::new(),
            build_id: None,
            go_build_id: None,
        }
    }

    /// Opens and checks the file; the bias stays 0 until `locate`.
    pub fn open(path: &Path) -> Result<Elf, ImageError> {
        let file = MappedFile::open(path).map_err(|source| ImageError::Open { path: path.to_owned(), source })?;
        Elf::parse(path, Arc::new(file))
    }

    pub fn parse(path: &Path, file: Arc<MappedFile>) -> Result<Elf, ImageError> {
        let bad = |why: String| ImageError::BadElf { path: path.to_owned(), why };
        let data: &[u8] = &file;
        if data.get(..4) != Some(b"\x7fELF") {
            return Err(bad("not an ELF file".into()));
        }
        if bytes::u8_at(data, 4) != Some(2) {
            return Err(bad("a 32-bit program; gosleuth reads 64-bit Go programs only".into()));
        }
        if bytes::u8_at(data, 5) != Some(1) {
            return Err(bad("a big-endian program; gosleuth reads amd64 and arm64 only".into()));
        }
        let header = Header::parse(data).map_err(|e| bad(format!("its ELF header is damaged: {e}")))?;
        let arch = match header.e_machine(LE) {
            elf::EM_X86_64 => Arch::Amd64,
            elf::EM_AARCH64 => Arch::Arm64,
            m => return Err(bad(format!("machine type {m}; gosleuth reads amd64 (62) and arm64 (183) only"))),
        };
        let headers =
            header.program_headers(LE, data).map_err(|e| bad(format!("its program headers are damaged: {e}")))?;
        let mut image = Elf {
            path: path.to_owned(),
            arch,
            dynamic: header.e_type(LE) == elf::ET_DYN,
            entry: header.e_entry(LE),
            bias: 0,
            segments: Vec::new(),
            sections: Vec::new(),
            phdr_vaddr: None,
            relro: None,
            notes: Vec::new(),
            build_id: None,
            go_build_id: None,
            file: file.clone(),
        };
        for h in headers {
            let (vaddr, memsz) = (h.p_vaddr(LE), h.p_memsz(LE));
            let range = vaddr..vaddr.saturating_add(memsz);
            match h.p_type(LE) {
                elf::PT_LOAD if image.segments.len() < MAX_SEGMENTS => image.segments.push(Segment {
                    vaddr,
                    memsz,
                    offset: h.p_offset(LE),
                    filesz: h.p_filesz(LE).min(memsz),
                    write: h.p_flags(LE) & elf::PF_W != 0,
                    exec: h.p_flags(LE) & elf::PF_X != 0,
                }),
                elf::PT_PHDR => image.phdr_vaddr = Some(vaddr),
                elf::PT_GNU_RELRO => image.relro = Some(range),
                elf::PT_NOTE if image.notes.len() < MAX_SEGMENTS => image.notes.push(range),
                _ => {}
            }
        }
        if image.segments.is_empty() {
            return Err(bad("it has no loadable segments".into()));
        }
        if image.phdr_vaddr.is_none() {
            let phoff = header.e_phoff(LE);
            image.phdr_vaddr = image
                .segments
                .iter()
                .find(|s| phoff.checked_sub(s.offset).is_some_and(|d| d < s.filesz))
                .map(|s| s.vaddr.wrapping_add(phoff - s.offset));
        }
        image.sections = read_sections(header, data);
        image.read_notes();
        Ok(image)
    }

    /// Finds the load bias: from the auxiliary vector, else from the mappings of the file.
    pub fn locate(&mut self, target: &Target) {
        if !self.dynamic {
            return;
        }
        let aux = |key| target.auxv.iter().find(|(k, _)| *k == key).map(|(_, v)| *v).filter(|v| *v != 0);
        let from_phdr = aux(AT_PHDR).zip(self.phdr_vaddr).map(|(run, file)| run.wrapping_sub(file));
        let from_entry = aux(AT_ENTRY).map(|run| run.wrapping_sub(self.entry));
        let from_maps = || {
            let exe = target.exe.as_ref()?;
            let first = self.segments.iter().min_by_key(|s| s.vaddr)?;
            let page = |v: u64| v & !0xfff;
            let m =
                target.mappings.iter().find(|m| m.path.as_ref() == Some(exe) && m.file_offset == page(first.offset))?;
            Some(m.start.0.wrapping_sub(page(first.vaddr)))
        };
        // Page alignment is the one property that every real bias has.
        let aligned = |b: &u64| b & 0xfff == 0;
        self.bias = from_phdr.filter(aligned).or(from_entry.filter(aligned)).or_else(from_maps).unwrap_or(0);
    }

    pub fn data(&self) -> &[u8] {
        &self.file
    }

    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    pub fn run_time(&self, elf_addr: u64) -> Addr {
        Addr(elf_addr.wrapping_add(self.bias))
    }

    pub fn elf_addr(&self, addr: Addr) -> u64 {
        addr.0.wrapping_sub(self.bias)
    }

    /// The segment that holds `addr` in memory.
    pub fn segment_at(&self, addr: Addr) -> Option<&Segment> {
        let v = self.elf_addr(addr);
        self.segments.iter().find(|s| v.checked_sub(s.vaddr).is_some_and(|d| d < s.memsz))
    }

    /// File range from `addr` to the end of what its segment has in the file.
    fn file_range(&self, addr: Addr) -> Option<Range<usize>> {
        let s = self.segment_at(addr)?;
        let within = self.elf_addr(addr) - s.vaddr;
        let start = s.offset.checked_add(within)?;
        let end = s.offset.checked_add(s.filesz)?.min(self.data().len() as u64);
        (start < end).then_some(start as usize..end as usize)
    }

    /// Bytes of the file from `addr` to the end of its segment, writable segments included: those are what the program
    /// started with, before relocation.
    pub fn initial_bytes(&self, addr: Addr) -> Option<&[u8]> {
        self.data().get(self.file_range(addr)?)
    }

    /// `initial_bytes` that outlive the borrow.
    pub fn initial_slice(&self, addr: Addr, len: Option<u64>) -> Option<Bytes> {
        let mut range = self.file_range(addr)?;
        if let Some(len) = len {
            range.end = range.end.min(range.start.checked_add(usize::try_from(len).ok()?)?);
        }
        Some(Bytes::Mapped { file: self.file.clone(), range })
    }

    /// Exactly `len` bytes at `addr` from a segment that the program cannot write: what memory holds as well.
    pub fn constant_bytes(&self, addr: Addr, len: u64) -> Option<&[u8]> {
        if self.segment_at(addr)?.write {
            return None;
        }
        self.initial_bytes(addr)?.get(..usize::try_from(len).ok()?)
    }

    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// Raw bytes of a section (still compressed, if it is).
    pub fn section_bytes(&self, s: &Section) -> Option<&[u8]> {
        if s.kind == elf::SHT_NOBITS {
            return None;
        }
        let start = usize::try_from(s.offset).ok()?;
        self.data().get(start..start.checked_add(usize::try_from(s.size).ok()?)?)
    }

    /// Lowest and highest run-time address of the loaded file.
    pub fn extent(&self) -> Range<Addr> {
        let lo = self.segments.iter().map(|s| s.vaddr).min().unwrap_or(0);
        let hi = self.segments.iter().map(|s| s.vaddr.saturating_add(s.memsz)).max().unwrap_or(0);
        self.run_time(lo)..self.run_time(hi)
    }

    pub fn has_dwarf(&self) -> bool {
        self.sections.iter().any(|s| matches!(&*s.name, ".debug_info" | ".zdebug_info") && s.size > 0)
    }

    fn read_notes(&mut self) {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for n in &self.notes {
            if let Some(r) = self.file_range(self.run_time(n.start)) {
                ranges.push((r.start, r.end.min(r.start.saturating_add((n.end - n.start) as usize))));
            }
        }
        for s in self.sections.iter().filter(|s| s.kind == elf::SHT_NOTE) {
            ranges.push((s.offset as usize, s.offset.saturating_add(s.size) as usize));
        }
        for (start, end) in ranges {
            let Some(data) = self.data().get(start..end.min(self.data().len())) else { continue };
            let ids = ids_of_notes(data);
            self.build_id = self.build_id.take().or(ids.0);
            self.go_build_id = self.go_build_id.take().or(ids.1);
        }
    }

    /// The GNU build id that the target's memory shows at the place of this file's notes; `None` where unreadable.
    pub fn build_id_in(&self, target: &Target) -> Option<Vec<u8>> {
        self.notes.iter().find_map(|n| {
            let bytes = target.read_vec(self.run_time(n.start), n.end - n.start, 1 << 16).ok()?;
            ids_of_notes(&bytes).0
        })
    }

    /// The same for the Go linker's note.
    pub fn go_build_id_in(&self, target: &Target) -> Option<String> {
        self.notes.iter().find_map(|n| {
            let bytes = target.read_vec(self.run_time(n.start), n.end - n.start, 1 << 16).ok()?;
            ids_of_notes(&bytes).1
        })
    }
}

/// A damaged section table costs only what sections would have told: everything else goes by segments.
fn read_sections(header: &Header, data: &[u8]) -> Vec<Section> {
    let Ok(table) = header.sections(LE, data) else { return Vec::new() };
    table
        .iter()
        .take(MAX_SECTIONS)
        .map(|s| Section {
            name: table.section_name(LE, s).map(|n| String::from_utf8_lossy(n).into_owned()).unwrap_or_default(),
            addr: s.sh_addr(LE),
            size: s.sh_size(LE),
            offset: s.sh_offset(LE),
            kind: s.sh_type(LE),
            flags: s.sh_flags(LE),
        })
        .collect()
}

/// (GNU build id, Go build id) of a note area.
fn ids_of_notes(data: &[u8]) -> (Option<Vec<u8>>, Option<String>) {
    let mut found = (None, None);
    for (name, kind, desc) in bytes::notes(data) {
        match (name, kind) {
            (b"GNU\0", 3) => found.0 = Some(desc.to_vec()),
            (b"Go\0\0", 4) => found.1 = Some(String::from_utf8_lossy(desc).trim_end_matches('\0').to_owned()),
            _ => {}
        }
    }
    found
}

/// Name and CRC of the separate debug file that `.gnu_debuglink` asks for.
pub fn debug_link(elf: &Elf) -> Option<(String, u32)> {
    let data = elf.section_bytes(elf.section(".gnu_debuglink")?)?;
    let name = bytes::cstr_at(data, 0, 4096)?;
    let at = (name.len() + 1).next_multiple_of(4);
    let crc = bytes::u32_at(data, at)?;
    Some((String::from_utf8(name.to_vec()).ok()?, crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_both_kinds() {
        let mut note = Vec::new();
        for (name, kind, desc) in [(b"Go\0\0", 4u32, &b"abc"[..]), (b"GNU\0", 3, &[1, 2, 3, 4, 5])] {
            note.extend(4u32.to_le_bytes());
            note.extend((desc.len() as u32).to_le_bytes());
            note.extend(kind.to_le_bytes());
            note.extend(name);
            note.extend(desc);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        assert_eq!(ids_of_notes(&note), (Some(vec![1, 2, 3, 4, 5]), Some("abc".into())));
        // Lengths that reach beyond the end stop the walk.
        note[4] = 0xff;
        note[7] = 0xff;
        assert_eq!(ids_of_notes(&note), (None, None));
    }
}
