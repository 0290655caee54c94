//! The verdict: where memory piles up, who holds it, which known pattern of leak that is, how sure, and what to do.
//!
//! A pile is a node of the dominator tree that retains much while none of the nodes below it does: the place where many
//! small things hang on one hook. `piles` finds them, `patterns` names them, `growth` compares looks.

mod evidence;
mod foreign;
mod growth;
mod patterns;
mod piles;
mod stand;

use serde::Serialize;

use crate::{
    analysis::{
        dominators::{Dominators, Vertex},
        goroutines::StackFrame,
        holders::Holders,
    },
    base::{Addr, ObjectId},
    graph::{build::Built, typing::Typed},
    runtime::{Runtime, heap::Heap},
};

pub use evidence::{Evidence, Fill, Use};
pub use foreign::suspect as outside_go;
pub use growth::{Look, compare};
pub use patterns::{Pattern, type_of_variable};
pub use stand::Stand;

/// How far the evidence carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Holds much; whether it grows, one look cannot tell.
    Possible,
    /// It grew from look to look, or its shape is one that healthy programs seldom have.
    Likely,
    /// What was read proves it: this memory cannot be used or freed any more, or is pinned by a sliver.
    Sure,
}

#[derive(Clone, Debug, Serialize)]
pub struct Suspect {
    pub pattern: Pattern,
    /// `global main.cache`, `goroutine main.consume`, `timer`, `finalizer`.
    pub holder: String,
    /// The type that most of it belongs to.
    #[serde(rename = "type")]
    pub type_name: String,
    /// How many objects of that type.
    pub objects: u64,
    pub retained_bytes: u64,
    /// Share of the live heap in parts per thousand.
    pub share_permille: u64,
    /// Stacks of the goroutines, where goroutines are the pile.
    pub stack_bytes: u64,
    pub growth_bytes_per_hour: Option<f64>,
    /// From three looks on: where the growth lies with 95 % confidence, lower and upper bound, bytes an hour.
    #[serde(rename = "growth_interval_bytes_per_hour")]
    pub growth_interval: Option<[f64; 2]>,
    /// From three looks on: the interval does not include 0, and what was gained is no trifle.
    pub growth_is_certain: Option<bool>,
    /// Goroutine piles: what most of them do.
    pub stand: Option<Stand>,
    pub certainty: Certainty,
    pub evidence: Vec<String>,
    /// From the holder to the pile: types with the member that leads on.
    pub path: Vec<String>,
    /// Where the program's heap profile saw it allocated.
    pub allocated_at: Option<Site>,
    pub advice: String,
}

/// A place of allocation.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// Sampled objects of the pile that this stack allocated, of all its sampled objects. Sampling is by bytes
    /// (runtime.MemProfileRate, 512 KiB unless the program sets it).
    pub samples: u64,
    pub of: u64,
    /// Innermost first, without the runtime's own frames.
    pub stack: Vec<StackFrame>,
}

/// Everything the verdict looks at.
pub struct Case<'a> {
    pub rt: &'a Runtime,
    pub heap: &'a Heap,
    pub built: &'a Built,
    pub typed: &'a Typed,
    pub evidence: &'a Evidence,
    pub holders: &'a Holders,
    pub dom: &'a Dominators,
    pub live_bytes: u64,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Smallest pile that is told.
    pub bytes: u64,
    /// Smallest share of the live heap, in parts per thousand, unless the pile is provably useless.
    pub permille: u64,
    /// Fewest goroutines in one place that count as a pile.
    pub goroutines: u64,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { bytes: 1 << 20, permille: 50, goroutines: 100 }
    }
}

impl Thresholds {
    /// Bytes that a pile must have in a heap of `live_bytes`: its share, which a large heap need not reach.
    pub fn smallest(&self, live_bytes: u64) -> u64 {
        const LARGE: u64 = 64 << 20;
        self.bytes.max((live_bytes / 1000 * self.permille).min(LARGE))
    }
}

/// Suspects, the heaviest first.
pub fn suspects(case: &Case, limits: Thresholds) -> Vec<Suspect> {
    let out: Vec<Suspect> =
        piles::find(case, limits).into_iter().filter_map(|pile| patterns::judge(case, &pile, limits)).collect();
    // One hook may show as several piles: the parts of a large map, the per-P parts of a pool.
    let mut merged: Vec<Suspect> = Vec::new();
    for s in out {
        let same = |m: &&mut Suspect| {
            let alike = m.type_name == s.type_name || s.pattern == Pattern::PoolHoard;
            m.pattern == s.pattern && m.holder == s.holder && alike
        };
        match merged.iter_mut().find(same) {
            Some(m) => {
                m.objects += s.objects;
                m.retained_bytes += s.retained_bytes;
                m.stack_bytes += s.stack_bytes;
                m.share_permille += s.share_permille;
            }
            None => merged.push(s),
        }
    }
    // Parts of a queue of timers that together are no pile.
    let smallest = limits.smallest(case.live_bytes);
    let mut out = merged;
    out.retain(|s| s.holder != "timer" || s.retained_bytes >= smallest);
    out.sort_by(|a, b| {
        (b.certainty, b.retained_bytes + b.stack_bytes).cmp(&(a.certainty, a.retained_bytes + a.stack_bytes))
    });
    out
}

impl Case<'_> {
    fn object(&self, node: super::dominators::Node) -> Option<ObjectId> {
        match self.dom.vertex(node) {
            Vertex::Object(id) => Some(id),
            _ => None,
        }
    }

    fn type_name(&self, id: ObjectId) -> &str {
        self.typed.name(id).unwrap_or("(untyped)")
    }

    fn addr(&self, id: ObjectId) -> Addr {
        self.heap.extent(id).0
    }
}
