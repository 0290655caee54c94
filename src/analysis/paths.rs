//! Paths from roots: the shortest path to one object, several truly different ones, and for a whole set of objects
//! the merged picture of how they are reached.
//!
//! Works on ids only; names (types, fields, globals) are put on by the caller, so that nothing is rendered that is not
//! shown. Cost: one breadth-first walk over the reached graph per path, 4 bytes a slot.

use crate::{
    analysis::dominators::{Dominators, Vertex},
    base::{Bitmap, ObjectId},
    graph::Graph,
};

/// One hop: the edge index (see `Graph::word`) in `from` that leads on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    pub from: ObjectId,
    pub edge: usize,
}

/// From a root to an object. `hops` is empty when the root points at the object itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// Index into `graph.roots`.
    pub root: usize,
    pub hops: Vec<Hop>,
    pub target: ObjectId,
}

const UNSEEN: u32 = u32::MAX;
/// Marks a parent entry as a root index instead of an edge index.
const ROOT: u32 = 1 << 31;

/// Breadth-first tree over everything reached: how each object is first met.
pub struct BreadthFirst {
    /// Per slot: `UNSEEN`, `ROOT | root index`, or the index of the edge by which it was met.
    by: Vec<u32>,
}

impl BreadthFirst {
    /// Walks from all roots, never entering objects of `avoid` nor starting at roots of `avoid_roots`; stops early once
    /// `goal` is met. Roots are taken in the order given: put the ones that explain best first.
    pub fn walk(graph: &Graph, root_order: &[u32], avoid: Option<&Bitmap>, goal: Option<ObjectId>) -> BreadthFirst {
        let mut by = vec![UNSEEN; graph.slots()];
        let mut queue: Vec<ObjectId> = Vec::new();
        let blocked = |id: ObjectId| avoid.is_some_and(|a| a.get(id.index()));
        for &r in root_order {
            let Some(root) = graph.roots.get(r as usize) else { continue };
            let t = root.target;
            if r < ROOT
                && !blocked(t)
                && let Some(b) = by.get_mut(t.index())
                && *b == UNSEEN
            {
                *b = ROOT | r;
                queue.push(t);
            }
        }
        let met = |by: &[u32]| goal.is_some_and(|g| by.get(g.index()).is_some_and(|&b| b != UNSEEN));
        let mut next = Vec::new();
        while !queue.is_empty() && !met(&by) {
            for &o in &queue {
                for e in graph.edges(o) {
                    let t = graph.target.get(e);
                    if let Some(b) = by.get_mut(t.index())
                        && *b == UNSEEN
                        && !blocked(t)
                    {
                        *b = e as u32;
                        next.push(t);
                    }
                }
            }
            queue.clear();
            std::mem::swap(&mut queue, &mut next);
        }
        BreadthFirst { by }
    }

    pub fn reached(&self, id: ObjectId) -> bool {
        self.by.get(id.index()).is_some_and(|&b| b != UNSEEN)
    }

    /// Index of the root from which `id` was first met; `None` if it was not.
    pub fn root(&self, graph: &Graph, id: ObjectId) -> Option<usize> {
        let mut at = id;
        loop {
            match *self.by.get(at.index())? {
                UNSEEN => return None,
                by if by & ROOT != 0 => return Some((by & !ROOT) as usize),
                edge => at = graph.source_of(edge as usize),
            }
        }
    }

    /// The path by which `id` was first met; `None` if it was not.
    pub fn path(&self, graph: &Graph, id: ObjectId) -> Option<Path> {
        let mut hops = Vec::new();
        let mut at = id;
        loop {
            let by = *self.by.get(at.index())?;
            if by == UNSEEN {
                return None;
            }
            if by & ROOT != 0 {
                hops.reverse();
                return Some(Path { root: (by & !ROOT) as usize, hops, target: id });
            }
            let edge = by as usize;
            let from = graph.source_of(edge);
            hops.push(Hop { from, edge });
            at = from;
        }
    }
}

/// Up to `n` paths that share no object except where every path must pass (dominators), shortest first.
pub fn distinct_paths(
    graph: &Graph,
    dominators: &Dominators,
    root_order: &[u32],
    target: ObjectId,
    n: usize,
) -> Vec<Path> {
    let mut unavoidable = Bitmap::new(graph.slots());
    unavoidable.set(target.index());
    if let Some(node) = dominators.object(target) {
        for d in dominators.chain(node) {
            if let Vertex::Object(o) = dominators.vertex(d) {
                unavoidable.set(o.index());
            }
        }
    }
    let mut avoid = Bitmap::new(graph.slots());
    let mut roots: Vec<u32> = root_order.to_vec();
    let mut found: Vec<Path> = Vec::new();
    while found.len() < n {
        let walk = BreadthFirst::walk(graph, &roots, Some(&avoid), Some(target));
        let Some(path) = walk.path(graph, target) else { break };
        let mut changed = false;
        for hop in &path.hops {
            if !unavoidable.get(hop.from.index()) {
                changed |= avoid.insert(hop.from.index());
            }
        }
        // The next path must differ in its root word where it cannot differ in objects.
        if !changed {
            roots.retain(|&r| r as usize != path.root);
        }
        if found.iter().any(|p| p.hops == path.hops && p.root == path.root) {
            break;
        }
        found.push(path);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::dominators::HolderTree,
        graph::{Root, RootKind},
    };

    fn root(target: u32) -> Root {
        Root {
            kind: RootKind::Data,
            target: ObjectId(target),
            at: Default::default(),
            offset: 0,
            goid: Default::default(),
            frame: 0,
        }
    }

    #[test]
    fn paths_differ_except_where_they_must_not() {
        // 0 -> 1 -> 3 -> 5; 0 -> 2 -> 3; 4 -> 3: object 3 is unavoidable, 1, 2 and 4 are the three ways to it.
        let edges = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 5), (4, 3)];
        let graph = Graph::from_edges(6, edges.map(|(a, b)| (ObjectId(a), ObjectId(b))), vec![root(0), root(4)]);
        let tree = HolderTree { parent: vec![None, None], of_root: vec![0, 1] };
        let d = Dominators::compute(&graph, &tree, |_| 1).expect("small");
        let paths = distinct_paths(&graph, &d, &[0, 1], ObjectId(5), 10);
        let through: Vec<Vec<u32>> = paths.iter().map(|p| p.hops.iter().map(|h| h.from.0).collect()).collect();
        // The shortest comes first; object 0 is used up by the second, so a third way through it is not "different".
        assert_eq!(through[0], [4, 3]);
        assert!(through[1] == [0, 1, 3] || through[1] == [0, 2, 3], "{through:?}");
        assert!(paths.iter().all(|p| p.target == ObjectId(5)));
    }
}
