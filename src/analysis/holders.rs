//! Who holds the roots: global variables, goroutines (grouped by the function they run), finalizers, the runtime. The
//! top level of the dominator tree, so that retained sizes are told per variable and per kind of goroutine.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use super::dominators::HolderTree;
use crate::{
    base::{Addr, Bitmap, Goid},
    graph::{Root, RootKind, build::Built, typing::Typed},
    image::{Func, FuncId},
    runtime::{Runtime, heap::Heap, layout::Global, stack::Stack},
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    Global,
    /// All goroutines that run one function.
    Goroutines,
    Goroutine,
    /// All frames of one function, whatever goroutines they are of (`Holders::by_frame`).
    Frames,
    Finalizer,
    Cleanup,
    /// Queues, caches and special records of the runtime.
    Runtime,
}

/// One holder. What it is called is worked out when it is asked for: most are never shown.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub kind: HolderKind,
    /// Globals: where the variable begins, as far as that is known; frames: the function's entry.
    pub addr: Addr,
    pub goid: Goid,
}

/// Holders with the tree that `Dominators::compute` takes.
pub struct Holders {
    pub list: Vec<Holder>,
    pub tree: HolderTree,
    /// The function that each goroutine runs, in the order of `Built::goroutines`: index into `functions`.
    runs: Vec<u32>,
    functions: Vec<String>,
}

/// Hands the record of each goroutine over to it. The runtime's own lists lead to all of them (allgs, and from a channel to
/// all that wait at it), so that what only a record leads to (defers, places in queues) would be held by those as well, and
/// never by its goroutine alone. Typing must be over: edges to records now lead back to where they begin. What is reachable
/// stays the same. Cost: one pass over the edges.
pub fn hand_over_records(heap: &Heap, built: &mut Built) {
    let (graph, goroutines) = (&mut built.graph, &built.goroutines);
    let mut records = Bitmap::new(graph.slots());
    for g in goroutines {
        let Some((id, _)) = heap.find(g.addr).filter(|f| graph.reachable.get(f.0.index())) else { continue };
        records.set(id.index());
        let (at, goid) = (g.addr, g.goid);
        graph.roots.push(Root { kind: RootKind::Goroutine, target: id, at, offset: 0, goid, frame: 0 });
    }
    const PART: usize = 1 << 16;
    let targets = &graph.target;
    let parts: Vec<usize> = (0..targets.len()).step_by(PART).collect();
    let found = |&from: &usize| -> Vec<usize> {
        let part = targets.range(from..targets.len().min(from + PART));
        part.enumerate().filter(|(_, to)| records.get(to.index())).map(|(i, _)| from + i).collect()
    };
    let edges: Vec<Vec<usize>> = parts.par_iter().map(found).collect();
    for e in edges.into_iter().flatten() {
        graph.target.set(e, graph.source_of(e));
    }
}

impl Holders {
    /// One pass over the roots; a search by address for each root in a global.
    pub fn of(rt: &Runtime, built: &Built) -> Holders {
        Holders::gather(rt, built, false)
    }

    /// The same, but what lies on stacks is held by the functions whose frames it lies in (an inlined call has no frame of its
    /// own), and not by goroutines; their records count as the runtime's.
    pub fn by_frame(rt: &Runtime, built: &Built) -> Holders {
        Holders::gather(rt, built, true)
    }

    fn gather(rt: &Runtime, built: &Built, frames: bool) -> Holders {
        let mut h = Holders { list: vec![], tree: HolderTree::default(), runs: vec![], functions: vec![] };
        let mut index: HashMap<(HolderKind, u64), u32> = HashMap::new();
        h.find_functions(rt, built);
        let run_of: HashMap<Goid, u32> = built.goroutines.iter().zip(&h.runs).map(|(g, &f)| (g.goid, f)).collect();
        for root in &built.graph.roots {
            let holder = match root.kind {
                RootKind::Data | RootKind::Bss => {
                    let (_, addr) = place(rt, built, root.at);
                    h.intern(&mut index, HolderKind::Global, addr, Goid(0), None)
                }
                RootKind::Stack | RootKind::Conservative | RootKind::Goroutine if frames => {
                    let function = function_of(rt, built, root).filter(|_| root.kind != RootKind::Goroutine);
                    match function.map(|f| f.entry()) {
                        Some(entry) => h.intern(&mut index, HolderKind::Frames, entry, Goid(0), None),
                        None => h.intern(&mut index, HolderKind::Runtime, Addr::NULL, Goid(0), None),
                    }
                }
                RootKind::Stack | RootKind::Conservative | RootKind::Goroutine => {
                    let start = Addr(run_of.get(&root.goid).copied().unwrap_or_default().into());
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

    /// What each goroutine runs: the function of its `go` statement. The wrapper that the compiler makes for a call with
    /// arguments is not it.
    fn find_functions(&mut self, rt: &Runtime, built: &Built) {
        let mut of_start: HashMap<Addr, u32> = HashMap::new();
        let mut by_name: HashMap<String, u32> = HashMap::new();
        for (g, stack) in built.goroutines.iter().zip(&built.stacks) {
            let f = *of_start.entry(g.startpc).or_insert_with(|| {
                let name = function_run(rt, g.startpc, stack);
                *by_name.entry(name.clone()).or_insert_with(|| {
                    self.functions.push(name);
                    self.functions.len() as u32 - 1
                })
            });
            self.runs.push(f);
        }
    }

    /// The holder at the top above `holder`: a goroutine's group.
    pub fn top(&self, holder: u32) -> u32 {
        self.tree.parent.get(holder as usize).copied().flatten().unwrap_or(holder)
    }

    /// The function that goroutine `i` of `Built::goroutines` runs.
    pub fn function_of(&self, i: usize) -> &str {
        self.runs.get(i).and_then(|&f| self.functions.get(f as usize)).map_or("", String::as_str)
    }

    /// Goroutines (indices into `Built::goroutines`) of a group.
    pub fn members(&self, holder: u32) -> impl Iterator<Item = usize> + '_ {
        let group = self.list.get(holder as usize).filter(|h| h.kind == HolderKind::Goroutines).map(|h| h.addr.0);
        self.runs.iter().enumerate().filter(move |(_, f)| Some(u64::from(**f)) == group).map(|(i, _)| i)
    }

    /// `global main.cache`, `goroutine main.consume`, `goroutine 17`, `finalizer`.
    pub fn name(&self, rt: &Runtime, built: &Built, holder: u32) -> String {
        let Some(h) = self.list.get(holder as usize) else { return "?".into() };
        match h.kind {
            HolderKind::Global => global_name(rt, built, h.addr),
            HolderKind::Goroutines => {
                format!("goroutine {}", self.functions.get(h.addr.0 as usize).map_or("?", String::as_str))
            }
            HolderKind::Goroutine => format!("goroutine {}", h.goid),
            HolderKind::Frames => format!("frame {}", rt.image.pclntab.find(h.addr).map_or("?", |f| f.name())),
            HolderKind::Finalizer => "finalizer".into(),
            HolderKind::Cleanup => "cleanup".into(),
            HolderKind::Runtime => "runtime".into(),
        }
    }
}

fn function_run(rt: &Runtime, startpc: Addr, stack: &Stack) -> String {
    let name_at = |pc: Addr| rt.image.pclntab.find(pc).map_or("?", |f| f.name()).to_owned();
    let own = name_at(startpc);
    // Wrappers of `go f(x)` are flagged by the compiler, or bear the name it gives them (to Go 1.20 they do not).
    let wraps = rt.image.pclntab.find(startpc).is_some_and(|f| f.func_id() == FuncId::Wrapper);
    let is_wrapper = wraps || own.contains(".gowrap") || own.contains("-fm");
    if !is_wrapper {
        return own;
    }
    // Outermost first: goexit, the wrapper, what it called; the callee may be inlined into the wrapper.
    for f in stack.frames.iter().rev() {
        let Some(func) = rt.image.pclntab.find(f.pc) else { continue };
        let inlined: Vec<_> = func.inline_frames(f.lookup).collect();
        let callee = inlined.iter().rev().find(|l| l.function != "runtime.goexit" && l.function != own);
        if let Some(l) = callee {
            return l.function.to_owned();
        }
    }
    own
}

/// What names a variable.
enum Place<'r> {
    Symbol(&'r str),
    Runtime(Global),
    /// Code refers to its start.
    Code,
    /// Static data that the variable points to: of that name, or to which code refers.
    Pointed(Option<&'r str>),
    Nothing,
}

/// The variable around `at`, and where it begins. Symbols know sizes, DWARF does not: so they come first.
fn place<'r>(rt: &'r Runtime, built: &Built, at: Addr) -> (Place<'r>, Addr) {
    if let Some(symbols) = &rt.image.symbols {
        let named = |at: Addr| symbols.at(at).filter(|(s, _)| s.data).map(|(s, off)| (s.name, at.0 - off));
        if let Some((name, start)) = named(at) {
            return (Place::Symbol(name), Addr(start));
        }
        // Static data without a name: the variable that points to it, as `var x = &T{...}` does.
        const NEAR: u64 = 1 << 16;
        let i = built.global_links.partition_point(|l| l.0 <= at);
        let link = built.global_links[..i].last().filter(|l| at.0 - l.0.0 < NEAR);
        return match link.and_then(|l| named(l.1)) {
            Some((name, start)) => (Place::Pointed(Some(name)), Addr(start)),
            None => (Place::Nothing, at),
        };
    }
    let elf = at.0.wrapping_sub(rt.image.bias);
    let vars = rt.image.dwarf.as_ref().map(|d| d.variables.as_slice()).unwrap_or_default();
    if let Some(v) = vars.partition_point(|v| v.addr <= elf).checked_sub(1).map(|i| &vars[i]) {
        return (Place::Symbol(&v.name), Addr(at.0 - (elf - v.addr)));
    }
    const SLICE: u64 = 24;
    let known = Global::ALL.iter().find_map(|&g| {
        let start = rt.globals.get(g)?;
        at.0.checked_sub(start.0).filter(|&o| o < SLICE).map(|_| (Place::Runtime(g), start))
    });
    if let Some(found) = known {
        return found;
    }
    const NEAR: u64 = 4096;
    let index = rt.image.code_index();
    let nearest = |at: Addr| index.nearest(at).filter(|s| at.0.wrapping_sub(s.0) < NEAR);
    let link = built.global_links.partition_point(|l| l.0 <= at).checked_sub(1).map(|i| built.global_links[i]);
    if let Some((data, pointer)) = link.filter(|l| at.0 - l.0.0 < NEAR)
        && index.only_initialised(data, at)
        && let Some(start) = nearest(pointer)
    {
        return (Place::Pointed(None), start);
    }
    match nearest(at) {
        Some(start) => (Place::Code, start),
        None => (Place::Nothing, at),
    }
}

/// Where the variable around `at` begins.
pub fn variable_start(rt: &Runtime, built: &Built, at: Addr) -> Addr {
    place(rt, built, at).1
}

/// `global main.cache`, with the offset where `at` lies inside; `global near main.Put` where the code of a function is
/// all that is known of it.
pub fn global_name(rt: &Runtime, built: &Built, at: Addr) -> String {
    let (place, start) = place(rt, built, at);
    let tail = match at.0.wrapping_sub(start.0) {
        0 => String::new(),
        off if off < 1 << 16 => format!("+{off}"),
        _ => " (static data)".into(),
    };
    match place {
        Place::Pointed(Some(name)) => format!("global {name}"),
        Place::Pointed(None) => rt.image.name_global(start).unwrap_or_else(|| format!("global at {start}")),
        Place::Symbol(name) => format!("global {name}{tail}"),
        Place::Runtime(g) => format!("global {}{tail}", g.name()),
        Place::Code | Place::Nothing => rt.image.name_global(at).unwrap_or_else(|| format!("global at {at}")),
    }
}

/// A root in words: the global it lies in, or the goroutine and the function, with the local variable where that is known.
/// `root`: its index.
pub fn root_name(rt: &Runtime, built: &Built, typed: &Typed, root: usize) -> String {
    let Some(r) = built.graph.roots.get(root) else { return "?".into() };
    match r.kind {
        RootKind::Data | RootKind::Bss => global_name(rt, built, r.at),
        RootKind::Stack | RootKind::Conservative => {
            let func = frame_of(rt, built, r).map_or("?", |f| f.1);
            match local_name(typed, root) {
                Some(local) => format!("local {local} of goroutine {}", r.goid),
                None => format!("goroutine {} in {func}", r.goid),
            }
        }
        RootKind::Goroutine => format!("goroutine {}", r.goid),
        RootKind::Finalizer => format!("finalizer at {}", r.at),
        RootKind::Cleanup => format!("cleanup at {}", r.at),
        RootKind::FinalizerQueue => "queue of finalizers".into(),
        RootKind::WeakHandle => format!("weak handle at {}", r.at),
        RootKind::TinyBlock => "block of tiny objects in use".into(),
        RootKind::Other => format!("runtime at {}", r.at),
    }
}

/// `main.handler.req.Body`: the local variable that a root on a stack lies in.
pub fn local_name(typed: &Typed, root: usize) -> Option<String> {
    typed.locals.name(&typed.types, root)
}

/// The frame of a root on a stack, counted from the innermost, and its function.
pub fn frame_of<'r>(rt: &'r Runtime, built: &Built, root: &Root) -> Option<(u32, &'r str)> {
    if !matches!(root.kind, RootKind::Stack | RootKind::Conservative) {
        return None;
    }
    Some((root.frame, function_of(rt, built, root)?.name()))
}

/// The function whose frame a root on a stack lies in.
fn function_of<'r>(rt: &'r Runtime, built: &Built, root: &Root) -> Option<Func<'r>> {
    let i = built.goroutines.binary_search_by_key(&root.goid, |g| g.goid).ok()?;
    rt.image.pclntab.find(built.stacks.get(i)?.frames.get(root.frame as usize)?.pc)
}
