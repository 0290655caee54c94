//! The live heap by type: how many objects, how many bytes, and how the type is known.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    base::{KnownBy, ObjectId},
    graph::build::{Built, Hint},
    runtime::{Runtime, heap::Heap, types::Types},
};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    pub exact_bytes: u64,
    pub propagated_bytes: u64,
    pub guessed_bytes: u64,
    pub unknown_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub objects: u64,
    pub bytes: u64,
    pub known_by: KnownBy,
}

#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    pub live: Totals,
    pub coverage: Coverage,
    pub rows: Vec<Row>,
}

/// Name and evidence of each object that a hint types; sorted by object.
pub struct ObjectTypes {
    names: Vec<String>,
    of: Vec<(ObjectId, u32, KnownBy)>,
}

impl ObjectTypes {
    /// Decides between hints: a header says it for sure; an interface word does if the type fills the slot.
    pub fn decide(rt: &Runtime, heap: &Heap, built: &Built) -> ObjectTypes {
        let mut types = Types::default();
        let mut names = Vec::new();
        let mut index: HashMap<String, u32> = HashMap::new();
        let mut of: Vec<(ObjectId, u32, KnownBy)> = Vec::new();
        for &(id, hint) in &built.hints {
            if of.last().is_some_and(|l| l.0 == id) {
                continue;
            }
            let span = heap.span_of(id);
            let header = if span.elemsize > 512 && span.class != 0 { 8 } else { 0 };
            let name = match hint {
                Hint::Header(at) => types.at(rt, at).map(|t| {
                    let room = span.elemsize.saturating_sub(header);
                    if t.size > 0 && room / t.size >= 2 { format!("[]{}", t.name) } else { t.name.clone() }
                }),
                Hint::Interface(word) => types.of_interface_word(rt, word).and_then(|(_, t)| {
                    // A direct value *is* the pointer: the object is what it points to.
                    let t = if t.direct && t.kind == 22 { types.at(rt, t.elem)?.clone() } else { t };
                    fits(&t.name, t.size + header, span.elemsize, t.direct)
                }),
                Hint::Closure(pc) => rt.image.pclntab.find(pc).map(|f| format!("func {}", f.name())),
            };
            if let Some(name) = name {
                let n = *index.entry(name.clone()).or_insert_with(|| {
                    names.push(name);
                    names.len() as u32 - 1
                });
                of.push((id, n, KnownBy::Exact));
            }
        }
        ObjectTypes { names, of }
    }

    pub fn get(&self, id: ObjectId) -> Option<(&str, KnownBy)> {
        let i = self.of.binary_search_by_key(&id, |e| e.0).ok()?;
        let (_, name, known) = self.of[i];
        Some((&self.names[name as usize], known))
    }
}

/// The type explains the slot if the allocator would have put a value of this size into it: more than three quarters
/// full, or as full as the smallest classes allow.
fn fits(name: &str, size: u64, slot: u64, direct: bool) -> Option<String> {
    let full = size <= slot && (slot <= 16 || slot - size < slot / 4 + 8);
    (full && !direct).then(|| name.to_owned())
}

pub fn live_by_type(heap: &Heap, built: &Built, types: &ObjectTypes) -> Histogram {
    let mut rows: HashMap<(String, KnownBy), (u64, u64)> = HashMap::new();
    let (mut live, mut coverage) = (Totals::default(), Coverage::default());
    for span in &heap.spans {
        let mut untyped = 0u64;
        for i in 0..span.nelems {
            let id = ObjectId(span.first.0 + i);
            if !built.graph.reachable.get(id.index()) {
                continue;
            }
            live.objects += 1;
            live.bytes += span.elemsize;
            match types.get(id) {
                Some((name, known)) => {
                    coverage.exact_bytes += span.elemsize;
                    let row = rows.entry((name.to_owned(), known)).or_default();
                    *row = (row.0 + 1, row.1 + span.elemsize);
                }
                None => untyped += 1,
            }
        }
        if untyped > 0 {
            let holds = if span.noscan { "without pointers" } else { "with pointers" };
            let name = match span.class {
                0 => format!("(untyped, large, {holds})"),
                _ => format!("(untyped, {} bytes, {holds})", span.elemsize),
            };
            coverage.unknown_bytes += untyped * span.elemsize;
            let row = rows.entry((name, KnownBy::Unknown)).or_default();
            *row = (row.0 + untyped, row.1 + untyped * span.elemsize);
        }
    }
    let mut rows: Vec<Row> =
        rows.into_iter().map(|((name, known_by), (objects, bytes))| Row { name, objects, bytes, known_by }).collect();
    rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Histogram { live, coverage, rows }
}
