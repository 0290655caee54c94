//! Which type each object has, by propagation: from objects whose type is written down, and from global variables whose
//! type DWARF names, along the pointer fields of typed holders.
//!
//! A pointer to the start of a slot types it if a value of that type would have been put into a slot of this size.

use std::collections::HashMap;

use crate::{
    base::{Addr, KnownBy, ObjectId, bytes},
    graph::build::{Built, Hint},
    runtime::{
        Runtime,
        heap::{Heap, Span},
        types::{Type, Types},
    },
};

/// What a pointer word leads to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Shape {
    /// One value of the type at this address.
    One(Addr),
    /// An array of them.
    Many(Addr),
    /// The header of a map of this map type.
    Map(Addr),
    Text,
    Closure(Addr),
}

/// Pointer words of one value: (word, what it leads to), and the value's size.
type Plan = (u64, Vec<(u64, Shape)>);

/// Words of one value that are planned: larger arrays are cut.
const MAX_PLAN: usize = 1 << 14;
const MAX_DEPTH: u32 = 12;

const ARRAY: u8 = 17;
const MAP: u8 = 21;
const POINTER: u8 = 22;
const SLICE: u8 = 23;
const STRING: u8 = 24;
const STRUCT: u8 = 25;

/// Type and evidence per object.
pub struct Typing {
    shapes: Vec<(Shape, String)>,
    /// Per slot: index into `shapes` + 1, 0 if unknown.
    of: Vec<u32>,
    exact: crate::base::Bitmap,
}

impl Typing {
    pub fn get(&self, id: ObjectId) -> Option<(&str, KnownBy)> {
        let i = self.of.get(id.index()).copied().filter(|&i| i != 0)?;
        let known = if self.exact.get(id.index()) { KnownBy::Exact } else { KnownBy::Propagated };
        Some((&self.shapes[i as usize - 1].1, known))
    }
}

struct Typer<'r> {
    rt: &'r Runtime,
    heap: &'r Heap,
    types: Types,
    plans: HashMap<Addr, Plan>,
    index: HashMap<Shape, u32>,
    out: Typing,
    queue: Vec<ObjectId>,
}

/// Types all reachable objects it can. Cost: one visit of each edge of a typed object.
pub fn run(rt: &Runtime, heap: &Heap, built: &Built) -> Typing {
    let slots = heap.slots as usize;
    let out = Typing { shapes: Vec::new(), of: vec![0; slots], exact: crate::base::Bitmap::new(slots) };
    let mut t = Typer {
        rt,
        heap,
        types: Types::default(),
        plans: HashMap::new(),
        index: HashMap::new(),
        out,
        queue: Vec::new(),
    };
    for &(id, hint) in &built.hints {
        let span = heap.span_of(id);
        let room = span.elemsize - span.value_offset(rt);
        let shape = match hint {
            Hint::Header(at) => t.types.at(rt, at).map(|ty| {
                let many = ty.size > 0 && room / ty.size >= 2;
                if many { Shape::Many(at) } else { Shape::One(at) }
            }),
            Hint::Interface(word) => t.types.of_interface_word(rt, word).and_then(|(at, ty)| {
                if !ty.direct {
                    t.fits(Shape::One(at), span).then_some(Shape::One(at))
                } else {
                    let shape = if ty.kind == MAP { Shape::Map(at) } else { Shape::One(ty.elem) };
                    (matches!(ty.kind, MAP | POINTER) && t.fits(shape, span)).then_some(shape)
                }
            }),
            Hint::Closure(pc) => Some(Shape::Closure(pc)),
        };
        if let Some(shape) = shape
            && t.out.of[id.index()] == 0
        {
            t.assign(id, shape, true);
        }
    }
    // Globals: the variable that contains the root word, its type, the field at that place.
    if let (Some(dwarf), Some(module)) = (&rt.image.dwarf, rt.image.modules.first()) {
        for root in built.graph.roots.iter().filter(|r| !r.at.is_null()) {
            let at = root.at.0.wrapping_sub(rt.image.bias);
            let i = dwarf.variables.partition_point(|v| v.addr <= at);
            let Some(v) = i.checked_sub(1).map(|i| &dwarf.variables[i]) else { continue };
            let Some(ty) = v.runtime_type.map(|o| module.types.offset(o)) else { continue };
            if let Some(shape) = t.field(ty, at - v.addr, false) {
                t.reach(root.target, root.offset.into(), shape);
            }
        }
    }
    let mut next = 0;
    while let Some(&o) = t.queue.get(next) {
        next += 1;
        t.follow(o, built);
    }
    t.out
}

impl Typer<'_> {
    fn assign(&mut self, id: ObjectId, shape: Shape, exact: bool) {
        let next = self.out.shapes.len() as u32 + 1;
        let i = *self.index.entry(shape).or_insert(next);
        if i == next {
            let name = match shape {
                Shape::One(at) => self.name(at),
                Shape::Many(at) => format!("[]{}", self.name(at)),
                Shape::Map(at) => self.name(at),
                Shape::Text => "string".to_owned(),
                Shape::Closure(pc) => {
                    format!("func {}", self.rt.image.pclntab.find(pc).map_or("?", |f| f.name()))
                }
            };
            self.out.shapes.push((shape, name));
        }
        self.out.of[id.index()] = i;
        if exact {
            self.out.exact.set(id.index());
        }
        if !self.heap.span_of(id).noscan {
            self.queue.push(id);
        }
    }

    fn name(&mut self, at: Addr) -> String {
        self.types.at(self.rt, at).map_or_else(|| format!("type at {at}"), |t| t.name.clone())
    }

    /// Would the allocator have put this into such a slot? Size classes waste at most an eighth beyond small sizes.
    fn fits(&mut self, shape: Shape, span: &Span) -> bool {
        let room = span.elemsize - span.value_offset(self.rt);
        let size = match shape {
            Shape::One(at) => match self.types.at(self.rt, at) {
                Some(t) => t.size,
                None => return false,
            },
            Shape::Map(_) => 48,
            Shape::Many(at) => {
                return self.types.at(self.rt, at).is_some_and(|t| t.size > 0 && t.size <= room);
            }
            Shape::Text => return span.noscan,
            Shape::Closure(_) => return true,
        };
        size > 0 && size <= room && (room - size < 16 || (room - size) * 7 < span.elemsize)
    }

    /// A holder's word leads to `offset` in slot `to`: type it, unless something is known already.
    fn reach(&mut self, to: ObjectId, offset: u64, shape: Shape) {
        let heap = self.heap;
        let span = heap.span_of(to);
        let start = span.value_offset(self.rt);
        // Tiny blocks hold several values; a pointer inside says nothing about the slot.
        if self.out.of[to.index()] == 0 && offset == start && self.fits(shape, span) {
            self.assign(to, shape, false);
        }
    }

    fn follow(&mut self, o: ObjectId, built: &Built) {
        let Some(&(shape, _)) = (self.out.of[o.index()] as usize).checked_sub(1).map(|i| &self.out.shapes[i]) else {
            return;
        };
        let heap = self.heap;
        let span = heap.span_of(o);
        let start = span.value_offset(self.rt);
        for e in built.graph.edges(o) {
            let word = built.graph.word_of(e);
            let to = built.graph.target[e];
            if built.graph.inner.binary_search(&(e as u32)).is_ok() {
                continue;
            }
            let at = (8 * word).saturating_sub(start);
            let inner = match shape {
                Shape::One(ty) => self.field(ty, at, false),
                Shape::Many(ty) => self.field(ty, at, true),
                Shape::Map(ty) => self.map_field(ty, word, to),
                Shape::Text | Shape::Closure(_) => None,
            };
            if let Some(inner) = inner {
                let start = heap.span_of(to).value_offset(self.rt);
                self.reach(to, start, inner);
            }
        }
    }

    /// Old maps: buckets and oldbuckets are arrays of the bucket type. Swiss maps: one group, or a directory of tables.
    fn map_field(&mut self, ty: Addr, word: u64, to: ObjectId) -> Option<Shape> {
        // abi.OldMapType.Bucket and abi.MapType.Group are at the same place.
        let bucket = self.rt.target.read_ptr(ty.offset(64)).ok()?;
        if self.rt.image.go_version.minor >= 24 {
            let heap = self.heap;
            return (word == 2 && self.fits(Shape::One(bucket), heap.span_of(to))).then_some(Shape::One(bucket));
        }
        matches!(word, 2 | 3).then_some(Shape::Many(bucket))
    }

    /// What the pointer at byte `at` of a value (or of an array of values) leads to.
    fn field(&mut self, ty: Addr, at: u64, repeat: bool) -> Option<Shape> {
        if !self.plans.contains_key(&ty) {
            let size = self.types.at(self.rt, ty).map_or(0, |t| t.size);
            let mut slots = Vec::new();
            self.plan(ty, 0, 0, &mut slots);
            slots.sort_unstable_by_key(|s| s.0);
            self.plans.insert(ty, (size, slots));
        }
        let (size, slots) = self.plans.get(&ty)?;
        let at = if repeat && *size > 0 { at % size } else { at };
        let i = slots.binary_search_by_key(&(at / 8), |s| s.0).ok()?;
        Some(slots[i].1)
    }

    fn plan(&mut self, ty: Addr, base: u64, depth: u32, out: &mut Vec<(u64, Shape)>) {
        if depth > MAX_DEPTH || out.len() > MAX_PLAN || !base.is_multiple_of(8) {
            return;
        }
        let Some(Type { kind, elem, size, .. }) = self.types.at(self.rt, ty).cloned() else { return };
        let read = |at: u64| self.rt.target.read_u64(ty.offset(at)).unwrap_or(0);
        match kind {
            POINTER => out.push((base / 8, Shape::One(elem))),
            SLICE => out.push((base / 8, Shape::Many(elem))),
            STRING => out.push((base / 8, Shape::Text)),
            MAP => out.push((base / 8, Shape::Map(ty))),
            ARRAY => {
                let (n, each) = (read(64), self.types.at(self.rt, elem).map_or(0, |t| t.size));
                for i in 0..n.min(MAX_PLAN as u64) {
                    if each == 0 || i * each >= size || out.len() > MAX_PLAN {
                        break;
                    }
                    self.plan(elem, base + i * each, depth + 1, out);
                }
            }
            STRUCT => {
                // The last word of an old map's bucket is its overflow bucket, kept as unsafe.Pointer (runtime/map.go).
                if depth == 0 && size >= 8 && self.name(ty).starts_with("map.bucket[") {
                    out.push((size / 8 - 1, Shape::One(ty)));
                }
                let (fields, n) = (Addr(read(56)), read(64).min(MAX_PLAN as u64));
                let Ok(raw) = self.rt.target.read_vec(fields, n * 24, 1 << 20) else { return };
                for f in raw.chunks_exact(24) {
                    let word = |i| bytes::u64_at(f, i).unwrap_or(0);
                    if word(16) < size {
                        self.plan(Addr(word(8)), base + word(16), depth + 1, out);
                    }
                }
            }
            _ => {}
        }
    }
}
