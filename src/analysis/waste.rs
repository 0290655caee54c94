//! Memory that is alive and does no work: equal strings kept many times, capacity beyond any length, buffers of which only
//! a sliver can be seen, maps far emptier than their tables, spans held by a few objects.
//!
//! Strings are compared by a keyed hash of their bytes; neither bytes nor hashes leave this module. A buffer counts only if
//! every pointer to it was understood: one holder of unknown type may see all of it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
};

use rayon::prelude::*;
use serde::Serialize;

use super::places::Places;
use crate::{
    base::{Addr, ObjectId, bytes},
    graph::{RootKind, build::Built, typing::Typed},
    runtime::{
        Runtime,
        heap::{Heap, Span},
        types::{Kind, TypeId, path_at},
    },
};

/// Headers of strings and slices that are looked at: 112 MiB of notes, about twice that while they are joined. More are
/// counted as left out.
const MAX_HEADERS: usize = 4 << 20;
/// Longest string that is compared; longer ones are told by their length and this much of them.
const MAX_HASHED: u64 = 1 << 20;
/// Unused bytes of one slice from which on it counts.
const MIN_SLACK: u64 = 64;
/// Buffers below this size are not worth a word when most of them cannot be seen.
const MIN_PINNED: u64 = 1024;
/// Maps with smaller tables are not worth a word.
const MIN_MAP: u64 = 1024;

/// Sums of one kind of waste.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sum {
    /// Objects of which something is wasted.
    pub objects: u64,
    pub wasted_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct DuplicateRow {
    /// Length of the string.
    pub length_bytes: u64,
    pub copies: u64,
    /// What all copies but one occupy.
    pub wasted_bytes: u64,
    /// The member that holds most of the copies that were looked at.
    pub holder: String,
    /// One of the copies.
    pub example: Addr,
}

#[derive(Clone, Debug, Serialize)]
pub struct BufferRow {
    /// The member that holds the slice or string: `main.Conn.buf`, `[]main.Conn[].buf`, `global main.buffer`.
    pub holder: String,
    pub objects: u64,
    /// What lengths cover.
    pub used_bytes: u64,
    /// What is allocated.
    pub allocated_bytes: u64,
    pub wasted_bytes: u64,
    pub example: Addr,
}

#[derive(Clone, Debug, Serialize)]
pub struct MapRow {
    pub addr: Addr,
    #[serde(rename = "type")]
    pub type_name: String,
    pub holder: Option<String>,
    pub entries: u64,
    /// Entries for which its tables have room.
    pub room: u64,
    pub bytes: u64,
    pub wasted_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct ClassRow {
    /// Slot size; null for large objects, one a span.
    pub slot_bytes: Option<u64>,
    pub spans: u64,
    pub span_bytes: u64,
    pub live_bytes: u64,
    /// Allocated and not reached, or dead and not swept.
    pub garbage_bytes: u64,
    pub free_bytes: u64,
    /// Spans of which less than a quarter is alive, but not nothing, and what is not alive in them: they cannot be given
    /// back for a few objects.
    pub sparse_spans: u64,
    pub sparse_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Waste {
    pub live_bytes: u64,
    pub duplicate_strings: Sum,
    pub duplicates: Vec<DuplicateRow>,
    pub slack_capacity: Sum,
    pub slack: Vec<BufferRow>,
    pub pinned_buffers: Sum,
    pub pinned: Vec<BufferRow>,
    pub sparse_maps: Sum,
    pub maps: Vec<MapRow>,
    /// Free bytes in spans that are in use.
    pub fragmentation_bytes: u64,
    pub classes: Vec<ClassRow>,
    /// What size classes round up: slot sizes less the sizes of the types in them, where the type is known and fixed.
    pub rounding_bytes: u64,
    /// Strings and slices that were not looked at because there were too many.
    pub headers_left_out: u64,
}

/// One string or slice header that leads to a heap object.
#[derive(Clone, Copy)]
struct Header {
    target: ObjectId,
    text: bool,
    /// Type and offset of the holder, or the number of the root with an unknown type.
    site: Site,
    /// Bytes of the slot. Objects of 4 GiB and more are left out.
    from: u32,
    to: u32,
    cap_to: u32,
}

type Site = (TypeId, u32);

/// All headers to one object together.
#[derive(Clone, Copy)]
struct Buffer {
    target: ObjectId,
    headers: u32,
    text: bool,
    site: Site,
    from: u32,
    to: u32,
    cap_to: u32,
}

struct Scan<'a> {
    rt: &'a Runtime,
    heap: &'a Heap,
    built: &'a Built,
    typed: &'a Typed,
}

/// Finds all of it. The target must be held: holders of strings and slices are read again, and the strings themselves.
/// `limit`: rows of each list, 0 for all. Cost: one step an edge, one read of each span with strings or slices.
pub fn waste(rt: &Runtime, heap: &Heap, built: &Built, typed: &Typed, limit: usize) -> Waste {
    let scan = Scan { rt, heap, built, typed };
    let mut out = Waste::default();
    let (headers, left_out) = scan.headers();
    out.headers_left_out = left_out;
    let buffers = fold(headers);
    scan.buffers(&buffers, &mut out);
    scan.duplicates(&buffers, &mut out);
    scan.maps(limit, &mut out);
    scan.classes(&mut out);
    if limit > 0 {
        out.duplicates.truncate(limit);
        out.slack.truncate(limit);
        out.pinned.truncate(limit);
        out.maps.truncate(limit);
    }
    out
}

/// Joins the headers of each object.
fn fold(mut headers: Vec<Header>) -> Vec<Buffer> {
    headers.par_sort_unstable_by_key(|h| (h.target, h.site.0, h.site.1, h.from, h.to));
    let mut out: Vec<Buffer> = Vec::new();
    for h in headers {
        match out.last_mut() {
            Some(b) if b.target == h.target => {
                b.headers += 1;
                b.text &= h.text;
                (b.from, b.to, b.cap_to) = (b.from.min(h.from), b.to.max(h.to), b.cap_to.max(h.cap_to));
            }
            _ => out.push(Buffer {
                target: h.target,
                headers: 1,
                text: h.text,
                site: h.site,
                from: h.from,
                to: h.to,
                cap_to: h.cap_to,
            }),
        }
    }
    out
}

impl Scan<'_> {
    /// Strings and slices in live objects of known type and in global variables.
    fn headers(&self) -> (Vec<Header>, u64) {
        let chunks: Vec<Vec<Header>> = self
            .heap
            .spans
            .par_chunks(64)
            .map(|spans| {
                let mut found = Vec::new();
                spans.iter().filter(|s| !s.noscan).for_each(|s| self.headers_of(s, &mut found));
                found
            })
            .collect();
        let mut out: Vec<Header> = Vec::new();
        let mut left = 0u64;
        for mut c in chunks {
            let room = MAX_HEADERS - out.len();
            left += c.len().saturating_sub(room) as u64;
            c.truncate(room);
            out.append(&mut c);
        }
        let roots = self.built.graph.roots.iter().enumerate();
        for (i, root) in roots.filter(|(_, r)| matches!(r.kind, RootKind::Data | RootKind::Bss)) {
            let ty = self.typed.typing.type_of(root.target);
            let kind = self.typed.types.kind(ty);
            if !matches!(kind, Kind::Backing | Kind::StringData) {
                continue;
            }
            let mut words = [0u8; 24];
            if self.rt.target.read(root.at, &mut words).is_err() {
                continue;
            }
            let text = kind == Kind::StringData;
            let each = if text { 1 } else { self.typed.types.size(ty).max(1) };
            out.extend(self.header(root.target, text, each, (TypeId::UNKNOWN, i as u32), &words));
        }
        (out, left)
    }

    fn header(&self, target: ObjectId, text: bool, each: u64, site: Site, raw: &[u8]) -> Option<Header> {
        let word = |i: usize| bytes::u64_at(raw, 8 * i);
        let (start, size) = self.heap.extent(target);
        let from = word(0)?.checked_sub(start.0).filter(|&f| f < size)?;
        let len = word(1)?;
        let cap = if text { len } else { word(2)? };
        // A header that is just being written, or none at all.
        if len > cap || cap.checked_mul(each).is_none_or(|n| n > size - from) {
            return None;
        }
        let (to, cap_to) = (u32::try_from(from + len * each).ok()?, u32::try_from(from + cap * each).ok()?);
        Some(Header { target, text, site, from: from as u32, to, cap_to })
    }

    fn headers_of(&self, span: &Span, out: &mut Vec<Header>) {
        let (graph, types) = (&self.built.graph, &self.typed.types);
        let mut memory: Vec<u8> = Vec::new();
        for i in 0..span.nelems {
            let id = ObjectId(span.first.0 + i);
            let ty = self.typed.typing.type_of(id);
            let edges = graph.edges(id);
            if !ty.is_known() || edges.is_empty() || !graph.reachable.get(id.index()) {
                continue;
            }
            let begin = self.typed.begin(self.heap, id);
            let kind = types.kind(ty);
            let period =
                if matches!(kind, Kind::Backing | Kind::Array) { types.size(types.elem(ty)).max(1) } else { 0 };
            for e in edges {
                let offset = 8 * graph.word_of(e);
                let Some(inside) = offset.checked_sub(begin) else { continue };
                let (leaf, rest) = types.leaf_at(ty, inside);
                let text = types.kind(leaf) == Kind::String;
                if rest != 0 || !(text || types.kind(leaf) == Kind::Slice) {
                    continue;
                }
                // Too small to waste anything that is told, and there may be millions.
                let to = graph.target.get(e);
                let small = self.heap.span_of(to).elemsize < MIN_SLACK;
                let kind_of = types.kind(self.typed.typing.type_of(to));
                if if text { kind_of == Kind::TinyBlock } else { small } {
                    continue;
                }
                if memory.is_empty() {
                    memory.resize(span.bytes as usize, 0);
                    if self.rt.target.memory.read(span.start, &mut memory).is_err() {
                        return;
                    }
                }
                let at = u64::from(i) * span.elemsize + offset;
                let each = if text { 1 } else { types.size(types.elem(leaf)).max(1) };
                let site = (ty, u32::try_from(if period > 0 { inside % period } else { inside }).unwrap_or(u32::MAX));
                let raw = memory.get(at as usize..).unwrap_or_default();
                out.extend(self.header(to, text, each, site, raw));
            }
        }
    }

    /// The holder's name; indices are left out.
    fn site(&self, site: Site) -> String {
        let types = &self.typed.types;
        if !site.0.is_known() {
            let places = Places::new(self.rt, self.heap, self.built, self.typed, []);
            return self
                .built
                .graph
                .roots
                .get(site.1 as usize)
                .and_then(|r| places.global(r.at))
                .unwrap_or_else(|| "a global variable".to_owned());
        }
        let path = path_at(types, site.0, site.1.into());
        let mut name = types.name(site.0).to_owned();
        let mut digits = false;
        for c in path.chars() {
            match c {
                '[' => digits = true,
                ']' => digits = false,
                _ => {}
            }
            if !(digits && c.is_ascii_digit()) {
                name.push(c);
            }
        }
        name
    }

    /// Slack and pinned buffers, by holder.
    fn buffers(&self, buffers: &[Buffer], out: &mut Waste) {
        let slack = |b: &Buffer| {
            let unused = u64::from(b.cap_to - b.to);
            (!b.text && unused >= MIN_SLACK && unused >= u64::from(b.to - b.from)).then_some(unused)
        };
        let pinned = |b: &Buffer| {
            let size = self.heap.extent(b.target).1;
            let seen = u64::from(b.cap_to - b.from);
            (size >= MIN_PINNED && seen <= size / 8).then_some(size - seen)
        };
        let mut pointers: HashMap<ObjectId, u32> =
            buffers.iter().filter(|b| slack(b).is_some() || pinned(b).is_some()).map(|b| (b.target, 0)).collect();
        if !pointers.is_empty() {
            for (i, to) in self.built.graph.target.iter().enumerate() {
                if let Some(n) = pointers.get_mut(&to)
                    && self.built.graph.reachable.get(self.built.graph.source_of(i).index())
                {
                    *n += 1;
                }
            }
            for r in &self.built.graph.roots {
                pointers.entry(r.target).and_modify(|n| *n += 1);
            }
        }
        let mut groups: [HashMap<String, BufferRow>; 2] = Default::default();
        let mut names: HashMap<Site, String> = HashMap::new();
        for b in buffers {
            let Some((which, wasted)) = pinned(b).map(|n| (1, n)).or_else(|| slack(b).map(|n| (0, n))) else {
                continue;
            };
            // Someone else holds it too, and may see more.
            if pointers.get(&b.target).is_none_or(|&n| n > b.headers) {
                continue;
            }
            let holder = names.entry(b.site).or_insert_with(|| self.site(b.site)).clone();
            let (example, size) = self.heap.extent(b.target);
            let row = groups[which].entry(holder.clone()).or_insert(BufferRow {
                holder,
                objects: 0,
                used_bytes: 0,
                allocated_bytes: 0,
                wasted_bytes: 0,
                example,
            });
            row.objects += 1;
            row.used_bytes += u64::from(b.to - b.from);
            row.allocated_bytes += size;
            row.wasted_bytes += wasted;
            row.example = row.example.min(example);
            let sum = if which == 0 { &mut out.slack_capacity } else { &mut out.pinned_buffers };
            sum.objects += 1;
            sum.wasted_bytes += wasted;
        }
        for (group, list) in groups.into_iter().zip([&mut out.slack, &mut out.pinned]) {
            *list = group.into_values().collect();
            list.sort_by(|a, b| b.wasted_bytes.cmp(&a.wasted_bytes).then_with(|| a.holder.cmp(&b.holder)));
        }
    }

    /// Objects that hold one string each, grouped by equal contents.
    fn duplicates(&self, buffers: &[Buffer], out: &mut Waste) {
        let keys = RandomState::new();
        let strings: Vec<&Buffer> = buffers
            .iter()
            .filter(|b| {
                let span = self.heap.span_of(b.target);
                let kind = self.typed.types.kind(self.typed.typing.type_of(b.target));
                // Blocks of the tiny allocator hold several strings each; what pins a far larger object is told there.
                b.text && span.noscan && b.from == 0 && u64::from(b.to) > span.elemsize / 2 && kind != Kind::TinyBlock
            })
            .collect();
        let hashed: Vec<Option<u64>> =
            strings.par_chunks(512).flat_map_iter(|batch| self.hashes(batch, &keys)).collect();
        struct Group {
            copies: u64,
            bytes: u64,
            largest: u64,
            example: Addr,
            sites: HashMap<Site, u64>,
        }
        let mut groups: HashMap<(u64, u32), Group> = HashMap::new();
        for (b, hash) in strings.iter().zip(hashed) {
            let Some(hash) = hash else { continue };
            let (addr, size) = self.heap.extent(b.target);
            let g = groups.entry((hash, b.to)).or_insert_with(|| Group {
                copies: 0,
                bytes: 0,
                largest: 0,
                example: addr,
                sites: HashMap::new(),
            });
            g.copies += 1;
            g.bytes += size;
            g.largest = g.largest.max(size);
            g.example = g.example.min(addr);
            *g.sites.entry(b.site).or_default() += 1;
        }
        let mut found: Vec<((u64, u32), Group)> = groups.into_iter().filter(|(_, g)| g.copies > 1).collect();
        found.sort_by_key(|((_, len), g)| (std::cmp::Reverse(g.bytes - g.largest), *len, g.example));
        for (_, g) in &found {
            out.duplicate_strings.objects += g.copies - 1;
            out.duplicate_strings.wasted_bytes += g.bytes - g.largest;
        }
        out.duplicates = found
            .into_iter()
            .take(1000)
            .map(|((_, length_bytes), g)| {
                let most = g.sites.iter().max_by_key(|(site, n)| (**n, std::cmp::Reverse(**site)));
                DuplicateRow {
                    length_bytes: length_bytes.into(),
                    copies: g.copies,
                    wasted_bytes: g.bytes - g.largest,
                    holder: most.map(|(&site, _)| self.site(site)).unwrap_or_default(),
                    example: g.example,
                }
            })
            .collect();
    }

    fn hashes(&self, batch: &[&Buffer], keys: &RandomState) -> Vec<Option<u64>> {
        let lens: Vec<usize> = batch.iter().map(|b| u64::from(b.to).min(MAX_HASHED) as usize).collect();
        let mut memory = vec![0u8; lens.iter().sum()];
        let mut ranges: Vec<(Addr, &mut [u8])> = Vec::with_capacity(batch.len());
        let mut rest = memory.as_mut_slice();
        for (b, &len) in batch.iter().zip(&lens) {
            let (head, tail) = rest.split_at_mut(len);
            ranges.push((self.heap.extent(b.target).0, head));
            rest = tail;
        }
        let ok = self.rt.target.memory.read_scattered(&mut ranges);
        let mut rest = memory.as_slice();
        let mut out = Vec::with_capacity(batch.len());
        for (&len, ok) in lens.iter().zip(ok) {
            let (head, tail) = rest.split_at(len);
            rest = tail;
            let mut h = keys.build_hasher();
            h.write(head);
            out.push(ok.is_ok().then(|| h.finish()));
        }
        out
    }

    /// Maps whose tables have room for four times their entries or more.
    fn maps(&self, limit: usize, out: &mut Waste) {
        let (graph, types) = (&self.built.graph, &self.typed.types);
        let headers: Vec<ObjectId> = graph
            .reachable
            .iter_ones()
            .map(|i| ObjectId(i as u32))
            .filter(|&id| types.kind(self.typed.typing.type_of(id)) == Kind::MapHeader)
            .collect();
        let mut rows: Vec<(ObjectId, MapRow)> = Vec::new();
        for batch in headers.chunks(1024) {
            let mut raw = vec![0u8; 8 * batch.len()];
            let mut ranges: Vec<(Addr, &mut [u8])> =
                batch.iter().zip(raw.chunks_exact_mut(8)).map(|(&id, b)| (self.heap.extent(id).0, b)).collect();
            let ok = self.rt.target.memory.read_scattered(&mut ranges);
            for ((&id, raw), ok) in batch.iter().zip(raw.chunks_exact(8)).zip(ok) {
                if ok.is_err() {
                    continue;
                }
                // hmap.count (runtime/map.go), maps.Map.used (internal/runtime/maps/map.go): the first word of both.
                let entries = bytes::u64_at(raw, 0).unwrap_or(0);
                let (tables, room) = self.tables(id);
                if tables < MIN_MAP || entries > room || entries * 4 > room {
                    continue;
                }
                // Tables of the same shape that these entries would fill to three quarters.
                let needed = (u128::from(tables) * u128::from(entries) * 4 / (u128::from(room) * 3)) as u64;
                let map = types.key(self.typed.typing.type_of(id));
                let row = MapRow {
                    addr: self.heap.extent(id).0,
                    type_name: types.name(if map.is_known() { map } else { self.typed.typing.type_of(id) }).to_owned(),
                    holder: None,
                    entries,
                    room,
                    bytes: tables,
                    wasted_bytes: tables.saturating_sub(needed),
                };
                rows.push((id, row));
            }
        }
        out.sparse_maps.objects = rows.len() as u64;
        out.sparse_maps.wasted_bytes = rows.iter().map(|r| r.1.wasted_bytes).sum();
        rows.sort_by_key(|r| (std::cmp::Reverse(r.1.wasted_bytes), r.1.addr));
        if limit > 0 {
            rows.truncate(limit);
        }
        let places = Places::new(self.rt, self.heap, self.built, self.typed, rows.iter().map(|r| r.0));
        out.maps =
            rows.into_iter().map(|(_, row)| MapRow { holder: places.holder(row.addr, "map", []), ..row }).collect();
    }

    /// Bytes of a map's tables, and the entries for which they have room. Elements behind pointers are not counted.
    fn tables(&self, header: ObjectId) -> (u64, u64) {
        const MAX_PARTS: usize = 1 << 20;
        let (graph, types) = (&self.built.graph, &self.typed.types);
        let map = types.key(self.typed.typing.type_of(header));
        let part = types.map_part(map);
        let each = types.size(part);
        let (mut bytes, mut room) = (0u64, 0u64);
        let mut seen: std::collections::HashSet<ObjectId> = std::collections::HashSet::new();
        let mut todo = vec![header];
        while let Some(id) = todo.pop() {
            for to in graph.children(id) {
                let ty = self.typed.typing.type_of(to);
                let kind = types.kind(ty);
                let own = matches!(kind, Kind::MapPart | Kind::Backing) && types.key(ty) == map || ty == part;
                if !ty.is_known() || !own || seen.len() >= MAX_PARTS || !seen.insert(to) {
                    continue;
                }
                let size = self.heap.extent(to).1;
                bytes += size;
                // Eight entries in a bucket (to Go 1.23) and in a group.
                let holds_entries = ty == part || kind == Kind::Backing && types.elem(ty) == part;
                if holds_entries && each > 0 {
                    room += size / each * 8;
                }
                // Overflow buckets hang on buckets; elements do not.
                todo.push(to);
            }
        }
        (bytes, room)
    }

    /// Spans by size class, and what size classes round up.
    fn classes(&self, out: &mut Waste) {
        let (graph, types) = (&self.built.graph, &self.typed.types);
        let mut rows: BTreeMap<u64, ClassRow> = BTreeMap::new();
        for span in &self.heap.spans {
            let ids = (span.first.0..span.first.0 + span.nelems).map(ObjectId);
            let (mut live, mut garbage) = (0u64, 0u64);
            for id in ids {
                if graph.reachable.get(id.index()) {
                    live += span.elemsize;
                    let ty = self.typed.typing.type_of(id);
                    let fixed = matches!(types.kind(ty), Kind::Struct | Kind::Array | Kind::Closure);
                    if fixed && self.typed.typing.part_of(id).is_none() && types.size(ty) > 0 {
                        out.rounding_bytes += span.elemsize.saturating_sub(types.size(ty));
                    }
                } else if self.heap.allocated.get(id.index()) || self.heap.dead.get(id.index()) {
                    garbage += span.elemsize;
                }
            }
            let key = if span.class == 0 { u64::MAX } else { span.elemsize };
            let row = rows.entry(key).or_insert(ClassRow {
                slot_bytes: (span.class != 0).then_some(span.elemsize),
                spans: 0,
                span_bytes: 0,
                live_bytes: 0,
                garbage_bytes: 0,
                free_bytes: 0,
                sparse_spans: 0,
                sparse_bytes: 0,
            });
            row.spans += 1;
            row.span_bytes += span.bytes;
            row.live_bytes += live;
            row.garbage_bytes += garbage;
            row.free_bytes += span.bytes.saturating_sub(live + garbage);
            if live > 0 && live < span.bytes / 4 {
                row.sparse_spans += 1;
                row.sparse_bytes += span.bytes - live;
            }
        }
        out.classes = rows.into_values().collect();
        out.live_bytes = out.classes.iter().map(|r| r.live_bytes).sum();
        out.fragmentation_bytes = out.classes.iter().map(|r| r.free_bytes).sum();
        out.classes.sort_by_key(|r| (std::cmp::Reverse(r.free_bytes + r.garbage_bytes), r.slot_bytes));
    }
}
