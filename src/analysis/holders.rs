//! Who holds the roots: global variables, goroutines (grouped by the function they run), finalizers, the runtime. The
//! top level of the dominator tree, so that retained sizes are told per variable and per kind of goroutine.

use std::collections::HashMap;

use serde::Serialize;

use super::dominators::HolderTree;
use crate::{
    base::{Addr, Goid},
    graph::{Root, RootKind, build::Built},
    runtime::{Runtime, layout::Global},
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    Global,
    /// All goroutines that run one function.
    Goroutines,
    Goroutine,
    Finalizer,
    Cleanup,
    /// Queues, caches and special records of the runtime.
    Runtime,
}

/// One holder. What it is called is worked out when it is asked for: most are never shown.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub kind: HolderKind,
    /// Globals: where the variable begins, as far as that is known. Goroutine groups: entry of the function.
    pub addr: Addr,
    pub goid: Goid,
}

/// Holders with the tree that `Dominators::compute` takes.
pub struct Holders {
    pub list: Vec<Holder>,
    pub tree: HolderTree,
}

impl Holders {
    /// One pass over the roots; a search by address for each root in a global.
    pub fn of(rt: &Runtime, built: &Built) -> Holders {
        let mut h = Holders { list: Vec::new(), tree: HolderTree::default() };
        let mut index: HashMap<(HolderKind, u64), u32> = HashMap::new();
        let start_of: HashMap<Goid, Addr> = built.goroutines.iter().map(|g| (g.goid, g.startpc)).collect();
        for root in &built.graph.roots {
            let holder = match root.kind {
                RootKind::Data | RootKind::Bss => {
                    let addr = root.at.offset(0u64.wrapping_sub(place(rt, root.at).1));
                    h.intern(&mut index, HolderKind::Global, addr, Goid(0), None)
                }
                RootKind::Stack | RootKind::Conservative | RootKind::Goroutine => {
                    let start = start_of.get(&root.goid).copied().unwrap_or_default();
                    let group = h.intern(&mut index, HolderKind::Goroutines, start, Goid(0), None);
                    h.intern(&mut index, HolderKind::Goroutine, start, root.goid, Some(group))
                }
                RootKind::Finalizer | RootKind::FinalizerQueue => {
                    h.intern(&mut index, HolderKind::Finalizer, Addr::NULL, Goid(0), None)
                }
                RootKind::Cleanup => h.intern(&mut index, HolderKind::Cleanup, Addr::NULL, Goid(0), None),
                RootKind::WeakHandle | RootKind::TinyBlock | RootKind::Other => {
                    h.intern(&mut index, HolderKind::Runtime, Addr::NULL, Goid(0), None)
                }
            };
            h.tree.of_root.push(holder);
        }
        h
    }

    fn intern(
        &mut self,
        index: &mut HashMap<(HolderKind, u64), u32>,
        kind: HolderKind,
        addr: Addr,
        goid: Goid,
        parent: Option<u32>,
    ) -> u32 {
        let key = if kind == HolderKind::Goroutine { goid.0 } else { addr.0 };
        *index.entry((kind, key)).or_insert_with(|| {
            self.list.push(Holder { kind, addr, goid });
            self.tree.parent.push(parent);
            self.list.len() as u32 - 1
        })
    }

    /// `global main.cache`, `goroutine main.consume`, `goroutine 17`, `finalizer`.
    pub fn name(&self, rt: &Runtime, holder: u32) -> String {
        let Some(h) = self.list.get(holder as usize) else { return "?".into() };
        match h.kind {
            HolderKind::Global => global_name(rt, h.addr),
            HolderKind::Goroutines => {
                format!("goroutine {}", rt.image.pclntab.find(h.addr).map_or("(unknown function)", |f| f.name()))
            }
            HolderKind::Goroutine => format!("goroutine {}", h.goid),
            HolderKind::Finalizer => "finalizer".into(),
            HolderKind::Cleanup => "cleanup".into(),
            HolderKind::Runtime => "runtime".into(),
        }
    }
}

/// What names the variable at `at`.
enum Place<'r> {
    Symbol(&'r str),
    Runtime(Global),
    /// Code refers to its start.
    Code,
    Nothing,
}

/// The variable around `at`, and the offset of `at` in it. Symbols know sizes, DWARF does not: so they come first.
fn place(rt: &Runtime, at: Addr) -> (Place<'_>, u64) {
    if let Some((symbol, off)) = rt.image.symbols.as_ref().and_then(|s| s.at(at)).filter(|(s, _)| s.data) {
        return (Place::Symbol(symbol.name), off);
    }
    let elf = at.0.wrapping_sub(rt.image.bias);
    let vars = rt.image.dwarf.as_ref().map(|d| d.variables.as_slice()).unwrap_or_default();
    if let Some(v) = vars.partition_point(|v| v.addr <= elf).checked_sub(1).map(|i| &vars[i]) {
        return (Place::Symbol(&v.name), elf - v.addr);
    }
    const SLICE: u64 = 24;
    let known = Global::ALL.iter().find_map(|&g| {
        let off = at.0.checked_sub(rt.globals.get(g)?.0).filter(|&o| o < SLICE)?;
        Some((Place::Runtime(g), off))
    });
    if let Some(found) = known {
        return found;
    }
    const NEAR: u64 = 4096;
    match rt.image.code_index().nearest(at).and_then(|s| at.0.checked_sub(s.0)).filter(|&o| o < NEAR) {
        Some(off) => (Place::Code, off),
        None => (Place::Nothing, 0),
    }
}

/// `global main.cache`, with the offset where `at` lies inside; `global near main.Put` where the code of a function is
/// all that is known of it.
pub fn global_name(rt: &Runtime, at: Addr) -> String {
    let (place, off) = place(rt, at);
    let tail = if off == 0 { String::new() } else { format!("+{off}") };
    match place {
        Place::Symbol(name) => format!("global {name}{tail}"),
        Place::Runtime(g) => format!("global {}{tail}", g.name()),
        Place::Code | Place::Nothing => rt.image.name_global(at).unwrap_or_else(|| format!("global at {at}")),
    }
}

/// A root in words: the global it lies in, or the goroutine and function.
pub fn root_name(rt: &Runtime, built: &Built, root: &Root) -> String {
    match root.kind {
        RootKind::Data | RootKind::Bss => global_name(rt, root.at),
        RootKind::Stack | RootKind::Conservative => {
            let i = built.goroutines.iter().position(|g| g.goid == root.goid);
            let frame = i.and_then(|i| built.stacks[i].frames.get(root.frame as usize));
            let func = frame.and_then(|f| rt.image.pclntab.find(f.pc)).map_or("?", |f| f.name());
            format!("goroutine {} in {func}", root.goid)
        }
        RootKind::Goroutine => format!("goroutine {}", root.goid),
        RootKind::Finalizer => format!("finalizer at {}", root.at),
        RootKind::Cleanup => format!("cleanup at {}", root.at),
        RootKind::FinalizerQueue => "queue of finalizers".into(),
        RootKind::WeakHandle => format!("weak handle at {}", root.at),
        RootKind::TinyBlock => "block of tiny objects in use".into(),
        RootKind::Other => format!("runtime at {}", root.at),
    }
}
