//! target: a still view of one process: memory, mappings, threads, registers. Owns `Target` and the `Memory` trait.
//! Reads through `os`. Used by every room below. Does not know Go.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use crate::base::{Addr, bytes};

mod cache;
mod core;
mod dump;
pub mod fake;
pub mod fork;
mod live;

pub use core::is_core;
pub use dump::{DumpError, DumpFigures, DumpOptions};
pub use live::HoldMode;

/// Why a target could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("there is no process {0}")]
    NoProcess(u32),
    #[error("{tid} is a thread of process {pid}")]
    ThreadNotProcess { tid: u32, pid: u32 },
    #[error("process {0} has no executable: it is a kernel thread or about to exit")]
    KernelThread(u32),
    #[error("process {pid} is already traced by process {tracer} ({name})")]
    OtherTracer { pid: u32, tracer: u32, name: String },
    #[error("not allowed to {what} process {pid}: {why}")]
    Denied { pid: u32, what: &'static str, why: String },
    #[error("cannot read /proc/{pid}/{file}: {source}")]
    Proc { pid: u32, file: &'static str, source: std::io::Error },
    #[error("cannot open {path}: {source}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{what}: {why}")]
    Unsupported { what: String, why: String },
    #[error("{path} is not a usable core file: {why}", path = path.display())]
    BadCore { path: PathBuf, why: String },
}

impl TargetError {
    fn proc(pid: u32, file: &'static str, source: std::io::Error) -> TargetError {
        TargetError::Proc { pid, file, source }
    }
}

/// The architecture from the first 20 bytes of an ELF file, or why gosleuth cannot work with it.
fn arch_of_elf(head: &[u8]) -> Result<Arch, String> {
    if head.get(..4) != Some(b"\x7fELF") {
        return Err("it is not an ELF file".into());
    }
    if head.get(4) != Some(&2) {
        return Err("32-bit program: gosleuth reads 64-bit Go programs only".into());
    }
    if head.get(5) != Some(&1) {
        return Err("big-endian program: gosleuth reads amd64 and arm64 only".into());
    }
    match bytes::u16_at(head, 18) {
        Some(62) => Ok(Arch::Amd64),
        Some(183) => Ok(Arch::Arm64),
        machine => {
            Err(format!("machine type {}: gosleuth reads amd64 (62) and arm64 (183) only", machine.unwrap_or_default()))
        }
    }
}

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
    #[error("the process had to run on (--max-pause) before {0} was read")]
    TooLate(Addr),
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

    /// Bytes that there can be at most, where that is less than the mappings say (cores: the file).
    fn stored_bytes(&self) -> Option<u64> {
        None
    }

    /// The bytes themselves without a copy, where the implementation has them mapped (cores, fakes) in one piece.
    fn borrow(&self, _addr: Addr, _len: usize) -> Option<&[u8]> {
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    Amd64,
    Arm64,
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    Live,
    Core,
    Snapshot,
    /// A pprof file: nothing of this room.
    Profile,
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

/// How to hold a live target, and for how long at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HoldRequest {
    pub mode: HoldMode,
    pub max_pause: Option<Duration>,
}

impl From<HoldMode> for HoldRequest {
    fn from(mode: HoldMode) -> HoldRequest {
        HoldRequest { mode, max_pause: None }
    }
}

/// How the target was held still and for how long.
#[derive(Clone, Debug, Serialize)]
pub struct Hold {
    /// `none`, `freeze`, `fork`; `core` and `profile` for files.
    pub mode: &'static str,
    /// Milliseconds from the first thread stopped to the last one resumed; `None` while held or when nothing is stopped.
    pub stopped_ms: Option<f64>,
    /// Of that, the system call by which the copy was made, which a program that forks itself would need as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_ms: Option<f64>,
}

/// What may happen to a live target while it is held.
#[derive(Debug, Default)]
struct Watch {
    /// It runs on, because it was held for as long as allowed: nothing that is read from now on counts.
    late: AtomicBool,
    /// It ended: memory could not be read any more.
    gone: AtomicBool,
    /// Bytes that were to be read after either.
    missed: AtomicU64,
}

/// Why and how much of what was to be read is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missed {
    /// The target ran on before all was read, as `--max-pause` asks.
    Late { bytes: u64 },
    /// The target ended.
    Gone { bytes: u64 },
}

/// What keeps a live target still. Letting go happens once, at the latest on drop.
trait Holder: Send + Sync {
    fn release(&self);
    fn is_held(&self) -> bool;
    fn copy_ms(&self) -> Option<f64> {
        None
    }
    /// `None` while held.
    fn stopped_ms(&self) -> Option<f64>;
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
    /// What went wrong while opening: (kind, example), for the diagnostics of the answer.
    pub trouble: Vec<(&'static str, String)>,
    freezer: Option<Arc<dyn Holder>>,
    watch: Arc<Watch>,
    mode: &'static str,
}

/// Memory of which nothing was kept.
struct Forgotten;

impl Memory for Forgotten {
    fn read(&self, addr: Addr, _: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::Unreadable(addr, "a snapshot holds no memory".into()))
    }
}

impl Target {
    /// A process of which only a snapshot is left.
    pub fn of_snapshot(pid: Option<u32>, arch: Arch, exe: Option<PathBuf>) -> Target {
        Target {
            kind: TargetKind::Snapshot,
            pid,
            arch,
            exe,
            exe_file: None,
            mappings: Vec::new(),
            threads: Vec::new(),
            auxv: Vec::new(),
            memory: Arc::new(Forgotten),
            trouble: Vec::new(),
            freezer: None,
            watch: Arc::default(),
            mode: "snapshot",
        }
    }

    /// Was everything that was asked for read while the target stood still?
    pub fn missed(&self) -> Option<Missed> {
        let bytes = self.watch.missed.load(Ordering::SeqCst);
        match (self.watch.gone.load(Ordering::SeqCst), bytes) {
            (true, bytes) => Some(Missed::Gone { bytes }),
            (false, 0) => None,
            (false, bytes) => Some(Missed::Late { bytes }),
        }
    }

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

    /// How much memory can be read at most: a bound on what lengths found in it can mean.
    pub fn readable_bytes(&self) -> u64 {
        let mapped = self.mappings.iter().fold(0u64, |sum, m| sum.saturating_add(m.end.0.saturating_sub(m.start.0)));
        self.memory.stored_bytes().map_or(mapped, |stored| stored.min(mapped))
    }

    /// The mapping that contains `addr`.
    pub fn mapping_at(&self, addr: Addr) -> Option<&Mapping> {
        let i = self.mappings.partition_point(|m| m.end <= addr);
        self.mappings.get(i).filter(|m| m.start <= addr)
    }
}
