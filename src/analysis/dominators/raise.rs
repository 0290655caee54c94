//! A tree in which dominators are ancestors, brought nearer to the dominator tree in rounds on all cores.
//!
//! It begins as the tree of the walk. Whatever dominates a node dominates the sources of all edges to it, or is such a source: so it is an
//! ancestor of all of them, and the node may hang below their nearest common ancestor. All nodes are raised so at once,
//! from the tree of the round before. That keeps the two properties from which it is right: all dominators of a node are its
//! ancestors, and from the parent of a node a path leads to it that meets no ancestor of that parent. (So what dominates the
//! node and lies above the new parent dominates that parent as well.)
//!
//! A node is shut if no edge from outside leads to what lies below it in the tree: then it dominates all of that, and
//! immediately its children, as their dominators are their ancestors. Most of a heap is shut from the first or second round on.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::{
    GRAIN, NONE, semi,
    walk::{Successors, Walk},
};
use crate::{
    base::{Bitmap, bitmap::AtomicBitmap},
    os::memory::{atomic, large, plain},
};

/// Steps up the tree that one edge may cost. If they do not do, the node is raised as far as they led, and all above it counts as open.
const STEPS: u32 = 8;
/// Each costs as much as semi-NCA for a few nodes.
const MAX_ROUNDS: usize = 4;
/// Edges that are looked at together: what they ask of memory is then fetched side by side.
const BATCH: usize = 64;

/// A node, by its number in the walk; 16 bytes, so that a step up the tree touches one cache line.
pub struct Place {
    pub parent: u32,
    /// Nodes below this one: they directly follow it in preorder.
    pub below: u32,
    /// Number in preorder of the first node after those.
    end: u32,
    /// The topmost nearest common ancestor that an edge to this node asks for, by its number in the walk.
    top: AtomicU32,
}

impl Place {
    /// Number in preorder of the tree.
    #[inline]
    pub fn node(&self) -> u32 {
        self.end - 1 - self.below
    }
}

/// The tree of a round.
pub struct Tree {
    places: Vec<Place>,
    /// Nodes that are not shut.
    pub open: Bitmap,
    /// Children of open nodes: they may have to be raised further. The parents of all others are their immediate dominators.
    pub unsure: usize,
    /// Nodes that were raised, and what was below them.
    moved: Bitmap,
    /// Targets that were not raised far enough, as the way was too long.
    far: AtomicBitmap,
    /// The topmost node from which an edge leads to what is below each; itself if none does. Used again and again, since fresh
    /// memory is dear.
    from: Vec<u32>,
}

impl Tree {
    pub fn new(succ: &Successors, walk: &Walk) -> Tree {
        let n = walk.parent.len();
        let mut places = large(n);
        let place = |w: usize| {
            let parent = walk.parent[w];
            Place { parent, below: 0, end: w as u32 + 1, top: AtomicU32::new(parent) }
        };
        places.par_extend((0..n).into_par_iter().with_min_len(GRAIN).map(place));
        for w in (1..n).rev() {
            let Place { parent, below, ref mut end, .. } = places[w];
            *end += below;
            places[parent as usize].below += below + 1;
        }
        places[0].end = n as u32;
        let mut tree = Tree {
            places,
            open: Bitmap::default(),
            unsure: n,
            moved: Bitmap::default(),
            far: AtomicBitmap::new(n),
            from: large(n),
        };
        tracing::debug!("dominators, tree of the walk");
        tree.look_at_all::<true>(succ, walk);
        tracing::debug!("dominators, looked at all edges");
        tree.find_open();
        tracing::debug!(nodes = n, unsure = tree.unsure, "dominators, first round");
        for _ in 1..MAX_ROUNDS {
            // Few are left, or it goes on too slowly.
            let before = tree.unsure;
            if before <= n / 64 {
                break;
            }
            tree.raise();
            // What an edge asks for is satisfied as long as the ancestors of its source stay.
            let moved = tree.moved.count_ones();
            if moved < n / 8 && tree.far.is_clear() {
                tree.look_at_moved(succ, walk);
            } else {
                tree.far = AtomicBitmap::new(n);
                tree.look_at_all::<false>(succ, walk);
            }
            tree.find_open();
            tracing::debug!(moved, unsure = tree.unsure, "dominators, another round");
            if tree.unsure > before / 4 * 3 {
                break;
            }
        }
        tree
    }

    /// The nearest node from `from` upward that contains `v` (is it or is above it); after too many steps where they led (`Err`).
    #[inline]
    pub fn common(&self, from: u32, v: u32) -> Result<u32, u32> {
        self.containing(from, self.places[v as usize].node())
    }

    /// The same for a node by its number in preorder.
    #[inline]
    fn containing(&self, from: u32, number: u32) -> Result<u32, u32> {
        let mut node = from;
        for _ in 0..STEPS {
            let at = &self.places[node as usize];
            if number.wrapping_sub(at.node()) <= at.below {
                return Ok(node);
            }
            node = at.parent;
        }
        Err(node)
    }

    /// Has semi-NCA settle what is unsure, and hangs every node below its immediate dominator.
    pub fn settle(&mut self, succ: &Successors, walk: &Walk) {
        let room = std::mem::take(&mut self.from);
        let idom = semi::immediate(succ, walk, self, room);
        tracing::debug!("dominators, semi-NCA done");
        self.places.par_iter_mut().zip(&idom).with_min_len(GRAIN).for_each(|(p, &d)| *p.top.get_mut() = d);
        self.from = idom;
        self.raise();
    }

    #[inline]
    pub fn parent(&self, w: u32) -> u32 {
        self.places[w as usize].parent
    }

    /// By number in preorder of the tree: (vertex of each node, parent, nodes below it). `node_of` turns from numbers of the walk
    /// into those. No memory is taken for it: arrays that have had their time are written anew.
    pub fn number(self, walk: Walk) -> (Vec<u32>, Vec<u32>, Vec<u32>, Vec<u32>) {
        let Tree { places, from, .. } = self;
        let Walk { vertex: old, parent, mut node_of } = walk;
        let node = |w: u32| places[w as usize].node();
        let all = || (0..places.len() as u32).into_par_iter().with_min_len(GRAIN);
        let (vertex, parent) = (atomic(from), atomic(parent));
        all().for_each(|w| {
            let at = node(w) as usize;
            vertex[at].store(old[w as usize], Relaxed);
            parent[at].store(node(places[w as usize].parent), Relaxed);
        });
        let below = atomic(old);
        all().for_each(|w| below[node(w) as usize].store(places[w as usize].below, Relaxed));
        node_of.par_iter_mut().with_min_len(GRAIN).filter(|w| **w != NONE).for_each(|w| *w = node(*w));
        (plain(vertex), plain(parent), plain(below), node_of)
    }

    /// Hangs all nodes where their edges ask for, and numbers the tree in preorder. Children keep their order.
    fn raise(&mut self) {
        let n = self.places.len();
        // `end`: where the next child goes; when all have come, it is what it is called.
        self.places.par_iter_mut().with_min_len(GRAIN).for_each(|p| (p.below, p.end) = (0, 1));
        for w in (1..n).rev() {
            let Place { below, ref mut top, .. } = self.places[w];
            let parent = *top.get_mut();
            self.places[parent as usize].below += below + 1;
        }
        let mut moved = Bitmap::new(n);
        for w in 1..n {
            let Place { below, parent: old, ref mut top, .. } = self.places[w];
            let parent = *top.get_mut();
            let next = &mut self.places[parent as usize].end;
            let own = *next;
            *next += below + 1;
            let at = &mut self.places[w];
            (at.end, at.parent) = (own + 1, parent);
            if old != parent || moved.get(parent as usize) {
                moved.set(w);
            }
        }
        self.moved = moved;
    }

    /// Looks at every edge: where it would raise its target to. `FIRST`: the tree still is that of the walk.
    fn look_at_all<const FIRST: bool>(&self, succ: &Successors, walk: &Walk) {
        succ.pieces().into_par_iter().for_each(|piece| {
            let mut batch = Batch::<FIRST>::new(self, walk);
            succ.each(piece, &walk.node_of, |v, to| batch.push(v, to));
            batch.finish();
        });
    }

    /// Looks at the edges of nodes that were moved.
    fn look_at_moved(&self, succ: &Successors, walk: &Walk) {
        let words: Vec<usize> = (0..self.moved.words().len()).filter(|&i| self.moved.words()[i] != 0).collect();
        words.par_chunks(64).for_each(|words| {
            let mut batch = Batch::<false>::new(self, walk);
            for w in words.iter().flat_map(|&i| 64 * i..64 * i + 64).filter(|&w| self.moved.get(w)) {
                succ.each_of(walk.vertex[w], |to| batch.push(w as u32, to));
            }
            batch.finish();
        });
    }

    /// Which nodes are open: one pass from the last node up.
    fn find_open(&mut self) {
        let n = self.places.len();
        let from = &mut self.from;
        from.clear();
        from.par_extend((0..n as u32).into_par_iter().with_min_len(GRAIN));
        let mut open = Bitmap::new(n);
        for w in (1..n).rev() {
            let at = &mut self.places[w];
            let own = if self.far.get(w) { 0 } else { *at.top.get_mut() };
            let below = from[w];
            if below < w as u32 {
                open.set(w);
            }
            let least = own.min(below);
            if least < at.parent {
                let above = &mut from[at.parent as usize];
                *above = least.min(*above);
            }
        }
        let unsure = self.places.par_iter().with_min_len(GRAIN).skip(1).filter(|p| open.get(p.parent as usize)).count();
        (self.open, self.unsure) = (open, unsure);
    }
}

/// Edges (source, vertex of the target) that are looked at together: what they ask of memory is fetched side by side. In the
/// tree of the walk (`FIRST`) numbers in preorder are those of the walk, so that most edges need no look at `places`.
struct Batch<'a, const FIRST: bool> {
    tree: &'a Tree,
    walk: &'a Walk,
    edges: [(u32, u32); BATCH],
    len: usize,
}

impl<'a, const FIRST: bool> Batch<'a, FIRST> {
    fn new(tree: &'a Tree, walk: &'a Walk) -> Self {
        Batch { tree, walk, edges: [(0, 0); BATCH], len: 0 }
    }

    #[inline]
    fn push(&mut self, v: u32, to: u32) {
        self.edges[self.len] = (v, to);
        self.len += 1;
        if self.len == BATCH {
            self.finish();
        }
    }

    /// Notes what the edges ask for.
    fn finish(&mut self) {
        let places = &self.tree.places;
        let edges = &mut self.edges[..self.len];
        for (_, to) in edges.iter_mut() {
            *to = self.walk.node_of.get(*to as usize).copied().unwrap_or(0);
        }
        let mut parents = [0; BATCH];
        for (parent, &(_, y)) in parents.iter_mut().zip(edges.iter()) {
            *parent = match FIRST {
                true => self.walk.parent.get(y as usize).copied(),
                false => places.get(y as usize).map(|at| at.parent),
            }
            .unwrap_or(0);
        }
        for (&mut (v, y), &parent) in edges.iter_mut().zip(&parents).filter(|((v, _), parent)| v != *parent) {
            let above = if FIRST { self.tree.containing(parent, v) } else { self.tree.common(parent, v) };
            let above = match above {
                Ok(above) if above == parent => continue,
                Ok(above) => above,
                Err(above) => {
                    self.tree.far.insert(y as usize);
                    above
                }
            };
            let top = &places[y as usize].top;
            if above < top.load(Relaxed) {
                top.fetch_min(above, Relaxed);
            }
        }
        self.len = 0;
    }
}
