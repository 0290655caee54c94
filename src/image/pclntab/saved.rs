//! Functions that a snapshot kept: those on stacks, with what is known at the pcs that occurred.

use std::collections::BTreeMap;

use super::{Frame, Func, FuncFlags, FuncId, Header, MAGIC_120, Pclntab, Place};
use crate::base::Addr;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedFrame {
    pub function: String,
    pub file: String,
    pub line: u32,
    pub func_id: FuncId,
    pub inlined: bool,
    pub start_line: u32,
}

impl SavedFrame {
    pub fn of(f: &Frame) -> SavedFrame {
        SavedFrame {
            function: f.function.to_owned(),
            file: f.file.to_owned(),
            line: f.line,
            func_id: f.func_id,
            inlined: f.inlined,
            start_line: f.start_line,
        }
    }

    pub(super) fn frame(&self) -> Frame<'_> {
        Frame {
            function: &self.function,
            file: &self.file,
            line: self.line,
            func_id: self.func_id,
            inlined: self.inlined,
            start_line: self.start_line,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedFunc {
    pub entry: Addr,
    /// Exclusive.
    pub end: Addr,
    pub name: String,
    pub func_id: FuncId,
    pub flags: u8,
    pub start_line: u32,
    /// Logical frames by the pc that was asked for.
    pub lines: BTreeMap<Addr, Vec<SavedFrame>>,
}

impl SavedFunc {
    pub fn of(f: &Func) -> SavedFunc {
        SavedFunc {
            entry: f.entry(),
            end: f.end(),
            name: f.name().to_owned(),
            func_id: f.func_id(),
            flags: f.flags().0,
            start_line: f.start_line(),
            lines: BTreeMap::new(),
        }
    }
}

/// Sorted by entry.
pub struct SavedFunctions {
    nothing: Pclntab,
    list: Vec<SavedFunc>,
}

impl SavedFunctions {
    pub fn new(mut list: Vec<SavedFunc>, minor: u32) -> SavedFunctions {
        list.sort_by_key(|f| f.entry);
        let header = Header { magic: MAGIC_120, quantum: 1, nfunc: 0, nfiles: 0, text_start: 0, tables: [0; 5] };
        SavedFunctions { nothing: Pclntab::nothing(header, Place { minor, ..Place::default() }), list }
    }

    pub fn count(&self) -> usize {
        self.list.len()
    }

    fn func<'a>(&'a self, index: usize, saved: &'a SavedFunc) -> Func<'a> {
        // A record of zeros: no tables of any kind.
        static ZEROS: [u8; 64] = [0; 64];
        Func { tab: &self.nothing, record: &ZEROS, index: index as u32, saved: Some(saved) }
    }

    pub fn find(&self, pc: Addr) -> Option<Func<'_>> {
        let i = self.list.partition_point(|f| f.entry <= pc).checked_sub(1)?;
        let f = self.list.get(i).filter(|f| pc < f.end)?;
        Some(self.func(i, f))
    }

    pub fn iter(&self) -> impl Iterator<Item = Func<'_>> {
        self.list.iter().enumerate().map(|(i, f)| self.func(i, f))
    }
}

pub(super) fn flags(f: &SavedFunc) -> FuncFlags {
    FuncFlags(f.flags)
}
