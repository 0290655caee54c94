//! What an object's evidence says of the objects that it points to. Most holders repeat one seen just before, and so do
//! the objects behind the same word of them: each task remembers what was worked out for the last few kinds of holders,
//! so that an edge costs one look at the evidence of its target, and a first offer one look at the target's edges.

use std::{ops::Range, sync::atomic::Ordering};

use super::{
    Slot,
    engine::{Engine, Key},
    fit::{self, Level},
};
use crate::{
    base::ObjectId,
    graph::words::PACK,
    os::memory::fetch,
    runtime::types::{Kind, PtrTo, TypeId},
};

/// Kinds of holders that a task remembers; a power of two.
const HOLDERS: usize = 16;
/// Words of a holder that are remembered one by one. Those of larger types are worked out anew each time.
const COLUMNS: u64 = 128;
/// Words of a target that one look at its edges tells.
const FEW_WORDS: u64 = 16;

/// In place of a number in `Holder::few`: the word says nothing, or what it says must be worked out.
const NOTHING: u32 = u32::MAX;
const OPEN: u32 = u32::MAX - 1;

/// Of one task. What is remembered never becomes wrong: numbers stand for the same evidence for ever.
#[derive(Default)]
pub(super) struct Memory {
    holders: Vec<Holder>,
    firsts: Vec<First>,
    /// Room for what a task raises, between two of them.
    pub(super) raised: Vec<(ObjectId, Level)>,
    /// The spans of the holder and of the target looked at last: first id, end, what its slots are.
    span: Option<(u32, u32, Slot)>,
    target_span: Option<(u32, u32, Slot)>,
}

/// What evidence of one number says, in slots whose data begin at one place.
struct Holder {
    number: u32,
    data: u64,
    ty: TypeId,
    /// First word of the value in the slot.
    begin: u64,
    /// Words of the type; it repeats after them, or ends.
    words: u64,
    repeats: bool,
    cap: Level,
    /// By word of the value; empty for types that are too large.
    columns: Vec<Column>,
    /// By word of the slot: `Column::settled` once that is known, so that most edges cost a look at one number.
    few: [u32; FEW_WORDS as usize],
}

/// What one word of a holder says.
#[derive(Clone, Copy)]
struct Column {
    to: PtrTo,
    /// Evidence of a target that this word can only repeat; 0 for none.
    settled: u32,
    /// Where in `Memory::firsts`, plus one, stands what it brings to a target without evidence; 0 for nothing.
    first: u32,
}

/// What an offer brings to an object without evidence, if all pointers of that object lie in `words`.
#[derive(Clone, Copy)]
struct First {
    slot: Slot,
    number: u32,
    level: Level,
    /// Bit i: the type has a pointer in word i of the slot.
    words: u16,
}

impl Engine<'_> {
    /// Offers to the objects behind `edges` what evidence `number` of their holders says of them. The holders are neighbours,
    /// and their data begin at `data` in their slots.
    pub(super) fn pass_on(
        &self,
        number: u32,
        data: u64,
        edges: Range<usize>,
        out: &mut Vec<(ObjectId, Level)>,
        memory: &mut Memory,
    ) {
        let i = memory.holder(self, number, data);
        if let Some(holder) = memory.holders.get(i)
            && holder.begin == 0
            && holder.repeats
            && let [Column { to: PtrTo::To(to), .. }] = holder.columns[..]
        {
            return self.pass_array(memory, i, to, edges, out);
        }
        let words = &self.input.graph.words;
        let mut at = edges.start;
        while at < edges.end {
            let part = at..edges.end.min((at / PACK + 1) * PACK);
            at = part.end;
            match words.packed(part.start / PACK) {
                Some(packed) => self.pass_packed(memory, i, packed, part, out),
                None => {
                    self.fetch(part.clone());
                    part.clone().zip(words.iter(part)).for_each(|(edge, w)| self.step(memory, i, edge, w, out));
                }
            }
        }
    }

    /// Has at hand what is looked at first of the objects behind `edges`, where they lie anywhere.
    #[inline]
    fn fetch(&self, edges: Range<usize>) {
        /// Ids that far apart are neighbours: the processor sees that by itself.
        const NEXT: usize = 64;
        let mut last = usize::MAX;
        for target in self.input.graph.target.range(edges).map(ObjectId::index) {
            if target.abs_diff(last) > NEXT {
                fetch(&self.best, target);
                self.input.graph.rows.fetch(target);
            }
            last = target;
        }
    }

    /// The same for edges among `PACK` whose words are known to lie within the first 16.
    fn pass_packed(
        &self,
        memory: &mut Memory,
        i: usize,
        packed: &[u8; PACK / 2],
        edges: Range<usize>,
        out: &mut Vec<(ObjectId, Level)>,
    ) {
        let Some(holder) = memory.holders.get(i) else { return };
        let word = |k: usize| packed[k / 2] >> (4 * (k & 1)) & 15;
        let inside = self.interior(edges.start / PACK);
        let mut slow = 0u64;
        for edge in edges.clone() {
            let k = edge % PACK;
            let settled = holder.few[usize::from(word(k))];
            if settled == NOTHING {
                continue;
            }
            let target = self.input.graph.target.get(edge).index();
            let number = self.best.get(target).map_or(0, |b| b.load(Ordering::Acquire));
            if number != settled || inside >> k & 1 == 1 {
                slow |= 1 << k;
                if number == 0 {
                    self.input.graph.rows.fetch(target);
                }
            }
        }
        while slow != 0 {
            let k = slow.trailing_zeros() as usize;
            self.step(memory, i, edges.start / PACK * PACK + k, word(k).into(), out);
            slow &= slow - 1;
        }
    }

    /// The same for an array of pointers to `to`. Objects that were allocated one after another for it are often neighbours.
    fn pass_array(
        &self,
        memory: &mut Memory,
        i: usize,
        to: TypeId,
        edges: Range<usize>,
        out: &mut Vec<(ObjectId, Level)>,
    ) {
        let (mut at, mut fetched) = (edges.start, edges.start);
        while at < edges.end {
            if at >= fetched {
                fetched = edges.end.min(at + PACK);
                self.fetch(at..fetched);
            }
            let n = self.first_of_neighbours(memory, i, to, at..edges.end, out).unwrap_or(0);
            if n == 0 {
                self.column(memory, i, 0, at, out);
            }
            at += n.max(1);
        }
    }

    /// Does what `first` does for the neighbours to which the first of `edges` lead: as many as have no evidence and can be
    /// judged together. Answers how many.
    fn first_of_neighbours(
        &self,
        memory: &mut Memory,
        i: usize,
        to: TypeId,
        edges: Range<usize>,
        out: &mut Vec<(ObjectId, Level)>,
    ) -> Option<usize> {
        let Memory { holders, firsts, target_span, .. } = memory;
        let holder = holders.get_mut(i).filter(|h| h.cap == Level::Whole)?;
        let column = holder.columns.first_mut()?;
        let graph = self.input.graph;
        let target = graph.target.get(edges.start);
        let plain = |edge: usize, id: ObjectId| {
            self.interior(edge / PACK) >> (edge % PACK) & 1 == 0
                && self.best.get(id.index()).is_some_and(|b| b.load(Ordering::Acquire) == 0)
                && self.input.heap.is_allocated(id)
        };
        if !plain(edges.start, target) {
            return None;
        }
        let (end, slot) = slot_of(target_span, self, target)?;
        let most = edges.len().min((end - target.0) as usize);
        let next = |n: usize| ObjectId(target.0 + n as u32);
        let n = (1..most)
            .take_while(|&n| graph.target.get(edges.start + n) == next(n) && plain(edges.start + n, next(n)))
            .count()
            + 1;
        let first = self.first_in(column, firsts, to, &slot)?;
        if graph.words.held(graph.edges_of(target.index()..target.index() + n))? & !first.words != 0 {
            return None;
        }
        column.settled = first.number;
        for k in 0..n {
            match self.best[target.index() + k].compare_exchange(0, first.number, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => out.push((next(k), first.level)),
                Err(_) => self.slowly(PtrTo::To(to), edges.start + k, Level::Whole, out),
            }
        }
        Some(n)
    }

    /// One edge of holder `i` of `memory`, from its word `word`.
    #[inline]
    fn step(&self, memory: &mut Memory, i: usize, edge: usize, word: u64, out: &mut Vec<(ObjectId, Level)>) {
        let Some(holder) = memory.holders.get(i) else { return };
        if let Some(within) = holder.within(word) {
            self.column(memory, i, within, edge, out);
            if let (Some(holder), true) = (memory.holders.get_mut(i), word < FEW_WORDS) {
                holder.remember(word, within);
            }
        }
    }

    /// The same from word `within` of the holder's value.
    #[inline]
    fn column(&self, memory: &mut Memory, i: usize, within: u64, edge: usize, out: &mut Vec<(ObjectId, Level)>) {
        let Memory { holders, firsts, target_span, .. } = memory;
        let Some(holder) = holders.get_mut(i) else { return };
        let (ty, cap) = (holder.ty, holder.cap);
        let Some(column) = holder.columns.get_mut(within as usize) else {
            // Either no pointer by this type, or a type too large to be remembered.
            if holder.columns.is_empty() {
                let to = self.input.types.pointee(ty, 8 * within);
                self.slowly(to, edge, cap, out);
            }
            return;
        };
        let to = match column.to {
            PtrTo::NoPointer | PtrTo::Untyped | PtrTo::Interface => return,
            PtrTo::To(to) if self.edge_offset(edge) == 0 => to,
            other => return self.slowly(other, edge, cap, out),
        };
        let target = self.input.graph.target.get(edge);
        let Some(best) = self.best.get(target.index()) else { return };
        let known = best.load(Ordering::Acquire);
        if known != 0 {
            if known == column.settled {
                return;
            }
            if self.repeats(known, to) {
                column.settled = known;
                return;
            }
        } else if let Some(level) = self.first(column, firsts, target_span, to, target, cap) {
            return out.push((target, level));
        }
        self.slowly(column.to, edge, cap, out);
    }

    fn slowly(&self, to: PtrTo, edge: usize, cap: Level, out: &mut Vec<(ObjectId, Level)>) {
        let target = self.input.graph.target.get(edge);
        if let Some(level) = self.point(to, target, self.edge_offset(edge), cap) {
            out.push((target, level));
        }
    }

    /// Gives `target`, which has no evidence, what this column brought to the last one in such a slot. `None`: that has
    /// to be worked out.
    #[inline]
    fn first(
        &self,
        column: &mut Column,
        firsts: &mut Vec<First>,
        span: &mut Option<(u32, u32, Slot)>,
        to: TypeId,
        target: ObjectId,
        cap: Level,
    ) -> Option<Level> {
        if cap != Level::Whole || !self.input.heap.is_allocated(target) {
            return None;
        }
        let (_, slot) = slot_of(span, self, target)?;
        let first = self.first_in(column, firsts, to, &slot)?;
        if self.input.graph.words.held(self.input.graph.edges(target))? & !first.words != 0 {
            return None;
        }
        let best = self.best.get(target.index())?;
        best.compare_exchange(0, first.number, Ordering::AcqRel, Ordering::Acquire).ok()?;
        column.settled = first.number;
        Some(first.level)
    }

    /// What this column, a pointer to `to`, brings to an object without evidence in such a slot.
    #[inline]
    fn first_in(&self, column: &mut Column, firsts: &mut Vec<First>, to: TypeId, slot: &Slot) -> Option<First> {
        let at = (column.first as usize).checked_sub(1);
        if let Some(&known) = at.and_then(|i| firsts.get(i)).filter(|f| f.slot == *slot) {
            return Some(known);
        }
        let fresh = self.bring(to, slot)?;
        match at {
            Some(i) => firsts[i] = fresh,
            None => {
                firsts.push(fresh);
                column.first = firsts.len() as u32;
            }
        }
        Some(fresh)
    }

    /// What an offer of `ty` to the first byte of an object in such a slot comes to, where it is the whole object.
    fn bring(&self, ty: TypeId, slot: &Slot) -> Option<First> {
        let found = fit::fit(self.input.types, slot, ty, 0).filter(|f| f.level == Level::Whole && f.at == 0)?;
        let key = Key::new(found.level, found.score, *self.rank_of.get(ty.index())?, found.at);
        let expected = self.expects(ty, found.at, slot.data, false);
        let words = match slot.noscan {
            true => 0,
            false => (0..FEW_WORDS).filter(|&word| expected(word)).fold(0, |all, word| all | 1 << word),
        };
        Some(First { slot: *slot, number: self.numbers.of(key), level: found.level, words })
    }
}

impl Holder {
    /// Word of the value in which word `word` of the slot lies; `None` outside of it.
    #[inline]
    fn within(&self, word: u64) -> Option<u64> {
        let within = word.checked_sub(self.begin)?;
        if within < self.words {
            return Some(within);
        }
        self.repeats.then(|| match u32::try_from(within) {
            // Half the width is several times as quick.
            Ok(small) => u64::from(small % self.words as u32),
            Err(_) => within % self.words,
        })
    }

    /// What was learnt of word `within` of the value, at the word of the slot.
    #[inline]
    fn remember(&mut self, word: u64, within: u64) {
        if let Some(column) = self.columns.get(within as usize).filter(|c| c.settled != 0)
            && let Some(few) = self.few.get_mut(word as usize)
        {
            *few = column.settled;
        }
    }

    /// Of no evidence.
    fn none() -> Holder {
        let (number, data, ty, cap) = (0, u64::MAX, TypeId::UNKNOWN, Level::Guess);
        Holder { number, data, ty, begin: 0, words: 0, repeats: false, cap, columns: Vec::new(), few: [NOTHING; 16] }
    }
}

/// The end of the span of `id` and its slots; `span`: the one of the last that was asked for.
#[inline]
fn slot_of(span: &mut Option<(u32, u32, Slot)>, engine: &Engine<'_>, id: ObjectId) -> Option<(u32, Slot)> {
    match *span {
        Some((first, end, slot)) if (first..end).contains(&id.0) => Some((end, slot)),
        _ => {
            let (first, end, slot) = engine.slots.span(id)?;
            *span = Some((first, end, *slot));
            Some((end, *slot))
        }
    }
}

impl Memory {
    /// The end of the span of a holder, and its slots.
    #[inline]
    pub(super) fn slot(&mut self, engine: &Engine<'_>, id: ObjectId) -> Option<(u32, Slot)> {
        slot_of(&mut self.span, engine, id)
    }

    /// Index of what is remembered of evidence `number` in slots whose data begin at `data`.
    #[inline]
    fn holder(&mut self, engine: &Engine<'_>, number: u32, data: u64) -> usize {
        let i = number as usize % HOLDERS;
        if self.holders.get(i).is_none_or(|h| h.number != number || h.data != data) {
            self.work_out(engine, number, data, i);
        }
        i
    }

    #[cold]
    fn work_out(&mut self, engine: &Engine<'_>, number: u32, data: u64, i: usize) {
        let types = engine.input.types;
        let key = engine.numbers.key(number);
        let ty = engine.type_of_rank.get(key.rank()).copied().unwrap_or_default();
        let repeats = types.kind(ty) == Kind::Backing;
        // What lies behind the last word that is wholly in the type is not asked about.
        let words = types.size(ty).div_ceil(8);
        let regular = types.size(ty).is_multiple_of(8) || !repeats;
        let columns = if regular && words <= COLUMNS {
            (0..words).map(|w| Column { to: types.pointee(ty, 8 * w), settled: 0, first: 0 }).collect()
        } else {
            Vec::new()
        };
        let mut holder = Holder {
            number,
            data,
            ty,
            begin: (data + key.at()) / 8,
            words: if regular { words.max(1) } else { u64::MAX },
            repeats,
            cap: if key.level() == Some(Level::Guess) { Level::Guess } else { Level::Whole },
            columns,
            few: [NOTHING; FEW_WORDS as usize],
        };
        for word in 0..FEW_WORDS {
            let Some(within) = holder.within(word) else { continue };
            let says = match holder.columns.get(within as usize) {
                Some(column) => !matches!(column.to, PtrTo::NoPointer | PtrTo::Untyped | PtrTo::Interface),
                None => holder.columns.is_empty(),
            };
            if says {
                holder.few[word as usize] = OPEN;
            }
        }
        self.holders.resize_with(self.holders.len().max(i + 1), Holder::none);
        // Columns that are replaced leave what they remembered in `firsts`; it is dropped before it grows large.
        if self.firsts.len() > HOLDERS * COLUMNS as usize {
            self.firsts.clear();
            self.holders.iter_mut().flat_map(|h| &mut h.columns).for_each(|c| c.first = 0);
        }
        self.holders[i] = holder;
    }
}
