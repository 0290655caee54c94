//! What the rounds have left: immediate dominators of the children of open nodes, by semi-NCA.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::{
    GRAIN, atomics,
    raise::Tree,
    walk::{Successors, Walk},
};
use crate::{
    base::{Bitmap, bitmap::AtomicBitmap},
    os::memory::{atomic, plain},
};

/// Immediate dominators by semi-NCA, which knows those of most nodes from the tree: they stand for the semidominators of these nodes. (What is
/// computed then lies between the immediate dominator and the semidominator of each node, and that does.)
/// `room` is overwritten.
pub fn immediate(succ: &Successors, walk: &Walk, tree: &Tree, room: Vec<u32>) -> Vec<u32> {
    let n = walk.vertex.len();
    let asked = AtomicBitmap::new(walk.node_of.len());
    let ask = |w: &usize| tree.open.get(tree.parent(*w as u32) as usize);
    let asking: Vec<usize> = (1..n).into_par_iter().with_min_len(GRAIN).filter(ask).collect();
    asking.par_iter().with_min_len(GRAIN).for_each(|&w| _ = asked.insert(walk.vertex[w] as usize));
    let asked = Ranks::new(asked.into_bitmap());
    let mut semi = room;
    semi.clear();
    semi.par_extend((0..n as u32).into_par_iter().with_min_len(GRAIN).map(|w| tree.parent(w)));
    let semi = atomic(semi);
    tracing::debug!(asked = asked.len, "dominators, asked");
    let lists = Lists::new(&Edges { succ, walk, tree, asked: &asked, semi: &semi });
    tracing::debug!(asked = asked.len, edges = lists.pred.len(), "dominators, left to semi-NCA");
    let mut semi = plain(semi);
    if !lists.pred.is_empty() {
        evaluate(walk, &asking, &asked, &lists, &mut semi);
    }
    drop(lists);
    nearest(walk, &asking, &mut semi);
    semi
}

/// Turns semidominators of `asking`, ascending, into immediate dominators: of the nodes that dominate the parent in the walk's tree, the
/// nearest that is not below the semidominator.
fn nearest(walk: &Walk, asking: &[usize], semi: &mut [u32]) {
    // Steps that are taken one by one: most nodes need one or none.
    const FEW: usize = 64;
    let mut jumps: Option<Jumps> = None;
    let mut known = 0;
    for &w in asking {
        let (s, mut d) = (semi[w], walk.parent[w]);
        let mut steps = 0;
        while d > s && steps < FEW && jumps.is_none() {
            d = semi[d as usize];
            steps += 1;
        }
        if d > s {
            let jumps = jumps.get_or_insert_with(Jumps::default);
            semi[known..w].iter().for_each(|&p| jumps.push(p));
            known = w;
            d = jumps.up(d, s, semi);
        }
        semi[w] = d;
    }
}

/// Long steps up a tree that grows, so that a chain as long as the heap (which a ladder of objects makes) is no quadratic
/// search: each node knows its depth and one ancestor far above, chosen so that any ancestor is found in a logarithm of steps (Myers:
/// "An applicative random-access stack", 1983).
#[derive(Default)]
struct Jumps {
    jump: Vec<u32>,
    depth: Vec<u32>,
}

impl Jumps {
    /// Adds the next node.
    fn push(&mut self, parent: u32) {
        if self.jump.is_empty() {
            // The root is its own parent.
            self.jump.push(0);
            self.depth.push(0);
            return;
        }
        let far = self.jump[parent as usize];
        let farther = self.jump[far as usize];
        let depth = |n: u32| self.depth[n as usize];
        let even = depth(parent) - depth(far) == depth(far) - depth(farther);
        let own = depth(parent) + 1;
        self.jump.push(if even { farther } else { parent });
        self.depth.push(own);
    }

    /// The nearest ancestor of `d` with a number of at most `s`.
    fn up(&self, mut d: u32, s: u32, parents: &[u32]) -> u32 {
        while d > s {
            let far = self.jump[d as usize];
            d = if far > s { far } else { parents[d as usize] };
        }
        d
    }
}

/// Numbers of the set bits of a bitmap, in order.
struct Ranks {
    bits: Bitmap,
    /// Set bits before each word.
    before: Vec<u32>,
    len: usize,
}

impl Ranks {
    fn new(bits: Bitmap) -> Ranks {
        let mut len = 0;
        let mut count = |w: &u64| {
            len += w.count_ones();
            len - w.count_ones()
        };
        let before = bits.words().iter().map(&mut count).collect();
        Ranks { bits, before, len: len as usize }
    }

    #[inline]
    fn of(&self, i: u32) -> Option<usize> {
        let (word, bit) = (i as usize / 64, i % 64);
        let bits = *self.bits.words().get(word)?;
        (bits >> bit & 1 == 1).then(|| (self.before[word] + (bits & ((1 << bit) - 1)).count_ones()) as usize)
    }
}

/// The edges to vertices whose dominators are asked for (by vertex), and what most of them add at once.
struct Edges<'a> {
    succ: &'a Successors<'a>,
    walk: &'a Walk,
    tree: &'a Tree,
    asked: &'a Ranks,
    semi: &'a [AtomicU32],
}

impl Edges<'_> {
    /// Calls `f` with the rank of the target and the source of each edge that has to be evaluated. What the others add is put into
    /// `semi`: those from an ancestor, that ancestor; others, the nearest common ancestor in the tree if that is shut: it is
    /// the immediate dominator then, or the target itself, which such an edge does not concern.
    fn each(&self, f: impl Fn(usize, u32) + Sync) {
        let succ = self.succ;
        succ.pieces().into_par_iter().for_each(|piece| {
            succ.each(piece, &self.walk.node_of, |v, to| self.add(v, to, &f));
        });
    }

    /// The same where the targets are few: only of edges to them the source is looked for. Answers with rank and source.
    fn of_few(&self) -> Vec<(u32, u32)> {
        let succ = self.succ;
        // What hangs below the root of all hangs right: something that all share and a root holds has the most edges.
        let least = |to: u32| self.semi[self.walk.node_of[to as usize] as usize].load(Relaxed) == 0;
        let wanted = |to: u32| self.asked.bits.get(to as usize) && !least(to);
        let mut pieces = succ.pieces();
        let mut first = Vec::new();
        if let Some(roots) = pieces.next() {
            succ.each(roots, &self.walk.node_of, |v, to| self.add(v, to, |rank, v| first.push((rank as u32, v))));
        }
        let parts = pieces.into_par_iter().map(|piece| {
            let mut found = Vec::new();
            succ.each_to(piece, &self.walk.node_of, wanted, |v, to| {
                self.add(v, to, |rank, v| found.push((rank as u32, v)));
            });
            found
        });
        first.par_extend(parts.flatten());
        first
    }

    #[inline]
    fn add(&self, v: u32, to: u32, f: impl FnOnce(usize, u32)) {
        let Edges { walk, tree, asked, semi, .. } = self;
        let Some(rank) = asked.of(to) else { return };
        let y = walk.node_of[to as usize];
        let found = match v < y {
            true => Some(v),
            false => tree.common(y, v).ok().filter(|&a| !tree.open.get(a as usize)),
        };
        match found {
            Some(s) if s < semi[y as usize].load(Relaxed) => {
                semi[y as usize].fetch_min(s, Relaxed);
            }
            Some(_) => {}
            None => f(rank, v),
        }
    }
}

/// Sources of edges, by the rank of their target.
struct Lists {
    row: Vec<u32>,
    pred: Vec<u32>,
}

impl Lists {
    fn new(edges: &Edges) -> Lists {
        /// Fewer than one in so many objects.
        const FEW: usize = 64;
        if edges.asked.len < edges.walk.vertex.len() / FEW {
            return Lists::of_few(edges);
        }
        let row = atomics(edges.asked.len + 1, |_| 0);
        edges.each(|rank, _| {
            row[rank].fetch_add(1, Relaxed);
        });
        // Ends of the lists: they are filled from behind, and then `row` is where each begins.
        let mut end = 0;
        for r in &row {
            end += r.load(Relaxed);
            r.store(end, Relaxed);
        }
        let pred = atomics(end as usize, |_| 0);
        if end > 0 {
            edges.each(|rank, v| {
                let at = row[rank].fetch_sub(1, Relaxed) - 1;
                pred[at as usize].store(v, Relaxed);
            });
        }
        Lists { row: plain(row), pred: plain(pred) }
    }

    /// The same from one look at the edges.
    fn of_few(edges: &Edges) -> Lists {
        let mut found = edges.of_few();
        found.par_sort_unstable();
        let row = (0..=edges.asked.len as u32).map(|rank| found.partition_point(|f| f.0 < rank) as u32).collect();
        Lists { row, pred: found.into_iter().map(|f| f.1).collect() }
    }
}

/// Semidominators of `asking` from the edges in the lists, from the last node up.
fn evaluate(walk: &Walk, asking: &[usize], asked: &Ranks, lists: &Lists, semi: &mut [u32]) {
    let mut links = Links::new(walk);
    for w in asking.iter().rev().map(|&w| w as u32) {
        let Some(rank) = asked.of(walk.vertex[w as usize]) else { continue };
        for &v in &lists.pred[lists.row[rank] as usize..lists.row[rank + 1] as usize] {
            let u = links.eval(v, w + 1, semi);
            let candidate = semi[u as usize];
            semi[w as usize] = candidate.min(semi[w as usize]);
        }
    }
}

/// Links of the walk's tree that are compressed on the way. Both arrays begin as zero pages, of which those that are never
/// written cost nothing: often few edges have to be evaluated.
struct Links<'a> {
    walk: &'a Walk,
    /// Plus one; 0: the parent in the walk.
    ancestor: Vec<u32>,
    /// The node of least semidominator up to the ancestor, plus one; 0: the node itself.
    label: Vec<u32>,
    path: Vec<u32>,
}

impl Links<'_> {
    fn new(walk: &Walk) -> Links<'_> {
        let n = walk.vertex.len();
        Links { walk, ancestor: vec![0; n], label: vec![0; n], path: Vec::new() }
    }

    #[inline]
    fn ancestor(&self, u: u32) -> u32 {
        self.ancestor[u as usize].checked_sub(1).unwrap_or_else(|| self.walk.parent[u as usize])
    }

    #[inline]
    fn label(&self, u: u32) -> u32 {
        self.label[u as usize].checked_sub(1).unwrap_or(u)
    }

    /// The node of least semidominator on the linked part of the tree path above `v`, with path compression.
    fn eval(&mut self, v: u32, linked: u32, semi: &[u32]) -> u32 {
        let mut u = v;
        let mut next = self.ancestor(u);
        while next >= linked {
            self.path.push(u);
            (u, next) = (next, self.ancestor(next));
        }
        // `u` is the topmost linked node; compress from the top down.
        let mut best = self.label(u);
        while let Some(x) = self.path.pop() {
            self.ancestor[x as usize] = next + 1;
            let own = self.label(x);
            if semi[best as usize] < semi[own as usize] {
                self.label[x as usize] = best + 1;
            } else {
                best = own;
            }
        }
        self.label(v)
    }
}
