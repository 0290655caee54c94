//! Which nodes of a walk dominate all that lies below them in its tree.
//!
//! An edge from `v` to `y` leads into the subtrees of all ancestors of `y` that do not contain `v`. A node whose subtree no such
//! edge enters (but at the node itself) is on every path to what is below it: it is called shut here, the others open. A
//! child of a shut node is immediately dominated by it, as dominators are ancestors.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::{
    atomics,
    walk::{Successors, Walk},
};
use crate::base::Bitmap;

/// Steps up the tree that an edge may cost. If they do not do, the edge counts as one from the super root: nodes are
/// then taken for open that need not be, and only cost more work.
pub const STEPS: u32 = 64;

/// The open nodes; and an array that is no longer needed. Cost: one look at each edge, on all cores.
pub fn open(succ: &Successors, walk: &Walk) -> (Bitmap, Vec<AtomicU32>) {
    // The topmost node from which an edge enters the subtree below each; itself if none does.
    let n = walk.vertex.len();
    let mut from = atomics(n, |w| w);
    succ.pieces().into_par_iter().for_each(|piece| {
        succ.each(piece, &walk.node_of, |v, to| {
            let Some(&y) = walk.node_of.get(to as usize) else { return };
            let Some(&parent) = walk.parent.get(y as usize) else { return };
            if walk.contains(parent, v) {
                return;
            }
            let above = walk.common(walk.parent[parent as usize], v, STEPS).unwrap_or(0);
            let slot = &from[parent as usize];
            if above < slot.load(Relaxed) {
                slot.fetch_min(above, Relaxed);
            }
        });
    });
    let mut open = Bitmap::new(n);
    for w in (1..n).rev() {
        let above = *from[w].get_mut();
        if above < w as u32 {
            open.set(w);
            let parent = from[walk.parent[w] as usize].get_mut();
            *parent = above.min(*parent);
        }
    }
    (open, from)
}
