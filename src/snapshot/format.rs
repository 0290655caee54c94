//! The container: a header, blocks one after the other as they were written, a directory, a footer. docs/SNAPSHOT.md.
//!
//! Every block is compressed by itself and carries a SHA-256 of its compressed bytes in the directory; the directory's
//! own hash, which covers the header too, is in the footer. A block is read, checked and unpacked when it is asked for.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{
    base::bytes,
    os::mmap::MappedFile,
    snapshot::codec::{Get, Put},
};

pub const MAGIC: &[u8; 8] = b"GOSLEUTH";
const END: &[u8; 8] = b"HTUELSOG";
/// Raised when a reader of the version before would misunderstand the file.
pub const VERSION: u32 = 1;
const HEADER_LEN: usize = 16;
/// Directory offset, directory length, hash, end mark.
const FOOTER_LEN: usize = 8 + 8 + 32 + 8;
/// Largest block, unpacked.
const MAX_BLOCK: u64 = 256 << 20;
/// Blocks at most: 2^32 objects and edges need fewer.
const MAX_BLOCKS: u64 = 1 << 20;
/// zstd's own default: higher levels gain a few per cent and take many times as long.
const LEVEL: i32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path} exists already: --force replaces it", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path} is not a snapshot", path = path.display())]
    NotSnapshot { path: PathBuf },
    #[error(
        "{path} is a snapshot of version {found}; this gosleuth reads version {VERSION}: use the gosleuth that wrote it",
        path = path.display()
    )]
    Version { path: PathBuf, found: u32 },
    #[error("{path} is cut short: it has no end mark, so its writing or copying was interrupted", path = path.display())]
    CutShort { path: PathBuf },
    #[error("{path} was altered or damaged: the hash of {what} does not fit", path = path.display())]
    Altered { path: PathBuf, what: String },
    #[error("{path} makes no sense in its {section}: {why}", path = path.display())]
    Content { path: PathBuf, section: &'static str, why: String },
    #[error("{what} cannot be answered from a snapshot: it holds structure only, no contents of memory")]
    StructureOnly { what: &'static str },
}

/// What a block holds. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Section {
    Meta = 1,
    Functions = 2,
    Variables = 3,
    Goroutines = 4,
    Types = 5,
    Spans = 6,
    Objects = 7,
    Degrees = 8,
    Edges = 9,
    Roots = 10,
    Evidence = 11,
    Links = 12,
    Locals = 13,
    LocalRoots = 14,
}

impl Section {
    pub fn name(self) -> &'static str {
        match self {
            Section::Meta => "description",
            Section::Functions => "functions",
            Section::Variables => "variables",
            Section::Goroutines => "goroutines",
            Section::Types => "types",
            Section::Spans => "spans",
            Section::Objects => "objects",
            Section::Degrees => "edge counts",
            Section::Edges => "edges",
            Section::Roots => "roots",
            Section::Evidence => "evidence",
            Section::Links => "static data",
            Section::Locals => "local variables",
            Section::LocalRoots => "roots in local variables",
        }
    }
}

/// A directory entry.
#[derive(Clone, Debug)]
struct Entry {
    section: u8,
    /// First item and number of items (objects, edges, ...).
    first: u64,
    items: u64,
    offset: u64,
    packed: u64,
    raw: u64,
    hash: [u8; 32],
}

/// A compressed block, not written yet.
pub struct Packed {
    first: u64,
    items: u64,
    raw: u64,
    bytes: Vec<u8>,
    hash: [u8; 32],
}

pub fn pack(first: u64, items: u64, raw: &[u8]) -> io::Result<Packed> {
    let bytes = zstd::bulk::compress(raw, LEVEL)?;
    Ok(Packed { first, items, raw: raw.len() as u64, hash: Sha256::digest(&bytes).into(), bytes })
}

fn header() -> [u8; HEADER_LEN] {
    let mut h = [0; HEADER_LEN];
    h[..8].copy_from_slice(MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h
}

/// Writes blocks as they come; the file gets its name when it is complete.
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
    at: u64,
    entries: Vec<Entry>,
    done: bool,
}

impl Writer {
    /// Only the owner may read the file.
    pub fn create(path: &Path, force: bool) -> Result<Writer, SnapshotError> {
        if !force && path.exists() {
            return Err(SnapshotError::Exists { path: path.to_owned() });
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".part-{}", std::process::id()));
        let part = PathBuf::from(name);
        let error = |source| SnapshotError::File { path: part.clone(), source };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(error)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&header()).map_err(error)?;
        Ok(Writer {
            path: path.to_owned(),
            part: part.clone(),
            out,
            at: HEADER_LEN as u64,
            entries: Vec::new(),
            done: false,
        })
    }

    pub fn put(&mut self, section: Section, block: Packed) -> io::Result<()> {
        self.out.write_all(&block.bytes)?;
        let packed = block.bytes.len() as u64;
        self.entries.push(Entry {
            section: section as u8,
            first: block.first,
            items: block.items,
            offset: self.at,
            packed,
            raw: block.raw,
            hash: block.hash,
        });
        self.at += packed;
        Ok(())
    }

    /// Bytes written for a section so far.
    pub fn packed_bytes(&self, section: Section) -> u64 {
        self.entries.iter().filter(|e| e.section == section as u8).map(|e| e.packed).sum()
    }

    /// Directory and footer; the file's length.
    pub fn finish(self) -> Result<u64, SnapshotError> {
        self.end(true)
    }

    /// For tests that write thousands.
    #[doc(hidden)]
    pub fn finish_unsynced(self) -> Result<u64, SnapshotError> {
        self.end(false)
    }

    fn end(mut self, sync: bool) -> Result<u64, SnapshotError> {
        let mut dir: Vec<u8> = Vec::new();
        dir.uint(self.entries.len() as u64);
        for e in &self.entries {
            dir.push(e.section);
            for n in [e.first, e.items, e.offset, e.packed, e.raw] {
                dir.uint(n);
            }
            dir.extend_from_slice(&e.hash);
        }
        let hash: [u8; 32] = Sha256::new().chain_update(header()).chain_update(&dir).finalize().into();
        let mut write = || -> io::Result<u64> {
            self.out.write_all(&dir)?;
            self.out.write_all(&self.at.to_le_bytes())?;
            self.out.write_all(&(dir.len() as u64).to_le_bytes())?;
            self.out.write_all(&hash)?;
            self.out.write_all(END)?;
            self.out.flush()?;
            if sync {
                self.out.get_ref().sync_all()?;
            }
            std::fs::rename(&self.part, &self.path)?;
            Ok(self.at + dir.len() as u64 + FOOTER_LEN as u64)
        };
        let len = write().map_err(|source| SnapshotError::File { path: self.path.clone(), source })?;
        self.done = true;
        Ok(len)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// An opened file: the directory is checked, the blocks are not read yet.
pub struct Reader {
    pub path: PathBuf,
    file: MappedFile,
    entries: Vec<Entry>,
}

/// Does the file begin as snapshots do?
pub fn is_snapshot(path: &Path) -> io::Result<bool> {
    use std::io::Read;
    let mut head = Vec::with_capacity(8);
    File::open(path)?.take(8).read_to_end(&mut head)?;
    Ok(head == MAGIC)
}

impl Reader {
    pub fn open(path: &Path) -> Result<Reader, SnapshotError> {
        let file = MappedFile::open(path).map_err(|source| SnapshotError::File { path: path.to_owned(), source })?;
        Reader::parse(path, file)
    }

    pub(super) fn parse(path: &Path, file: MappedFile) -> Result<Reader, SnapshotError> {
        let own = || path.to_owned();
        if file.get(..8) != Some(&MAGIC[..]) {
            return Err(SnapshotError::NotSnapshot { path: own() });
        }
        let found = bytes::u32_at(&file, 8).ok_or_else(|| SnapshotError::CutShort { path: own() })?;
        if found != VERSION {
            return Err(SnapshotError::Version { path: own(), found });
        }
        let len = file.len();
        let foot = len.checked_sub(FOOTER_LEN).filter(|&f| f >= HEADER_LEN);
        let Some(foot) = foot.filter(|_| file.ends_with(END)) else {
            return Err(SnapshotError::CutShort { path: own() });
        };
        let altered = |what: &str| SnapshotError::Altered { path: own(), what: what.to_owned() };
        let word = |at: usize| bytes::u64_at(&file, at).unwrap_or(u64::MAX);
        let (at, dir_len) = (word(foot), word(foot + 8));
        // The directory ends where the footer begins.
        let dir = usize::try_from(at)
            .ok()
            .filter(|&a| a >= HEADER_LEN && at.checked_add(dir_len) == Some(foot as u64))
            .and_then(|a| file.get(a..foot))
            .ok_or_else(|| altered("the footer"))?;
        let hash: [u8; 32] = Sha256::new().chain_update(&file[..HEADER_LEN]).chain_update(dir).finalize().into();
        if file.get(foot + 16..foot + 48) != Some(&hash[..]) {
            return Err(altered("the directory"));
        }
        let entries = entries(dir, at).map_err(|why| SnapshotError::Content {
            path: own(),
            section: "directory",
            why: why.to_owned(),
        })?;
        Ok(Reader { path: own(), file, entries })
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    /// Where the blocks of the sections of that name lie in the file.
    pub fn blocks(&self, section: &str) -> Vec<u64> {
        let all = [Section::Degrees, Section::Edges, Section::Roots, Section::Objects, Section::Goroutines];
        let wanted = |e: &Entry| all.iter().any(|&s| s as u8 == e.section && s.name() == section);
        self.entries.iter().filter(|e| wanted(e)).map(|e| e.offset).collect()
    }

    pub fn bad(&self, section: Section, why: impl Into<String>) -> SnapshotError {
        SnapshotError::Content { path: self.path.clone(), section: section.name(), why: why.into() }
    }

    /// Reads, checks and unpacks the blocks of a section, decodes each by `decode(first item, items, bytes)`, in parallel;
    /// results in the order of items. Blocks follow each other without gaps.
    pub fn each<T: Send>(
        &self,
        section: Section,
        decode: impl Fn(u64, u64, &[u8]) -> Result<T, &'static str> + Sync,
    ) -> Result<Vec<T>, SnapshotError> {
        let blocks: Vec<&Entry> = self.entries.iter().filter(|e| e.section == section as u8).collect();
        let mut next = 0u64;
        for b in &blocks {
            if b.first != next {
                return Err(self.bad(section, format!("items {next} to {} are missing", b.first)));
            }
            next = b.first.saturating_add(b.items);
        }
        blocks
            .par_iter()
            .map(|b| {
                let raw = self.unpack(section, b)?;
                decode(b.first, b.items, &raw).map_err(|why| self.bad(section, why))
            })
            .collect()
    }

    /// A section of one block.
    pub fn one<T: Send>(
        &self,
        section: Section,
        decode: impl Fn(u64, &[u8]) -> Result<T, &'static str> + Sync,
    ) -> Result<T, SnapshotError> {
        let mut all = self.each(section, |_, items, raw| decode(items, raw))?;
        match (all.pop(), all.is_empty()) {
            (Some(x), true) => Ok(x),
            _ => Err(self.bad(section, "it should be one block")),
        }
    }

    fn unpack(&self, section: Section, e: &Entry) -> Result<Vec<u8>, SnapshotError> {
        let packed = usize::try_from(e.offset)
            .ok()
            .zip(usize::try_from(e.packed).ok())
            .and_then(|(at, n)| self.file.get(at..at.checked_add(n)?))
            .ok_or_else(|| self.bad(section, "a block lies outside the file"))?;
        let hash: [u8; 32] = Sha256::digest(packed).into();
        if hash != e.hash {
            let what = format!("its {}", section.name());
            return Err(SnapshotError::Altered { path: self.path.clone(), what });
        }
        let raw = zstd::bulk::decompress(packed, e.raw as usize).map_err(|x| self.bad(section, x.to_string()))?;
        if raw.len() as u64 != e.raw {
            return Err(self.bad(section, "a block is shorter than it says"));
        }
        Ok(raw)
    }
}

/// Every block, unpacked: (section, items, bytes). For tests.
#[doc(hidden)]
pub fn all_blocks(path: &Path) -> Result<Vec<(Section, u64, Vec<u8>)>, SnapshotError> {
    use Section::*;
    let r = Reader::open(path)?;
    let sections = [
        Meta, Functions, Variables, Goroutines, Types, Spans, Objects, Degrees, Edges, Roots, Evidence, Links, Locals,
        LocalRoots,
    ];
    r.entries
        .iter()
        .filter_map(|e| sections.into_iter().find(|&s| s as u8 == e.section).map(|s| (s, e)))
        .map(|(s, e)| Ok((s, e.items, r.unpack(s, e)?)))
        .collect()
}

/// The directory; blocks must lie one behind the other before it.
fn entries(dir: &[u8], dir_at: u64) -> Result<Vec<Entry>, &'static str> {
    let mut d = Get::new(dir);
    let n = d.count(MAX_BLOCKS)?;
    let mut out = Vec::new();
    let mut next = HEADER_LEN as u64;
    for _ in 0..n {
        let section = d.byte()?;
        let (first, items, offset, packed, raw) = (d.uint()?, d.uint()?, d.uint()?, d.uint()?, d.uint()?);
        let hash = d.bytes(32)?.try_into().map_err(|_| "a hash is short")?;
        let end = offset.checked_add(packed).ok_or("a block is too long")?;
        if offset != next || end > dir_at || raw > MAX_BLOCK {
            return Err("a block is not where it should be");
        }
        next = end;
        out.push(Entry { section, first, items, offset, packed, raw, hash });
    }
    d.end()?;
    Ok(out)
}
