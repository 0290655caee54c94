//! The live heap by type: how many objects, how many bytes, and how the type is known.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::{
    base::{KnownBy, ObjectId},
    graph::{Graph, typing::Typed},
    runtime::{
        heap::{Heap, Span},
        types::TypeId,
    },
};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    pub objects: u64,
    pub bytes: u64,
}

impl Totals {
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }

    pub(super) fn join(&mut self, other: &Totals) {
        self.objects += other.objects;
        self.bytes += other.bytes;
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
    /// Bytes that would be freed without the objects of this row; where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<u64>,
    /// Of goroutines, by root: the local variable from which most of it hangs, and what hangs from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalShare>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LocalShare {
    /// `main.handler.buf`.
    pub name: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    pub live: Totals,
    pub coverage: Coverage,
    pub rows: Vec<Row>,
}

const TYPED: [KnownBy; 3] = [KnownBy::Exact, KnownBy::Propagated, KnownBy::Guessed];

/// What some spans hold.
struct Counts {
    /// By type, and within a type by `TYPED`.
    typed: Vec<Totals>,
    /// (slot size or 0 for large ones, noscan) → objects.
    untyped: HashMap<(u64, bool), Totals>,
}

fn count(spans: &[Span], types: usize, graph: &Graph, typed: &Typed) -> Counts {
    let mut counts = Counts { typed: vec![Totals::default(); types * TYPED.len()], untyped: HashMap::new() };
    for span in spans {
        let mut unknown = Totals::default();
        // Neighbours are often known alike: how many in a row, and the last of them.
        let (mut alike, mut last) = (0, ObjectId(0));
        let mut enter = |n: u64, id: ObjectId| {
            let (ty, known) = (typed.typing.type_of(id), typed.typing.known_by(id));
            let totals = match TYPED.iter().position(|&k| k == known) {
                Some(k) => counts.typed.get_mut(ty.index() * 3 + k).unwrap_or(&mut unknown),
                None => &mut unknown,
            };
            totals.objects += n;
            totals.bytes += n * span.elemsize;
        };
        for id in (span.first.0..span.first.0 + span.nelems).map(ObjectId) {
            if !graph.reachable.get(id.index()) {
                continue;
            }
            if alike > 0 && typed.typing.number_of(id) != typed.typing.number_of(last) {
                enter(alike, last);
                alike = 0;
            }
            (alike, last) = (alike + 1, id);
        }
        if alike > 0 {
            enter(alike, last);
        }
        if unknown.objects > 0 {
            let class = if span.class == 0 { 0 } else { span.elemsize };
            counts.untyped.entry((class, span.noscan)).or_default().join(&unknown);
        }
    }
    counts
}

/// The reachable objects by type. Large objects count with their pages, as the runtime counts them.
pub fn live_by_type(heap: &Heap, graph: &Graph, typed: &Typed) -> Histogram {
    // By type and evidence; what has no type goes by the size of its slot. Counted per span, in parallel.
    let width = typed.types.len();
    let chunk = heap.spans.len().div_ceil(4 * rayon::current_num_threads()).max(256);
    let counts: Vec<Counts> = heap.spans.par_chunks(chunk).map(|spans| count(spans, width, graph, typed)).collect();
    let (mut live, mut coverage) = (Totals::default(), Coverage::default());
    let mut rows: HashMap<(TypeId, KnownBy), Totals> = HashMap::new();
    let mut untyped: HashMap<(u64, bool), Totals> = HashMap::new();
    for c in counts {
        for (i, totals) in c.typed.iter().enumerate().filter(|(_, t)| t.objects > 0) {
            let (ty, known) = (TypeId((i / TYPED.len()) as u32), TYPED[i % TYPED.len()]);
            live.join(totals);
            match known {
                KnownBy::Exact => coverage.exact_bytes += totals.bytes,
                KnownBy::Propagated => coverage.propagated_bytes += totals.bytes,
                _ => coverage.guessed_bytes += totals.bytes,
            }
            rows.entry((ty, known)).or_default().join(totals);
        }
        for (key, totals) in &c.untyped {
            live.join(totals);
            coverage.unknown_bytes += totals.bytes;
            untyped.entry(*key).or_default().join(totals);
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
        .map(|((name, _), (t, known_by, _))| Row {
            name,
            objects: t.objects,
            bytes: t.bytes,
            known_by,
            retained_bytes: None,
            local: None,
        })
        .collect();
    rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| (&a.name, a.known_by).cmp(&(&b.name, b.known_by))));
    Histogram { live, coverage, rows }
}
