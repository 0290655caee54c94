//! The fast tree against the definition: remove a node, walk again, see what is gone.

use proptest::prelude::*;

use super::*;
use crate::graph::{Root, RootKind};

fn graph(n: u32, edges: &[(u32, u32)], roots: &[u32]) -> Graph {
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
fn reach_without(g: &Graph, n: u32, size: &[u64], without: Option<u32>) -> (u64, Vec<bool>) {
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
        let size: Vec<u64> = (0..n).map(|i| u64::from(i) * 3 + 1).collect();
        let tree = HolderTree {
            parent: (0..holders).map(|h| (h > 1).then_some(0)).collect(),
            of_root: (0..roots.len() as u32).map(|r| r % holders).collect(),
        };
        let d = Dominators::compute(&g, &tree, |o| size[o.index()]).unwrap();
        let (all, seen) = reach_without(&g, n, &size, None);
        prop_assert_eq!(d.retained(d.root()), all);
        for o in 0..n {
            match d.object(ObjectId(o)) {
                None => prop_assert!(!seen[o as usize]),
                Some(node) => {
                    prop_assert!(seen[o as usize]);
                    let (rest, _) = reach_without(&g, n, &size, Some(o));
                    prop_assert_eq!(d.retained(node), all - rest, "object {}", o);
                }
            }
        }
        // Everything live is retained by the roots exactly once.
        let below: u64 = d.children(d.root()).map(|c| d.retained(c)).sum();
        prop_assert_eq!(below, all);
        prop_assert_eq!(d.retained_objects(d.root()) as usize, seen.iter().filter(|&&s| s).count());
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
