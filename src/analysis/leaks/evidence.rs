//! What the verdict needs besides graph and types: lengths of slices and strings that lead to large buffers, fill of
//! maps and channels. Read while the target is held; bounded samples, no contents.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::Thresholds;
use crate::{
    base::{Addr, ObjectId, bytes},
    graph::{build::Built, typing::Typed},
    runtime::{
        Runtime,
        heap::{Heap, specials},
        layout::{Field, Global},
        sched::waits::{self, Wait},
        types::Kind,
    },
};

/// Buffers below this size are not worth a look: pinning one costs less than telling it.
const LARGE_BUFFER: u64 = 2048;
/// Headers of each kind that are read at most: 1.5 MiB of headers.
const MAX_HEADERS: usize = 65_536;

/// Timer heaps of a P: to Go 1.22, and after it.
const QUEUES: [&str; 2] = ["[]*runtime.timer", "[]runtime.timerWhen"];

/// How much of a pointer-free buffer its slices and strings can see.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Use {
    /// Lowest and highest byte (exclusive) that any header's length covers, from the start of the slot.
    pub from: u64,
    pub to: u64,
    /// Highest byte that any header's capacity covers.
    pub cap_to: u64,
    /// All headers are strings.
    pub text: bool,
}

/// How many of a container's places are in use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fill {
    pub used: u64,
    /// Channels: capacity; maps: 0.
    pub capacity: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Evidence {
    pub buffers: HashMap<ObjectId, Use>,
    /// By header object of a map or channel.
    pub fills: HashMap<ObjectId, Fill>,
    /// Objects that the timer queues point to, and whose timer fires again and again (runtime/time.go timer.period).
    pub tickers: HashSet<ObjectId>,
    /// Objects that the heap profile sampled: index of the stack that allocated them.
    pub samples: HashMap<ObjectId, u32>,
    /// Bytes between samples on average (runtime.MemProfileRate).
    pub sample_rate: u64,
    /// Return addresses, innermost first.
    pub stacks: Vec<Vec<Addr>>,
    /// Large buffers whose headers were not read because there were too many.
    pub buffers_left_out: u64,
    /// What each goroutine waits for, where enough wait to be a pile. Not kept in snapshots: `stuck` is what follows from it.
    #[serde(skip)]
    pub waits: Vec<Wait>,
    /// Ids of goroutines that are proven to be stuck for ever, ascending (`locks::leaks`).
    #[serde(default)]
    pub stuck: Vec<u64>,
}

impl Evidence {
    /// Bytes that a sampled object of `size` stands for: sampling takes an object with the probability 1 - e^(-size/rate)
    /// (runtime/pprof scaleHeapSample).
    pub fn weight(&self, size: u64) -> f64 {
        let size = size as f64;
        if self.sample_rate <= 1 { size } else { size / -(-size / self.sample_rate as f64).exp_m1() }
    }
}

struct Header {
    at: Addr,
    target: ObjectId,
    text: bool,
}

impl Evidence {
    /// One pass over the edges of typed objects, then scattered reads. The target must be held.
    pub fn gather(rt: &Runtime, heap: &Heap, built: &Built, typed: &Typed) -> Evidence {
        let mut out = Evidence::default();
        let (mut headers, mut containers) = (Vec::new(), Vec::new());
        let types = &typed.types;
        // By name: arrays share it with slices.
        let queues: HashSet<_> = types.ids().filter(|&t| QUEUES.contains(&types.name(t))).collect();
        let mut timers = Vec::new();
        for span in heap.spans.iter().filter(|s| !s.noscan) {
            let data = span.value_offset(rt);
            for id in (span.first.0..span.first.0 + span.nelems).map(ObjectId) {
                let ty = typed.typing.type_of(id);
                if !ty.is_known() || !built.graph.reachable.get(id.index()) {
                    continue;
                }
                if matches!(types.kind(ty), Kind::MapHeader | Kind::ChanHeader) && containers.len() < MAX_HEADERS {
                    containers.push((id, types.kind(ty)));
                }
                if queues.contains(&ty) {
                    timers.extend(built.graph.edges(id).take(MAX_HEADERS.saturating_sub(timers.len())));
                }
                for e in built.graph.edges(id) {
                    let target = built.graph.target.get(e);
                    let to = heap.span_of(target);
                    if !to.noscan || to.elemsize < LARGE_BUFFER {
                        continue;
                    }
                    let offset = 8 * built.graph.word_of(e);
                    let begin = data + typed.typing.part_of(id).unwrap_or(0);
                    let Some(inside) = offset.checked_sub(begin) else { continue };
                    let (leaf, rest) = types.leaf_at(ty, inside);
                    let kind = types.kind(leaf);
                    if rest != 0 || !matches!(kind, Kind::Slice | Kind::String) {
                        continue;
                    }
                    if headers.len() == MAX_HEADERS {
                        out.buffers_left_out += 1;
                        continue;
                    }
                    let i = (id.0 - span.first.0) as u64;
                    headers.push(Header {
                        at: span.start.offset(i * span.elemsize + offset),
                        target,
                        text: kind == Kind::String,
                    });
                }
            }
        }
        out.read_headers(rt, heap, typed, &headers);
        out.read_containers(rt, heap, &containers);
        out.read_timers(rt, heap, built, &timers);
        out.read_samples(rt, &built.samples);
        let waiting = built.goroutines.iter().filter(|g| !g.wait_reason.is_empty()).count() as u64;
        if waiting >= Thresholds::default().goroutines {
            out.waits = waits::read(rt, &built.goroutines, &built.stacks);
        }
        out
    }

    fn read_samples(&mut self, rt: &Runtime, samples: &[(ObjectId, Addr)]) {
        const DEFAULT_RATE: u64 = 512 << 10;
        let rate = rt.globals.get(Global::MemProfileRate).and_then(|at| rt.target.read_u64(at).ok());
        self.sample_rate = rate.filter(|&r| r > 0).unwrap_or(DEFAULT_RATE);
        let mut known: HashMap<Addr, Option<u32>> = HashMap::new();
        for &(id, bucket) in samples {
            let stack = *known.entry(bucket).or_insert_with(|| {
                let stack = specials::stack(rt, bucket)?;
                self.stacks.push(stack);
                Some(self.stacks.len() as u32 - 1)
            });
            if let Some(i) = stack {
                self.samples.insert(id, i);
            }
        }
    }

    fn read_timers(&mut self, rt: &Runtime, heap: &Heap, built: &Built, edges: &[usize]) {
        let Some(period) = rt.layout.field(Field::TimerPeriod) else { return };
        let interior = &built.hints.interior;
        for batch in edges.chunks(1024) {
            let mut raw = vec![0u8; 8 * batch.len()];
            let targets: Vec<ObjectId> = batch.iter().map(|&e| built.graph.target.get(e)).collect();
            let place = |(&e, &id): (&usize, &ObjectId)| {
                let inside = interior.binary_search_by_key(&(e as u32), |i| i.0).map_or(0, |i| interior[i].1);
                heap.extent(id).0.offset(u64::from(inside) + u64::from(period.offset))
            };
            let mut ranges: Vec<(Addr, &mut [u8])> =
                batch.iter().zip(&targets).map(place).zip(raw.chunks_exact_mut(8)).collect();
            let ok = rt.target.memory.read_scattered(&mut ranges);
            for ((id, raw), ok) in targets.iter().zip(raw.chunks_exact(8)).zip(ok) {
                if ok.is_ok() && bytes::u64_at(raw, 0).is_some_and(|p| p != 0) {
                    self.tickers.insert(*id);
                }
            }
        }
    }

    fn read_headers(&mut self, rt: &Runtime, heap: &Heap, typed: &Typed, headers: &[Header]) {
        for batch in headers.chunks(1024) {
            let mut raw = vec![0u8; 24 * batch.len()];
            let mut ranges: Vec<(Addr, &mut [u8])> = batch
                .iter()
                .zip(raw.chunks_exact_mut(24))
                .map(|(h, b)| (h.at, if h.text { &mut b[..16] } else { b }))
                .collect();
            let ok = rt.target.memory.read_scattered(&mut ranges);
            for ((h, raw), ok) in batch.iter().zip(raw.chunks_exact(24)).zip(ok) {
                let word = |i| bytes::u64_at(raw, i).unwrap_or(0);
                let (start, size) = heap.extent(h.target);
                let Some(from) = ok.ok().and(word(0).checked_sub(start.0)).filter(|&f| f < size) else { continue };
                let elem = match typed.types.kind(typed.typing.type_of(h.target)) {
                    Kind::Backing if !h.text => typed.types.size(typed.typing.type_of(h.target)).max(1),
                    _ => 1,
                };
                let end = |n: u64| n.checked_mul(elem).and_then(|n| n.checked_add(from)).map_or(size, |e| e.min(size));
                let cap = if h.text { word(8) } else { word(16) };
                let (to, cap_to) = (end(word(8)), end(cap));
                self.buffers
                    .entry(h.target)
                    .and_modify(|u| {
                        (u.from, u.to, u.cap_to) = (u.from.min(from), u.to.max(to), u.cap_to.max(cap_to));
                        u.text &= h.text;
                    })
                    .or_insert(Use { from, to, cap_to, text: h.text });
            }
        }
    }

    /// The first words: number of elements, of channels also the capacity (runtime/chan.go hchan qcount and dataqsiz,
    /// runtime/map.go hmap.count, internal/runtime/maps Map.used).
    fn read_containers(&mut self, rt: &Runtime, heap: &Heap, containers: &[(ObjectId, Kind)]) {
        for batch in containers.chunks(1024) {
            let mut raw = vec![0u8; 16 * batch.len()];
            let mut ranges: Vec<(Addr, &mut [u8])> =
                batch.iter().zip(raw.chunks_exact_mut(16)).map(|((id, _), b)| (heap.extent(*id).0, b)).collect();
            let ok = rt.target.memory.read_scattered(&mut ranges);
            for (((id, kind), raw), ok) in batch.iter().zip(raw.chunks_exact(16)).zip(ok) {
                if ok.is_ok() {
                    let word = |i| bytes::u64_at(raw, i).unwrap_or(0);
                    let capacity = if *kind == Kind::ChanHeader { word(8) } else { 0 };
                    self.fills.insert(*id, Fill { used: word(0), capacity });
                }
            }
        }
    }
}
