//! The live heap by type: how many objects, how many bytes, and how the type is known.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    base::{KnownBy, ObjectId},
    graph::{Graph, typing::Typed},
    runtime::{heap::Heap, types::TypeId},
};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    pub objects: u64,
    pub bytes: u64,
}

impl Totals {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
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

/// The reachable objects by type. Large objects count with their pages, as the runtime counts them.
pub fn live_by_type(heap: &Heap, graph: &Graph, typed: &Typed) -> Histogram {
    // (type, evidence) → objects and bytes; what has no type goes by the size of its slot.
    let mut rows: HashMap<(TypeId, KnownBy), Totals> = HashMap::new();
    let mut untyped: HashMap<(u64, bool), Totals> = HashMap::new();
    let (mut live, mut coverage) = (Totals::default(), Coverage::default());
    for span in &heap.spans {
        for id in (span.first.0..span.first.0 + span.nelems).map(ObjectId) {
            if !graph.reachable.get(id.index()) {
                continue;
            }
            let bytes = span.elemsize;
            live.add(bytes);
            let (ty, known) = (typed.typing.type_of(id), typed.typing.known_by(id));
            match known {
                KnownBy::Exact => coverage.exact_bytes += bytes,
                KnownBy::Propagated => coverage.propagated_bytes += bytes,
                KnownBy::Guessed => coverage.guessed_bytes += bytes,
                KnownBy::Unknown => {
                    coverage.unknown_bytes += bytes;
                    let class = if span.class == 0 { 0 } else { bytes };
                    untyped.entry((class, span.noscan)).or_default().add(bytes);
                    continue;
                }
            }
            rows.entry((ty, known)).or_default().add(bytes);
        }
    }
    // One row a name, but guesses apart; known as most of its bytes are.
    let mut named: HashMap<(String, bool), (Totals, KnownBy, u64)> = HashMap::new();
    for ((ty, known), totals) in rows {
        let name = (typed.types.name(ty).to_owned(), known == KnownBy::Guessed);
        let row = named.entry(name).or_insert((Totals::default(), known, 0));
        row.0.objects += totals.objects;
        row.0.bytes += totals.bytes;
        if (totals.bytes, known) > (row.2, row.1) {
            (row.1, row.2) = (known, totals.bytes);
        }
    }
    for ((class, noscan), totals) in untyped {
        let holds = if noscan { "without pointers" } else { "with pointers" };
        let name = match class {
            0 => format!("(untyped, large, {holds})"),
            _ => format!("(untyped, {class} bytes, {holds})"),
        };
        named.insert((name, false), (totals, KnownBy::Unknown, 0));
    }
    let mut rows: Vec<Row> = named
        .into_iter()
        .map(|((name, _), (t, known_by, _))| Row { name, objects: t.objects, bytes: t.bytes, known_by })
        .collect();
    rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| (&a.name, a.known_by).cmp(&(&b.name, b.known_by))));
    Histogram { live, coverage, rows }
}
