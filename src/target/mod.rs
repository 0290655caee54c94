//! target: a still view of one process: memory, mappings, threads, registers. Owns `Target` and the `Memory` trait.
//! Reads through `os`. Used by every room below. Does not know Go.

use std::{path::PathBuf, sync::Arc};

use serde::Serialize;

use crate::base::{Addr, bytes};

pub mod fake;

/// Why target memory could not be read, with the first address that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("no memory is mapped at {0}")]
    NotMapped(Addr),
    #[error("the core file does not contain the page at {0} (cut short, or excluded by coredump_filter?)")]
    NotSaved(Addr),
    #[error("memory at {0} cannot be read: {1}")]
    Unreadable(Addr, String),
    #[error("the process is gone while reading {0}")]
    Gone(Addr),
    #[error("refusing to read {len} bytes at {addr}: over the limit of {limit}")]
    TooLong { addr: Addr, len: u64, limit: u64 },
}

/// Bytes of one address space. Implementations: live process, core file, fake (tests). Reads may run on many threads.
pub trait Memory: Send + Sync {
    /// Fills `buf` from `addr` or fails with the first bad address; `buf` is then unspecified.
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Fault>;

    /// Fills each range; answers one result a range. A live process does this with one system call per 1024 ranges.
    fn read_scattered(&self, ranges: &mut [(Addr, &mut [u8])]) -> Vec<Result<(), Fault>> {
        ranges.iter_mut().map(|(addr, buf)| self.read(*addr, buf)).collect()
    }

    /// The bytes themselves without a copy, where the implementation has them mapped (cores, fakes) in one piece.
    fn borrow(&self, _addr: Addr, _len: usize) -> Option<&[u8]> {
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    Amd64,
    Arm64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    Live,
    Core,
    Snapshot,
}

/// One line of /proc/PID/maps or of NT_FILE plus PT_LOAD. `end` is exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: Addr,
    pub end: Addr,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// Offset in `path` of the byte at `start`.
    pub file_offset: u64,
    pub path: Option<PathBuf>,
}

/// General registers of a stopped thread. `general` holds all integer registers (pc and sp included) in the
/// architecture's user_regs order, for conservative scanning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    pub pc: Addr,
    pub sp: Addr,
    /// Frame pointer: rbp, x29.
    pub fp: Addr,
    /// Link register (x30); null on amd64.
    pub lr: Addr,
    /// Where Go keeps g in Go code: R14 on amd64, X28 on arm64.
    pub g: Addr,
    /// fs_base on amd64, tpidr on arm64 where known.
    pub tls: Addr,
    pub general: Vec<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Thread {
    pub tid: u32,
    /// `None` where they could not be read (thread died, core without its note).
    pub regs: Option<Registers>,
}

/// How the target was held still and for how long.
#[derive(Clone, Debug, Serialize)]
pub struct Hold {
    /// `none`, `freeze`, `fork`; `core` for files.
    pub mode: &'static str,
    /// Milliseconds from the first thread stopped to the last one resumed; `None` while held or when nothing is stopped.
    pub stopped_ms: Option<f64>,
}

/// One process, held still, or a core file.
pub struct Target {
    pub kind: TargetKind,
    pub pid: Option<u32>,
    pub arch: Arch,
    /// Path of the executable as the target names it.
    pub exe: Option<PathBuf>,
    /// A path that opens the executable here: `--exe`, /proc/PID/exe, or a file found by name or build id.
    pub exe_file: Option<PathBuf>,
    /// Sorted by address.
    pub mappings: Vec<Mapping>,
    pub threads: Vec<Thread>,
    /// Auxiliary vector: (AT_*, value).
    pub auxv: Vec<(u64, u64)>,
    pub memory: Arc<dyn Memory>,
}

impl Target {
    pub fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(addr, buf)
    }

    /// `len` bytes at `addr`, refused beyond `limit`: lengths from a target may be garbage.
    pub fn read_vec(&self, addr: Addr, len: u64, limit: u64) -> Result<Vec<u8>, Fault> {
        if len > limit {
            return Err(Fault::TooLong { addr, len, limit });
        }
        let mut buf = vec![0; len as usize];
        self.memory.read(addr, &mut buf)?;
        Ok(buf)
    }

    pub fn read_u64(&self, addr: Addr) -> Result<u64, Fault> {
        let mut buf = [0; 8];
        self.memory.read(addr, &mut buf)?;
        Ok(bytes::u64_at(&buf, 0).unwrap_or_default())
    }

    pub fn read_u32(&self, addr: Addr) -> Result<u32, Fault> {
        let mut buf = [0; 4];
        self.memory.read(addr, &mut buf)?;
        Ok(bytes::u32_at(&buf, 0).unwrap_or_default())
    }

    pub fn read_ptr(&self, addr: Addr) -> Result<Addr, Fault> {
        self.read_u64(addr).map(Addr)
    }

    /// The mapping that contains `addr`.
    pub fn mapping_at(&self, addr: Addr) -> Option<&Mapping> {
        let i = self.mappings.partition_point(|m| m.end <= addr);
        self.mappings.get(i).filter(|m| m.start <= addr)
    }
}
