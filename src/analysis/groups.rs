//! The live heap by package, module, size class or holder, and what each group retains.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{
    dominators::{Dominators, Node, Vertex},
    histogram::{Coverage, Histogram, LocalShare, Row, Totals},
    holders::{HolderKind, Holders},
    locals::LocalHolders,
};
use crate::{
    base::{Goid, KnownBy, ObjectId},
    graph::{Graph, build::Built, typing::Typed},
    image::buildinfo::BuildInfo,
    runtime::{
        Runtime,
        heap::{Heap, Span},
        types::{Kind, TypeId},
    },
};

/// What the rows of `top` are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum By {
    #[default]
    Type,
    /// Package that defines the type, or the type of its elements.
    Package,
    /// Go module of that package, from the build info.
    Module,
    /// Slot size of the allocator, with or without pointers: the runtime's span classes.
    #[value(alias = "spanclass")]
    Sizeclass,
    /// Global variable or goroutines without which the bytes would be freed.
    Root,
    /// The same of global variables only.
    Global,
    /// The same of each single goroutine.
    Goroutine,
    /// The same of all frames of a function, whatever goroutines they are of.
    Frame,
    /// Types by what they retain, not by what they are.
    Retained,
}

impl By {
    /// Are the rows holders, with what would be freed without them?
    pub fn is_holder(self) -> bool {
        matches!(self, By::Root | By::Global | By::Goroutine | By::Frame)
    }
}

const LEVELS: [KnownBy; 4] = [KnownBy::Exact, KnownBy::Propagated, KnownBy::Guessed, KnownBy::Unknown];

/// Names of groups and the group of each type.
struct Groups {
    names: Vec<String>,
    of_type: Vec<u32>,
}

impl Groups {
    fn new(typed: &Typed, name: impl Fn(TypeId) -> String) -> Groups {
        let mut index: HashMap<String, u32> = HashMap::new();
        let mut names = Vec::new();
        let mut of_type = vec![0; typed.types.len()];
        // `ids` is what is known.
        for ty in [TypeId::UNKNOWN].into_iter().chain(typed.types.ids()) {
            let name = name(ty);
            of_type[ty.index()] = *index.entry(name).or_insert_with_key(|n| {
                names.push(n.clone());
                names.len() as u32 - 1
            });
        }
        Groups { names, of_type }
    }
}

/// Package of a type; of a closure the package of its function.
fn package(typed: &Typed, ty: TypeId) -> String {
    let types = &typed.types;
    match types.kind(ty) {
        _ if !ty.is_known() => "(type not known)".into(),
        Kind::Closure => {
            let name = types.name(ty);
            let name = ["closure of ", "func "].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
            // The last dot-free part after the last slash begins the function's name.
            let base = name.rfind('/').map_or(0, |i| i + 1);
            let end = name[base..].find('.').map_or(name.len(), |i| base + i);
            // A function that is not known: `func (closure)`.
            if name.starts_with('(') { "(built-in types)".into() } else { name[..end].to_owned() }
        }
        _ => match types.package(ty) {
            "" => "(built-in types)".into(),
            p => p.to_owned(),
        },
    }
}

/// The module whose path is the longest prefix of the package's.
fn module(info: Option<&BuildInfo>, package: &str) -> String {
    let Some(info) = info.filter(|_| !package.starts_with('(')) else { return package.to_owned() };
    let owns =
        |path: &str| !path.is_empty() && package.strip_prefix(path).is_some_and(|r| r.is_empty() || r.starts_with('/'));
    let best = info.deps.iter().chain([&info.main]).filter(|d| owns(&d.path)).max_by_key(|d| d.path.len());
    match best {
        Some(d) if d.version.is_empty() => d.path.clone(),
        Some(d) => format!("{} {}", d.path, d.version),
        None if package == "main" || package.starts_with("main.") => {
            if info.main.path.is_empty() {
                "(main program)".into()
            } else {
                info.main.path.clone()
            }
        }
        None => "(standard library)".into(),
    }
}

/// The live heap in groups of objects. `dom` where bytes retained are asked for. Cost: one pass over the slots.
pub fn live_by(rt: &Runtime, heap: &Heap, graph: &Graph, typed: &Typed, by: By, dom: Option<&Dominators>) -> Histogram {
    let info = rt.image.build_info.as_ref();
    let groups = match by {
        By::Package => Groups::new(typed, |ty| package(typed, ty)),
        By::Module => Groups::new(typed, |ty| module(info, &package(typed, ty))),
        _ => Groups::new(typed, |ty| match ty.is_known() {
            true => typed.types.name(ty).to_owned(),
            false => "(type not known)".into(),
        }),
    };
    let mut totals: Vec<[Totals; 4]> = Vec::new();
    let mut names = groups.names;
    if by == By::Sizeclass {
        let mut index: HashMap<(u64, bool), u32> = HashMap::new();
        names.clear();
        let key = |s: &Span| (if s.class == 0 { u64::MAX } else { s.elemsize }, s.noscan);
        for s in &heap.spans {
            index.entry(key(s)).or_insert_with_key(|(size, noscan)| {
                let pointers = if *noscan { "without pointers" } else { "with pointers" };
                names.push(match *size {
                    u64::MAX => format!("large (each its own span), {pointers}"),
                    size => format!("{size} bytes, {pointers}"),
                });
                names.len() as u32 - 1
            });
        }
        count(heap, graph, typed, names.len(), |s, _| index[&key(s)], &mut totals);
        let retained = dom.map(|dom| retained_by(dom, names.len(), |id| index[&key(heap.span_of(id))]));
        return finish(names, &totals, retained);
    }
    let of = |ty: TypeId| groups.of_type.get(ty.index()).copied().unwrap_or_default();
    count(heap, graph, typed, names.len(), |_, ty| of(ty), &mut totals);
    let retained = dom.map(|dom| retained_by(dom, names.len(), |id| of(typed.typing.type_of(id))));
    finish(names, &totals, retained)
}

fn count(
    heap: &Heap,
    graph: &Graph,
    typed: &Typed,
    groups: usize,
    group: impl Fn(&Span, TypeId) -> u32 + Sync,
    totals: &mut Vec<[Totals; 4]>,
) {
    let chunk = heap.spans.len().div_ceil(4 * rayon::current_num_threads()).max(256);
    let parts: Vec<Vec<[Totals; 4]>> = heap
        .spans
        .par_chunks(chunk)
        .map(|spans| {
            let mut part: Vec<[Totals; 4]> = vec![Default::default(); groups];
            for s in spans {
                for id in (s.first.0..s.first.0 + s.nelems).map(ObjectId).filter(|id| graph.reachable.get(id.index())) {
                    let known = typed.typing.known_by(id);
                    let level = LEVELS.iter().position(|&l| l == known).unwrap_or(3);
                    if let Some(t) = part.get_mut(group(s, typed.typing.type_of(id)) as usize) {
                        t[level].add(s.elemsize);
                    }
                }
            }
            part
        })
        .collect();
    totals.resize(groups, Default::default());
    for part in parts {
        for (all, t) in totals.iter_mut().zip(part) {
            all.iter_mut().zip(t).for_each(|(a, b)| a.join(&b));
        }
    }
}

/// Bytes that would be freed without any one object of the group, counted for the topmost objects only: what an object
/// retains includes what other objects of its group below it retain.
fn retained_by(dom: &Dominators, groups: usize, group: impl Fn(ObjectId) -> u32) -> Vec<u64> {
    let mut out = vec![0u64; groups];
    let mut open = vec![0u32; groups];
    let mut above: Vec<(Node, Option<u32>)> = Vec::new();
    for n in (0..dom.len() as u32).map(Node) {
        while above.last().is_some_and(|&(top, _)| top != dom.parent(n)) {
            if let Some((_, Some(g))) = above.pop() {
                open[g as usize] -= 1;
            }
        }
        let g = match dom.vertex(n) {
            Vertex::Object(id) => Some(group(id)).filter(|&g| (g as usize) < groups),
            _ => None,
        };
        if let Some(g) = g {
            if open[g as usize] == 0 {
                out[g as usize] += dom.retained(n);
            }
            open[g as usize] += 1;
        }
        above.push((n, g));
    }
    out
}

fn finish(names: Vec<String>, totals: &[[Totals; 4]], retained: Option<Vec<u64>>) -> Histogram {
    let mut h = Histogram { live: Totals::default(), coverage: Coverage::default(), rows: Vec::new() };
    for (i, (name, t)) in names.into_iter().zip(totals).enumerate() {
        let mut sum = Totals::default();
        t.iter().for_each(|t| sum.join(t));
        h.live.join(&sum);
        h.coverage.exact_bytes += t[0].bytes;
        h.coverage.propagated_bytes += t[1].bytes;
        h.coverage.guessed_bytes += t[2].bytes;
        h.coverage.unknown_bytes += t[3].bytes;
        // Known as most of its bytes are.
        let most = (0..4).rev().max_by_key(|&l| t[l].bytes).unwrap_or(3);
        let retained_bytes = retained.as_ref().map(|r| r[i]);
        if sum.objects > 0 {
            h.rows.push(Row {
                name,
                objects: sum.objects,
                bytes: sum.bytes,
                known_by: LEVELS[most],
                retained_bytes,
                local: None,
            });
        }
    }
    sort(&mut h.rows);
    h
}

fn sort(rows: &mut [Row]) {
    let weight = |r: &Row| (r.retained_bytes.unwrap_or(0), r.bytes);
    rows.sort_by(|a, b| weight(b).cmp(&weight(a)).then_with(|| a.name.cmp(&b.name)));
}

/// The live heap by who holds it: a row for each holder that `by` asks for, with what only it holds; what others hold, or several
/// together, is a row of its own. The sum of all rows is the live heap. `holders`: by frame for `By::Frame`.
pub fn live_by_holder(
    rt: &Runtime,
    built: &Built,
    typed: &Typed,
    (holders, dom): (&Holders, &Dominators),
    by: By,
) -> Histogram {
    let locals = LocalHolders::of(built, typed);
    let wanted = |kind: HolderKind| match by {
        By::Global => kind == HolderKind::Global,
        By::Goroutine => kind == HolderKind::Goroutine,
        By::Frame => kind == HolderKind::Frames,
        _ => true,
    };
    let kind = |h: u32| holders.list.get(h as usize).map_or(HolderKind::Runtime, |h| h.kind);
    let mut rows = Vec::new();
    let (mut shared, mut others) = (Totals::default(), Totals::default());
    // A goroutine lies below the group of those that run the same function.
    let mut open: Vec<Node> = dom.children(dom.root()).collect();
    while let Some(n) = open.pop() {
        let all = Totals { objects: dom.retained_objects(n), bytes: dom.retained(n) };
        match dom.vertex(n) {
            Vertex::Holder(_) if all.objects == 0 => {}
            Vertex::Holder(h) if wanted(kind(h)) => rows.push(Row {
                name: match kind(h) {
                    HolderKind::Goroutine => one_goroutine(built, holders, holders.list[h as usize].goid),
                    _ => holders.name(rt, built, h),
                },
                objects: all.objects,
                bytes: all.bytes,
                known_by: KnownBy::Exact,
                retained_bytes: Some(all.bytes),
                local: match kind(h) {
                    HolderKind::Goroutines => locals.heaviest(dom, n).map(|(name, bytes)| LocalShare { name, bytes }),
                    _ => None,
                },
            }),
            Vertex::Holder(h) if by == By::Goroutine && kind(h) == HolderKind::Goroutines => {
                open.extend(dom.children(n))
            }
            Vertex::Holder(_) => others.join(&all),
            Vertex::Object(_) => shared.join(&all),
            _ => {}
        }
    }
    let mut live = Totals::default();
    rows.iter().for_each(|r| live.join(&Totals { objects: r.objects, bytes: r.bytes }));
    for (rest, name) in [(shared, "(held by several together)"), (others, "(held by others)")] {
        live.join(&rest);
        if rest.objects > 0 {
            let (name, retained_bytes) = (name.to_owned(), Some(rest.bytes));
            let (objects, bytes) = (rest.objects, rest.bytes);
            rows.push(Row { name, objects, bytes, known_by: KnownBy::Exact, retained_bytes, local: None });
        }
    }
    sort(&mut rows);
    let coverage = Coverage { exact_bytes: live.bytes, ..Coverage::default() };
    Histogram { live, coverage, rows }
}

/// `goroutine 17 (main.consume)`.
fn one_goroutine(built: &Built, holders: &Holders, goid: Goid) -> String {
    let runs = built.goroutines.binary_search_by_key(&goid, |g| g.goid).map_or("?", |i| holders.function_of(i));
    format!("goroutine {goid} ({runs})")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::dominators::{
        HolderTree,
        tests::{graph, reach_without},
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Against the definition: take each object of a group away by itself and walk again; what is gone in any of these
        /// walks is what the group retains.
        #[test]
        fn a_group_retains_what_is_freed_without_one_of_its_objects(
            n in 1u32..40,
            raw in prop::collection::vec((0u32..40, 0u32..40), 0..100),
            roots in prop::collection::vec(0u32..40, 0..6),
            groups in 1u32..5,
        ) {
            let edges: Vec<_> = raw.into_iter().map(|(a, b)| (a % n, b % n)).collect();
            let roots: Vec<_> = roots.into_iter().map(|r| r % n).collect();
            let g = graph(n, &edges, &roots);
            let tree = HolderTree { parent: vec![None], of_root: vec![0; roots.len()] };
            let bytes = |o: u32| u64::from(o) * 3 + 1;
            let size: Vec<u64> = (0..n).map(bytes).collect();
            let reached = |without| reach_without(&g, n, &size, without).1;
            let dom = Dominators::compute(&g, &tree, |o| bytes(o.0)).expect("small");
            let all = reached(None);
            let group = |o: u32| o * 7 / 3 % groups;
            let expected: Vec<u64> = (0..groups)
                .map(|k| {
                    let mut gone = vec![false; n as usize];
                    for o in (0..n).filter(|&o| group(o) == k) {
                        let left = reached(Some(o));
                        gone.iter_mut().enumerate().for_each(|(i, gone)| *gone |= all[i] && !left[i]);
                    }
                    (0..n).filter(|&i| gone[i as usize]).map(bytes).sum()
                })
                .collect();
            prop_assert_eq!(retained_by(&dom, groups as usize, |id| group(id.0)), expected);
        }
    }

    #[test]
    fn only_topmost_objects_of_a_group_count() {
        // 0 holds 1 and 3, 1 leads to 2, which is a root as well: between 0 and 3 comes one that 0 does not dominate.
        let graph = graph(4, &[(0, 1), (0, 3), (1, 2)], &[0, 2]);
        let tree = HolderTree { parent: vec![None, None], of_root: vec![0, 1] };
        let dom = Dominators::compute(&graph, &tree, |_| 10).expect("small");
        // 0 and 3 are of one group: what 3 retains is part of what 0 does.
        assert_eq!(retained_by(&dom, 2, |id| u32::from(id.0 % 3 != 0)), [30, 20]);
    }
}
