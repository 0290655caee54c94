//! Edges as differences from what is expected. Objects of one type that were allocated one after the other point, member
//! by member, to objects that were allocated one after the other: so the k-th edge of an object is expected near the k-th
//! edge of the object before it, else near the edge before, else near the object itself.

use super::codec::{Get, Put};
use crate::{base::ObjectId, graph::Rows};

/// Edges of one block.
pub const BLOCK: usize = 1 << 20;

/// Walks over the edges `from..to`, telling of each which edge of the block it is like, and its source.
struct Likeness<'r> {
    row: &'r Rows,
    from: usize,
    edge: usize,
    /// The source of `edge`.
    source: usize,
    /// Edges of the last source before that has any.
    before: (usize, usize),
}

impl<'r> Likeness<'r> {
    fn new(row: &'r Rows, from: usize) -> Likeness<'r> {
        let source = row.object_of(from);
        Likeness { row, from, edge: from, source, before: (0, 0) }
    }

    /// (edge that the next one is like, source of the next one).
    fn next(&mut self) -> (Option<usize>, usize) {
        let end = |s: usize| if s < self.row.len() { self.row.start(s + 1) as usize } else { usize::MAX };
        let bounds = |s: usize| (self.row.start(s) as usize, end(s));
        let (mut start, mut end) = bounds(self.source);
        if self.edge >= end {
            self.before = (start, end);
            while self.edge >= end {
                self.source += 1;
                (start, end) = bounds(self.source);
            }
        }
        let k = self.edge - start;
        let twin = self.before.0 + k;
        let like = if twin < self.before.1 && twin >= self.from {
            Some(twin)
        } else {
            (k > 0 && self.edge > self.from).then(|| self.edge - 1)
        };
        self.edge += 1;
        (like, self.source)
    }
}

/// `target` and `words` are those of the edges from `from` on.
pub fn encode(row: &Rows, from: usize, target: &[ObjectId], words: &[u32]) -> Vec<u8> {
    let mut likeness = Likeness::new(row, from);
    let (mut targets, mut places): (Vec<u8>, Vec<u8>) = (Vec::with_capacity(2 * target.len()), Vec::new());
    for (i, (t, &w)) in target.iter().zip(words).enumerate() {
        let (like, source) = likeness.next();
        let (near, word) = match like {
            Some(e) => (
                target[e - from].0,
                words[e - from].saturating_add(u32::from(e + 1 == from + i && source_has(row, source, e))),
            ),
            None => (source as u32, 0),
        };
        targets.int(i64::from(t.0) - i64::from(near));
        places.int(i64::from(w) - i64::from(word));
    }
    let mut out = Vec::with_capacity(targets.len() + places.len() + 8);
    out.uint(targets.len() as u64);
    out.append(&mut targets);
    out.append(&mut places);
    out
}

/// Is `edge` one of the same source? Then the next pointer lies in a later word.
fn source_has(row: &Rows, source: usize, edge: usize) -> bool {
    row.start(source) as usize <= edge
}

/// The other way round; every target is below `slots`.
pub fn decode(
    row: &Rows,
    from: usize,
    count: usize,
    raw: &[u8],
    slots: u32,
) -> Result<(Vec<ObjectId>, Vec<u32>), &'static str> {
    // An edge takes two bytes at least.
    if count > raw.len() || from + count > row.total() as usize {
        return Err("it has more edges than its objects");
    }
    let mut all = Get::new(raw);
    let n = usize::try_from(all.uint()?).map_err(|_| "a length is too large")?;
    let mut targets = Get::new(all.bytes(n)?);
    let (mut target, mut words): (Vec<ObjectId>, Vec<u32>) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut likeness = Likeness::new(row, from);
    for i in 0..count {
        let (like, source) = likeness.next();
        let (near, word) = match like {
            Some(e) => {
                let next = u32::from(e + 1 == from + i && source_has(row, source, e));
                (target[e - from].0, words[e - from].saturating_add(next))
            }
            None => (source as u32, 0),
        };
        let to = i64::from(near).checked_add(targets.int()?).and_then(|t| u32::try_from(t).ok());
        let at = i64::from(word).checked_add(all.int()?).and_then(|w| u32::try_from(w).ok());
        match (to.filter(|&t| t < slots), at) {
            (Some(t), Some(w)) => {
                target.push(ObjectId(t));
                words.push(w);
            }
            _ => return Err("an edge leads out of the heap"),
        }
    }
    targets.end()?;
    all.end()?;
    Ok((target, words))
}
