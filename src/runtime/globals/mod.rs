//! runtime::globals: addresses of the runtime's own global variables, and how each was found.
//! DWARF, else symbol table, else memory pattern, else disassembly; every candidate is verified by its content.
//! Reads the image and target memory. Used by everything in `runtime`. Does not know what the variables are good for,
//! but for the sentence that `doctor` prints when one is missing.

mod pattern;
mod signature;
mod verify;

use std::sync::Arc;

use serde::Serialize;

use crate::{
    base::{Addr, Diagnostics},
    image::{FoundBy, Image},
    runtime::layout::{Field, Global, Layout, Need},
    target::Target,
};

use signature::Votes;
use verify::Checker;
pub use verify::sem_stride;

/// Rejected candidates of one variable that are kept for the report.
const MAX_NOTES: usize = 3;

/// One located global variable.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    pub addr: Addr,
    pub found_by: FoundBy,
}

/// A line of `doctor`: one variable, whether it was found, and what it costs if not.
#[derive(Clone, Debug, Serialize)]
pub struct GlobalReport {
    pub name: &'static str,
    pub addr: Option<Addr>,
    pub found_by: Option<FoundBy>,
    /// What was tried without success, in order.
    pub tried: Vec<String>,
    /// Answers that are lost without this variable; empty where it was found or nothing is lost.
    pub costs: &'static str,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("the runtime's variable {name} was not found: {costs} (tried {tried})")]
pub struct MissingGlobal {
    pub name: &'static str,
    pub costs: &'static str,
    pub tried: String,
}

/// Indexed by `Global`.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    located: Vec<Option<Located>>,
    tried: Vec<Vec<String>>,
    /// What the code says, kept where names are missing: content is looked at again once the process is still.
    votes: Option<Arc<Votes>>,
    /// Not in this release, or not linked into this program: nothing is lost without them.
    absent: Vec<Global>,
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

    /// Like `get`, with an error that says what was tried.
    pub fn need(&self, global: Global) -> Result<Addr, MissingGlobal> {
        self.get(global).ok_or_else(|| MissingGlobal {
            name: global.name(),
            costs: costs(global),
            tried: self.tried.get(global as usize).map(|t| t.join("; ")).unwrap_or_default(),
        })
    }

    /// One line for each variable of the wanted list, in its order.
    pub fn report(&self) -> Vec<GlobalReport> {
        Global::ALL
            .iter()
            .map(|&g| GlobalReport {
                name: g.name(),
                addr: self.get(g),
                found_by: self.located(g).map(|l| l.found_by),
                tried: self.tried.get(g as usize).cloned().unwrap_or_default(),
                costs: if self.get(g).is_some() || self.absent.contains(&g) { "" } else { costs(g) },
            })
            .collect()
    }

    fn note(&mut self, global: Global, what: impl Into<String>) {
        if self.tried.len() < Global::COUNT {
            self.tried.resize(Global::COUNT, Vec::new());
        }
        self.tried[global as usize].push(what.into());
    }

    /// Finds every variable of the wanted list. Never fails: ask `need` for what an answer depends on.
    pub fn locate(target: &Target, image: &Image, layout: &Layout, diag: &Diagnostics) -> Globals {
        Globals::locate_by(target, image, layout, diag, &[FoundBy::Dwarf, FoundBy::Symtab])
    }

    /// Like `locate`, with the name sources to use (none: as if stripped).
    pub fn locate_by(
        target: &Target,
        image: &Image,
        layout: &Layout,
        diag: &Diagnostics,
        sources: &[FoundBy],
    ) -> Globals {
        let checker = Checker { target, image, layout };
        let mut globals = Globals::default();
        for g in order() {
            if sources.contains(&FoundBy::Dwarf)
                && let Some(addr) = image.dwarf.as_ref().and_then(|d| d.variable(g.name()))
            {
                globals.set(g, Located { addr: image.elf.run_time(addr), found_by: FoundBy::Dwarf });
            } else if sources.contains(&FoundBy::Symtab) {
                match image.symbols.as_ref().and_then(|s| s.find(g.name())) {
                    Some(s) => globals.set(g, Located { addr: s.addr, found_by: FoundBy::Symtab }),
                    None => {
                        globals.note(g, if image.has_symtab { "not in the symbol table" } else { "no symbol table" })
                    }
                }
            }
            // The linker's word is not doubted, but a contradiction is worth a line in the report.
            if let Some(l) = globals.located(g)
                && let Err(why) = checker.check(&globals, g, l.addr)
            {
                diag.note("runtime variable looks odd", format_args!("{} at {}: {why}", g.name(), l.addr));
            }
        }
        if globals.located.iter().filter(|l| l.is_some()).count() > Global::COUNT / 2 {
            // Names are to be had: what is missing is not in this release or was not linked.
            globals.absent = Global::ALL.iter().copied().filter(|&g| globals.get(g).is_none()).collect();
            return globals;
        }
        globals.search_all(&checker, Arc::new(Votes::collect(image)));
        globals
    }

    /// Searches again by content where names are missing: in a moving process a right candidate may fail its check and
    /// leave its place to a wrong one. `None` where names told everything. Cost: a copy of the program's variables.
    pub fn again(&self, target: &Target, image: &Image, layout: &Layout, diag: &Diagnostics) -> Option<Globals> {
        let votes = self.votes.clone()?;
        let mut globals = Globals::default();
        for g in order() {
            match self.located(g) {
                Some(l) if matches!(l.found_by, FoundBy::Symtab | FoundBy::Dwarf) => globals.set(g, l),
                _ => {}
            }
        }
        globals.search_all(&Checker { target, image, layout }, votes);
        for g in order() {
            if let (Some(before), Some(now)) = (self.get(g), globals.get(g))
                && before != now
            {
                diag.note(
                    "a runtime variable was mistaken while the process ran, and corrected",
                    format_args!("{}: {before}, not {now}", g.name()),
                );
            }
        }
        Some(globals)
    }

    fn search_all(&mut self, checker: &Checker, votes: Arc<Votes>) {
        let copies = pattern::Segments::default();
        for g in order() {
            if self.get(g).is_none() {
                self.search(checker, &votes, &copies, g);
            }
        }
        self.votes = Some(votes);
    }

    /// One variable without a name: by the code that refers to it, else by its content alone.
    fn search(&mut self, checker: &Checker, votes: &Votes, copies: &pattern::Segments, g: Global) {
        if let Some(addr) = pattern::known_place(checker.image, g) {
            return self.set(g, Located { addr, found_by: FoundBy::Pattern });
        }
        if g == Global::GcCleanups && !checker.layout.has(Field::CleanupQueueAll) {
            return self.absent.push(g);
        }
        let candidates = votes.candidates(g);
        if candidates.is_empty() {
            self.note(
                g,
                match votes.functions() {
                    0 => "disassembly: none of the runtime's functions has its name",
                    _ => "disassembly: no function refers to such a variable",
                },
            );
        }
        for (i, c) in candidates.iter().enumerate() {
            match checker.check(self, g, c.addr) {
                Ok(()) => return self.set(g, Located { addr: c.addr, found_by: FoundBy::Disassembly }),
                // The runner-ups are many where a signature has few functions; the best say enough.
                Err(why) if i < MAX_NOTES => self.note(g, format!("{} that {} functions use: {why}", c.addr, c.votes)),
                Err(_) if i == MAX_NOTES => self.note(g, format!("{} more such variables", candidates.len() - i)),
                Err(_) => {}
            }
        }
        match pattern::scan(checker, self, copies, g) {
            pattern::Scan::One(addr) => self.set(g, Located { addr, found_by: FoundBy::Pattern }),
            pattern::Scan::None => self.note(g, "pattern: nothing in the program's variables looks like it"),
            pattern::Scan::Many(n) => self.note(g, format!("pattern: {n} places look like it")),
            pattern::Scan::NoPattern => {}
        }
    }
}

/// Those first that the checks of others ask for.
fn order() -> impl Iterator<Item = Global> {
    const FIRST: [Global; 6] =
        [Global::Mheap, Global::Allgs, Global::Allp, Global::Memstats, Global::Sched, Global::GcController];
    FIRST.into_iter().chain(Global::ALL.iter().copied().filter(|g| !FIRST.contains(g)))
}

/// Which answers are lost without a variable; empty where none is.
fn costs(global: Global) -> &'static str {
    match global {
        Global::Mheap => "nothing can be said about the heap",
        Global::Allgs => "goroutines are not known, so liveness is not either",
        Global::Allm | Global::Allp => "objects that only the scheduler's own structures hold look unreachable",
        Global::Sched => "scheduler counters and queues are missing",
        Global::Work | Global::GcController => "the collector's pacing and cycle figures are missing",
        Global::Memstats => "totals since the start (allocations, pauses, collections) are missing",
        Global::Semtable => "waiters for mutexes are found through their goroutines only",
        Global::Allfin | Global::Finq => "objects whose finalizer is queued look unreachable",
        Global::GcCleanups => "objects whose cleanup is queued look unreachable",
        Global::Mbuckets => "the heap profile (allocation sites) cannot be read",
        Global::Bbuckets | Global::Xbuckets => "block and mutex profiles cannot be read",
        Global::MemProfileRate => "the sampling rate of the heap profile is unknown: 512 KiB is assumed",
        Global::Gcphase => "the phase of the collector is inferred from the heap",
        g if g.need() == Need::Required => "the target cannot be read",
        _ => "",
    }
}
