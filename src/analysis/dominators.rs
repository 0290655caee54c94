//! Dominator tree and retained sizes, exact, over all roots.
//!
//! Object `d` dominates `o` if every path from the roots to `o` passes `d`; the nearest such `d` is `o`'s immediate
//! dominator. The retained size of `d` is what would become garbage if `d` went away: its own bytes and those of
//! everything it dominates.
//!
//! The graph is: super root -> holders (a global, a goroutine with its frames below it, ...) -> objects -> objects. With
//! holders as nodes of their own, the retained size of a global or of a goroutine falls out of the same tree.
//!
//! Algorithm: a depth-first walk gives a tree in which dominators are ancestors (`walk`). In rounds on all cores nodes are
//! raised in it to the nearest common ancestor of where their edges come from, until for most it is certain that they hang below their
//! immediate dominator (`raise`). For the rest semi-NCA (Georgiadis: "Linear-Time Algorithms for Dominators and
//! Related Problems", 2005), with reverse edges only where the tree does not already say what an edge adds (`semi`).
//!
//! In the end nodes are numbered in preorder of the dominator tree: what a node dominates follows it, its retained bytes are
//! the difference of two sums, and its children need no lists.
//!
//! Cost: one walk on one core, one to six passes over the edges on all cores, two to twelve over the reached vertices. 20 bytes a
//! reached object and 4 a slot are kept.

use std::{mem::size_of, ops::Range, sync::atomic::AtomicU32};

use rayon::prelude::*;

use crate::{base::ObjectId, graph::Graph, os::memory::large};

mod raise;
mod semi;
mod walk;

use raise::Tree;
use walk::{Successors, Walk};

/// A node of the dominator tree, in preorder: 0 is the super root, and all that a node dominates directly follows it.
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
    parent: Vec<u32>,
    /// How many nodes each one dominates, itself not counted.
    below: Vec<u32>,
    /// Bytes of all nodes before each one; at the end of all.
    before: Vec<u64>,
    /// Node of each vertex, `NONE` if not reached.
    node_of: Vec<u32>,
    /// Nodes that are holders, ascending.
    holder_nodes: Vec<u32>,
}

const NONE: u32 = u32::MAX;

/// The whole graph has more vertices than 32-bit ids can name.
#[derive(Debug, thiserror::Error)]
#[error("the heap has {0} slots: too many for 32-bit ids")]
pub struct TooLarge(pub usize);

impl Dominators {
    /// Computes the tree. The size of an object in bytes comes from `size_of`, called once for each reached object.
    pub fn compute(
        graph: &Graph,
        tree: &HolderTree,
        size_of: impl Fn(ObjectId) -> u64 + Sync,
    ) -> Result<Self, TooLarge> {
        let succ = Successors::new(graph, tree);
        let slots = graph.slots();
        let total = slots.checked_add(succ.base as usize).filter(|&t| t < NONE as usize).ok_or(TooLarge(slots))?;

        let walk = Walk::new(&succ, total);
        tracing::debug!(nodes = walk.vertex.len(), "dominators, walked");
        let mut raised = Tree::new(&succ, &walk);
        if raised.unsure > 0 {
            raised.settle(&succ, &walk);
        }
        tracing::debug!("dominators, settled");
        let (vertex, parent, below, node_of) = raised.number(walk);
        tracing::debug!("dominators, numbered");
        let size = |&v: &u32| v.checked_sub(succ.base).map_or(0, |o| size_of(ObjectId(o)));
        let before = sums(&vertex, size);
        let mut holder_nodes: Vec<u32> = (1..succ.base).map(|v| node_of[v as usize]).filter(|&n| n != NONE).collect();
        tracing::debug!("dominators, summed");
        holder_nodes.sort_unstable();
        Ok(Dominators { holders: succ.base - 1, vertex, parent, below, before, node_of, holder_nodes })
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
        self.before[self.end(n) as usize].saturating_sub(self.before[n.0 as usize])
    }

    /// Bytes of the node alone; a holder has none.
    pub fn own_bytes(&self, n: Node) -> u64 {
        self.before[n.0 as usize + 1].saturating_sub(self.before[n.0 as usize])
    }

    /// Objects that would be freed without this node, itself included. Cost for a holder: a search among the holders.
    pub fn retained_objects(&self, n: Node) -> u64 {
        if self.vertex[n.0 as usize] > self.holders {
            return u64::from(self.below(n)) + 1;
        }
        let holders = |end: u32| self.holder_nodes.partition_point(|&h| h < end);
        let not = usize::from(n.0 == 0) + holders(self.end(n)) - holders(n.0);
        u64::from(self.end(n) - n.0) - not as u64
    }

    /// The first node after `n` that `n` does not dominate.
    fn end(&self, n: Node) -> u32 {
        n.0 + 1 + self.below[n.0 as usize]
    }

    /// The immediate dominator; the super root is its own.
    pub fn parent(&self, n: Node) -> Node {
        Node(self.parent[n.0 as usize])
    }

    /// Dominators of `n` from its immediate one up to the super root.
    pub fn chain(&self, n: Node) -> impl Iterator<Item = Node> + '_ {
        std::iter::successors((n.0 != 0).then(|| self.parent(n)), |&d| (d.0 != 0).then(|| self.parent(d)))
    }

    /// Nodes whose immediate dominator is `n`.
    pub fn children(&self, n: Node) -> impl Iterator<Item = Node> + '_ {
        self.children_from(n, 0..u32::MAX)
    }

    /// All nodes that `n` dominates, as a number: `children_from` takes parts of it.
    pub fn below(&self, n: Node) -> u32 {
        self.below[n.0 as usize]
    }

    /// The children of `n` that are among the nodes in this part of those it dominates. Cost: the nodes from the start of the part
    /// to the first child, then one step a child.
    pub fn children_from(&self, n: Node, part: Range<u32>) -> impl Iterator<Item = Node> + '_ {
        let end = n.0 + 1 + part.end.min(self.below(n));
        let mut at = n.0 + 1 + part.start.min(self.below(n));
        while at < end && self.parent[at as usize] != n.0 {
            at += 1;
        }
        std::iter::from_fn(move || {
            let child = (at < end).then_some(Node(at))?;
            at = self.end(child);
            Some(child)
        })
    }

    /// Memory the tree holds itself.
    pub fn memory_bytes(&self) -> usize {
        self.vertex.len() * (3 * size_of::<u32>() + size_of::<u64>()) + self.node_of.len() * size_of::<u32>()
    }
}

/// Elements of an array that one task takes.
const GRAIN: usize = 1 << 14;

fn atomics(n: usize, value: impl Fn(u32) -> u32 + Sync) -> Vec<AtomicU32> {
    let mut out = large(n);
    out.par_extend((0..n).into_par_iter().with_min_len(GRAIN).map(|i| AtomicU32::new(value(i as u32))));
    out
}

/// Running sums of `size` over `of`, from 0 to the sum of all.
fn sums(of: &[u32], size: impl Fn(&u32) -> u64 + Sync) -> Vec<u64> {
    let mut out: Vec<u64> = large(of.len() + 1);
    out.push(0);
    out.par_extend(of.par_iter().with_min_len(GRAIN).map(&size));
    // Each part by itself, then with what came before it.
    let add = |part: &mut [u64], before: u64| {
        part.iter_mut().fold(before, |sum, x| {
            *x = x.saturating_add(sum);
            *x
        })
    };
    let mut ends: Vec<u64> =
        out.par_chunks(GRAIN).map(|part| part.iter().fold(0, |a: u64, &b| a.saturating_add(b))).collect();
    add(&mut ends, 0);
    out.par_chunks_mut(GRAIN).enumerate().for_each(|(i, part)| {
        add(part, if i == 0 { 0 } else { ends[i - 1] });
    });
    out
}

#[cfg(test)]
pub(super) mod tests;
