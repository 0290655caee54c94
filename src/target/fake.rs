//! A target made of byte slices, for tests: segments at chosen addresses, no process behind them.

use std::{path::Path, sync::Arc};

use super::{Arch, Fault, Mapping, Memory, Target, TargetKind};
use crate::base::Addr;

/// Memory that consists of the given segments and nothing else.
#[derive(Default)]
pub struct FakeMemory {
    segments: Vec<(Addr, Vec<u8>)>,
}

impl FakeMemory {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes at `addr`; segments must not overlap.
    pub fn with(mut self, addr: u64, bytes: impl Into<Vec<u8>>) -> Self {
        self.segments.push((Addr(addr), bytes.into()));
        self
    }

    /// Adds 64-bit words at `addr`.
    pub fn with_words(self, addr: u64, words: &[u64]) -> Self {
        self.with(addr, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())
    }
}

impl Target {
    /// A dead target of one architecture with this memory and nothing else; each segment is a writable mapping.
    pub fn fake(arch: Arch, memory: FakeMemory, exe: Option<&Path>) -> Target {
        let mut mappings: Vec<Mapping> = memory
            .segments
            .iter()
            .map(|(start, bytes)| Mapping {
                start: *start,
                end: start.offset(bytes.len() as u64),
                readable: true,
                writable: true,
                executable: false,
                file_offset: 0,
                path: None,
            })
            .collect();
        mappings.sort_by_key(|m| m.start);
        Target {
            kind: TargetKind::Core,
            pid: None,
            arch,
            exe: exe.map(Path::to_owned),
            exe_file: exe.map(Path::to_owned),
            mappings,
            threads: Vec::new(),
            auxv: Vec::new(),
            memory: Arc::new(memory),
            trouble: Vec::new(),
            freezer: None,
            watch: Default::default(),
            mode: "core",
        }
    }
}

impl Memory for FakeMemory {
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Fault> {
        let bytes = self.borrow(addr, buf.len()).ok_or(Fault::NotMapped(addr))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn borrow(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        self.segments.iter().find_map(|(start, bytes)| {
            let off = usize::try_from(addr.distance_from(*start)?).ok()?;
            bytes.get(off..off.checked_add(len)?)
        })
    }
}
