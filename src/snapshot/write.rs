//! A look becomes a file. Blocks are encoded and compressed in parallel, a few at a time, and written in order, so that
//! beside the look itself only those few are in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    Mark, Meta, SnapshotError,
    codec::Put,
    edges,
    format::{Packed, Section, Writer, pack},
};
use crate::{
    analysis::{
        holders,
        leaks::{Evidence, type_of_variable},
    },
    base::{Addr, Goid, ObjectId},
    graph::{RootKind, build::Built, typing::Typed},
    image::{
        SavedVariable,
        pclntab::{SavedFrame, SavedFunc},
    },
    runtime::{
        Runtime,
        heap::{Heap, PAGE},
        types::TypeId,
    },
};

/// Slots of one block.
const SLOTS: usize = 1 << 20;
/// Small items of one block.
const ITEMS: usize = 1 << 16;

/// One look, complete.
pub struct Contents<'a> {
    pub rt: &'a Runtime,
    pub heap: &'a Heap,
    pub built: &'a Built,
    pub typed: &'a Typed,
    pub evidence: &'a Evidence,
    pub meta: Meta,
}

#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub path: std::path::PathBuf,
    pub file_bytes: u64,
    pub objects: u64,
    pub edges: u64,
    pub roots: u64,
    pub goroutines: u64,
    pub types: u64,
    /// Of the file, without what does not depend on the heap (functions, variables, types, goroutines).
    pub bytes_per_object: f64,
    /// Compressed bytes by section.
    pub sections: BTreeMap<&'static str, u64>,
}

/// Writes the file. The target need not be held. Errors: the file cannot be written, or exists.
pub fn write(path: &Path, force: bool, c: &Contents) -> Result<Figures, SnapshotError> {
    let mut w = Writer::create(path, force)?;
    let file = |source| SnapshotError::File { path: path.to_owned(), source };
    let types = fill(&mut w, c).map_err(file)?;
    let (heap, built) = (c.heap, c.built);
    let mut sections = BTreeMap::new();
    for s in [
        Section::Meta,
        Section::Functions,
        Section::Variables,
        Section::Goroutines,
        Section::Types,
        Section::Spans,
        Section::Objects,
        Section::Degrees,
        Section::Edges,
        Section::Roots,
        Section::Evidence,
        Section::Links,
        Section::Locals,
        Section::LocalRoots,
    ] {
        sections.insert(s.name(), w.packed_bytes(s));
    }
    let of_heap: u64 =
        [Section::Spans, Section::Objects, Section::Degrees, Section::Edges].iter().map(|&s| w.packed_bytes(s)).sum();
    let objects = heap.allocated.count_ones() as u64;
    Ok(Figures {
        path: path.to_owned(),
        file_bytes: w.finish()?,
        objects,
        edges: built.graph.target.len() as u64,
        roots: built.graph.roots.len() as u64,
        goroutines: built.goroutines.len() as u64,
        types: types as u64,
        bytes_per_object: of_heap as f64 / objects.max(1) as f64,
        sections,
    })
}

/// All sections but the directory; the number of types kept.
fn fill(w: &mut Writer, c: &Contents) -> std::io::Result<usize> {
    let json = serde_json::to_vec(&c.meta).map_err(std::io::Error::other)?;
    w.put(Section::Meta, pack(0, 1, &json)?)?;
    let functions = functions(c);
    in_blocks(w, Section::Functions, &functions, function)?;
    let (variables, links) = variables(c);
    in_blocks(w, Section::Links, &links, |out, l| {
        out.uint(l.0.0);
        out.uint(l.1.0);
    })?;
    in_blocks(w, Section::Variables, &variables, |out, v: &SavedVariable| {
        out.uint(v.addr.0);
        out.uint(v.size);
        out.text(&v.name);
        out.text(&v.type_name);
    })?;
    let indices: Vec<usize> = (0..c.built.goroutines.len()).collect();
    in_blocks(w, Section::Goroutines, &indices, |out, &i| goroutine(out, c, i))?;
    let json = serde_json::to_vec(c.evidence).map_err(std::io::Error::other)?;
    w.put(Section::Evidence, pack(0, 1, &json)?)?;

    let (marks, number) = marks(c);
    let (types, renumbered) = c.typed.types.save(marks.iter().map(|m| m.2));
    let mut raw = Vec::new();
    raw.uint(types.len() as u64);
    for t in &types {
        raw.text(&t.name);
        raw.text(&t.package);
        t.numbers.iter().for_each(|&n| raw.uint(n));
        raw.uint(t.fields.len() as u64);
        for (name, offset, ty, embedded) in &t.fields {
            raw.text(name);
            raw.uint(*offset);
            raw.uint((*ty).into());
            raw.push((*embedded).into());
        }
    }
    raw.uint(marks.len() as u64);
    for (level, at, ty) in &marks {
        raw.push(*level);
        raw.uint(*at);
        raw.uint(renumbered.get(ty.index()).copied().unwrap_or(0).into());
    }
    w.put(Section::Types, pack(0, 1, &raw)?)?;

    spans(w, c)?;
    let slots = c.heap.slots as usize;
    let starts: Vec<usize> = (0..slots).step_by(SLOTS).collect();
    packed(w, Section::Objects, &starts, |&from| {
        let to = slots.min(from + SLOTS);
        pack(from as u64, (to - from) as u64, &objects(c, from, to, &number))
    })?;
    let graph = &c.built.graph;
    packed(w, Section::Degrees, &starts, |&from| {
        let to = slots.min(from + SLOTS);
        let mut raw = Vec::with_capacity(to - from);
        (from..to).for_each(|i| raw.uint(graph.rows.edges(i).len() as u64));
        pack(from as u64, (to - from) as u64, &raw)
    })?;
    let starts: Vec<usize> = (0..graph.target.len()).step_by(edges::BLOCK).collect();
    packed(w, Section::Edges, &starts, |&from| {
        let to = graph.target.len().min(from + edges::BLOCK);
        let words: Vec<u32> = graph.words.iter(from..to).map(|w| w as u32).collect();
        let target: Vec<ObjectId> = graph.target.range(from..to).collect();
        pack(from as u64, (to - from) as u64, &edges::encode(&graph.rows, from, &target, &words))
    })?;
    in_blocks(w, Section::Roots, &graph.roots, |out, r| {
        out.push(kind_number(r.kind));
        for n in [r.target.0.into(), r.at.0, r.offset.into(), r.goid.0, r.frame.into()] {
            out.uint(n);
        }
    })?;
    let (places, of_root) = local_places(c);
    in_blocks(w, Section::Locals, &places, |out, p| {
        out.text(&p.0);
        out.text(&p.1);
    })?;
    in_blocks(w, Section::LocalRoots, &of_root, |out, l| {
        out.uint(l.0.into());
        out.uint(l.1.into());
    })?;
    Ok(types.len())
}

/// A local variable, and the member of it where a root lies inside.
type Place = (String, String);

/// The places that hold roots, and (root, index of its place).
fn local_places(c: &Contents) -> (Vec<Place>, Vec<(u32, u32)>) {
    let locals = &c.typed.locals;
    let mut index: HashMap<(u32, TypeId, u32), u32> = HashMap::new();
    let (mut places, mut of_root) = (Vec::new(), Vec::with_capacity(locals.of_root.len()));
    for l in &locals.of_root {
        let n = *index.entry((l.variable, l.ty, l.offset)).or_insert_with(|| {
            let variable = locals.variables.get(l.variable as usize).cloned().unwrap_or_default();
            places.push((variable, locals.member(&c.typed.types, l)));
            places.len() as u32 - 1
        });
        of_root.push((l.root, n));
    }
    (places, of_root)
}

/// Roots of this kind in the file. Numbers are never used again for something else.
pub(super) const ROOT_KINDS: [RootKind; 11] = [
    RootKind::Data,
    RootKind::Bss,
    RootKind::Stack,
    RootKind::Conservative,
    RootKind::Goroutine,
    RootKind::Finalizer,
    RootKind::Cleanup,
    RootKind::FinalizerQueue,
    RootKind::WeakHandle,
    RootKind::TinyBlock,
    RootKind::Other,
];

fn kind_number(kind: RootKind) -> u8 {
    ROOT_KINDS.iter().position(|&k| k == kind).unwrap_or(ROOT_KINDS.len() - 1) as u8
}

/// Encodes and compresses blocks in parallel, a few at a time.
fn packed<T: Sync>(
    w: &mut Writer,
    section: Section,
    blocks: &[T],
    make: impl Fn(&T) -> std::io::Result<Packed> + Sync,
) -> std::io::Result<()> {
    for few in blocks.chunks(2 * rayon::current_num_threads()) {
        let done: Vec<std::io::Result<Packed>> = few.par_iter().map(&make).collect();
        for block in done {
            w.put(section, block?)?;
        }
    }
    Ok(())
}

/// A section of small items.
fn in_blocks<T: Sync>(
    w: &mut Writer,
    section: Section,
    items: &[T],
    encode: impl Fn(&mut Vec<u8>, &T) + Sync,
) -> std::io::Result<()> {
    let starts: Vec<usize> = (0..items.len()).step_by(ITEMS).collect();
    packed(w, section, &starts, |&from| {
        let part = &items[from..items.len().min(from + ITEMS)];
        let mut raw = Vec::new();
        part.iter().for_each(|x| encode(&mut raw, x));
        pack(from as u64, part.len() as u64, &raw)
    })
}

/// Functions on stacks, those that goroutines began with and were created in, with their frames.
fn functions(c: &Contents) -> Vec<SavedFunc> {
    let table = &c.rt.image.pclntab;
    let mut out: BTreeMap<Addr, SavedFunc> = BTreeMap::new();
    let mut seen: HashSet<(Addr, Addr)> = HashSet::new();
    let add = |out: &mut BTreeMap<Addr, SavedFunc>, pc: Addr, lookup: Option<Addr>| {
        let Some(f) = table.find(pc) else { return };
        let saved = out.entry(f.entry()).or_insert_with(|| SavedFunc::of(&f));
        if let Some(lookup) = lookup {
            saved.lines.entry(lookup).or_insert_with(|| f.inline_frames(lookup).map(|x| SavedFrame::of(&x)).collect());
        }
    };
    for (g, stack) in c.built.goroutines.iter().zip(&c.built.stacks) {
        if seen.insert((g.startpc, Addr::NULL)) {
            add(&mut out, g.startpc, None);
        }
        // The go statement is looked up inside its call.
        if seen.insert((g.gopc, Addr::NULL)) {
            add(&mut out, g.gopc, Some(Addr(g.gopc.0.saturating_sub(1))));
        }
        for f in &stack.frames {
            if seen.insert((f.pc, f.lookup)) {
                add(&mut out, f.pc, Some(f.lookup));
            }
        }
    }
    for pc in c.evidence.stacks.iter().flatten() {
        let at = Addr(pc.0.saturating_sub(1));
        if seen.insert((at, at)) {
            add(&mut out, at, Some(at));
        }
    }
    out.into_values().collect()
}

fn function(out: &mut Vec<u8>, f: &SavedFunc) {
    out.uint(f.entry.0);
    out.uint(f.end.0.saturating_sub(f.entry.0));
    out.text(&f.name);
    out.push(f.func_id.number());
    out.push(f.flags);
    out.uint(f.start_line.into());
    out.uint(f.lines.len() as u64);
    for (pc, frames) in &f.lines {
        out.int(pc.0.wrapping_sub(f.entry.0) as i64);
        out.uint(frames.len() as u64);
        for x in frames {
            out.text(&x.function);
            out.text(&x.file);
            out.uint(x.line.into());
            out.push(x.func_id.number());
            out.push(x.inlined.into());
            out.uint(x.start_line.into());
        }
    }
}

/// Global variables that hold roots, by address; and static data without a name, with the variable that it counts for.
fn variables(c: &Contents) -> (Vec<SavedVariable>, Vec<(Addr, Addr)>) {
    let roots = c.built.graph.roots.iter().filter(|r| matches!(r.kind, RootKind::Data | RootKind::Bss));
    let mut places: Vec<(Addr, Addr)> = roots.map(|r| (r.at, holders::variable_start(c.rt, c.built, r.at))).collect();
    places.sort_unstable();
    places.dedup();
    let mut sizes: BTreeMap<Addr, u64> = places.iter().map(|p| (p.1, 8)).collect();
    let mut links = Vec::new();
    for (at, start) in places {
        let inside = sizes.range(..=at).next_back().is_some_and(|(&s, _)| s == start);
        match sizes.get_mut(&start) {
            Some(size) if inside => *size = (*size).max(at.0 - start.0 + 8),
            _ => links.push((at, start)),
        }
    }
    let list = sizes
        .into_iter()
        .map(|(addr, size)| {
            let name = holders::global_name(c.rt, c.built, addr);
            SavedVariable {
                addr,
                size,
                name: name.strip_prefix("global ").unwrap_or(&name).to_owned(),
                type_name: type_of_variable(c.rt, addr).unwrap_or_default(),
            }
        })
        .collect();
    (list, links)
}

fn goroutine(out: &mut Vec<u8>, c: &Contents, i: usize) {
    let (g, stack) = (&c.built.goroutines[i], &c.built.stacks[i]);
    out.uint(g.goid.0);
    out.uint(g.addr.0);
    out.text(g.status.text());
    out.text(&g.wait_reason);
    for n in [g.waitsince, g.stack.0.0, g.stack.1.0.saturating_sub(g.stack.0.0), g.gopc.0, g.startpc.0, g.parent.0] {
        out.uint(n);
    }
    out.push(g.locked_to_thread.into());
    out.text(stack.truncated.as_deref().unwrap_or(""));
    out.uint(stack.frames.len() as u64);
    for f in &stack.frames {
        out.uint(f.pc.0);
        out.int(f.pc.0.wrapping_sub(f.lookup.0) as i64);
    }
}

/// Distinct marks of objects, the most frequent first, and the number of each.
type Marks = (Vec<Mark>, HashMap<Mark, u32>);

fn marks(c: &Contents) -> Marks {
    let typing = &c.typed.typing;
    let ids: Vec<usize> = (0..c.heap.slots as usize).step_by(SLOTS).collect();
    let counts: Vec<HashMap<Mark, u64>> = ids
        .par_iter()
        .map(|&from| {
            let mut counts: HashMap<Mark, u64> = HashMap::new();
            // Neighbours are alike: look up once a run.
            let (mut last, mut run) = (None, 0u64);
            for i in from..(from + SLOTS).min(c.heap.slots as usize) {
                if !c.heap.allocated.get(i) && !c.heap.dead.get(i) {
                    continue;
                }
                let mark = typing.mark_of(ObjectId(i as u32));
                if last == Some(mark) {
                    run += 1;
                } else {
                    if let Some(m) = last.replace(mark) {
                        *counts.entry(m).or_default() += run;
                    }
                    run = 1;
                }
            }
            if let Some(m) = last {
                *counts.entry(m).or_default() += run;
            }
            counts
        })
        .collect();
    let mut all: HashMap<Mark, u64> = HashMap::new();
    for (mark, n) in counts.into_iter().flatten() {
        *all.entry(mark).or_default() += n;
    }
    let mut list: Vec<_> = all.into_iter().collect();
    list.sort_by_key(|&(mark, n)| (std::cmp::Reverse(n), mark));
    let list: Vec<Mark> = list.into_iter().map(|m| m.0).collect();
    let number = list.iter().enumerate().map(|(i, &m)| (m, i as u32)).collect();
    (list, number)
}

/// Three bits a slot (allocated, dead, reached; as words), then the mark of every object.
fn objects(c: &Contents, from: usize, to: usize, number: &HashMap<Mark, u32>) -> Vec<u8> {
    let mut raw = Vec::with_capacity((to - from) * 2);
    for bits in [&c.heap.allocated, &c.heap.dead, &c.built.graph.reachable] {
        // Blocks begin at multiples of 64.
        for w in bits.words().get(from / 64..to.div_ceil(64)).unwrap_or_default() {
            raw.extend_from_slice(&w.to_le_bytes());
        }
    }
    let mut last = None;
    for i in from..to {
        if c.heap.allocated.get(i) || c.heap.dead.get(i) {
            let mark = c.typed.typing.mark_of(ObjectId(i as u32));
            let n = match last {
                Some((m, n)) if m == mark => n,
                _ => number.get(&mark).copied().unwrap_or(0),
            };
            last = Some((mark, n));
            raw.uint(n.into());
        }
    }
    raw
}

fn spans(w: &mut Writer, c: &Contents) -> std::io::Result<()> {
    let indices: Vec<usize> = (0..c.heap.spans.len()).collect();
    let starts: Vec<usize> = indices.iter().copied().step_by(ITEMS).collect();
    packed(w, Section::Spans, &starts, |&from| {
        let part = &c.heap.spans[from..c.heap.spans.len().min(from + ITEMS)];
        let mut raw = Vec::new();
        let mut end = 0u64;
        for s in part {
            raw.uint(s.start.0.saturating_sub(end) / PAGE);
            raw.uint(s.bytes / PAGE);
            raw.uint(s.elemsize);
            raw.uint(s.nelems.into());
            raw.uint(s.limit.0.saturating_sub(s.start.0).min(s.bytes));
            raw.push(s.class);
            raw.push(u8::from(s.noscan) | u8::from(s.user_arena) << 1);
            raw.int(i64::from(s.sweepgen.wrapping_sub(c.heap.sweepgen) as i32));
            raw.uint(s.alloc_count.into());
            end = s.start.0 + s.bytes;
        }
        pack(from as u64, part.len() as u64, &raw)
    })
}

/// Goroutine ids must count up for searches by id.
pub(super) fn sorted(goids: impl Iterator<Item = Goid>) -> bool {
    goids.is_sorted()
}
