//! What grew between two or more looks: by holder, by the path from the holder, by type, by group of goroutines, by span
//! class. The same type may grow in one place and shrink in another, so paths are told apart from types.
//!
//! The path of an object is its chain of dominators from the holder down, as types; repeats are folded, parts of maps
//! belong to their map. Each object is on one path, with its own bytes, so the rows add up to the live heap. Looks are
//! matched by names: addresses mean something only within one process. Cost: one dominator tree a look.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::{
    dominators::{Dominators, Node, Vertex},
    holders::{HolderKind, Holders},
    ledger::{Ledger, LedgerSource},
    trend::{self, Trend},
};
use crate::{
    base::{Bitmap, ObjectId},
    graph::{build::Built, typing::Typed},
    runtime::{Runtime, heap::Heap, types::Kind},
};

/// Steps of a path that are told.
const MAX_DEPTH: u32 = 10;
/// Different paths that are told apart; more belong to the path above.
const MAX_PATHS: usize = 200_000;

/// What a path, a type, a holder has in one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub objects: u64,
    pub bytes: u64,
    /// Objects that were there in the first look and in all since, by address and type.
    pub stayed: u64,
}

impl Count {
    fn add(&mut self, bytes: u64, stayed: bool) {
        self.objects += 1;
        self.bytes += bytes;
        self.stayed += u64::from(stayed);
    }
}

/// The figures of one look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Milliseconds since 1970.
    pub taken_ms: u64,
    pub live: Count,
    pub goroutines: u64,
    /// What each holder alone holds; `(shared)` what several do.
    holders: BTreeMap<String, Count>,
    paths: BTreeMap<String, Count>,
    types: BTreeMap<String, Count>,
    /// Count and bytes of stacks.
    groups: BTreeMap<String, Count>,
    /// Live objects and bytes.
    classes: BTreeMap<String, Count>,
    /// Resident bytes by owner.
    memory: BTreeMap<String, Count>,
}

impl Look {
    /// Adds what the ledger of the same look says; one that only assumes is left out.
    pub fn with_ledger(mut self, ledger: Option<&Ledger>) -> Look {
        for r in ledger.filter(|l| l.source == LedgerSource::Kernel).iter().flat_map(|l| &l.rows) {
            self.memory.insert(r.owner.key(), Count { bytes: r.bytes, ..Count::default() });
        }
        self
    }
}

/// What the first look had where, for telling old objects from new ones.
pub struct First {
    heap: Heap,
    /// Reached in every look so far.
    kept: Bitmap,
    /// Type of each slot: index into `names`.
    type_of: Vec<u32>,
    names: Vec<String>,
}

impl First {
    pub fn new(heap: Heap, built: &Built, typed: &Typed) -> First {
        let names: Vec<String> = (0..typed.types.len() as u32)
            .map(|i| typed.types.name(crate::runtime::types::TypeId(i)).to_owned())
            .collect();
        let type_of = (0..heap.slots).map(|i| typed.typing.type_of(ObjectId(i)).0).collect();
        First { kept: built.graph.reachable.clone(), heap, type_of, names }
    }

    /// Takes down which objects of a later look were in the first one, and keeps only those.
    fn meet(&mut self, heap: &Heap, built: &Built, typed: &Typed) -> Bitmap {
        let number: HashMap<&str, u32> =
            self.names.iter().enumerate().rev().map(|(i, n)| (n.as_str(), i as u32)).collect();
        // Type ids of the later look, in terms of the first one's names; equal names are one type.
        let same: Vec<Option<u32>> = (0..typed.types.len() as u32)
            .map(|i| number.get(typed.types.name(crate::runtime::types::TypeId(i))).copied())
            .collect();
        let canonical: Vec<u32> = self.names.iter().map(|n| number[n.as_str()]).collect();
        let mut old = Bitmap::new(heap.slots as usize);
        let mut kept = Bitmap::new(self.heap.slots as usize);
        for i in built.graph.reachable.iter_ones() {
            let id = ObjectId(i as u32);
            let (addr, bytes) = heap.extent(id);
            let Some((was, 0)) = self.heap.find(addr) else { continue };
            let ty = same.get(typed.typing.type_of(id).index()).copied().flatten();
            let before = self.type_of.get(was.index()).and_then(|&t| canonical.get(t as usize)).copied();
            if self.kept.get(was.index()) && self.heap.extent(was).1 == bytes && ty.is_some() && ty == before {
                old.set(i);
                kept.set(was.index());
            }
        }
        self.kept = kept;
        old
    }
}

/// A step of the tree of paths.
struct Step {
    parent: u32,
    name: u32,
    depth: u32,
}

/// Names and paths, each once.
#[derive(Default)]
struct Paths {
    names: Vec<String>,
    index: HashMap<String, u32>,
    steps: Vec<Step>,
    children: HashMap<(u32, u32), u32>,
}

impl Paths {
    fn name(&mut self, text: &str) -> u32 {
        if let Some(&i) = self.index.get(text) {
            return i;
        }
        self.names.push(text.to_owned());
        self.index.insert(text.to_owned(), self.names.len() as u32 - 1);
        self.names.len() as u32 - 1
    }

    /// The path one step further; the same where the step repeats one on the way or there are too many.
    fn down(&mut self, from: u32, name: u32) -> u32 {
        let mut at = from;
        while let Some(s) = self.steps.get(at as usize) {
            if s.name == name {
                return at;
            }
            at = s.parent;
        }
        let depth = self.steps.get(from as usize).map_or(0, |s| s.depth + 1);
        if depth > MAX_DEPTH || self.steps.len() >= MAX_PATHS {
            return from;
        }
        *self.children.entry((from, name)).or_insert_with(|| {
            self.steps.push(Step { parent: from, name, depth });
            self.steps.len() as u32 - 1
        })
    }

    fn text(&self, path: u32) -> String {
        let mut names = Vec::new();
        let mut at = path;
        while let Some(s) = self.steps.get(at as usize) {
            names.push(self.names[s.name as usize].as_str());
            at = s.parent;
        }
        names.reverse();
        names.join(" -> ")
    }
}

const TOP: u32 = u32::MAX;

/// Takes the figures of one look. `first`: where it is a later look of the same process.
pub fn look(
    rt: &Runtime,
    heap: &Heap,
    built: &Built,
    typed: &Typed,
    (holders, dom): (&Holders, &Dominators),
    taken_ms: u64,
    first: Option<&mut First>,
) -> Look {
    let old = first.map(|f| f.meet(heap, built, typed));
    let stayed = |id: ObjectId| old.as_ref().is_some_and(|o| o.get(id.index()));
    let mut out = Look { taken_ms, goroutines: built.goroutines.len() as u64, ..Look::default() };
    let mut paths = Paths::default();
    let shared = paths.name("(shared)");
    let shared = paths.down(TOP, shared);
    // Names of types in terms of `paths`.
    let names: Vec<u32> = (0..typed.types.len() as u32)
        .map(|i| match i {
            0 => paths.name("(untyped)"),
            _ => paths.name(typed.types.name(crate::runtime::types::TypeId(i))),
        })
        .collect();
    // Path of each node: a dominator has a smaller number than what it dominates.
    let nodes = dom.len();
    let mut path_of = vec![shared; nodes];
    let mut counts: Vec<Count> = Vec::new();
    let mut by_type = vec![Count::default(); typed.types.len()];
    for n in (1..nodes as u32).map(Node) {
        let above = path_of[dom.parent(n).0 as usize];
        path_of[n.0 as usize] = match dom.vertex(n) {
            Vertex::Super => shared,
            Vertex::Holder(h) if holders.list.get(h as usize).is_some_and(|h| h.kind == HolderKind::Goroutine) => above,
            Vertex::Holder(h) => {
                let name = paths.name(&holders.name(rt, built, h));
                paths.down(TOP, name)
            }
            Vertex::Object(id) => {
                let ty = typed.typing.type_of(id);
                let part = matches!(typed.types.kind(ty), Kind::MapPart);
                let path = if part { above } else { paths.down(above, names[ty.index()]) };
                let (bytes, old) = (heap.extent(id).1, stayed(id));
                if counts.len() <= path as usize {
                    counts.resize(path as usize + 1, Count::default());
                }
                counts[path as usize].add(bytes, old);
                by_type[ty.index()].add(bytes, old);
                out.live.add(bytes, old);
                path
            }
        };
    }
    for (path, c) in counts.iter().enumerate().filter(|(_, c)| c.objects > 0) {
        out.paths.insert(paths.text(path as u32), *c);
    }
    for (ty, c) in by_type.iter().enumerate().filter(|(_, c)| c.objects > 0) {
        let sum = out.types.entry(paths.names[names[ty] as usize].clone()).or_default();
        *sum = Count { objects: sum.objects + c.objects, bytes: sum.bytes + c.bytes, stayed: sum.stayed + c.stayed };
    }
    // Holders: what hangs below the first step of each path.
    for (path, c) in counts.iter().enumerate().filter(|(_, c)| c.objects > 0) {
        let mut at = path as u32;
        while paths.steps[at as usize].parent != TOP {
            at = paths.steps[at as usize].parent;
        }
        let sum = out.holders.entry(paths.names[paths.steps[at as usize].name as usize].clone()).or_default();
        *sum = Count { objects: sum.objects + c.objects, bytes: sum.bytes + c.bytes, stayed: sum.stayed + c.stayed };
    }
    for span in &heap.spans {
        let ids = span.first.index()..span.first.index() + span.nelems as usize;
        let live = ids.filter(|&i| built.graph.reachable.get(i)).count() as u64;
        let name = match span.class {
            0 => "large".to_owned(),
            _ => format!("{} bytes", span.elemsize),
        };
        let holds = if span.noscan { "without pointers" } else { "with pointers" };
        let sum = out.classes.entry(format!("{name}, {holds}")).or_default();
        sum.objects += live;
        sum.bytes += live * span.elemsize;
    }
    for (i, (g, stack)) in built.goroutines.iter().zip(&built.stacks).enumerate() {
        let inner = stack
            .frames
            .iter()
            .filter_map(|f| rt.image.pclntab.find(f.pc))
            .map(|f| f.name())
            .find(|n| !n.starts_with("runtime.") && !n.starts_with("internal/"));
        let state = if g.wait_reason.is_empty() { g.status.text() } else { &g.wait_reason };
        let run = holders.function_of(i);
        let name = match inner.filter(|n| *n != run) {
            Some(inner) => format!("{run} [{state}] in {inner}"),
            None => format!("{run} [{state}]"),
        };
        let sum = out.groups.entry(name).or_default();
        sum.objects += 1;
        sum.bytes += g.stack.1.0.saturating_sub(g.stack.0.0);
    }
    out
}

/// One name over all looks.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    /// In the order of the looks.
    pub objects: Vec<u64>,
    pub bytes: Vec<u64>,
    /// From the first look to the last.
    pub growth_objects: i64,
    pub growth_bytes: i64,
    /// Objects of the last look that were there all the time, and those that were not. Only within one process.
    pub stayed_objects: Option<u64>,
    pub new_objects: Option<u64>,
    /// Three looks or more.
    pub trend: Option<Trend>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Growth {
    /// Hours from the first look to the last.
    pub hours: f64,
    pub live: Vec<Row>,
    pub by_holder: Vec<Row>,
    pub by_path: Vec<Row>,
    pub by_type: Vec<Row>,
    /// Bytes are those of stacks.
    pub by_goroutines: Vec<Row>,
    pub by_class: Vec<Row>,
    /// Resident bytes by owner (see the ledger of `overview`); empty where a look has no ledger of the kernel's figures.
    pub by_owner: Vec<Row>,
}

/// Compares looks in the order in which they were taken. `one_process`: addresses may be compared. `limit`: rows of each
/// list, 0 for all; what did not change is left out.
pub fn compare(looks: &[Look], one_process: bool, limit: usize) -> Growth {
    let begin = looks.first().map_or(0, |l| l.taken_ms);
    let hours: Vec<f64> = looks.iter().map(|l| l.taken_ms.saturating_sub(begin) as f64 / 3.6e6).collect();
    let rows = |of: &dyn Fn(&Look) -> &BTreeMap<String, Count>, stayed: bool| {
        let names: BTreeSet<&String> = looks.iter().flat_map(|l| of(l).keys()).collect();
        let mut rows: Vec<Row> = names
            .into_iter()
            .map(|name| {
                let counts: Vec<Count> = looks.iter().map(|l| of(l).get(name).copied().unwrap_or_default()).collect();
                row(name, &counts, &hours, stayed && one_process)
            })
            .filter(|r| r.bytes.windows(2).any(|w| w[0] != w[1]) || r.objects.windows(2).any(|w| w[0] != w[1]))
            .collect();
        // What surely grows comes first, then what grew; then what shrank.
        let weight = |r: &Row| {
            let sure = r.trend.filter(|t| t.low > 0.0).map_or(0.0, |t| t.low);
            (sure, r.growth_bytes)
        };
        rows.sort_by(|a, b| {
            let (x, y) = (weight(a), weight(b));
            y.0.total_cmp(&x.0).then(y.1.cmp(&x.1)).then_with(|| a.name.cmp(&b.name))
        });
        if limit > 0 && rows.len() > limit {
            // The ends of the list: what grew most and what shrank most.
            let shrank: Vec<Row> = rows.iter().rev().take(limit / 4).filter(|r| r.growth_bytes < 0).cloned().collect();
            rows.truncate(limit - shrank.len());
            rows.extend(shrank.into_iter().rev());
        }
        rows
    };
    let live: Vec<Count> = looks.iter().map(|l| l.live).collect();
    Growth {
        hours: hours.last().copied().unwrap_or(0.0),
        live: vec![row("all live objects", &live, &hours, one_process)],
        by_holder: rows(&|l| &l.holders, true),
        by_path: rows(&|l| &l.paths, true),
        by_type: rows(&|l| &l.types, true),
        by_goroutines: rows(&|l| &l.groups, false),
        by_class: rows(&|l| &l.classes, false),
        by_owner: match looks.iter().all(|l| !l.memory.is_empty()) {
            true => rows(&|l| &l.memory, false),
            false => Vec::new(),
        },
    }
}

fn row(name: &str, counts: &[Count], hours: &[f64], stayed: bool) -> Row {
    let (first, last) = (counts.first().copied().unwrap_or_default(), counts.last().copied().unwrap_or_default());
    let change = |a: u64, b: u64| b as i64 - a as i64;
    let values: Vec<f64> = counts.iter().map(|c| c.bytes as f64).collect();
    Row {
        name: name.to_owned(),
        objects: counts.iter().map(|c| c.objects).collect(),
        bytes: counts.iter().map(|c| c.bytes).collect(),
        growth_objects: change(first.objects, last.objects),
        growth_bytes: change(first.bytes, last.bytes),
        stayed_objects: stayed.then_some(last.stayed),
        new_objects: stayed.then_some(last.objects.saturating_sub(last.stayed)),
        trend: trend::fit(hours, &values),
    }
}
