//! Objects by type: what a user means by a type's name, and the merged ways by which all of them are reached.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    holders::Holders,
    paths::{BreadthFirst, Path},
};
use crate::{
    base::{Bitmap, ObjectId},
    graph::{build::Built, typing::Typed},
    runtime::{
        Runtime,
        heap::Heap,
        types::{Kind, TypeId},
    },
};

/// Types whose name is `wanted` (`http.Server`, or with the path of its package `net/http.Server`); if there is none, all whose names contain it; if none does, those that it describes, where `*` stands for
/// any text and `?` for one character.
pub fn types_named(typed: &Typed, wanted: &str) -> Vec<TypeId> {
    let of = |fits: &dyn Fn(&str) -> bool| -> Vec<TypeId> {
        typed.types.ids().filter(|&t| fits(typed.types.name(t))).collect()
    };
    let mut found = of(&|name| name == wanted);
    if let Some((package, base)) = wanted.rsplit_once('.').filter(|_| found.is_empty()) {
        let types = &typed.types;
        let is =
            |&t: &TypeId| types.package(t) == package && types.name(t).rsplit_once('.').is_some_and(|n| n.1 == base);
        found = types.ids().filter(|t| types.is_named(*t)).filter(is).collect();
    }
    if found.is_empty() {
        found = of(&|name| name.contains(wanted));
    }
    if found.is_empty() && wanted.contains(['*', '?']) {
        found = of(&|name| describes(wanted.as_bytes(), name.as_bytes()));
    }
    found
}

/// Does the pattern describe the whole name? Cost: their product at worst.
fn describes(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and what it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match &mut star {
                Some((behind, until)) => {
                    *until += 1;
                    (p, n) = (*behind, *until);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// Objects of these types, in order of address: reachable ones, or all that are allocated.
pub fn objects_of(heap: &Heap, built: &Built, typed: &Typed, types: &[TypeId], garbage_too: bool) -> Vec<ObjectId> {
    let mut wanted = Bitmap::new(typed.types.len());
    for t in types {
        wanted.set(t.index());
    }
    let among: &Bitmap = if garbage_too { &heap.allocated } else { &built.graph.reachable };
    among.iter_ones().map(|i| ObjectId(i as u32)).filter(|&id| wanted.get(typed.typing.type_of(id).index())).collect()
}

/// Objects that are reached in the same way: same holder, same types on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Way {
    pub objects: u64,
    /// Parts per thousand of all objects of the type.
    pub share_permille: u64,
    pub holder: String,
    /// The local variable of the holder that leads to them, where one does: `main.handler.buf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Types from the holder to the object, with the member that leads on; repeats are shortened.
    pub steps: Vec<String>,
}

/// How the objects are first reached from the roots, globals first: merged by holder and types. Cost: one walk over the
/// graph, and the length of each object's path; beyond a bound a sample of the objects, evenly spread.
pub fn ways(
    rt: &Runtime,
    heap: &Heap,
    built: &Built,
    typed: &Typed,
    holders: &Holders,
    objects: &[ObjectId],
) -> Vec<Way> {
    const MAX_SAMPLE: usize = 100_000;
    /// Hops of one path that count for its likeness: the first ones from the object upwards.
    const MAX_HOPS: usize = 24;
    let graph = &built.graph;
    let mut order: Vec<u32> = (0..graph.roots.len() as u32).collect();
    order.sort_by_key(|&r| (graph.roots[r as usize].kind, r));
    let walk = BreadthFirst::walk(graph, &order, None, None);
    let stride = objects.len().div_ceil(MAX_SAMPLE).max(1);
    /// Holder, the local variable of it where that is known, and the types on the way.
    type Like = (u32, Option<u32>, Vec<TypeId>);
    let mut groups: HashMap<Like, (u64, ObjectId)> = HashMap::new();
    let mut sampled = 0u64;
    for &id in objects.iter().step_by(stride) {
        let Some(path) = walk.path(graph, id) else { continue };
        sampled += 1;
        let mut types: Vec<TypeId> = path.hops.iter().map(|h| typed.typing.type_of(h.from)).collect();
        types.dedup();
        if types.len() > MAX_HOPS {
            types.drain(..types.len() - MAX_HOPS);
        }
        let holder = holders.top(holders.tree.of_root.get(path.root).copied().unwrap_or_default());
        let local = typed.locals.variable(path.root);
        groups.entry((holder, local, types)).or_insert((0, id)).0 += 1;
    }
    let mut out: Vec<Way> = groups
        .into_iter()
        .map(|((holder, local, _), (n, example))| Way {
            local: local.and_then(|l| typed.locals.variables.get(l as usize).cloned()),
            objects: n * objects.len() as u64 / sampled.max(1),
            share_permille: n * 1000 / sampled.max(1),
            holder: holders.name(rt, built, holder),
            steps: walk.path(graph, example).map(|p| steps(heap, built, typed, &p)).unwrap_or_default(),
        })
        .collect();
    out.sort_by(|a, b| {
        b.objects.cmp(&a.objects).then_with(|| (&a.holder, &a.local, &a.steps).cmp(&(&b.holder, &b.local, &b.steps)))
    });
    out
}

/// One step of a path as it is read aloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Index into the path's hops; the target itself is at the end.
    pub at: usize,
    /// The member that leads on: `.Owner`, `[3].Next`, `(value)` of a map.
    pub field: String,
}

/// The hops of a path, where those through the inside of a map (directory, tables, groups, buckets) are one step that
/// says whether key or value leads on. A path that ends inside a map keeps its last hops.
pub fn spoken(heap: &Heap, built: &Built, typed: &Typed, path: &Path) -> Vec<Spoken> {
    let inside = |o: ObjectId| typed.types.inside_map(typed.typing.type_of(o));
    let field = |i: usize| typed.field(heap, &built.graph, path.hops[i].from, path.hops[i].edge);
    let mut out = Vec::with_capacity(path.hops.len());
    let mut i = 0;
    while i < path.hops.len() {
        let mut last = i;
        if typed.types.kind(typed.typing.type_of(path.hops[i].from)) == Kind::MapHeader {
            while path.hops.get(last + 1).is_some_and(|h| inside(h.from)) {
                last += 1;
            }
        }
        let after = path.hops.get(last + 1).map_or(path.target, |h| h.from);
        match map_slot(&field(last)).filter(|_| last > i && !inside(after)) {
            Some(field) => {
                out.push(Spoken { at: i, field });
                i = last + 1;
            }
            None => {
                out.push(Spoken { at: i, field: field(i) });
                i += 1;
            }
        }
    }
    out
}

/// Where in its map the key of a value lies, by the value's place: `[57].slots[4].elem.Owner` and `[7].elems[2].Owner` lead to
/// `[57].slots[4].key` and `[7].keys[2]`.
pub fn key_of(field: &str) -> Option<String> {
    if let Some(at) = field.find("].slots[") {
        let end = at + 8 + field[at + 8..].find(']')? + 1;
        return field[end..].starts_with(".elem").then(|| format!("{}.key", &field[..end]));
    }
    let at = field.find("].elems[")?;
    let end = at + 8 + field[at + 8..].find(']')? + 1;
    Some(format!("{}].keys[{}", &field[..at], &field[at + 8..end]))
}

/// `[57].slots[4].elem.Owner` (groups) and `[7].elems[2].Owner` (buckets) as ` (value).Owner`; keys likewise.
fn map_slot(field: &str) -> Option<String> {
    let slot = field.find("].slots[").and_then(|at| {
        let rest = &field[at + 8..];
        rest.find("].").map(|end| &rest[end + 1..])
    });
    let (rest, what) = match slot {
        Some(rest) => rest
            .strip_prefix(".elem")
            .map(|r| (r, "value"))
            .or_else(|| rest.strip_prefix(".key").map(|r| (r, "key")))?,
        None => [("].elems[", "value"), ("].keys[", "key")].iter().find_map(|(sign, what)| {
            let rest = &field[field.find(sign)? + sign.len()..];
            Some((&rest[rest.find(']')? + 1..], *what))
        })?,
    };
    Some(format!(" ({what}){rest}"))
}

/// Indices stand for one object; a merged way is that of many.
fn any_index(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let index = digits > 0 && after[digits..].starts_with(']');
        out.push_str(if index { "[*" } else { "[" });
        rest = if index { &after[digits..] } else { after };
    }
    out + rest
}

fn steps(heap: &Heap, built: &Built, typed: &Typed, path: &Path) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut last = TypeId::UNKNOWN;
    let mut repeats = 0;
    for s in spoken(heap, built, typed, path) {
        let from = path.hops[s.at].from;
        let ty = typed.typing.type_of(from);
        if ty.is_known() && ty == last {
            repeats += 1;
            continue;
        }
        if repeats > 0 {
            out.push(format!("... {repeats} more of these"));
            repeats = 0;
        }
        last = ty;
        out.push(format!("{}{}", typed.name(from).unwrap_or("(untyped)"), any_index(&s.field)));
    }
    if repeats > 0 {
        out.push(format!("... {repeats} more of these"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_maps_are_keys_and_values() {
        assert_eq!(map_slot("[57].slots[4].elem").as_deref(), Some(" (value)"));
        assert_eq!(map_slot("[57].slots[4].elem.Owner").as_deref(), Some(" (value).Owner"));
        assert_eq!(map_slot("[0].slots[0].key.id").as_deref(), Some(" (key).id"));
        assert_eq!(map_slot("[7].elems[2].Next").as_deref(), Some(" (value).Next"));
        assert_eq!(map_slot("[7].keys[2]").as_deref(), Some(" (key)"));
        assert_eq!(map_slot("[7].overflow"), None);
        assert_eq!(map_slot(".groups.data"), None);
        assert_eq!(map_slot("[57].slots[4"), None);
        assert_eq!(key_of("[57].slots[4].elem.Owner").as_deref(), Some("[57].slots[4].key"));
        assert_eq!(key_of("[7].elems[2].Next").as_deref(), Some("[7].keys[2]"));
        assert_eq!(key_of("[0].slots[0].key.id"), None);
        assert_eq!(key_of("[7].overflow"), None);
        assert_eq!(key_of("[7].elems[2"), None);
    }

    #[test]
    fn patterns_describe_whole_names() {
        let yes = |p: &str, n: &str| assert!(describes(p.as_bytes(), n.as_bytes()), "{p} {n}");
        let no = |p: &str, n: &str| assert!(!describes(p.as_bytes(), n.as_bytes()), "{p} {n}");
        yes("*.Session", "main.Session");
        yes("map[*]*Session", "map[string]*main.Session");
        yes("main.?", "main.T");
        yes("*", "");
        yes("a*b*c", "abbxbc");
        no("*.Session", "main.Sessions");
        no("main.?", "main.");
        no("a*b*c", "acb");
    }

    #[test]
    fn a_merged_way_has_no_index() {
        assert_eq!(any_index("[6370].Users[2]"), "[*].Users[*]");
        assert_eq!(any_index(".m"), ".m");
        assert_eq!(any_index(" (value)[]"), " (value)[]");
    }
}
