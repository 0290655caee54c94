//! What the roots reach, on all cores.

use rayon::prelude::*;

use super::Graph;
use crate::base::{Bitmap, ObjectId, bitmap::AtomicBitmap};

/// Edges that one task follows before it hands what is left to others.
const BUDGET: usize = 1 << 16;
/// Edges looked at together: their rows are then fetched side by side.
const STEP: u32 = 32;

/// Everything that `roots` and what they point to keep alive. Cost: one look at every edge of a reached object; the
/// order of visits differs from run to run, the result does not. Memory: one bit a slot and short stacks, also for a
/// list as long as the heap or one object with all the edges.
pub fn reach(graph: &Graph, roots: impl Iterator<Item = ObjectId>) -> Bitmap {
    let seen = AtomicBitmap::new(graph.slots());
    // Ranges of edges that are still to be followed.
    let mut frontier: Vec<(u32, u32)> = Vec::new();
    for r in roots {
        mark(graph, &seen, r.index() / 64, 1 << (r.index() % 64), &mut frontier);
    }
    while !frontier.is_empty() {
        // Long ranges are shared between tasks as well.
        let mut pieces: Vec<(u32, u32)> = Vec::new();
        for (from, to) in frontier.drain(..) {
            let mut at = from;
            while to - at > BUDGET as u32 {
                pieces.push((at, at + BUDGET as u32));
                at += BUDGET as u32;
            }
            pieces.push((at, to));
        }
        if pieces.len() == 1 {
            follow(graph, &seen, vec![pieces[0]], &mut frontier);
            continue;
        }
        let size = pieces.len().div_ceil(4 * rayon::current_num_threads()).clamp(1, 1024);
        frontier = pieces
            .par_chunks(size)
            .map(|chunk| {
                let mut rest = Vec::new();
                follow(graph, &seen, chunk.to_vec(), &mut rest);
                rest
            })
            .flatten_iter()
            .collect();
    }
    seen.into_bitmap()
}

/// Follows the ranges on `stack` until nothing or too much is left; what is left goes to `rest`.
fn follow(graph: &Graph, seen: &AtomicBitmap, mut stack: Vec<(u32, u32)>, rest: &mut Vec<(u32, u32)>) {
    let mut budget = BUDGET.max(stack.iter().map(|&(a, b)| (b - a) as usize).sum::<usize>() * 4);
    while let Some((from, to)) = stack.pop() {
        if budget == 0 {
            rest.push((from, to));
            rest.append(&mut stack);
            return;
        }
        let end = to.min(from + STEP);
        budget = budget.saturating_sub((end - from) as usize);
        if end < to {
            stack.push((end, to));
        }
        // Objects of one word of bits are marked together: what follows one another in memory is often so in an array. All
        // words are found first, so that what is looked at next comes from memory side by side.
        let (mut words, mut n) = ([(0, 0); STEP as usize], 0);
        for t in graph.target.range(from as usize..end as usize).map(ObjectId::index) {
            let (at, bit) = (t / 64, 1 << (t % 64));
            if n > 0 && words[n - 1].0 == at {
                words[n - 1].1 |= bit;
                continue;
            }
            // Most objects have been seen when the last pointer to them is looked at.
            if !seen.get(t) {
                graph.rows.fetch(t);
                words[n] = (at, bit);
                n += 1;
            }
        }
        words[..n].iter().for_each(|&(word, bits)| mark(graph, seen, word, bits, &mut stack));
    }
}

/// Marks objects of one word of bits; those that were not yet are to be followed. The edges of neighbours stand one behind
/// the other, and are followed as one range.
#[inline]
fn mark(graph: &Graph, seen: &AtomicBitmap, word: usize, bits: u64, stack: &mut Vec<(u32, u32)>) {
    let mut fresh = seen.insert_word(word, bits);
    while fresh != 0 {
        let from = fresh.trailing_zeros();
        let n = (fresh >> from).trailing_ones();
        let first = 64 * word + from as usize;
        let edges = graph.edges_of(first..first + n as usize);
        if !edges.is_empty() {
            graph.target.fetch(edges.start);
            stack.push((edges.start as u32, edges.end as u32));
        }
        fresh &= u64::MAX.checked_shl(from + n).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slowly(graph: &Graph, roots: &[ObjectId]) -> Vec<usize> {
        let mut seen = Bitmap::new(graph.slots());
        let mut stack = roots.to_vec();
        while let Some(o) = stack.pop() {
            if seen.insert(o.index()) {
                stack.extend(graph.children(o));
            }
        }
        seen.iter_ones().collect()
    }

    proptest! {
        #[test]
        fn equals_a_plain_search(edges in prop::collection::vec((0u32..300, 0u32..300), 0..600), root in 0u32..300) {
            let graph = Graph::from_edges(300, edges.iter().map(|&(a, b)| (ObjectId(a), ObjectId(b))), Vec::new());
            let roots = [ObjectId(root), ObjectId(0)];
            let ours: Vec<usize> = reach(&graph, roots.iter().copied()).iter_ones().collect();
            prop_assert_eq!(ours, slowly(&graph, &roots));
        }
    }

    #[test]
    fn a_long_list_and_a_wide_object() {
        const N: u32 = 300_000;
        // 0 points to all even objects; each odd one hangs on the one before, N..2N is a list.
        let wide = (1..N / 2).map(|i| (ObjectId(0), ObjectId(2 * i)));
        let odd = (1..N / 2).map(|i| (ObjectId(2 * i), ObjectId(2 * i + 1)));
        let list = (N..2 * N - 1).map(|i| (ObjectId(i), ObjectId(i + 1)));
        let graph = Graph::from_edges(2 * N as usize + 5, wide.chain(odd).chain(list), Vec::new());
        let found = reach(&graph, [ObjectId(0), ObjectId(N)].into_iter());
        assert_eq!(found.count_ones(), (N - 1 + N) as usize, "all but object 1 and the five at the end");
        assert!(!found.get(1));
    }
}
