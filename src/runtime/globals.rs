//! runtime::globals: addresses of the runtime's own global variables, and how each was found.
//! DWARF, else symbol table, else memory pattern, else disassembly; every candidate is verified by its content.

use crate::{base::Addr, image::FoundBy, runtime::layout::Global};

/// One located global variable.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    pub addr: Addr,
    pub found_by: FoundBy,
}

/// Indexed by `Global`.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    located: Vec<Option<Located>>,
}

impl Globals {
    pub fn set(&mut self, global: Global, located: Located) {
        if self.located.len() < Global::COUNT {
            self.located.resize(Global::COUNT, None);
        }
        self.located[global as usize] = Some(located);
    }

    pub fn get(&self, global: Global) -> Option<Addr> {
        self.located(global).map(|l| l.addr)
    }

    pub fn located(&self, global: Global) -> Option<Located> {
        self.located.get(global as usize).copied().flatten()
    }
}
