//! Read-only maps of files.

use std::{
    fs::File,
    io::{self, Write},
    ops::Deref,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

/// The bytes of a file, mapped read-only. If another process truncates the file meanwhile, touching the lost part raises SIGBUS:
/// binaries in use and finished cores are not truncated in practice.
pub struct MappedFile(Held);

enum Held {
    Mapped(Mmap),
    Own(Vec<u8>),
}

impl MappedFile {
    /// A file of no bytes.
    pub fn empty() -> MappedFile {
        MappedFile::of(Vec::new())
    }

    /// Bytes that stand for a file.
    pub fn of(bytes: Vec<u8>) -> MappedFile {
        MappedFile(Held::Own(bytes))
    }

    pub fn open(path: &Path) -> io::Result<MappedFile> {
        Self::map(&File::open(path)?)
    }

    pub fn map(file: &File) -> io::Result<MappedFile> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if meta.len() == 0 {
            return Ok(MappedFile::empty());
        }
        // SAFETY: the map is private and read-only; the only hazard, truncation by others, is documented above.
        unsafe { Mmap::map(file) }.map(|m| MappedFile(Held::Mapped(m)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Mapped(m) => m,
            Held::Own(v) => v,
        }
    }
}

/// A file that exists in memory only, and is gone with this process (memfd_create). Others open it by `path`.
pub struct MemoryFile(File);

impl MemoryFile {
    pub fn new(name: &str, bytes: &[u8]) -> io::Result<MemoryFile> {
        let name = std::ffi::CString::new(name)?;
        let fd = nix::sys::memfd::memfd_create(name.as_c_str(), nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        Ok(MemoryFile(file))
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}
