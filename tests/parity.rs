//! The same held process read twice: with its DWARF and symbols, and as if it was stripped, with nothing but the layout
//! table, pclntab, moduledata and what code and memory show. Both must see the same heap.

mod common;

use std::sync::Arc;

use common::{
    Fixture, RELEASES,
    view::{View, assert_same_heap, view},
};
use gosleuth::{
    base::{KnownBy, ObjectId},
    runtime::{
        LayoutChoice, OpenOptions,
        layout::{Global, LayoutSource},
    },
    target::{HoldMode, Target},
};

const FIXTURES: [(&str, &str, &[&str]); 8] = [
    ("dwarf", "values", &["all"]),
    ("dwarf", "goroutines", &["all"]),
    ("dwarf", "heap", &["mixed", "20000"]),
    ("dwarf", "heap", &["garbage", "1000"]),
    ("dwarf", "leaks", &["global-map"]),
    ("dwarf", "locks", &["chain-127-42-88"]),
    ("pie", "values", &["all"]),
    ("cgo", "values", &["all"]),
];

/// The fixture, seen with and without names.
fn both(fixture: &Fixture) -> (View, View) {
    let pid = fixture.pid().parse().expect("a number");
    let target = Arc::new(Target::attach(pid, HoldMode::Freeze).expect("own child"));
    let named = view(&target, &OpenOptions::default());
    let bare = view(&target, &OpenOptions { nameless: true, layout: LayoutChoice::Table, ..OpenOptions::default() });
    target.release();
    (named, bare)
}

/// Same variables, slots, edges, roots, reachable objects and stacks.
#[test]
fn a_stripped_binary_shows_the_same_heap() {
    for release in RELEASES {
        for (variant, name, args) in FIXTURES {
            let Some(fixture) = Fixture::start(release, variant, name, args) else { continue };
            let what = format!("Go {release} {variant} {name} {args:?}");
            let (named, bare) = both(&fixture);
            assert_eq!((named.rt.layout.source, bare.rt.layout.source), (LayoutSource::Dwarf, LayoutSource::Table));
            assert!(bare.rt.image.dwarf.is_none() && bare.rt.image.symbols.is_none(), "{what}");
            for &g in Global::ALL {
                if let Some(addr) = bare.rt.globals.get(g) {
                    assert_eq!(Some(addr), named.rt.globals.get(g), "{what}: {}", g.name());
                }
            }
            assert_same_heap(&named, &bare, &what);
            let a = &named.built;
            println!(
                "{what}: {} objects, {} edges, {} roots, {} stacks equal",
                a.graph.reachable.count_ones(),
                a.graph.target.len(),
                a.graph.roots.len(),
                a.stacks.len()
            );
        }
    }
}

/// Bytes of live objects by how the two readings agree on their types.
#[derive(Default, Debug)]
struct Agreement {
    /// Typed exactly or through a holder with DWARF.
    named: u64,
    /// Of those, the same type without a guess when stripped.
    same: u64,
    /// Of those, another type that is not marked as a guess.
    other: u64,
    /// Another type that the allocator was asked for, where DWARF tells only what a holder sees of a part.
    better: u64,
    live: u64,
}

impl Agreement {
    fn add(&mut self, x: &Agreement) {
        self.named += x.named;
        self.same += x.same;
        self.other += x.other;
        self.better += x.better;
        self.live += x.live;
    }

    fn share(part: u64, of: u64) -> f64 {
        100.0 * part as f64 / of.max(1) as f64
    }
}

fn compare_types(named: &View, bare: &View, what: &str) -> Agreement {
    let mut sum = Agreement::default();
    let mut lost: std::collections::BTreeMap<String, u64> = Default::default();
    let sure = |v: &View, id| matches!(v.typed.typing.known_by(id), KnownBy::Exact | KnownBy::Propagated);
    for i in named.built.graph.reachable.iter_ones() {
        let id = ObjectId(i as u32);
        let bytes = named.heap.extent(id).1;
        sum.live += bytes;
        if !sure(named, id) {
            continue;
        }
        sum.named += bytes;
        let (a, b) = (named.typed.name(id), bare.typed.name(id));
        if !sure(bare, id) {
            *lost.entry(format!("{} lost, held by {}", a.unwrap_or("?"), holder(named, id))).or_default() += bytes;
        } else if a == b {
            sum.same += bytes;
        } else {
            let exact = |v: &View| v.typed.typing.known_by(id) == KnownBy::Exact;
            *(if exact(bare) && !exact(named) { &mut sum.better } else { &mut sum.other }) += bytes;
            *lost
                .entry(format!("{} taken for {}, held by {}", a.unwrap_or("?"), b.unwrap_or("?"), holder(named, id)))
                .or_default() += bytes;
        }
    }
    if std::env::var_os("GOSLEUTH_TEST_LOST").is_some() {
        let mut lost: Vec<_> = lost.into_iter().collect();
        lost.sort_by_key(|l| std::cmp::Reverse(l.1));
        for (text, bytes) in lost.iter().take(25) {
            println!("  {what}: {bytes} bytes of {text}");
        }
    }
    sum
}

/// A root or an object that holds `id`, for the developer.
fn holder(v: &View, id: ObjectId) -> String {
    if let Some(r) = v.built.graph.roots.iter().find(|r| r.target == id) {
        return format!("{:?} {}", r.kind, v.rt.image.name_global(r.at).unwrap_or_default());
    }
    let edge = v.built.graph.target.iter().position(|t| t == id);
    edge.map(|e| v.built.graph.source_of(e)).and_then(|s| v.typed.name(s)).unwrap_or("?").to_owned()
}

/// Over the fixtures of a release; `None` where none can be had.
fn agreement(release: &str, fixtures: &[(&str, &str, &[&str])], env: &[(&str, &str)]) -> Option<Agreement> {
    let mut sum = Agreement::default();
    for (variant, name, args) in fixtures {
        let Some(fixture) = Fixture::start_with(release, variant, name, args, env) else { continue };
        let what = format!("Go {release} {variant} {name} {args:?}");
        let (named, bare) = both(&fixture);
        let found = compare_types(&named, &bare, &what);
        println!(
            "{what}: {:.1} % of live bytes typed with DWARF, {:.1} % of those without, {:.3} % differently",
            Agreement::share(found.named, found.live),
            Agreement::share(found.same, found.named),
            Agreement::share(found.other, found.named),
        );
        sum.add(&found);
    }
    (sum.live > 0).then_some(sum)
}

/// Most of what DWARF types is typed without it too, and next to nothing differently.
#[test]
fn types_without_dwarf() {
    let mut short = Vec::new();
    for release in RELEASES {
        let minor: u32 = release[2..].parse().expect("1.N");
        let Some(sum) = agreement(release, &FIXTURES, &[]) else { continue };
        let (same, other) =
            (Agreement::share(sum.same, sum.named), Agreement::share(sum.other + sum.better, sum.named));
        println!("| {release} | {:.1} | {same:.1} | {other:.3} |", Agreement::share(sum.named, sum.live));
        let least = if minor >= 22 { 85.0 } else { 75.0 };
        if same < least || other > 0.1 {
            short.push(format!("Go {release}: {same:.1} % (of {least}), {other:.3} % differently"));
        }
    }
    assert!(short.is_empty(), "{short:#?}");
}

/// What the heap profile sampled is typed by the code at its place of allocation: where every allocation is sampled, more is
/// typed without DWARF, and nothing more differently.
#[test]
fn types_of_sampled_objects() {
    let fixtures = &FIXTURES[..3];
    for release in RELEASES {
        let Some(without) = agreement(release, fixtures, &[]) else { continue };
        let with = agreement(release, fixtures, &[("FIXTURE_MEMPROFILERATE", "1")]).expect("the same fixtures");
        let share = |a: &Agreement| (Agreement::share(a.same, a.named), Agreement::share(a.other, a.named));
        let ((before, _), (after, other)) = (share(&without), share(&with));
        let better = Agreement::share(with.better, with.named);
        println!(
            "Go {release}: {before:.2} % of what DWARF types without samples, {after:.2} % with all, {other:.3} % differently, {better:.3} % better"
        );
        assert!(after >= before.max(98.0) && other <= 0.1, "Go {release}");
    }
}
