//! snapshot: a file that keeps the structure of one look at a process: objects, types, edges, roots, goroutines, counters,
//! module versions; no contents of strings or buffers, no memory. Written while streaming, read section by section.
//! Owns the format (docs/SNAPSHOT.md). Fills the rooms above it from a file: `Runtime`, `Heap`, `Built`, `Typed`.
//!
//! | file     | does |
//! |----------|------|
//! | `format` | blocks, directory, hashes |
//! | `codec`  | numbers and texts as bytes |
//! | `edges`  | edges as differences from what is expected |
//! | `write`  | a look becomes a file |
//! | `read`   | a file becomes a look |

mod codec;
mod edges;
mod format;
mod read;
mod write;

use serde::{Deserialize, Serialize};

use crate::{
    analysis::ledger::Ledger,
    base::GoVersion,
    image::{BuildInfo, FoundBy},
    runtime::Runtime,
    target::Arch,
};

#[doc(hidden)]
pub use format::{Section, Writer, all_blocks, pack};
pub use format::{SnapshotError, VERSION, is_snapshot};
pub use read::{Snapshot, bounds};
pub use write::{Contents, Figures, write};

/// What is known of an object's type: level of evidence, place of the part that it tells of, type.
type Mark = (u8, u64, crate::runtime::types::TypeId);

/// Which process it was, as far as two looks can be told to be of the same one: its id and where the kernel put it
/// (AT_RANDOM and AT_SYSINFO_EHDR of the auxiliary vector, both placed at random when it started).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: Option<u32>,
    pub placed: Vec<u64>,
}

impl Process {
    pub fn of(rt: &Runtime) -> Process {
        const AT_RANDOM: u64 = 25;
        const AT_SYSINFO_EHDR: u64 = 33;
        let value = |key| rt.target.auxv.iter().find(|a| a.0 == key).map(|a| a.1);
        Process { pid: rt.target.pid, placed: [AT_RANDOM, AT_SYSINFO_EHDR].into_iter().filter_map(value).collect() }
    }

    /// Surely the same process.
    pub fn same(&self, other: &Process) -> bool {
        !self.placed.is_empty() && self == other
    }
}

/// Everything small: what and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meta {
    pub tool_version: String,
    /// When the look was taken, milliseconds since 1970.
    pub taken_unix_ms: u64,
    /// `live` or `core`.
    pub source: String,
    pub process: Process,
    pub exe: Option<std::path::PathBuf>,
    pub arch: Arch,
    /// As the binary writes it.
    pub go_version: String,
    pub go_minor: u32,
    pub go_version_source: FoundBy,
    pub bias: u64,
    pub build_id: Option<Vec<u8>>,
    pub go_build_id: Option<String>,
    pub build_info: Option<BuildInfo>,
    pub has_symtab: bool,
    /// Objects of more than 512 bytes with pointers begin with a malloc header.
    pub malloc_headers: bool,
    pub sweepgen: u32,
    pub slots: u64,
    pub edges: u64,
    /// Name and address of the runtime's own variables.
    pub globals: Vec<(String, u64)>,
    /// Bounds of each module's segments of variables, and of its text.
    pub modules: Vec<[u64; 10]>,
    /// The target's nanotime, where it is known.
    pub now_ns: Option<u64>,
    pub ledger: Option<Ledger>,
    pub gc_phase: String,
    pub gc_cycles: Option<u32>,
    /// Soft failures of the look: kind, how often, first example.
    pub diagnostics: Vec<(String, u64, String)>,
}

impl Meta {
    pub fn version(&self) -> GoVersion {
        GoVersion::parse(&self.go_version).unwrap_or_else(|| GoVersion::minor(self.go_minor))
    }
}

#[cfg(test)]
mod tests;
