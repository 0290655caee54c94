//! The live heap by type: how many objects, how many bytes, and how the type is known.

use std::collections::HashMap;

use serde::Serialize;

use super::typing::Typing;
use crate::{
    base::{KnownBy, ObjectId},
    graph::build::Built,
    runtime::heap::Heap,
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

pub fn live_by_type(heap: &Heap, built: &Built, types: &Typing) -> Histogram {
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
                    match known {
                        KnownBy::Exact => coverage.exact_bytes += span.elemsize,
                        _ => coverage.propagated_bytes += span.elemsize,
                    }
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
