//! A core file as a target: ELF cores from the kernel, gcore and `gosleuth dump`, plain or compressed with zstd.
//! Pages that the core leaves out because they stand in the executable's file are taken from there.
//!
//! Form: elf(5); the notes are those of the kernel's fs/binfmt_elf.c. Nothing in the file is trusted: every offset is
//! checked against its length, lists are bounded by the file itself.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Arch, Fault, Mapping, Memory, Registers, Target, TargetError, TargetKind, Thread};
use crate::{
    base::{
        Addr,
        bytes::{self, notes},
    },
    os::{mmap::MappedFile, procfs, ptrace},
};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_CORE: u16 = 4;
/// More program headers than this are counted in the first section header (PN_XNUM).
const PN_XNUM: u16 = 0xffff;
const PHDR_SIZE: usize = 56;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

pub(super) const NT_PRSTATUS: u32 = 1;
pub(super) const NT_PRPSINFO: u32 = 3;
pub(super) const NT_AUXV: u32 = 6;
pub(super) const NT_FILE: u32 = 0x4649_4c45;
/// `struct elf_prstatus`: where the thread id and the registers stand, on all 64-bit machines.
pub(super) const PRSTATUS_PID: usize = 32;
pub(super) const PRSTATUS_REGS: usize = 112;
/// `struct elf_prpsinfo`: where the process id and the command line stand.
pub(super) const PRPSINFO_PID: usize = 24;

const AT_PHDR: u64 = 3;
const AT_ENTRY: u64 = 9;
const AT_EXECFN: u64 = 31;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A compressed core is unpacked into memory: larger ones must be unpacked to a file by the user.
const MAX_UNPACKED: u64 = 8 << 30;

/// Does this file look like something that `open_core` reads?
pub fn is_core(path: &Path) -> io::Result<bool> {
    let mut head = [0u8; 20];
    let n = File::open(path)?.read(&mut head)?;
    let head = &head[..n];
    Ok(head.starts_with(&ZSTD_MAGIC) || (head.starts_with(b"\x7fELF") && bytes::u16_at(head, 16) == Some(ET_CORE)))
}

/// Bytes of a file: mapped, or unpacked.
enum Data {
    Mapped(MappedFile),
    Unpacked(Vec<u8>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Mapped(m) => m,
            Data::Unpacked(v) => v,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// Offset in the core file.
    Core(u64),
    /// Offset in the executable.
    Exe(u64),
    /// Mapped in the process, but in no file that is at hand.
    Missing,
}

/// A piece of the address space whose bytes lie in one place; `end` is exclusive.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: Addr,
    end: Addr,
    from: Source,
}

/// Memory of a core file. Pieces are sorted and do not overlap.
struct CoreMemory {
    core: Data,
    exe: Option<MappedFile>,
    pieces: Vec<Piece>,
}

impl CoreMemory {
    fn piece_at(&self, addr: Addr) -> Result<(&Piece, u64), Fault> {
        let i = self.pieces.partition_point(|p| p.end <= addr);
        match self.pieces.get(i) {
            Some(p) if p.start <= addr => Ok((p, addr.0 - p.start.0)),
            _ => Err(Fault::NotMapped(addr)),
        }
    }

    /// At least one byte from `addr` on, at most `len`.
    fn some(&self, addr: Addr, len: usize) -> Result<&[u8], Fault> {
        let (piece, into) = self.piece_at(addr)?;
        let n = (piece.end.0 - addr.0).min(len as u64);
        let (data, at) = match piece.from {
            Source::Core(at) => (self.core.bytes(), at),
            Source::Exe(at) => (self.exe.as_deref().unwrap_or_default(), at),
            Source::Missing => return Err(Fault::NotSaved(addr)),
        };
        let from = at.checked_add(into).and_then(|v| usize::try_from(v).ok()).ok_or(Fault::NotSaved(addr))?;
        let end = from.saturating_add(n as usize).min(data.len());
        data.get(from..end).filter(|b| !b.is_empty()).ok_or(Fault::NotSaved(addr))
    }
}

impl Memory for CoreMemory {
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buf.len() {
            let at = addr.checked_add(done as u64).ok_or(Fault::NotMapped(addr))?;
            let got = self.some(at, buf.len() - done)?;
            buf[done..done + got.len()].copy_from_slice(got);
            done += got.len();
        }
        Ok(())
    }

    /// A core that was cut short tells of more than it has: sixteen times as much is believed.
    fn stored_bytes(&self) -> Option<u64> {
        let exe = self.exe.as_ref().map_or(0, |e| e.len());
        Some((self.core.bytes().len() as u64).saturating_add(exe as u64).saturating_mul(16))
    }

    fn borrow(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        self.some(addr, len).ok().filter(|b| b.len() == len)
    }
}

/// One entry of NT_FILE.
struct FileNote {
    start: Addr,
    end: Addr,
    offset: u64,
    path: PathBuf,
}

struct Load {
    start: Addr,
    end: Addr,
    offset: u64,
    filesz: u64,
    flags: u32,
}

/// What the headers and notes say.
struct Contents {
    arch: Arch,
    loads: Vec<Load>,
    threads: Vec<Thread>,
    files: Vec<FileNote>,
    auxv: Vec<(u64, u64)>,
    pid: Option<u32>,
    /// How many bytes the file should have at least.
    needed: u64,
}

impl Target {
    /// Opens a core file. `exe` names the executable, else it is sought where the core says it was, and beside the core.
    /// Cost: headers and notes only; memory is mapped and read on demand (a compressed core is unpacked first).
    pub fn open_core(path: &Path, exe: Option<&Path>) -> Result<Target, TargetError> {
        Target::core_of(path, load(path)?, exe)
    }

    /// A core whose bytes are at hand, for tests.
    #[doc(hidden)]
    pub fn core_of_bytes(path: &Path, bytes: Vec<u8>, exe: Option<&Path>) -> Result<Target, TargetError> {
        Target::core_of(path, Data::Unpacked(bytes), exe)
    }

    fn core_of(path: &Path, data: Data, exe: Option<&Path>) -> Result<Target, TargetError> {
        let contents = parse(data.bytes()).map_err(|why| TargetError::BadCore { path: path.to_owned(), why })?;
        let mut trouble = Vec::new();
        if contents.needed > data.bytes().len() as u64 {
            trouble.push((
                "core file cut short",
                format!("{} bytes of {} are there", data.bytes().len(), contents.needed),
            ));
        }
        let Contents { arch, mut loads, threads, files, auxv, pid, .. } = contents;
        // Each byte of the file is memory in one place: else a small file could stand for any amount.
        loads.sort_by_key(|l| (l.offset, l.filesz));
        let (all, mut end) = (loads.len(), 0);
        loads.retain(|l| {
            let apart = l.filesz == 0 || l.offset >= end;
            end = if apart { end.max(l.offset.saturating_add(l.filesz)) } else { end };
            apart
        });
        if loads.len() < all {
            trouble.push(("core segments share bytes of the file", format!("{} of {all} left out", all - loads.len())));
        }
        loads.sort_by_key(|l| l.start);
        let named = program_name(&files, &auxv);
        let exe_file = find_exe(path, exe, named.as_deref(), &mut trouble);
        let exe_map = match &exe_file {
            Some(p) => Some(MappedFile::open(p).map_err(|source| TargetError::File { path: p.clone(), source })?),
            None => None,
        };
        let mappings = mappings(&loads, &files);
        let pieces = pieces(&loads, &mappings, named.as_deref(), data.bytes().len() as u64);
        Ok(Target {
            kind: TargetKind::Core,
            pid,
            arch,
            exe: named.or_else(|| exe_file.clone()),
            exe_file,
            mappings,
            threads,
            auxv,
            memory: Arc::new(CoreMemory { core: data, exe: exe_map, pieces }),
            trouble,
            freezer: None,
            watch: Default::default(),
            mode: "core",
        })
    }
}

fn load(path: &Path) -> Result<Data, TargetError> {
    let file = |source| TargetError::File { path: path.to_owned(), source };
    let map = MappedFile::open(path).map_err(file)?;
    if !map.starts_with(&ZSTD_MAGIC) {
        return Ok(Data::Mapped(map));
    }
    let mut out = Vec::new();
    let decoder = zstd::Decoder::new(&map[..]).map_err(file)?;
    decoder
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut out)
        .map_err(|e| TargetError::BadCore { path: path.to_owned(), why: format!("it cannot be unpacked: {e}") })?;
    if out.len() as u64 > MAX_UNPACKED {
        return Err(TargetError::BadCore {
            path: path.to_owned(),
            why: "unpacked it has more than 8 GiB: unpack it with zstd -d first".into(),
        });
    }
    Ok(Data::Unpacked(out))
}

fn parse(data: &[u8]) -> Result<Contents, String> {
    let arch = super::arch_of_elf(data)?;
    if bytes::u16_at(data, 16) != Some(ET_CORE) {
        return Err("it is an ELF file, but not a core".into());
    }
    let short = || "it ends within its headers".to_owned();
    let phoff = bytes::u64_at(data, 32).ok_or_else(short)?;
    let shoff = bytes::u64_at(data, 40).ok_or_else(short)?;
    let entsize = bytes::u16_at(data, 54).ok_or_else(short)?;
    let mut count = u64::from(bytes::u16_at(data, 56).ok_or_else(short)?);
    if usize::from(entsize) != PHDR_SIZE {
        return Err(format!("its program headers have {entsize} bytes each, not {PHDR_SIZE}"));
    }
    if count == u64::from(PN_XNUM) {
        let info = usize::try_from(shoff).ok().and_then(|at| bytes::u32_at(data, at.checked_add(44)?));
        count = info.map(u64::from).ok_or_else(short)?;
    }
    let table = usize::try_from(phoff)
        .ok()
        .and_then(|at| data.get(at..at.checked_add(usize::try_from(count).ok()?.checked_mul(PHDR_SIZE)?)?))
        .ok_or_else(short)?;
    let mut c = Contents { arch, loads: vec![], threads: vec![], files: vec![], auxv: vec![], pid: None, needed: 0 };
    for h in table.chunks_exact(PHDR_SIZE) {
        let word = |i| bytes::u64_at(h, i).unwrap_or(0);
        let (kind, flags) = (bytes::u32_at(h, 0).unwrap_or(0), bytes::u32_at(h, 4).unwrap_or(0));
        let (offset, vaddr, filesz, memsz) = (word(8), word(16), word(32), word(40));
        match kind {
            PT_LOAD => {
                let Some(end) = vaddr.checked_add(memsz.max(filesz)) else { continue };
                if end == vaddr {
                    continue;
                }
                c.needed = c.needed.max(offset.saturating_add(filesz));
                c.loads.push(Load { start: Addr(vaddr), end: Addr(end), offset, filesz, flags });
            }
            PT_NOTE => {
                let range = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(filesz)).ok());
                let area = range.and_then(|(a, b)| data.get(a..b.min(data.len()))).unwrap_or_default();
                for (name, kind, desc) in notes(area) {
                    if name.starts_with(b"CORE") {
                        c.note(kind, desc);
                    }
                }
            }
            _ => {}
        }
    }
    if c.loads.is_empty() {
        return Err("it holds no memory at all".into());
    }
    Ok(c)
}

impl Contents {
    fn note(&mut self, kind: u32, desc: &[u8]) {
        match kind {
            NT_PRSTATUS => {
                let words = match self.arch {
                    Arch::Amd64 => 27,
                    Arch::Arm64 => 34,
                };
                let regs: Vec<u64> = (0..words).map_while(|i| bytes::u64_at(desc, PRSTATUS_REGS + 8 * i)).collect();
                let tid = bytes::u32_at(desc, PRSTATUS_PID).unwrap_or(0);
                self.threads.push(Thread { tid, regs: decode(self.arch, &regs) });
            }
            NT_PRPSINFO => self.pid = self.pid.or(bytes::u32_at(desc, PRPSINFO_PID)),
            NT_AUXV => self.auxv = procfs::parse_auxv(desc),
            NT_FILE => self.files = files(desc),
            _ => {}
        }
    }
}

fn decode(arch: Arch, words: &[u64]) -> Option<Registers> {
    match arch {
        Arch::Amd64 => ptrace::decode_amd64(words),
        Arch::Arm64 => ptrace::decode_arm64(words),
    }
}

/// NT_FILE: count, page size, (start, end, page offset) each, then the names.
fn files(desc: &[u8]) -> Vec<FileNote> {
    let word = |i: usize| bytes::u64_at(desc, i);
    let (Some(count), Some(page)) = (word(0), word(8)) else { return Vec::new() };
    let Some(names) = usize::try_from(count).ok().and_then(|n| n.checked_mul(24)?.checked_add(16)) else {
        return Vec::new();
    };
    let mut names = desc.get(names..).unwrap_or_default().split(|&b| b == 0);
    let mut out = Vec::new();
    for e in desc.get(16..).unwrap_or_default().chunks_exact(24).take(usize::try_from(count).unwrap_or(0)) {
        let word = |i| bytes::u64_at(e, i).unwrap_or(0);
        let Some(name) = names.next() else { break };
        out.push(FileNote {
            start: Addr(word(0)),
            end: Addr(word(8)),
            offset: word(16).saturating_mul(page),
            path: PathBuf::from(std::ffi::OsStr::from_bytes(name)),
        });
    }
    out
}

/// The file that holds the program's entry point is the executable, whatever other files are mapped.
fn program_name(files: &[FileNote], auxv: &[(u64, u64)]) -> Option<PathBuf> {
    [AT_PHDR, AT_ENTRY].iter().find_map(|key| {
        let at = Addr(auxv.iter().find(|(k, _)| k == key)?.1);
        files.iter().find(|f| f.start <= at && at < f.end).map(|f| f.path.clone())
    })
}

fn find_exe(
    core: &Path,
    told: Option<&Path>,
    named: Option<&Path>,
    trouble: &mut Vec<(&'static str, String)>,
) -> Option<PathBuf> {
    if let Some(exe) = told {
        return Some(exe.to_owned());
    }
    let named = named?;
    let beside = named.file_name().map(|n| core.with_file_name(n));
    let found = [Some(named.to_owned()), beside].into_iter().flatten().find(|p| p.is_file());
    if found.is_none() {
        trouble.push(("executable not found", format!("{} (name it with --exe)", named.display())));
    }
    found
}

fn mappings(loads: &[Load], files: &[FileNote]) -> Vec<Mapping> {
    let file_of = |at: Addr| files.iter().find(|f| f.start <= at && at < f.end);
    let mut out: Vec<Mapping> = Vec::with_capacity(loads.len());
    for l in loads {
        // Overlaps cannot be real: the first one counts.
        if out.last().is_some_and(|m| l.start < m.end) {
            continue;
        }
        let file = file_of(l.start);
        out.push(Mapping {
            start: l.start,
            end: l.end,
            readable: l.flags & PF_R != 0,
            writable: l.flags & PF_W != 0,
            executable: l.flags & PF_X != 0,
            file_offset: file.map_or(0, |f| f.offset.saturating_add(l.start.0 - f.start.0)),
            path: file.map(|f| f.path.clone()),
        });
    }
    // Mapped files that the core has no segment for (gcore leaves unchanged ones out).
    let mut extra: Vec<Mapping> = files
        .iter()
        .filter(|f| f.start < f.end)
        .filter(|f| {
            let i = out.partition_point(|m| m.end <= f.start);
            out.get(i).is_none_or(|m| f.end <= m.start)
        })
        .map(|f| Mapping {
            start: f.start,
            end: f.end,
            readable: true,
            writable: false,
            executable: true,
            file_offset: f.offset,
            path: Some(f.path.clone()),
        })
        .collect();
    extra.sort_by_key(|m| m.start);
    extra.dedup_by(|b, a| b.start < a.end);
    out.extend(extra);
    out.sort_by_key(|m| m.start);
    out
}

/// Where the bytes of each mapping are: in the core as far as it has them; of the program's read-only mappings the rest
/// is in its file. Writable pages that were left out have changed, perhaps: they are missing.
fn pieces(loads: &[Load], mappings: &[Mapping], program: Option<&Path>, core_len: u64) -> Vec<Piece> {
    let mut out = Vec::with_capacity(mappings.len());
    for m in mappings {
        let load = loads.iter().position(|l| l.start == m.start && l.end == m.end).map(|i| &loads[i]);
        let len = m.end.0 - m.start.0;
        let (offset, meant) = load.map_or((0, 0), |l| (l.offset, l.filesz.min(len)));
        let saved = meant.min(core_len.saturating_sub(offset));
        let (lost, left_out) = (m.start.offset(saved), m.start.offset(meant));
        let ours = program.is_some() && m.path.as_deref() == program && !m.writable;
        let rest = match m.file_offset.checked_add(meant).filter(|_| ours) {
            Some(at) => Source::Exe(at),
            None => Source::Missing,
        };
        // What the core was meant to hold may differ from the file (relocated words): cut off, it is lost.
        let parts = [(m.start, lost, Source::Core(offset)), (lost, left_out, Source::Missing), (left_out, m.end, rest)];
        out.extend(parts.into_iter().filter(|p| p.0 < p.1).map(|(start, end, from)| Piece { start, end, from }));
    }
    out
}

/// AT_EXECFN: the name by which the program was started; for the command line of a dump.
pub(super) fn exec_name(target: &Target) -> Option<String> {
    let at = target.auxv.iter().find(|(k, _)| *k == AT_EXECFN)?.1;
    let mut buf = [0u8; 256];
    let n = (1..=buf.len()).rev().step_by(32).find(|&n| target.read(Addr(at), &mut buf[..n]).is_ok())?;
    let name = bytes::cstr_at(&buf[..n], 0, n)?;
    Some(String::from_utf8_lossy(name).into_owned())
}
