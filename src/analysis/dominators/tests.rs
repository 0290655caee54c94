//! The fast tree against the definition: remove a node, walk again, see what is gone.

use proptest::prelude::*;

use super::*;
use crate::graph::{Root, RootKind};

pub fn graph(n: u32, edges: &[(u32, u32)], roots: &[u32]) -> Graph {
    let roots = roots
        .iter()
        .map(|&r| Root {
            kind: RootKind::Data,
            target: ObjectId(r),
            at: Default::default(),
            offset: 0,
            goid: Default::default(),
            frame: 0,
        })
        .collect();
    Graph::from_edges(n as usize, edges.iter().map(|&(a, b)| (ObjectId(a), ObjectId(b))), roots)
}

/// Bytes reachable from the roots when `without` (an object) is taken away.
pub fn reach_without(g: &Graph, n: u32, size: &[u64], without: Option<u32>) -> (u64, Vec<bool>) {
    let mut seen = vec![false; n as usize];
    let mut todo: Vec<u32> = g.roots.iter().map(|r| r.target.0).collect();
    let mut bytes = 0;
    while let Some(o) = todo.pop() {
        if Some(o) == without || std::mem::replace(&mut seen[o as usize], true) {
            continue;
        }
        bytes += size[o as usize];
        todo.extend(g.children(ObjectId(o)).map(|c| c.0));
    }
    (bytes, seen)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn retained_is_what_removal_frees(
        n in 1u32..40,
        raw in prop::collection::vec((0u32..40, 0u32..40), 0..120),
        roots in prop::collection::vec(0u32..40, 0..6),
        holders in 1u32..4,
    ) {
        let edges: Vec<_> = raw.into_iter().map(|(a, b)| (a % n, b % n)).collect();
        let roots: Vec<_> = roots.into_iter().map(|r| r % n).collect();
        let g = graph(n, &edges, &roots);
        let tree = HolderTree {
            parent: (0..holders).map(|h| (h > 1).then_some(0)).collect(),
            of_root: (0..roots.len() as u32).map(|r| r % holders).collect(),
        };
        let d = check(&g, &tree, n);
        // Everything live is retained by the roots exactly once.
        let below: u64 = d.children(d.root()).map(|c| d.retained(c)).sum();
        prop_assert_eq!(below, d.retained(d.root()));
    }
}

/// Every node of the tree against the definition; and that it is in preorder, and each child is met once.
fn check(g: &Graph, tree: &HolderTree, n: u32) -> Dominators {
    let size: Vec<u64> = (0..n).map(|i| u64::from(i) * 3 + 1).collect();
    let d = Dominators::compute(g, tree, |o| size[o.index()]).expect("small");
    let (all, seen) = reach_without(g, n, &size, None);
    assert_eq!(d.retained(d.root()), all);
    for o in 0..n {
        let Some(node) = d.object(ObjectId(o)) else {
            assert!(!seen[o as usize], "object {o}");
            continue;
        };
        let (rest, left) = reach_without(g, n, &size, Some(o));
        let gone = (0..n as usize).filter(|&i| seen[i] && !left[i]).count();
        assert_eq!((d.retained(node), d.retained_objects(node)), (all - rest, gone as u64), "object {o}");
        assert_eq!((d.vertex(node), d.own_bytes(node)), (Vertex::Object(ObjectId(o)), size[o as usize]));
    }
    let mut met = 1;
    for n in (0..d.len() as u32).map(Node) {
        let children: Vec<Node> = d.children(n).collect();
        assert!(children.iter().all(|&c| d.parent(c) == n && c > n));
        met += children.len();
        // In parts the children are the same.
        let parts = (0..=d.below(n)).step_by(3).flat_map(|at| d.children_from(n, at..at + 3));
        assert!(parts.eq(children), "in parts, below {n:?}");
    }
    assert_eq!(met, d.len());
    d
}

/// Shapes of heaps, each object with another number than its place has, as after many collections.
fn shape(kind: u32, n: u32, links: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let chain = (0..n - 1).map(|i| (i, i + 1));
    let mut edges: Vec<(u32, u32)> = match kind {
        // A list from one end, and from both.
        0 => chain.collect(),
        1 => chain.clone().chain(chain.map(|(a, b)| (b, a))).chain([(0, n - 1)]).collect(),
        // One wide object; what it holds is shared, as an owner is, or leads to neighbours.
        2 => (2..n).flat_map(|i| [(0, i), (i, 1)]).chain((3..n).flat_map(|i| [(i, i - 1), (i, i / 2 + 1)])).collect(),
        // A tree of two children each, with ways back up.
        3 => (1..n).flat_map(|i| [((i - 1) / 2, i), (i, (i - 1) / 2)]).collect(),
        // A ladder: what is on the left leads to the right, one down.
        4 => (0..n - 2).map(|i| (i, i + 2)).chain((0..n / 2).map(|i| (2 * i, (2 * i + 3).min(n - 1)))).collect(),
        // A comb: a spine with teeth that all lead to the last.
        _ => (0..n / 2 - 1).flat_map(|i| [(2 * i, 2 * i + 2), (2 * i, 2 * i + 1), (2 * i + 1, n - 1)]).collect(),
    };
    edges.extend(links.iter().map(|&(a, b)| (a % n, b % n)));
    // A permutation, as 7919 is a prime and no multiple of it is as small as n.
    edges.iter().map(|&(a, b)| (a * 7919 % n, b * 7919 % n)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Deeper than one edge climbs, wide, raised in several rounds, with few links that go astray and with many.
    #[test]
    fn shapes_of_heaps(
        kind in 0u32..6,
        n in 10u32..160,
        links in prop::collection::vec((0u32..1000, 0u32..1000), 0..12),
        roots in prop::collection::vec(0u32..160, 0..3),
    ) {
        let g = graph(n, &shape(kind, n, &links), &[0].into_iter().chain(roots.iter().map(|r| r % n)).collect::<Vec<_>>());
        let tree = HolderTree { parent: vec![None, None, Some(0)], of_root: (0..=roots.len() as u32).map(|r| r % 3).collect() };
        check(&g, &tree, n);
    }
}

/// Large enough for several tasks and for every way of looking at edges: few are moved, many are.
#[test]
fn any_number_of_threads_gives_the_same() {
    let n = 100_000;
    let astray =
        |many: u32| -> Vec<(u32, u32)> { (0..many).map(|i| (i * 7 % n, i.wrapping_mul(2_654_435_761) % n)).collect() };
    for kind in 0..6 {
        for many in [0, 100, n / 3] {
            let g = graph(n, &shape(kind, n, &astray(many)), &[0]);
            let tree = HolderTree { parent: vec![None], of_root: vec![0] };
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                let d = pool.install(|| Dominators::compute(&g, &tree, |o| u64::from(o.0 % 9)).expect("small"));
                let rows = |n| (d.vertex(n), d.parent(n), d.retained(n), d.retained_objects(n));
                (0..d.len() as u32).map(|n| rows(Node(n))).collect::<Vec<_>>()
            };
            let one = with(1);
            assert!(one == with(2) && one == with(7), "shape {kind}, {many} astray");
            // A sample against the definition.
            let d = Dominators::compute(&g, &tree, |o| u64::from(o.0 % 9)).expect("small");
            let size: Vec<u64> = (0..n).map(|o| u64::from(o % 9)).collect();
            for o in (0..n).step_by(19_999) {
                let Some(node) = d.object(ObjectId(o)) else { continue };
                assert_eq!(d.retained(node), d.retained(d.root()) - reach_without(&g, n, &size, Some(o)).0);
            }
        }
    }
}

#[test]
fn a_holder_retains_what_only_it_reaches() {
    // holder 0 -> 0 -> 2, holder 1 -> 1 -> 2: object 2 is shared, so neither holder retains it.
    let g = graph(3, &[(0, 2), (1, 2)], &[0, 1]);
    let tree = HolderTree { parent: vec![None, None], of_root: vec![0, 1] };
    let d = Dominators::compute(&g, &tree, |_| 10).unwrap();
    assert_eq!(d.retained(d.holder(0).unwrap()), 10);
    assert_eq!(d.retained(d.root()), 30);
    assert_eq!(d.vertex(d.parent(d.object(ObjectId(2)).unwrap())), Vertex::Super);
}

#[test]
fn a_list_of_a_million_does_not_recurse() {
    let n = 1_000_000;
    let edges: Vec<_> = (0..n - 1).map(|i| (i, i + 1)).collect();
    let g = graph(n, &edges, &[0]);
    let tree = HolderTree { parent: vec![None], of_root: vec![0] };
    let d = Dominators::compute(&g, &tree, |_| 1).unwrap();
    assert_eq!(d.retained(d.object(ObjectId(n / 2)).unwrap()), u64::from(n / 2));
}
