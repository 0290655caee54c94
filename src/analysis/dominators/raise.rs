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
    GRAIN,
    walk::{Successors, Walk},
};
use crate::{base::Bitmap, base::bitmap::AtomicBitmap, os::memory::large};

/// Steps up the tree that one edge may cost. If they do not do, the node is raised as far as they led, and all above it counts as open.
const STEPS: u32 = 8;
/// Each costs as much as semi-NCA for a few nodes.
const MAX_ROUNDS: usize = 4;
/// Edges that are looked at together: what they ask of memory is then fetched side by side.
const BATCH: usize = 64;

/// A node, by its number in the walk; 16 bytes, so that a step up the tree touches one cache line.
pub struct Place {
    pub parent: u32,
    /// Number in preorder of the tree.
    pub pre: u32,
    /// Nodes below this one: they directly follow it in preorder.
    pub below: u32,
    /// The topmost nearest common ancestor that an edge to this node asks for, by its number in the walk.
    top: AtomicU32,
}

/// The tree of a round.
pub struct Tree {
    pub places: Vec<Place>,
    /// Nodes that are not shut.
    pub open: Bitmap,
    /// Children of open nodes: they may have to be raised further. The parents of all others are their immediate dominators.
    pub unsure: usize,
}

impl Tree {
    pub fn new(succ: &Successors, walk: &Walk) -> Tree {
        let n = walk.parent.len();
        let mut places = large(n);
        let place = |w: usize| {
            let parent = walk.parent[w];
            Place { parent, pre: w as u32, below: 0, top: AtomicU32::new(parent) }
        };
        places.par_extend((0..n).into_par_iter().with_min_len(GRAIN).map(place));
        let mut tree = Tree { places, open: Bitmap::default(), unsure: n };
        tree.count_below();
        tree.look(succ, walk);
        for _ in 1..MAX_ROUNDS {
            // Few are left, or it goes on too slowly.
            let before = tree.unsure;
            if before <= n / 64 {
                break;
            }
            tree.raise();
            tree.look(succ, walk);
            if tree.unsure > before / 4 * 3 {
                break;
            }
        }
        tree
    }

    /// `v` is `node` or below it.
    #[inline]
    pub fn contains(&self, node: u32, v: u32) -> bool {
        let at = &self.places[node as usize];
        self.places[v as usize].pre.wrapping_sub(at.pre) <= at.below
    }

    /// The nearest node from `from` upward that contains `v`; after too many steps where they led (`Err`).
    #[inline]
    pub fn common(&self, from: u32, v: u32) -> Result<u32, u32> {
        let pre = self.places[v as usize].pre;
        let mut node = from;
        for _ in 0..STEPS {
            let at = &self.places[node as usize];
            if pre.wrapping_sub(at.pre) <= at.below {
                return Ok(node);
            }
            node = at.parent;
        }
        Err(node)
    }

    fn count_below(&mut self) {
        self.places.par_iter_mut().with_min_len(GRAIN).for_each(|p| p.below = 0);
        for w in (1..self.places.len()).rev() {
            let Place { parent, below, .. } = self.places[w];
            self.places[parent as usize].below += below + 1;
        }
    }

    /// Hangs all nodes where their edges ask for.
    fn raise(&mut self) {
        self.places.par_iter_mut().with_min_len(GRAIN).for_each(|p| p.parent = *p.top.get_mut());
        self.number();
    }

    /// Hangs every node below its immediate dominator.
    pub fn settle(&mut self, idom: &[u32]) {
        self.places.par_iter_mut().zip(idom).with_min_len(GRAIN).for_each(|(p, &d)| p.parent = d);
        self.number();
    }

    /// Numbers the tree in preorder. Children keep their order.
    fn number(&mut self) {
        self.count_below();
        // At first: where the next child goes.
        self.places.par_iter_mut().with_min_len(GRAIN).for_each(|p| p.pre = 1);
        for w in 1..self.places.len() {
            let Place { parent, below, .. } = self.places[w];
            let next = &mut self.places[parent as usize].pre;
            let own = *next;
            *next += below + 1;
            self.places[w].pre = own + 1;
        }
        self.places.par_iter_mut().with_min_len(GRAIN).for_each(|p| p.pre -= p.below + 1);
    }

    /// Notes what edges (source, vertex of the target) ask for; `far`: targets for which the way was too long.
    fn raise_targets(&self, edges: &mut [(u32, u32)], walk: &Walk, far: &AtomicBitmap) {
        for (_, to) in edges.iter_mut() {
            *to = walk.node_of.get(*to as usize).copied().unwrap_or(0);
        }
        let mut parents = [0; BATCH];
        for (parent, (_, y)) in parents.iter_mut().zip(edges.iter()) {
            *parent = self.places.get(*y as usize).map_or(0, |at| at.parent);
        }
        for (&mut (v, y), &parent) in edges.iter_mut().zip(&parents).filter(|((v, _), parent)| v != *parent) {
            let above = match self.common(parent, v) {
                Ok(above) => above,
                Err(above) => {
                    far.insert(y as usize);
                    above
                }
            };
            let top = &self.places[y as usize].top;
            if above < top.load(Relaxed) {
                top.fetch_min(above, Relaxed);
            }
        }
    }

    /// Looks at every edge: where it would raise its target to, and which nodes are open.
    fn look(&mut self, succ: &Successors, walk: &Walk) {
        let n = self.places.len();
        let far = AtomicBitmap::new(n);
        succ.pieces().into_par_iter().for_each(|piece| {
            let mut batch = [(0, 0); BATCH];
            let mut len = 0;
            succ.each(piece, &walk.node_of, |v, to| {
                batch[len] = (v, to);
                len += 1;
                if len == BATCH {
                    self.raise_targets(&mut batch, walk, &far);
                    len = 0;
                }
            });
            self.raise_targets(&mut batch[..len], walk, &far);
        });
        let far = far.into_bitmap();
        // The topmost node from which an edge leads to what is below each; itself if none does.
        let mut from: Vec<u32> = large(n);
        from.extend(0..n as u32);
        let mut open = Bitmap::new(n);
        for w in (1..n).rev() {
            let at = &mut self.places[w];
            let own = if far.get(w) { 0 } else { *at.top.get_mut() };
            if from[w] < w as u32 {
                open.set(w);
            }
            let least = own.min(from[w]);
            let above = &mut from[at.parent as usize];
            *above = least.min(*above);
        }
        let unsure = self.places.par_iter().with_min_len(GRAIN).skip(1).filter(|p| open.get(p.parent as usize)).count();
        (self.open, self.unsure) = (open, unsure);
    }
}
