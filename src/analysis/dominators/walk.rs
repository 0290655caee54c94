//! The graph with its holders, and the depth-first walk over it.

use std::ops::Range;

use rayon::prelude::*;

use super::{GRAIN, HolderTree, NONE};
use crate::{
    base::ObjectId,
    graph::Graph,
    os::memory::{fetch, large},
};

/// Successors of every vertex: the super root's holders, holders' holders and roots, objects' edges.
pub struct Successors<'g> {
    graph: &'g Graph,
    /// Vertex of the first object.
    pub base: u32,
    row: Vec<u32>,
    target: Vec<u32>,
}

/// Edges that one task looks at.
const PIECE: usize = 1 << 16;

impl<'g> Successors<'g> {
    pub fn new(graph: &'g Graph, tree: &HolderTree) -> Self {
        let base = tree.parent.len() as u32 + 1;
        let mut degree = vec![0u32; base as usize + 1];
        let owner = |parent: Option<u32>| parent.map_or(0, |p| p + 1);
        for &p in &tree.parent {
            degree[owner(p) as usize + 1] += 1;
        }
        for &h in &tree.of_root {
            degree[h as usize + 2] += 1;
        }
        for i in 1..degree.len() {
            degree[i] += degree[i - 1];
        }
        let row = degree.clone();
        let mut next = degree;
        let mut target = vec![0u32; row[base as usize] as usize];
        let mut push = |from: u32, to: u32| {
            target[next[from as usize] as usize] = to;
            next[from as usize] += 1;
        };
        for (h, &p) in tree.parent.iter().enumerate() {
            push(owner(p), h as u32 + 1);
        }
        for (r, &h) in tree.of_root.iter().enumerate() {
            push(h + 1, base + graph.roots[r].target.0);
        }
        Successors { graph, base, row, target }
    }

    /// Where the successors of `vertex` stand.
    #[inline(always)]
    fn range(&self, vertex: u32) -> Range<u32> {
        if vertex < self.base {
            self.row[vertex as usize]..self.row[vertex as usize + 1]
        } else {
            let edges = self.graph.edges(ObjectId(vertex - self.base));
            edges.start as u32..edges.end as u32
        }
    }

    /// The successor at place `i` of the range of `vertex`.
    #[inline(always)]
    fn at(&self, vertex: u32, i: u32) -> u32 {
        if vertex < self.base { self.target[i as usize] } else { self.base + self.graph.target.get(i as usize).0 }
    }

    /// Has at hand what is looked at when the successors of `vertex` from place `i` on are visited, if they lie anywhere.
    #[inline(always)]
    fn fetch(&self, vertex: u32, i: u32, end: u32, node_of: &[u32]) {
        const FAR: u32 = 12;
        const NEAR: u32 = 6;
        /// Ids that far apart are neighbours: the processor sees that by itself.
        const NEXT: usize = 256;
        if end - i <= FAR || vertex < self.base {
            return;
        }
        let graph = self.graph;
        let far = graph.target.get((i + FAR) as usize).index();
        if far.abs_diff(graph.target.get(i as usize).index()) < NEXT {
            return;
        }
        fetch(node_of, self.base as usize + far);
        graph.rows.fetch(far);
        let near = graph.target.get((i + NEAR) as usize).index();
        graph.target.fetch(graph.rows.start(near) as usize);
    }

    /// Calls `f` with the target of each edge of a vertex.
    pub fn each_of(&self, vertex: u32, mut f: impl FnMut(u32)) {
        self.range(vertex).for_each(|i| f(self.at(vertex, i)));
    }

    /// Numbers of the pieces into which all edges are cut.
    pub fn pieces(&self) -> Range<usize> {
        0..1 + self.graph.target.len().div_ceil(PIECE)
    }

    /// Calls `f` with the node of the source and the vertex of the target of every edge of a piece whose source is reached.
    /// Sources come in the order of their ids.
    #[inline]
    pub fn each(&self, piece: usize, node_of: &[u32], mut f: impl FnMut(u32, u32)) {
        let Some(piece) = piece.checked_sub(1) else {
            for v in (0..self.base).filter(|&v| node_of[v as usize] != NONE) {
                self.range(v).for_each(|i| f(node_of[v as usize], self.at(v, i)));
            }
            return;
        };
        let (rows, target) = (&self.graph.rows, &self.graph.target);
        let (mut at, end) = (piece * PIECE, ((piece + 1) * PIECE).min(target.len()));
        let mut object = rows.object_of(at);
        while at < end && object < rows.len() {
            let to = (rows.start(object + 1) as usize).min(end);
            let node = node_of[self.base as usize + object];
            if to > at && node != NONE {
                target.range(at..to).for_each(|t| f(node, self.base + t.0));
            }
            (at, object) = (to.max(at), object + 1);
        }
    }

    /// The same for edges to wanted vertices only, which are few.
    #[inline]
    pub fn each_to(&self, piece: usize, node_of: &[u32], wanted: impl Fn(u32) -> bool, mut f: impl FnMut(u32, u32)) {
        let Some(part) = piece.checked_sub(1) else {
            return self.each(piece, node_of, |v, to| {
                if wanted(to) {
                    f(v, to);
                }
            });
        };
        let target = &self.graph.target;
        let (from, end) = (part * PIECE, ((part + 1) * PIECE).min(target.len()));
        let mut source = self.graph.rows.object_of(from);
        for (at, to) in (from..end).zip(target.range(from..end)).filter(|(_, to)| wanted(self.base + to.0)) {
            source = self.graph.rows.object_from(at, source);
            match node_of.get(self.base as usize + source) {
                Some(&node) if node != NONE => f(node, self.base + to.0),
                _ => {}
            }
        }
    }
}

/// A depth-first walk from the super root: nodes are numbers in preorder.
pub struct Walk {
    /// Vertex of each node.
    pub vertex: Vec<u32>,
    /// From where each node was found.
    pub parent: Vec<u32>,
    /// Node of each vertex, `NONE` if not reached.
    pub node_of: Vec<u32>,
}

impl Walk {
    pub fn new(succ: &Successors, total: usize) -> Walk {
        // Written on all cores first: the walk runs on one, and the kernel takes long over fresh memory.
        let filled = |n: usize, value: u32| {
            let mut out: Vec<u32> = large(n);
            out.par_extend(rayon::iter::repeat_n(value, n).with_min_len(GRAIN));
            out
        };
        let mut node_of = filled(total, NONE);
        let reached = (succ.graph.reachable.count_ones() + succ.base as usize).min(total);
        let (mut vertex, mut parent) = (filled(reached, 0), filled(reached, 0));
        let mut put = |node: usize, v: u32, from: u32| match vertex.get_mut(node).zip(parent.get_mut(node)) {
            Some((to_vertex, to_parent)) => (*to_vertex, *to_parent) = (v, from),
            None => {
                vertex.push(v);
                parent.push(from);
            }
        };
        put(0, 0, 0);
        node_of[0] = 0;
        let mut nodes = 1;
        // Of nodes with successors still to visit: vertex, node, and where they stand. One that has none left need not be
        // come back to, so that a long list takes no room here.
        let mut stack: Vec<(u32, u32, u32, u32)> = Vec::new();
        let first = succ.range(0);
        let (mut v, mut node, mut i, mut end) = (0, 0, first.start, first.end);
        loop {
            while i < end {
                let w = succ.at(v, i);
                succ.fetch(v, i, end, &node_of);
                i += 1;
                let Some(slot) = node_of.get_mut(w as usize).filter(|slot| **slot == NONE) else { continue };
                let own = nodes as u32;
                *slot = own;
                put(nodes, w, node);
                nodes += 1;
                let next = succ.range(w);
                if !next.is_empty() {
                    if i < end {
                        stack.push((v, node, i, end));
                    }
                    (v, node, i, end) = (w, own, next.start, next.end);
                }
            }
            let Some(top) = stack.pop() else { break };
            (v, node, i, end) = top;
        }
        vertex.truncate(nodes);
        parent.truncate(nodes);
        Walk { vertex, parent, node_of }
    }
}
