//! Dominator tree and retained sizes, exact, over all roots.
//!
//! Object `d` dominates `o` if every path from the roots to `o` passes `d`; the nearest such `d` is `o`'s immediate
//! dominator. The retained size of `d` is what would become garbage if `d` went away: its own bytes and those of
//! everything it dominates.
//!
//! The graph is: super root -> holders (a global, a goroutine with its frames below it, ...) -> objects -> objects. With
//! holders as nodes of their own, the retained size of a global or of a goroutine falls out of the same tree.
//!
//! Algorithm: semi-NCA (Georgiadis: "Linear-Time Algorithms for Dominators and Related Problems", 2005) on flat arrays.
//! Nodes with one incoming edge (most of a heap) need no work beyond the depth-first numbering, so reverse edges are kept
//! only for the others. Cost: one depth-first walk, three passes over the edges (on all cores), one
//! over the reverse ones, about 24 bytes a reached object.

use std::mem::size_of;

use rayon::prelude::*;

use crate::{
    base::{Bitmap, ObjectId},
    graph::Graph,
};

/// A node of the dominator tree, in depth-first preorder: 0 is the super root, and a dominator always has a smaller
/// number than what it dominates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node(pub u32);

/// What a node of the tree stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vertex {
    /// All roots together.
    Super,
    /// Index into the holders given to `Dominators::compute`.
    Holder(u32),
    Object(ObjectId),
}

/// Who holds roots: `parent[h]` is another holder (a goroutine for its frame) or none; `of_root[r]` is the holder of
/// `graph.roots[r]`.
#[derive(Clone, Debug, Default)]
pub struct HolderTree {
    pub parent: Vec<Option<u32>>,
    pub of_root: Vec<u32>,
}

/// The dominator tree with retained bytes and counts, indexed by `Node`.
pub struct Dominators {
    holders: u32,
    /// Vertex of each node: 0 super, 1..=holders, then holders + 1 + object id.
    vertex: Vec<u32>,
    idom: Vec<u32>,
    retained: Vec<u64>,
    /// Node of each vertex, `NONE` if not reached.
    node_of: Vec<u32>,
    /// Children of node n: `child[child_row[n]..child_row[n+1]]`, built on first use.
    children: std::sync::OnceLock<(Vec<u32>, Vec<u32>)>,
}

const NONE: u32 = u32::MAX;

/// The whole graph has more vertices than 32-bit ids can name.
#[derive(Debug, thiserror::Error)]
#[error("the heap has {0} slots: too many for 32-bit ids")]
pub struct TooLarge(pub usize);

/// Successors of every vertex: the super root's holders, holders' holders and roots, objects' edges.
struct Successors<'g> {
    graph: &'g Graph,
    base: u32,
    row: Vec<u32>,
    target: Vec<u32>,
}

impl<'g> Successors<'g> {
    fn new(graph: &'g Graph, tree: &HolderTree) -> Self {
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
    fn range(&self, vertex: u32) -> std::ops::Range<u32> {
        if vertex < self.base {
            self.row[vertex as usize]..self.row[vertex as usize + 1]
        } else {
            let edges = self.graph.edges(ObjectId(vertex - self.base));
            edges.start as u32..edges.end as u32
        }
    }

    /// The successor at place `i` of the range of `vertex`.
    fn at(&self, vertex: u32, i: u32) -> u32 {
        if vertex < self.base { self.target[i as usize] } else { self.base + self.graph.target.get(i as usize).0 }
    }
}

impl Dominators {
    /// Computes the tree. `size[id]` of an object in bytes comes from `size_of`, called once for each reached object.
    pub fn compute(
        graph: &Graph,
        tree: &HolderTree,
        size_of: impl Fn(ObjectId) -> u64 + Sync,
    ) -> Result<Self, TooLarge> {
        let succ = Successors::new(graph, tree);
        let slots = graph.slots();
        let total = slots.checked_add(succ.base as usize).filter(|&t| t < NONE as usize).ok_or(TooLarge(slots))?;

        let (vertex, mut parent, node_of) = number(&succ, total);
        let n = vertex.len();
        let preds = Predecessors::new(&succ, &node_of);

        // Semidominators, from the last numbered node up. `parent` turns into the compressed ancestor links.
        let mut idom = parent.clone();
        let mut semi: Vec<u32> = parent.clone();
        let mut label: Vec<u32> = (0..n as u32).collect();
        let mut path = Vec::new();
        for w in (1..n as u32).rev() {
            for &v in preds.of(vertex[w as usize]) {
                let u = eval(v, w + 1, &mut parent, &mut label, &semi, &mut path);
                // A predecessor numbered before w stands for itself.
                let candidate = if v <= w { v } else { semi[u as usize] };
                if candidate < semi[w as usize] {
                    semi[w as usize] = candidate;
                }
            }
        }
        drop((parent, label, preds));
        for w in 1..n {
            let mut d = idom[w];
            while d > semi[w] {
                d = idom[d as usize];
            }
            idom[w] = d;
        }
        drop(semi);

        let size = |v: &u32| v.checked_sub(succ.base).map_or(0, |o| size_of(ObjectId(o)));
        let mut retained: Vec<u64> = vertex.par_iter().with_min_len(1 << 12).map(size).collect();
        for w in (1..n).rev() {
            let bytes = retained[w];
            let d = idom[w] as usize;
            retained[d] = retained[d].saturating_add(bytes);
        }
        Ok(Dominators { holders: succ.base - 1, vertex, idom, retained, node_of, children: std::sync::OnceLock::new() })
    }

    /// The super root.
    pub fn root(&self) -> Node {
        Node(0)
    }

    /// Reached nodes, super root and holders included.
    pub fn len(&self) -> usize {
        self.vertex.len()
    }

    pub fn is_empty(&self) -> bool {
        self.vertex.is_empty()
    }

    pub fn vertex(&self, n: Node) -> Vertex {
        match self.vertex[n.0 as usize] {
            0 => Vertex::Super,
            v if v <= self.holders => Vertex::Holder(v - 1),
            v => Vertex::Object(ObjectId(v - self.holders - 1)),
        }
    }

    /// The node of an object; `None` if it is not reachable.
    pub fn object(&self, id: ObjectId) -> Option<Node> {
        self.node(id.0.checked_add(self.holders + 1)?)
    }

    pub fn holder(&self, h: u32) -> Option<Node> {
        self.node(h + 1)
    }

    fn node(&self, vertex: u32) -> Option<Node> {
        self.node_of.get(vertex as usize).copied().filter(|&n| n != NONE).map(Node)
    }

    /// Bytes that would be freed without this node.
    pub fn retained(&self, n: Node) -> u64 {
        self.retained[n.0 as usize]
    }

    /// The immediate dominator; the super root is its own.
    pub fn parent(&self, n: Node) -> Node {
        Node(self.idom[n.0 as usize])
    }

    /// Dominators of `n` from its immediate one up to the super root.
    pub fn chain(&self, n: Node) -> impl Iterator<Item = Node> + '_ {
        std::iter::successors((n.0 != 0).then(|| self.parent(n)), |&d| (d.0 != 0).then(|| self.parent(d)))
    }

    /// Nodes whose immediate dominator is `n`.
    pub fn children(&self, n: Node) -> impl Iterator<Item = Node> + '_ {
        let (row, child) = self.children.get_or_init(|| self.build_children());
        child[row[n.0 as usize] as usize..row[n.0 as usize + 1] as usize].iter().map(|&c| Node(c))
    }

    fn build_children(&self) -> (Vec<u32>, Vec<u32>) {
        let n = self.idom.len();
        let mut row = vec![0u32; n + 1];
        for &d in &self.idom[1..] {
            row[d as usize + 1] += 1;
        }
        for i in 1..row.len() {
            row[i] += row[i - 1];
        }
        let mut next = row.clone();
        let mut child = vec![0u32; n - 1];
        for (w, &d) in self.idom.iter().enumerate().skip(1) {
            child[next[d as usize] as usize] = w as u32;
            next[d as usize] += 1;
        }
        (row, child)
    }

    /// Number of objects below or at each node, as a vector indexed by node number.
    pub fn retained_objects(&self) -> Vec<u32> {
        let mut count: Vec<u32> = self.vertex.iter().map(|&v| u32::from(v > self.holders)).collect();
        for w in (1..count.len()).rev() {
            count[self.idom[w] as usize] += count[w];
        }
        count
    }

    /// Memory the tree holds itself.
    pub fn memory_bytes(&self) -> usize {
        self.vertex.len() * (2 * size_of::<u32>() + size_of::<u64>()) + self.node_of.len() * size_of::<u32>()
    }
}

/// Depth-first preorder numbers: (vertex of each node, tree parent of each node, node of each vertex).
fn number(succ: &Successors, total: usize) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let mut node_of = vec![NONE; total];
    let mut vertex = vec![0u32];
    let mut parent = vec![0u32];
    node_of[0] = 0;
    // (vertex, its successors still to visit)
    let first = succ.range(0);
    let mut stack: Vec<(u32, u32, u32)> = vec![(0, first.start, first.end)];
    while let Some(top) = stack.last_mut() {
        let (v, i, end) = *top;
        if i >= end {
            stack.pop();
            continue;
        }
        top.1 += 1;
        let w = succ.at(v, i);
        let Some(slot) = node_of.get_mut(w as usize) else { continue };
        if *slot != NONE {
            continue;
        }
        *slot = vertex.len() as u32;
        vertex.push(w);
        parent.push(node_of[v as usize]);
        let next = succ.range(w);
        if !next.is_empty() {
            stack.push((w, next.start, next.end));
        }
    }
    (vertex, parent, node_of)
}

/// Calls `f` with the node of the source and the vertex of the target of every edge from a reached vertex. Sources come in the order
/// of their ids: rows and edges are read one after the other.
fn each(succ: &Successors, node_of: &[u32], mut f: impl FnMut(u32, u32)) {
    for (v, &node) in node_of.iter().enumerate().filter(|n| *n.1 != NONE) {
        succ.range(v as u32).for_each(|i| f(node, succ.at(v as u32, i)));
    }
}

/// Predecessors (as nodes) of the vertices that have more than one incoming edge, in parts by vertex.
struct Predecessors {
    /// Vertices of a part.
    each: u32,
    parts: Vec<Part>,
}

/// The lists of some vertices.
struct Part {
    first: u32,
    /// Bit per vertex, from the first on: has a list.
    many: Bitmap,
    /// Rank directory over `many`: lists are numbered in the order of vertices.
    rank: Vec<u32>,
    row: Vec<u32>,
    pred: Vec<u32>,
}

impl Predecessors {
    /// Each core makes the lists of its own part of the vertices, and reads all edges for that: reading them in order is cheap, while
    /// cores that write to the same lists wait for each other.
    fn new(succ: &Successors, node_of: &[u32]) -> Self {
        const MAX_PARTS: usize = 8;
        let n = node_of.len();
        let parts = rayon::current_num_threads().clamp(1, MAX_PARTS);
        let each = n.div_ceil(parts).max(1);
        let parts = (0..parts)
            .into_par_iter()
            .map(|i| Part::new(succ, node_of, (i * each).min(n)..((i + 1) * each).min(n)))
            .collect();
        Predecessors { each: each as u32, parts }
    }

    fn of(&self, vertex: u32) -> &[u32] {
        self.parts.get((vertex / self.each) as usize).map_or(&[], |p| p.of(vertex - p.first))
    }
}

impl Part {
    fn new(succ: &Successors, node_of: &[u32], own: std::ops::Range<usize>) -> Part {
        let (first, n) = (own.start as u32, own.len());
        let mut once = Bitmap::new(n);
        let mut many = Bitmap::new(n);
        each(succ, node_of, |_, to| {
            let to = to.wrapping_sub(first) as usize;
            if to < n && !once.insert(to) {
                many.set(to);
            }
        });
        drop(once);
        let mut rank = Vec::with_capacity(many.words().len());
        let mut lists = 0u32;
        for w in many.words() {
            rank.push(lists);
            lists += w.count_ones();
        }
        let mut this = Part { first, many, rank, row: Vec::new(), pred: Vec::new() };
        let mut row = vec![0; lists as usize + 1];
        each(succ, node_of, |_, to| {
            if let Some(list) = this.list(to.wrapping_sub(first)) {
                row[list] += 1;
            }
        });
        // Ends of the lists: they are filled from behind, and then `row` is where each begins.
        let mut end = 0;
        for r in &mut row {
            end += *r;
            *r = end;
        }
        let mut pred = vec![0; end as usize];
        each(succ, node_of, |from, to| {
            if let Some(list) = this.list(to.wrapping_sub(first)) {
                row[list] -= 1;
                pred[row[list] as usize] = from;
            }
        });
        this.row = row;
        this.pred = pred;
        this
    }

    /// `vertex`: from the first of the part on.
    #[inline]
    fn list(&self, vertex: u32) -> Option<usize> {
        let (word, bit) = (vertex as usize / 64, vertex % 64);
        let bits = *self.many.words().get(word)?;
        (bits >> bit & 1 == 1).then(|| (self.rank[word] + (bits & ((1 << bit) - 1)).count_ones()) as usize)
    }

    fn of(&self, vertex: u32) -> &[u32] {
        match self.list(vertex) {
            Some(i) => &self.pred[self.row[i] as usize..self.row[i + 1] as usize],
            None => &[],
        }
    }
}

/// The node of least semidominator on the linked part of the tree path above `v`, with path compression.
fn eval(v: u32, linked: u32, ancestor: &mut [u32], label: &mut [u32], semi: &[u32], path: &mut Vec<u32>) -> u32 {
    if ancestor[v as usize] < linked {
        return label[v as usize];
    }
    path.clear();
    let mut u = v;
    while ancestor[u as usize] >= linked {
        path.push(u);
        u = ancestor[u as usize];
    }
    // `u` is the topmost linked node; compress from the top down.
    let top = ancestor[u as usize];
    let mut best = label[u as usize];
    while let Some(x) = path.pop() {
        ancestor[x as usize] = top;
        if semi[best as usize] < semi[label[x as usize] as usize] {
            label[x as usize] = best;
        } else {
            best = label[x as usize];
        }
    }
    label[v as usize]
}

#[cfg(test)]
mod tests;
