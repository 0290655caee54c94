//! image::functions: the functions of all modules behind one door.

use super::{
    Func, Pclntab,
    pclntab::{SavedFunc, SavedFunctions},
};
use crate::base::Addr;

/// Function tables of the program and of its plugins.
#[derive(Default)]
pub struct Functions {
    tables: Vec<Pclntab>,
    /// What a snapshot kept, instead of tables.
    saved: Option<SavedFunctions>,
}

impl Functions {
    pub fn new(tables: Vec<Pclntab>) -> Functions {
        Functions { tables, saved: None }
    }

    /// Functions of a snapshot, of a program built by Go 1.`minor`.
    pub fn of_saved(list: Vec<SavedFunc>, minor: u32) -> Functions {
        Functions { tables: Vec::new(), saved: Some(SavedFunctions::new(list, minor)) }
    }

    /// One table a module, in the order of modules.
    pub fn tables(&self) -> &[Pclntab] {
        &self.tables
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.tables.iter().map(Pclntab::len).sum::<usize>() + self.saved.as_ref().map_or(0, SavedFunctions::count)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does `pc` lie in the text of any module?
    #[inline]
    pub fn contains(&self, pc: Addr) -> bool {
        self.tables.iter().any(|t| t.contains(pc))
    }

    /// The function that contains `pc`. For a return address ask for `pc - 1`. No allocation.
    pub fn find(&self, pc: Addr) -> Option<Func<'_>> {
        if let Some(saved) = &self.saved {
            return saved.find(pc);
        }
        self.tables.iter().find(|t| t.contains(pc))?.find(pc)
    }

    /// The first function of exactly this name. Each table sorts its names on first use.
    pub fn find_name(&self, name: &str) -> Option<Func<'_>> {
        self.tables.iter().find_map(|t| t.find_name(name))
    }

    /// All functions, in address order within each module.
    pub fn iter(&self) -> impl Iterator<Item = Func<'_>> {
        self.tables.iter().flat_map(Pclntab::funcs).chain(self.saved.iter().flat_map(SavedFunctions::iter))
    }

    /// Bytes of funcdata at a run-time address, without a read of target memory.
    pub fn funcdata_bytes(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        self.tables.iter().find_map(|t| t.funcdata_at(addr, len))
    }
}
