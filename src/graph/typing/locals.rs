//! Local variables of stopped frames, by DWARF: what the live words of stacks point to, and what the words are called.
//!
//! Only words that the stack maps call live are looked at, and only where the variable lies in that word at that pc. Where
//! several variables claim a word, they must agree. A variable that holds a pointer into the same stack gives its type to what
//! lies there. Cost: DWARF of the functions that are on some stack, once a (function, pc); then a search for each live word.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use rayon::prelude::*;

use crate::{
    base::{Addr, Goid},
    graph::{RootKind, build::Built},
    image::dwarf::{BareType, Local, Stopped},
    runtime::{
        Runtime,
        stack::{Frame, Stack, StackWord},
        types::{Kind, PtrTo, TypeId, TypeTable, path_at},
    },
};

/// Distinct pcs of all stacks together; the rest has no names.
const MAX_PCS: usize = 1 << 16;
/// Steps from a variable over pointers into the same stack.
const ROUNDS: usize = 4;

/// A root that lies in a local variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalRoot {
    /// Index into `Graph::roots`.
    pub root: u32,
    /// Index into `Locals::variables`.
    pub variable: u32,
    /// The variable's type, or the type of what it points to in the same stack, and where in it the root lies. From a snapshot
    /// not known, and the index of the member in `Locals::members`.
    pub ty: TypeId,
    pub offset: u32,
}

/// What locals say of the roots on stacks.
#[derive(Clone, Debug, Default)]
pub struct Locals {
    /// Those that lie in a variable with a name, sorted by root.
    pub of_root: Vec<LocalRoot>,
    /// `main.handler.buf`.
    pub variables: Vec<String>,
    /// From a snapshot: `.Body`.
    members: Vec<String>,
    /// What roots point to, sorted by root.
    pub(super) pointers: Vec<(u32, PtrTo)>,
    /// The type words of interfaces whose data words are roots.
    pub(super) interfaces: Vec<(u32, Addr)>,
}

impl Locals {
    /// From a snapshot: variable and member of distinct places, and (root, index of its place) sorted by root.
    pub(crate) fn of_saved(places: Vec<(String, String)>, of_root: Vec<(u32, u32)>) -> Locals {
        let mut out = Locals::default();
        let mut index: HashMap<String, u32> = HashMap::new();
        let mut variable_of = Vec::with_capacity(places.len());
        for (variable, member) in places {
            variable_of.push(out.variable_named(&mut index, &variable));
            out.members.push(member);
        }
        let of = |(root, place): (u32, u32)| {
            let variable = *variable_of.get(place as usize)?;
            Some(LocalRoot { root, variable, ty: TypeId::UNKNOWN, offset: place })
        };
        out.of_root = of_root.into_iter().filter_map(of).collect();
        out
    }

    fn variable_named(&mut self, index: &mut HashMap<String, u32>, name: &str) -> u32 {
        if let Some(&n) = index.get(name) {
            return n;
        }
        self.variables.push(name.to_owned());
        index.insert(name.to_owned(), self.variables.len() as u32 - 1);
        self.variables.len() as u32 - 1
    }

    /// `.Body`: where in its variable a root lies; empty where that is the whole of it.
    pub fn member(&self, types: &TypeTable, at: &LocalRoot) -> String {
        match at.ty.is_known() {
            true => path_at(types, at.ty, at.offset.into()),
            false => self.members.get(at.offset as usize).cloned().unwrap_or_default(),
        }
    }

    /// The variable that a root lies in: index into `variables`.
    pub fn variable(&self, root: usize) -> Option<u32> {
        let i = self.of_root.binary_search_by_key(&(root as u32), |l| l.root).ok()?;
        Some(self.of_root[i].variable)
    }

    /// `main.handler.buf`, with the member where the root lies inside: `main.handler.req.Body`.
    pub fn name(&self, types: &TypeTable, root: usize) -> Option<String> {
        let i = self.of_root.binary_search_by_key(&(root as u32), |l| l.root).ok()?;
        let at = &self.of_root[i];
        let variable = self.variables.get(at.variable as usize)?;
        Some(format!("{variable}{}", self.member(types, at)))
    }
}

/// A variable, its type looked up.
struct Variable {
    /// `main.handler.buf`; empty where it has no name.
    name: String,
    ty: TypeId,
}

/// A part of a variable, in bytes from the CFA.
#[derive(Clone, Copy)]
struct Part {
    start: i64,
    end: i64,
    /// Index into `Variables::list`.
    variable: u32,
    /// Where in the variable it begins.
    offset: u64,
    /// Tells variables of one name and type apart.
    instance: u32,
}

/// The variables of all functions that are on stacks.
#[derive(Default)]
struct Variables {
    /// Each variable of one function, name and type once.
    list: Vec<Variable>,
    /// Parts by place in code: `Frame::lookup` and `Frame::pc`.
    at: HashMap<(Addr, Addr), Vec<Part>>,
}

/// What a live word is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Said {
    /// The variable that it lies in, or through whose pointer it was found.
    variable: u32,
    ty: TypeId,
    /// Where in a value of the type the word lies.
    offset: u64,
    to: PtrTo,
    /// Where the type word lies, if this is the data word of an interface.
    word: Option<Addr>,
}

/// DWARF of the frames that have live words; to be asked for before types are looked up, since it knows types of its own.
pub(super) struct Question {
    pcs: Vec<(Addr, Addr)>,
    at: Vec<Vec<Local>>,
    pub bare: BTreeMap<String, BareType>,
}

impl Question {
    /// `None` without DWARF.
    pub fn ask(rt: &Runtime, built: &Built) -> Option<Question> {
        let dwarf = rt.image.dwarf.as_ref()?;
        let sigpanic = sigpanic(rt);
        let found: HashSet<(Addr, Addr)> = built
            .stacks
            .par_iter()
            .fold(HashSet::new, |mut pcs, s| {
                pcs.extend(frames_of_words(s, sigpanic).map(|f| (f.lookup, f.pc)));
                pcs
            })
            .reduce(HashSet::new, |mut a, b| {
                a.extend(b);
                a
            });
        let mut pcs: Vec<(Addr, Addr)> = found.into_iter().collect();
        pcs.sort_unstable();
        if pcs.len() > MAX_PCS {
            rt.diag.note_many("locals are not looked up", (pcs.len() - MAX_PCS) as u64, "too many places in code");
            pcs.truncate(MAX_PCS);
        }
        let elf = |pc: Addr| pc.0.wrapping_sub(rt.image.bias);
        let stopped: Vec<Stopped> =
            pcs.iter().map(|&(scope, pc)| Stopped { scope: elf(scope), resume: elf(pc) }).collect();
        match dwarf.locals(&stopped) {
            Ok(found) => Some(Question { pcs, at: found.at, bare: found.bare }),
            Err(e) => {
                rt.diag.note("locals are not known", e);
                None
            }
        }
    }
}

/// Where runtime.sigpanic begins: the frame below it goes on elsewhere than it stopped.
fn sigpanic(rt: &Runtime) -> Option<Addr> {
    rt.image.pclntab.find_name("runtime.sigpanic").map(|f| f.entry())
}

/// Frames of `s` that have live words, each once or more.
fn frames_of_words(s: &Stack, sigpanic: Option<Addr>) -> impl Iterator<Item = &Frame> {
    let mut last = u32::MAX;
    s.words.iter().filter(|w| exact(w)).filter_map(move |w| {
        let new = std::mem::replace(&mut last, w.frame) != w.frame;
        s.frames.get(w.frame as usize).filter(|_| new && !after_panic(s, w.frame, sigpanic))
    })
}

fn exact(w: &StackWord) -> bool {
    !w.conservative && !w.at.is_null()
}

fn after_panic(s: &Stack, frame: u32, sigpanic: Option<Addr>) -> bool {
    let callee = frame.checked_sub(1).and_then(|f| s.frames.get(f as usize));
    callee.is_some_and(|f| Some(f.func_entry) == sigpanic)
}

/// Looks up the types of the variables and finds the words of all stacks in them.
pub(super) fn find(rt: &Runtime, built: &Built, types: &mut TypeTable, question: &Question) -> Locals {
    let variables = Variables::new(rt, types, question);
    let types = &*types;
    let sigpanic = sigpanic(rt);
    // Roots of one goroutine lie together, in the order of its words.
    let mut stacks: HashMap<Goid, usize> = HashMap::new();
    for (i, g) in built.goroutines.iter().enumerate() {
        stacks.insert(g.goid, i);
    }
    let roots = &built.graph.roots;
    let on_stack: Vec<u32> = (0..roots.len() as u32).filter(|&r| roots[r as usize].kind == RootKind::Stack).collect();
    let groups: Vec<&[u32]> = on_stack.chunk_by(|&a, &b| roots[a as usize].goid == roots[b as usize].goid).collect();
    let found: Vec<Vec<(u32, Said)>> = groups
        .par_iter()
        .with_min_len(64)
        .map(|group| {
            let Some(&i) = stacks.get(&roots[group[0] as usize].goid) else { return Vec::new() };
            let said = Look { types, variables: &variables, stack: &built.stacks[i], sigpanic }
                .words(built.goroutines[i].stack);
            let find = |&r: &u32| {
                let at = said.binary_search_by_key(&roots[r as usize].at, |s| s.0).ok()?;
                Some((r, said[at].1))
            };
            group.iter().filter_map(find).collect()
        })
        .collect();
    let mut out = Locals::default();
    let mut index = HashMap::new();
    let named: Vec<Option<u32>> =
        variables.list.iter().map(|v| (!v.name.is_empty()).then(|| out.variable_named(&mut index, &v.name))).collect();
    let mut words: Vec<(u32, Addr)> = Vec::new();
    for (root, said) in found.into_iter().flatten() {
        match (said.to, said.word) {
            (PtrTo::Interface, Some(word)) => words.push((root, word)),
            (PtrTo::NoPointer | PtrTo::Untyped | PtrTo::Interface, _) => {}
            (to, _) => out.pointers.push((root, to)),
        }
        if let Some(variable) = named[said.variable as usize] {
            let offset = said.offset.try_into().unwrap_or(u32::MAX);
            out.of_root.push(LocalRoot { root, variable, ty: said.ty, offset });
        }
    }
    let read = super::typed::words(rt, words.iter().map(|w| w.1));
    out.interfaces = words.iter().zip(read).filter_map(|(&(root, _), word)| Some((root, Addr(word?)))).collect();
    out
}

/// The names that the compiler gives to what has none: `~r0`, `.autotmp_3`, `.this`, parts of results (`~R0.ptr`).
fn is_made_up(name: &str) -> bool {
    name.is_empty() || name == "_" || name.starts_with('~') || name.contains('.')
}

impl Variables {
    fn new(rt: &Runtime, types: &mut TypeTable, question: &Question) -> Variables {
        let module = rt.image.modules.first().map(|m| m.types).unwrap_or_default();
        let mut out = Variables::default();
        let mut index: HashMap<(Arc<str>, &str, TypeId), u32> = HashMap::new();
        let mut by_name: HashMap<(&str, Option<u64>), Option<TypeId>> = HashMap::new();
        for (&pc, locals) in question.pcs.iter().zip(&question.at) {
            let mut parts: Vec<Part> = Vec::new();
            for (instance, v) in locals.iter().enumerate() {
                let ty = *by_name.entry((&v.type_name, v.runtime_type)).or_insert_with(|| {
                    let by_descriptor = v.runtime_type.and_then(|off| types.by_addr(module.offset(off)));
                    by_descriptor.or_else(|| by_name_alone(types, &v.type_name))
                });
                // A part of a made-up name is a part of a value of another type.
                if v.name.contains('.') {
                    continue;
                }
                // A type that is not known (of generic code) leaves the name.
                let ty = ty.unwrap_or(TypeId::UNKNOWN);
                let variable = *index.entry((v.function.clone(), &v.name, ty)).or_insert_with(|| {
                    let name = match is_made_up(&v.name) {
                        true => String::new(),
                        false => format!("{}.{}", short_function(&v.function), v.name),
                    };
                    out.list.push(Variable { name, ty });
                    out.list.len() as u32 - 1
                });
                let size = if ty.is_known() { types.size(ty) } else { 8 };
                parts.extend(v.pieces.iter().filter_map(|p| {
                    let bytes = p.size.unwrap_or(size).min(size.checked_sub(p.offset)?);
                    let end = p.cfa.checked_add(i64::try_from(bytes).ok()?)?;
                    Some(Part { start: p.cfa, end, variable, offset: p.offset, instance: instance as u32 })
                }));
            }
            if !parts.is_empty() {
                out.at.insert(pc, parts);
            }
        }
        out
    }
}

/// Types that stand for several (code that instantiations share) say nothing.
fn by_name_alone(types: &mut TypeTable, name: &str) -> Option<TypeId> {
    if name.starts_with('.') || name.contains("go.shape.") { None } else { types.by_dwarf_name(name) }
}

/// `main.f[...]` of `main.f[go.shape.int]`, as pclntab writes it.
fn short_function(name: &str) -> String {
    match (name.find("[go.shape."), name.rfind(']')) {
        (Some(from), Some(to)) if from < to => format!("{}[...]{}", &name[..from], &name[to + 1..]),
        _ => name.to_owned(),
    }
}

/// One stack.
struct Look<'a> {
    types: &'a TypeTable,
    variables: &'a Variables,
    stack: &'a Stack,
    sigpanic: Option<Addr>,
}

/// A typed part of a stack that a pointer leads to.
struct Behind {
    start: Addr,
    end: Addr,
    ty: TypeId,
    variable: u32,
}

impl Look<'_> {
    /// What is known of the live words, by their addresses.
    fn words(&self, (lo, hi): (Addr, Addr)) -> Vec<(Addr, Said)> {
        let mut out: Vec<(Addr, Said)> = Vec::new();
        let mut left: Vec<&StackWord> = Vec::new();
        let mut behind: Vec<Behind> = Vec::new();
        let lead = |w: &StackWord, said: &Said, behind: &mut Vec<Behind>| {
            let value = Addr(w.value);
            let ty = match said.to {
                PtrTo::To(ty) => ty,
                // A map that begins on the stack: its only group.
                PtrTo::Directory(directory) => self.types.map_part(directory),
                _ => return,
            };
            if value < lo || value >= hi {
                return;
            }
            // The object is the limit: of an array behind a slice only the element is known.
            let Some(&(at, size)) = self.stack.objects.iter().find(|o| o.0 <= value && value.0 - o.0.0 < o.1) else {
                return;
            };
            let limit = at.offset(size);
            let end = match self.types.kind(ty) {
                Kind::Backing => limit,
                _ => value.offset(self.types.size(ty)).min(limit),
            };
            behind.push(Behind { start: value, end, ty, variable: said.variable });
        };
        for w in self.stack.words.iter().filter(|w| exact(w)) {
            match self.in_variable(w) {
                Some(said) => {
                    lead(w, &said, &mut behind);
                    out.push((w.at, said));
                }
                None => left.push(w),
            }
        }
        for _ in 0..ROUNDS {
            if behind.is_empty() || left.is_empty() {
                break;
            }
            let known = std::mem::take(&mut behind);
            left.retain(|w| match self.behind(w, &known) {
                Some(said) => {
                    lead(w, &said, &mut behind);
                    out.push((w.at, said));
                    false
                }
                None => true,
            });
        }
        out.sort_by_key(|s| s.0);
        out.dedup_by_key(|s| s.0);
        out
    }

    fn in_variable(&self, w: &StackWord) -> Option<Said> {
        if after_panic(self.stack, w.frame, self.sigpanic) {
            return None;
        }
        let frame = self.stack.frames.get(w.frame as usize)?;
        let parts = self.variables.at.get(&(frame.lookup, frame.pc))?;
        let at = w.at.0.wrapping_sub(frame.fp.0) as i64;
        let here = parts.iter().filter(|p| p.start <= at && at < p.end).map(|p| {
            let ty = self.variables.list[p.variable as usize].ty;
            let offset = p.offset + (at - p.start) as u64;
            let word = self.type_word(p, parts, offset, frame.fp);
            let to = self.types.pointee(ty, offset);
            Said { variable: p.variable, ty, offset, to, word }
        });
        agreed(here)
    }

    /// Where the type word of the interface lies whose data word is at `offset` of the variable.
    fn type_word(&self, part: &Part, parts: &[Part], offset: u64, fp: Addr) -> Option<Addr> {
        let first = offset.checked_sub(8)?;
        let has = |p: &&Part| {
            let len = (p.end - p.start) as u64;
            p.instance == part.instance && p.offset <= first && first + 8 <= p.offset + len
        };
        let p = parts.iter().find(has)?;
        Some(Addr(fp.0.wrapping_add(p.start as u64).wrapping_add(first - p.offset)))
    }

    fn behind(&self, w: &StackWord, known: &[Behind]) -> Option<Said> {
        let here = known.iter().filter(|b| b.start <= w.at && w.at < b.end).map(|b| {
            let offset = w.at.0 - b.start.0;
            let to = self.types.pointee(b.ty, offset);
            let word = offset.checked_sub(8).map(|o| b.start.offset(o));
            Said { variable: b.variable, ty: b.ty, offset, to, word }
        });
        agreed(here)
    }
}

/// What all say of a word; `None` where they contradict each other. Of equal ones the first: the caller's variable, not that
/// of what is inlined into it.
fn agreed(all: impl Iterator<Item = Said>) -> Option<Said> {
    // What the type says nothing of, or says that it is no pointer, is not the owner of a live pointer.
    let strength = |s: &Said| match s.to {
        PtrTo::NoPointer => 0,
        PtrTo::Untyped => 1,
        PtrTo::Interface => 2,
        _ => 3,
    };
    let mut best: Option<Said> = None;
    let mut doubt = false;
    for s in all.filter(|s| strength(s) > 0) {
        match &best {
            Some(b) if strength(b) > strength(&s) => {}
            Some(b) if strength(b) == strength(&s) => doubt |= b.to != s.to,
            _ => {
                best = Some(s);
                doubt = false;
            }
        }
    }
    best.filter(|_| !doubt)
}
