//! Writes a core file of a live target, as the kernel would (fs/binfmt_elf.c): for gosleuth, gdb, viewcore and Delve.
//! Sparse: pages that were never touched or hold zeros take no room. What stands unchanged in mapped files is left out.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    Arch, Mapping, Target,
    core::{NT_AUXV, NT_FILE, NT_PRPSINFO, NT_PRSTATUS, PRPSINFO_PID, PRSTATUS_PID, PRSTATUS_REGS, exec_name},
};
use crate::{
    base::{Addr, bytes},
    os::{procfs, vm},
};

const CHUNK: usize = 1 << 20;
const EHDR: u64 = 64;
const PHDR: u64 = 56;
/// From this number of program headers on the count moves to the first section header.
const PN_XNUM: usize = 0xffff;

#[derive(Clone, Copy, Debug, Default)]
pub struct DumpOptions {
    /// Write through zstd.
    pub compress: bool,
    /// Overwrite a file that exists.
    pub force: bool,
    /// Read-only pages of mapped files too: the core then needs no binary.
    pub with_files: bool,
}

/// What was written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DumpFigures {
    pub path: PathBuf,
    /// Length of the core as ELF, holes included.
    pub core_bytes: u64,
    /// Bytes of memory that were copied.
    pub saved_bytes: u64,
    pub segments: u64,
    pub threads: u64,
    /// Pages that could not be read and are zeros in the core.
    pub unreadable_pages: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("a core can be written of a live process only")]
    NotLive,
    #[error("cannot write {path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
}

/// A segment of the core: the mapping and how many of its bytes, from the start, are in the file.
struct Segment<'t> {
    map: &'t Mapping,
    filesz: u64,
    offset: u64,
}

impl Target {
    /// Writes a core file to `path`, readable by its owner only: it holds all memory of the process, secrets included.
    /// The target must be held. Cost: one read of all touched memory; bounded buffers.
    pub fn dump(&self, path: &Path, opts: DumpOptions) -> Result<DumpFigures, DumpError> {
        let pid = self.pid.filter(|_| self.freezer.is_some()).ok_or(DumpError::NotLive)?;
        let fail = |source| DumpError::File { path: path.to_owned(), source };
        let mut open = OpenOptions::new();
        open.write(true).mode(0o600);
        if opts.force {
            open.create(true).truncate(true)
        } else {
            open.create_new(true)
        };
        let file = open.open(path).map_err(fail)?;
        let written = self.write_core(pid, file, opts);
        // Half a core looks like a core: leave none behind.
        written.map(|f| DumpFigures { path: path.to_owned(), ..f }).map_err(|e| {
            let _ = std::fs::remove_file(path);
            fail(e)
        })
    }

    fn write_core(&self, pid: u32, file: File, opts: DumpOptions) -> io::Result<DumpFigures> {
        let page = vm::page_size();
        let notes = self.notes(pid, page);
        let pagemap = procfs::pagemap_file(pid).ok();
        let mut segments: Vec<Segment> = self
            .mappings
            .iter()
            .filter(|m| m.readable && !is_special(m))
            .map(|map| Segment {
                map,
                filesz: self.saved_bytes(map, page, opts.with_files, pagemap.as_ref()),
                offset: 0,
            })
            .collect();
        let count = segments.len() + 1;
        let shdrs = if count >= PN_XNUM { 64 } else { 0 };
        let notes_at = EHDR + PHDR * count as u64 + shdrs;
        let mut at = (notes_at + notes.len() as u64).next_multiple_of(page);
        for s in &mut segments {
            s.offset = at;
            at += s.filesz.next_multiple_of(page);
        }
        let mut head = self.elf_header(count);
        let mut phdr = |kind: u32, flags: u32, offset: u64, vaddr: u64, filesz: u64, memsz: u64, align: u64| {
            head.extend(kind.to_le_bytes());
            head.extend(flags.to_le_bytes());
            for word in [offset, vaddr, 0, filesz, memsz, align] {
                head.extend(word.to_le_bytes());
            }
        };
        phdr(4, 0, notes_at, 0, notes.len() as u64, 0, 4);
        for s in &segments {
            let m = s.map;
            let flags = u32::from(m.readable) * 4 + u32::from(m.writable) * 2 + u32::from(m.executable);
            phdr(1, flags, s.offset, m.start.0, s.filesz, m.end.0 - m.start.0, page);
        }
        if shdrs > 0 {
            let mut section = [0u8; 64];
            section[44..48].copy_from_slice(&(count as u32).to_le_bytes());
            head.extend(section);
        }
        head.extend(notes);
        let mut sink =
            if opts.compress { Sink::Packed(zstd::Encoder::new(file, 3)?, 0) } else { Sink::Sparse(file, 0) };
        sink.data(&head)?;
        let mut figures = DumpFigures {
            core_bytes: at,
            segments: segments.len() as u64,
            threads: self.threads.len() as u64,
            ..DumpFigures::default()
        };
        // Of a copy the original's page map says nothing: then every page is read, and those of zeros left out.
        let pagemap = pagemap.filter(|_| self.mode != "fork");
        for s in &segments {
            sink.skip_to(s.offset)?;
            self.write_segment(s, page, pagemap.as_ref(), &mut sink, &mut figures)?;
        }
        sink.skip_to(at)?;
        sink.finish()?;
        Ok(figures)
    }

    /// How many bytes of a mapping go into the file: all of what may differ from files, one page of what names a binary.
    fn saved_bytes(&self, m: &Mapping, page: u64, with_files: bool, pagemap: Option<&File>) -> u64 {
        let all = m.end.0 - m.start.0;
        let Some(path) = m.path.as_ref().map(|p| p.as_os_str().as_bytes()).filter(|p| p.starts_with(b"/")) else {
            return all;
        };
        if path.starts_with(b"/dev/") && !path.starts_with(b"/dev/shm/") && path != b"/dev/zero" {
            return 0;
        }
        // The loader writes into pages that it makes read-only afterwards (relocations).
        if m.writable || with_files || path.ends_with(b" (deleted)") || has_own_pages(m, page, pagemap) {
            return all;
        }
        let mut magic = [0u8; 4];
        let binary = m.file_offset == 0 && self.read(m.start, &mut magic).is_ok() && magic == *b"\x7fELF";
        if binary { page.min(all) } else { 0 }
    }

    fn write_segment(
        &self,
        s: &Segment,
        page: u64,
        pagemap: Option<&File>,
        sink: &mut Sink,
        figures: &mut DumpFigures,
    ) -> io::Result<()> {
        // Untouched pages of anonymous memory are zeros; those of a file hold what the file does.
        let anonymous = s.map.path.as_ref().is_none_or(|p| !p.as_os_str().as_bytes().starts_with(b"/"));
        let mut buf = vec![0u8; CHUNK];
        let mut entries = vec![0u8; CHUNK / page as usize * 8];
        let mut done = 0;
        while done < s.filesz {
            let len = (s.filesz - done).min(CHUNK as u64);
            let start = s.map.start.offset(done);
            let pages = len.div_ceil(page) as usize;
            let known = anonymous
                && pagemap.is_some_and(|f| f.read_exact_at(&mut entries[..8 * pages], start.0 / page * 8).is_ok());
            // Bit 63: present; bit 62: swapped out (Documentation/admin-guide/mm/pagemap.rst).
            let touched = |i: usize| !known || bytes::u64_at(&entries, 8 * i).unwrap_or(0) >> 62 != 0;
            let mut i = 0;
            while i < pages {
                let from = i;
                while i < pages && touched(i) == touched(from) {
                    i += 1;
                }
                let (a, b) = (from as u64 * page, (i as u64 * page).min(len));
                if touched(from) {
                    let part = &mut buf[..(b - a) as usize];
                    figures.unreadable_pages += self.read_pages(start.offset(a), part, page);
                    figures.saved_bytes += b - a;
                    sink.skip_to(s.offset + done + a)?;
                    for (n, piece) in part.chunks(page as usize).enumerate() {
                        if piece.iter().any(|&x| x != 0) {
                            sink.skip_to(s.offset + done + a + n as u64 * page)?;
                            sink.data(piece)?;
                        }
                    }
                }
            }
            done += len;
        }
        Ok(())
    }

    /// Fills `buf`; pages that cannot be read are zeros. Answers how many those are.
    fn read_pages(&self, addr: Addr, buf: &mut [u8], page: u64) -> u64 {
        if self.read(addr, buf).is_ok() {
            return 0;
        }
        let mut lost = 0;
        for (i, piece) in buf.chunks_mut(page as usize).enumerate() {
            if self.read(addr.offset(i as u64 * page), piece).is_err() {
                piece.fill(0);
                lost += 1;
            }
        }
        lost
    }

    fn elf_header(&self, count: usize) -> Vec<u8> {
        let machine: u16 = match self.arch {
            Arch::Amd64 => 62,
            Arch::Arm64 => 183,
        };
        let extended = count >= PN_XNUM;
        let mut h = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        h.extend(4u16.to_le_bytes());
        h.extend(machine.to_le_bytes());
        h.extend(1u32.to_le_bytes());
        let shoff = if extended { EHDR + PHDR * count as u64 } else { 0 };
        for word in [0, EHDR, shoff] {
            h.extend(word.to_le_bytes());
        }
        h.extend(0u32.to_le_bytes());
        let phnum = if extended { PN_XNUM as u16 } else { count as u16 };
        let (shentsize, shnum) = if extended { (64, 1) } else { (0, 0) };
        for half in [EHDR as u16, PHDR as u16, phnum, shentsize, shnum, 0] {
            h.extend(half.to_le_bytes());
        }
        h
    }

    fn notes(&self, pid: u32, page: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let mut note = |kind: u32, desc: &[u8]| {
            out.extend(5u32.to_le_bytes());
            out.extend((desc.len() as u32).to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend(b"CORE\0\0\0\0");
            out.extend(desc);
            out.resize(out.len().next_multiple_of(4), 0);
        };
        note(NT_PRPSINFO, &self.prpsinfo(pid));
        // The main thread first: debuggers begin with it.
        let (main, others): (Vec<_>, Vec<_>) = self.threads.iter().partition(|t| t.tid == pid);
        for t in main.iter().chain(&others) {
            let Some(regs) = &t.regs else { continue };
            let mut d = vec![0u8; PRSTATUS_REGS];
            d[PRSTATUS_PID..PRSTATUS_PID + 4].copy_from_slice(&t.tid.to_le_bytes());
            d.extend(regs.general.iter().flat_map(|w| w.to_le_bytes()));
            d.extend([0; 8]);
            note(NT_PRSTATUS, &d);
        }
        let auxv: Vec<u8> =
            self.auxv.iter().chain([&(0, 0)]).flat_map(|(k, v)| [k.to_le_bytes(), v.to_le_bytes()]).flatten().collect();
        note(NT_AUXV, &auxv);
        let files: Vec<&Mapping> = self
            .mappings
            .iter()
            .filter(|m| m.path.as_ref().is_some_and(|p| p.as_os_str().as_bytes().starts_with(b"/")))
            .collect();
        let mut d = Vec::new();
        d.extend((files.len() as u64).to_le_bytes());
        d.extend(page.to_le_bytes());
        for m in &files {
            for word in [m.start.0, m.end.0, m.file_offset / page] {
                d.extend(word.to_le_bytes());
            }
        }
        for m in &files {
            d.extend(m.path.as_ref().map(|p| p.as_os_str().as_bytes()).unwrap_or_default());
            d.push(0);
        }
        note(NT_FILE, &d);
        out
    }

    /// `struct elf_prpsinfo` (include/linux/elfcore.h).
    fn prpsinfo(&self, pid: u32) -> Vec<u8> {
        let mut d = vec![0u8; 136];
        let number = |field: &str| {
            procfs::status_field(pid, field)
                .and_then(|v| v.split_whitespace().next()?.parse::<u32>().ok())
                .unwrap_or_default()
        };
        d[1] = b'S';
        for (at, value) in [
            (16, number("Uid")),
            (20, number("Gid")),
            (PRPSINFO_PID, pid),
            (PRPSINFO_PID + 4, number("PPid")),
            (PRPSINFO_PID + 8, number("NSpgid")),
            (PRPSINFO_PID + 12, number("NSsid")),
        ] {
            d[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let name = procfs::comm(pid).unwrap_or_default();
        let name = &name.as_bytes()[..name.len().min(15)];
        d[40..40 + name.len()].copy_from_slice(name);
        // The program only: its arguments may hold secrets, and no debugger needs them.
        let args = exec_name(self).unwrap_or_default();
        let args = &args.as_bytes()[..args.len().min(79)];
        d[56..56 + args.len()].copy_from_slice(args);
        d
    }
}

/// Pages that belong to the kernel or a device and cannot be read, or mean nothing elsewhere.
fn is_special(m: &Mapping) -> bool {
    m.path
        .as_ref()
        .is_some_and(|p| p.starts_with("[vvar]") || p.starts_with("[vvar_vclock]") || p.starts_with("[vsyscall]"))
}

/// Does a mapping of a file have pages that differ from it? Bit 61 of an entry: the page is the file's (or shared); 62:
/// swapped out; 63: present (Documentation/admin-guide/mm/pagemap.rst). Yes where that cannot be told.
fn has_own_pages(m: &Mapping, page: u64, pagemap: Option<&File>) -> bool {
    let Some(file) = pagemap else { return true };
    let mut entries = vec![0u8; CHUNK];
    let (first, mut left) = (m.start.0 / page, ((m.end.0 - m.start.0) / page) as usize);
    let mut at = first;
    while left > 0 {
        let n = left.min(CHUNK / 8);
        if file.read_exact_at(&mut entries[..8 * n], at * 8).is_err() {
            return true;
        }
        let own = |e: &[u8]| bytes::u64_at(e, 0).is_some_and(|e| e >> 62 != 0 && e >> 61 & 1 == 0);
        if entries[..8 * n].chunks_exact(8).any(own) {
            return true;
        }
        (at, left) = (at + n as u64, left - n);
    }
    false
}

/// Where the bytes go, with the position reached.
enum Sink {
    Sparse(File, u64),
    Packed(zstd::Encoder<'static, File>, u64),
}

impl Sink {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Sparse(f, at) => {
                f.write_all(bytes)?;
                *at += bytes.len() as u64;
            }
            Sink::Packed(z, at) => {
                z.write_all(bytes)?;
                *at += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Leaves zeros up to the absolute position `to`.
    fn skip_to(&mut self, to: u64) -> io::Result<()> {
        match self {
            Sink::Sparse(f, at) if *at != to => {
                f.seek(SeekFrom::Start(to))?;
                *at = to;
            }
            Sink::Sparse(..) => {}
            Sink::Packed(z, at) => {
                let zeros = [0u8; 4096];
                while *at < to {
                    let n = (to - *at).min(zeros.len() as u64);
                    z.write_all(&zeros[..n as usize])?;
                    *at += n;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Sink::Sparse(f, at) => {
                f.set_len(at)?;
                f.sync_all()
            }
            Sink::Packed(z, _) => z.finish()?.sync_all(),
        }
    }
}
