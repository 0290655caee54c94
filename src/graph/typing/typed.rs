//! The types of one target's objects, from the table to the names.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Input, Typing, asked,
    locals::{self, Locals, Question},
    regions, spilled,
};
use crate::{
    base::{Addr, ObjectId, bytes},
    graph::{Graph, Hints, build::Built},
    runtime::{
        Runtime,
        heap::Heap,
        layout::Field,
        types::{Sources, TypeId, TypeTable, path_at},
    },
};

/// Table and typing of one target.
pub struct Typed {
    pub types: TypeTable,
    pub typing: Typing,
    /// Local variables that hold roots.
    pub locals: Locals,
    malloc_headers: bool,
}

impl Typed {
    /// Reads what is left to read (descriptors, first words of some closures), so the target must still be held.
    pub fn new(rt: &Runtime, heap: &Heap, built: &Built) -> Typed {
        Typed::with(rt, heap, built, TypeTable::of_binary(Sources::of(rt)))
    }

    /// The same, where the types of the binary (`TypeTable::of_binary`) were read before the target was held.
    pub fn with(rt: &Runtime, heap: &Heap, built: &Built, mut types: TypeTable) -> Typed {
        let sources = Sources::of(rt);
        load_hinted(rt, sources, &mut types, &built.hints);
        let asked = asked::read(rt, &built.samples, &mut types);
        let module = rt.image.modules.first().map(|m| m.types).unwrap_or_default();
        let descriptor = |types: &TypeTable, off: u64| types.by_addr(module.offset(off));
        if let Some(dwarf) = &rt.image.dwarf {
            types.learn(&dwarf.bare, descriptor);
        }
        let question = Question::ask(rt, built);
        if let Some(question) = &question {
            types.learn(&question.bare, descriptor);
        }
        let function = |entry: Addr| rt.image.pclntab.find(entry).map(|f| f.name().to_owned());
        let entries: BTreeSet<Addr> = built.hints.closures.iter().map(|c| c.1).collect();
        for entry in entries {
            if let Some(name) = function(entry) {
                let captured =
                    rt.image.dwarf.as_ref().and_then(|d| d.captures.get(&entry.0.wrapping_sub(rt.image.bias)));
                let captured = match captured {
                    Some(members) => Some(types.captured(&name, members, descriptor)),
                    None => types.bound_method(&name),
                };
                types.closure(entry, &name, captured);
            }
        }
        let regions = regions(rt, &mut types, &built.global_links, &built.hints.link_interfaces);
        let locals = match question {
            Some(q) => locals::find(rt, built, &mut types, &q),
            None => spilled::find(rt, built, &mut types),
        };
        types.load(sources, locals.interfaces.iter().map(|i| i.1).collect::<BTreeSet<_>>());
        let malloc_headers = rt.layout.has(Field::MspanLargeType);
        let mut typing = Typing::new(Input {
            heap,
            graph: &built.graph,
            hints: &built.hints,
            types: &types,
            regions: &regions,
            locals: &locals,
            asked: &asked,
            malloc_headers,
            guess: true,
        });
        let entries = first_words(rt, heap, &typing.unread_closures);
        typing.name_closures(&entries, &mut types, function);
        Typed { types, typing, locals, malloc_headers }
    }

    /// From a snapshot.
    pub(crate) fn of_saved(types: TypeTable, typing: Typing, locals: Locals, malloc_headers: bool) -> Typed {
        Typed { types, typing, locals, malloc_headers }
    }

    /// Name of the object's type, `None` where it is not known.
    pub fn name(&self, id: ObjectId) -> Option<&str> {
        let ty = self.typing.type_of(id);
        ty.is_known().then(|| self.types.name(ty))
    }

    /// The member of `id` that holds the pointer of edge `edge`: `.Next`, `[3].Name`, or `+40` where nothing is known.
    pub fn field(&self, heap: &Heap, graph: &Graph, id: ObjectId, edge: usize) -> String {
        let word = if edge < graph.words.len() { graph.words.get(edge) } else { 0 };
        self.path(heap, id, 8 * word)
    }

    /// The byte of the slot at which what has the object's type begins: behind a malloc header, or where the part lies.
    pub fn begin(&self, heap: &Heap, id: ObjectId) -> u64 {
        let span = heap.span_of(id);
        let header = self.malloc_headers && !span.noscan && span.class != 0 && span.elemsize > 512;
        let header = if header { 8 } else { 0 };
        header + self.typing.part_of(id).unwrap_or(0)
    }

    /// The place in `id` of byte `offset` of its slot.
    pub fn path(&self, heap: &Heap, id: ObjectId, offset: u64) -> String {
        let ty = self.typing.type_of(id);
        match offset.checked_sub(self.begin(heap, id)) {
            Some(at) if ty.is_known() => path_at(&self.types, ty, at),
            _ => format!("+{offset}"),
        }
    }
}

/// Descriptors that only the heap knows: types made by reflect, types of plugins, and the nameless ones that stand in
/// headers of Go 1.22 and 1.23 for types with a GC program.
fn load_hinted(rt: &Runtime, sources: Sources<'_>, types: &mut TypeTable, hints: &Hints) {
    let headers: BTreeSet<Addr> = hints.headers.iter().map(|h| h.1).filter(|a| !a.is_null()).collect();
    let mut words: Vec<Addr> = hints.interfaces.iter().chain(&hints.root_interfaces).map(|i| i.1).collect();
    words.extend(hints.link_interfaces.iter().map(|i| i.1));
    words.sort_unstable();
    words.dedup();
    types.load(sources, headers.iter().chain(&words).copied());
    let mut nameless: BTreeMap<Addr, TypeId> = BTreeMap::new();
    for &addr in &headers {
        if types.by_addr(addr).is_none() {
            match types.behind_unrolled(sources.memory, addr) {
                Some(ty) => _ = nameless.insert(addr, ty),
                None => rt.diag.note("malloc header names no type", addr),
            }
        }
    }
    types.alias(nameless);
    let elements: Vec<TypeId> = headers.iter().filter_map(|&a| types.by_addr(a)).collect();
    for ty in elements {
        types.backing(ty);
    }
}

/// First word of each object that can be read.
fn first_words(rt: &Runtime, heap: &Heap, ids: &[ObjectId]) -> Vec<(ObjectId, Addr)> {
    let read = words(rt, ids.iter().map(|&id| heap.extent(id).0));
    ids.iter().zip(read).filter_map(|(&id, word)| Some((id, Addr(word?)))).collect()
}

/// The words at these places, `None` where they cannot be read. Cost: one read for a thousand.
pub(super) fn words(rt: &Runtime, places: impl IntoIterator<Item = Addr>) -> Vec<Option<u64>> {
    const BATCH: usize = 1024;
    let places: Vec<Addr> = places.into_iter().collect();
    let mut out = Vec::with_capacity(places.len());
    for batch in places.chunks(BATCH) {
        let mut words = vec![0u8; 8 * batch.len()];
        let mut ranges: Vec<(Addr, &mut [u8])> = batch.iter().copied().zip(words.chunks_exact_mut(8)).collect();
        let results = rt.target.memory.read_scattered(&mut ranges);
        out.extend(words.chunks_exact(8).zip(results).map(|(w, r)| r.ok().and_then(|_| bytes::u64_at(w, 0))));
    }
    out
}
