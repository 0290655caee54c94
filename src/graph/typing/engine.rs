//! The best evidence of every object, and its spreading along pointers.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicU32, Ordering},
};

use rayon::prelude::*;

use super::{
    Input, Slots, Typing,
    fit::{self, Fit, Level},
    numbers::Numbers,
    spread::Memory,
};
use crate::{
    base::{ObjectId, bitmap::AtomicBitmap},
    os::memory,
    runtime::types::{Kind, Plan, PtrTo, TypeId},
};

/// Below this many objects and edges a round runs on one thread: starting others costs more.
const PARALLEL: usize = 4096;
/// Objects and edges per task of a parallel round.
const CHUNK: usize = 1024;
/// Up to this number, the objects that wait are kept in a list.
const FEW: usize = 1 << 15;
/// Objects with more edges are split between tasks.
const MANY_EDGES: usize = 1 << 14;
/// Ids of which the states are copied together, where many wait.
const BLOCK: usize = 1 << 18;
/// Words of bits (64 ids each) of one task then.
const PART: usize = 32;

/// Level, score, type and place in one word that orders evidence: level (4 bits), score (8), type by its rank, the
/// first names highest (26), place / 8 (26).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Key(pub u64);

const RANK_BITS: u32 = 26;
const PLACE_BITS: u32 = 26;

impl Key {
    pub fn new(level: Level, score: u8, rank: u32, at: u64) -> Key {
        let place = (at / 8).min((1 << PLACE_BITS) - 1);
        let rank = u64::from(rank).min((1 << RANK_BITS) - 1);
        Key((level as u64) << 60 | u64::from(score) << 52 | rank << PLACE_BITS | place)
    }

    fn level_bits(self) -> u64 {
        self.0 >> 60
    }

    pub fn level(self) -> Option<Level> {
        Level::from_bits(self.level_bits())
    }

    pub fn rank(self) -> usize {
        (self.0 >> PLACE_BITS & ((1 << RANK_BITS) - 1)) as usize
    }

    /// Byte at which the value begins, from the first data byte.
    pub fn at(self) -> u64 {
        (self.0 & ((1 << PLACE_BITS) - 1)) * 8
    }
}

/// A set of edges with a value each, asked for one by one.
struct Lookup<'a> {
    present: crate::base::Bitmap,
    sorted: Cow<'a, [(u32, u32)]>,
}

impl<'a> Lookup<'a> {
    fn new(len: usize, list: &'a [(u32, u32)]) -> Lookup<'a> {
        let mut present = crate::base::Bitmap::new(len);
        let mut sorted = Cow::Borrowed(list);
        if !sorted.is_sorted_by_key(|e| e.0) {
            sorted.to_mut().par_sort_unstable();
        }
        for &(i, _) in sorted.iter() {
            present.set(i as usize);
        }
        Lookup { present, sorted }
    }

    /// Bit k: edge `64 * block + k` has one.
    #[inline]
    fn block(&self, block: usize) -> u64 {
        self.present.words().get(block).copied().unwrap_or(0)
    }

    #[inline]
    fn get(&self, i: usize) -> Option<u32> {
        if !self.present.get(i) {
            return None;
        }
        let at = self.sorted.binary_search_by_key(&(i as u32), |e| e.0).ok()?;
        Some(self.sorted[at].1)
    }
}

/// Objects whose evidence changed and has not been passed on: a list while they are few, then one bit an object.
#[derive(Default)]
struct Waiting {
    list: Vec<ObjectId>,
    many: Option<AtomicBitmap>,
}

/// Neighbouring objects with the same evidence, by its number.
#[derive(Clone, Copy)]
struct Run {
    first: ObjectId,
    n: u32,
    number: u32,
}

/// What something says of the object `target` that it leads to, at byte `offset` of its slot.
pub(super) struct Seed {
    pub target: ObjectId,
    pub to: PtrTo,
    pub offset: u64,
    /// No better than this.
    pub cap: Level,
}

/// What a task leaves for later: objects whose evidence it raised, and those with too many edges for it.
#[derive(Default)]
struct Passed {
    raised: Vec<(ObjectId, Level)>,
    large: Vec<(ObjectId, u32)>,
}

impl Waiting {
    fn push(&mut self, id: ObjectId, slots: u32) {
        if let Some(bits) = &self.many {
            bits.insert(id.index());
            return;
        }
        self.list.push(id);
        if self.list.len() > FEW {
            let bits = AtomicBitmap::new(slots as usize);
            self.list.drain(..).for_each(|id| _ = bits.insert(id.index()));
            self.many = Some(bits);
        }
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty() && self.many.is_none()
    }
}

pub(super) struct Engine<'a> {
    pub input: Input<'a>,
    pub slots: &'a Slots,
    pub plan: Plan,
    /// Best evidence of each object: its number in `numbers`.
    pub(super) best: Vec<AtomicU32>,
    pub(super) numbers: Numbers,
    /// Rank (higher is preferred) of each type, and back.
    pub(super) rank_of: Vec<u32>,
    pub(super) type_of_rank: Vec<TypeId>,
    interior: Lookup<'a>,
    /// Objects whose evidence changed and has not been passed on, by level.
    waiting: [Waiting; 16],
}

impl<'a> Engine<'a> {
    pub fn new(input: Input<'a>, slots: &'a Slots) -> Engine<'a> {
        let types = input.types;
        // Ties are broken by name, so that runs with more or fewer types in the table agree.
        let mut order: Vec<TypeId> = (0..types.len() as u32).map(TypeId).collect();
        order.par_sort_by(|&a, &b| {
            types.name(b).cmp(types.name(a)).then_with(|| types.size(b).cmp(&types.size(a))).then_with(|| b.cmp(&a))
        });
        let mut rank_of = vec![0; types.len()];
        for (rank, id) in order.iter().enumerate() {
            rank_of[id.index()] = rank as u32;
        }
        let mut best = Vec::with_capacity(input.heap.slots as usize);
        memory::huge(&mut best);
        (0..input.heap.slots).into_par_iter().map(|_| AtomicU32::new(0)).collect_into_vec(&mut best);
        Engine {
            input,
            slots,
            plan: Plan::new(types),
            best,
            numbers: Numbers::default(),
            rank_of,
            type_of_rank: order,
            interior: Lookup::new(input.graph.target.len(), &input.hints.interior),
            waiting: Default::default(),
        }
    }

    /// The best evidence so far: type and key.
    pub fn best(&self, id: ObjectId) -> Option<(TypeId, Key)> {
        let key = self.known(self.best.get(id.index())?);
        (key.0 != 0).then(|| (self.type_of_rank.get(key.rank()).copied().unwrap_or_default(), key))
    }

    #[inline]
    fn known(&self, best: &AtomicU32) -> Key {
        self.numbers.key(best.load(Ordering::Acquire))
    }

    /// Bit k: edge `64 * block + k` does not point to the first byte of its target's slot.
    #[inline]
    pub(super) fn interior(&self, block: usize) -> u64 {
        self.interior.block(block)
    }

    /// Offset in its target's slot to which edge `edge` points.
    #[inline]
    pub fn edge_offset(&self, edge: usize) -> u64 {
        u64::from(self.interior.get(edge).unwrap_or(0))
    }

    /// Byte in the source's slot at which the pointer of edge `edge` lies.
    pub fn edge_at(&self, edge: usize) -> u64 {
        8 * self.input.graph.words.get(edge)
    }

    /// Do all pointers of the object lie where the type has pointers? `at`: where the value begins; `partial`: bytes
    /// around it belong to something else.
    pub fn agrees(&self, id: ObjectId, ty: TypeId, at: u64, data: u64, partial: bool) -> bool {
        let expected = self.expects(ty, at, data, partial);
        self.input.graph.words.iter(self.input.graph.edges(id)).all(expected)
    }

    /// The same of one pointer, by its word in the slot.
    pub(super) fn expects(&self, ty: TypeId, at: u64, data: u64, partial: bool) -> impl Fn(u64) -> bool + '_ {
        let types = self.input.types;
        let (size, kind, answers) = (types.size(ty), types.kind(ty), self.plan.answers(types, ty));
        let repeats = kind == Kind::Backing;
        // A closure whose captured variables are not known says nothing of what follows its first word.
        let any = repeats && size == 8 || kind == Kind::Closure && types.fields(ty).is_empty();
        move |word| {
            any || match (8 * word).checked_sub(data + at) {
                Some(offset) if repeats || offset < size => answers.pointee(offset) != PtrTo::NoPointer,
                _ => partial,
            }
        }
    }

    /// Puts evidence before an object. True if it is better than what was there.
    fn put(&self, id: ObjectId, ty: TypeId, fit: Fit) -> Option<Level> {
        let best = self.best.get(id.index())?;
        let key = Key::new(fit.level, fit.score, *self.rank_of.get(ty.index())?, fit.at);
        let mut old = best.load(Ordering::Acquire);
        if key <= self.numbers.key(old) {
            return None;
        }
        let partial = matches!(fit.level, Level::Start | Level::Part) || fit.at > 0;
        let proven = matches!(fit.level, Level::Header | Level::Closure | Level::Container);
        if !proven && !self.agrees(id, ty, fit.at, self.slots.get(id)?.data, partial) {
            return None;
        }
        let number = self.numbers.of(key);
        while key > self.numbers.key(old) {
            match best.compare_exchange_weak(old, number, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(fit.level),
                Err(now) => old = now,
            }
        }
        None
    }

    /// Is the evidence of that number a whole object of this type? Nothing that comes from a pointer to its start beats it.
    #[inline]
    pub(super) fn repeats(&self, number: u32, ty: TypeId) -> bool {
        let known = self.numbers.key(number);
        known.level_bits() >= Level::Whole as u64 && known.at() == 0 && self.type_of_rank.get(known.rank()) == Some(&ty)
    }

    /// Evidence of something of type `ty` at byte `offset` of the slot of `id`, from a holder known at `cap` or better.
    fn offer(&self, id: ObjectId, ty: TypeId, offset: u64, cap: Level) -> Option<Level> {
        let number = self.best.get(id.index())?.load(Ordering::Acquire);
        if offset == 0 && cap != Level::Interface && self.repeats(number, ty) {
            return None;
        }
        if !self.input.heap.is_allocated(id) {
            return None;
        }
        let mut found = fit::fit(self.input.types, self.slots.get(id)?, ty, offset)?;
        match cap {
            Level::Guess => found.level = Level::Guess,
            Level::Interface if found.level == Level::Whole => found.level = Level::Interface,
            _ => {}
        }
        self.put(id, ty, found)
    }

    /// What a pointer of kind `to` says of the object that it leads to.
    pub(super) fn point(&self, to: PtrTo, id: ObjectId, offset: u64, cap: Level) -> Option<Level> {
        match to {
            PtrTo::To(ty) => self.offer(id, ty, offset, cap),
            PtrTo::Directory(directory) => self.offer(id, self.directory_or_group(directory, id), offset, cap),
            PtrTo::Code => {
                // In spans with pointers the graph pass has seen the code pointer itself.
                let noscan = self.slots.get(id).is_some_and(|s| s.noscan);
                noscan.then(|| self.offer(id, self.input.types.any_closure(), offset, cap)).flatten()
            }
            PtrTo::NoPointer | PtrTo::Untyped | PtrTo::Interface => None,
        }
    }

    /// A directory begins with a pointer to a table, a group with control bytes (internal/runtime/maps).
    fn directory_or_group(&self, directory: TypeId, id: ObjectId) -> TypeId {
        let data = self.slots.get(id).map_or(0, |s| s.data);
        let first = self.input.graph.edges(id).next().map(|e| self.edge_at(e));
        if first == Some(data) { directory } else { self.input.types.map_part(directory) }
    }

    /// Evidence from outside the heap, or stronger than what spreads: one for each of `all`, in parallel. To be called
    /// before `run`.
    pub fn seed_all<T: Sync>(&mut self, all: &[T], seed: impl Fn(&Self, &T) -> Option<Seed> + Sync) {
        let engine = &*self;
        let offer = |one| {
            let Seed { target, to, offset, cap } = seed(engine, one)?;
            Some((target, engine.point(to, target, offset, cap)?))
        };
        let raised: Vec<Vec<(ObjectId, Level)>> =
            all.par_chunks(PARALLEL).map(|part| part.iter().filter_map(offer).collect()).collect();
        raised.into_iter().for_each(|mut r| self.queue(&mut r));
    }

    /// Evidence whose fit the caller has established.
    pub fn settle(&mut self, id: ObjectId, ty: TypeId, fit: Fit) {
        let raised = self.put(id, ty, fit);
        self.wait(id, raised);
    }

    fn wait(&mut self, id: ObjectId, raised: Option<Level>) {
        if let Some(level) = raised {
            self.waiting[level as usize].push(id, self.input.heap.slots);
        }
    }

    /// Passes evidence on until nothing changes.
    pub fn run(&mut self) {
        let queued = AtomicBitmap::new(self.best.len());
        let mut round: Vec<Run> = Vec::new();
        let mut parts: Vec<Vec<Run>> = Vec::new();
        // A list passes on one object a round: what one round remembers is of use to the next.
        let (mut memory, mut passed) = (Memory::default(), Passed::default());
        while let Some(level) = (0..self.waiting.len()).rev().find(|&l| !self.waiting[l].is_empty()) {
            let mut waiting = std::mem::take(&mut self.waiting[level]);
            let Some(many) = waiting.many else {
                // One entry per object, and only if this still is its level; with the state of this moment.
                if waiting.list.len() > 1 {
                    waiting.list.retain(|id| queued.insert(id.index()));
                    waiting.list.iter().for_each(|id| queued.clear(id.index()));
                }
                self.copy_states(level, waiting.list.drain(..), &mut round);
                // The room of the list is used again: a list in the heap has a round for each of its elements.
                std::mem::swap(&mut self.waiting[level].list, &mut waiting.list);
                match self.chunk(&round) {
                    None => {
                        self.pass(&round, &mut memory, &mut passed);
                        self.finish_pass(&mut passed);
                    }
                    Some(n) => self.pass_parallel(round.par_chunks(n)),
                }
                continue;
            };
            // In blocks of ids: copies of all states at once would need more memory than the states themselves. The
            // blocks do not depend on the number of threads, so neither does the result.
            let many = many.into_bitmap();
            for from in (0..many.len()).step_by(BLOCK) {
                let words = &many.words()[from / 64..many.len().min(from + BLOCK).div_ceil(64)];
                parts.resize_with(words.len().div_ceil(PART), Vec::new);
                let engine = &*self;
                parts.par_iter_mut().zip(words.par_chunks(PART)).enumerate().for_each(|(i, (part, words))| {
                    engine.copy_marked(level, words, from + 64 * PART * i, part);
                });
                self.pass_parallel(parts.par_iter().map(Vec::as_slice));
            }
        }
    }

    /// Objects of `ids` whose evidence is of this level now, and its number.
    fn copy_states(&self, level: usize, ids: impl Iterator<Item = ObjectId>, round: &mut Vec<Run>) {
        round.clear();
        round.extend(
            ids.map(|first| Run { first, n: 1, number: self.best[first.index()].load(Ordering::Acquire) })
                .filter(|run| self.numbers.key(run.number).level_bits() as usize == level),
        );
    }

    /// The same of those whose bits are set, where the first word stands for the ids from `from` on.
    fn copy_marked(&self, level: usize, words: &[u64], from: usize, round: &mut Vec<Run>) {
        round.clear();
        // Most have the evidence of the one before.
        let (mut last, mut fits) = (0, false);
        let mut run = Run { first: ObjectId(0), n: 0, number: 0 };
        for (i, &word) in words.iter().enumerate() {
            let mut left = word;
            while left != 0 {
                let id = from + 64 * i + left.trailing_zeros() as usize;
                left &= left - 1;
                let number = self.best[id].load(Ordering::Acquire);
                if number != last {
                    (last, fits) = (number, self.numbers.key(number).level_bits() as usize == level);
                }
                if !fits {
                    continue;
                }
                if run.number == number && run.first.index() + run.n as usize == id {
                    run.n += 1;
                    continue;
                }
                round.extend((run.n > 0).then_some(run));
                run = Run { first: ObjectId(id as u32), n: 1, number };
            }
        }
        round.extend((run.n > 0).then_some(run));
    }

    /// How many of `round` make a task; `None` where one thread is quicker. Few objects may have many edges: the tables of
    /// a map are arrays of a thousand.
    fn chunk(&self, round: &[Run]) -> Option<usize> {
        const ALONE: usize = 4;
        if round.len() < ALONE {
            return None;
        }
        let graph = self.input.graph;
        let edges: usize = round.iter().map(|r| graph.edges(r.first).len().min(MANY_EDGES)).sum();
        let all = edges + round.len();
        (all >= PARALLEL).then(|| (round.len() * CHUNK / all).clamp(1, CHUNK))
    }

    /// Passes on what the objects of all `parts` know.
    fn pass_parallel<'p>(&mut self, parts: impl IndexedParallelIterator<Item = &'p [Run]>) {
        let engine = &*self;
        let pass = |memory: &mut Memory, part| {
            let mut passed = Passed { raised: std::mem::take(&mut memory.raised), large: Vec::new() };
            engine.pass(part, memory, &mut passed);
            // Few are left as a rule, and the room for all is used again.
            let left = Passed { raised: passed.raised.as_slice().to_vec(), large: passed.large };
            passed.raised.clear();
            memory.raised = passed.raised;
            left
        };
        let passed: Vec<Passed> = parts.map_init(Memory::default, pass).collect();
        passed.into_iter().for_each(|mut p| self.finish_pass(&mut p));
    }

    /// Passes on what the objects of `round` know.
    fn pass(&self, round: &[Run], memory: &mut Memory, passed: &mut Passed) {
        let Passed { raised, large } = passed;
        for run in round {
            let (mut first, end) = (run.first, run.first.0 + run.n);
            // Span by span: slots of another one may be of another kind.
            while first.0 < end
                && let Some((span_end, slot)) = memory.slot(self, first)
            {
                let next = end.min(span_end);
                let edges = self.input.graph.edges_of(first.index()..next as usize);
                if edges.len() > MANY_EDGES && next - first.0 == 1 {
                    large.push((first, run.number));
                } else if !edges.is_empty() && !slot.noscan {
                    self.pass_on(run.number, slot.data, edges, raised, memory);
                }
                first = ObjectId(next);
            }
        }
        self.mark(raised);
    }

    /// Enters objects where many wait already; keeps the others.
    fn mark(&self, raised: &mut Vec<(ObjectId, Level)>) {
        // Those of one word together: most follow one another.
        let (mut kept, mut at, mut bits) = (0, 0, 0);
        raised.retain(|&(id, level)| {
            if self.waiting[level as usize].many.is_none() {
                return true;
            }
            let place = (level as usize, id.index() / 64);
            if place != (kept, at) {
                self.enter(kept, at, bits);
                (kept, at, bits) = (place.0, place.1, 0);
            }
            bits |= 1 << (id.index() % 64);
            false
        });
        self.enter(kept, at, bits);
    }

    fn enter(&self, level: usize, word: usize, bits: u64) {
        if let Some(many) = self.waiting.get(level).and_then(|w| w.many.as_ref()).filter(|_| bits != 0) {
            many.insert_word(word, bits);
        }
    }

    /// What `f` makes of the objects whose evidence is wanted, in the order of ids. Cost where few are: a look at one
    /// number an object.
    pub(super) fn among<T: Send>(
        &self,
        wanted: impl Fn(Key) -> bool + Sync,
        f: impl Fn(ObjectId, Key) -> Option<T> + Sync,
    ) -> Vec<T> {
        let parts: Vec<Vec<T>> = self
            .best
            .par_chunks(1 << 14)
            .enumerate()
            .map(|(i, part)| {
                let mut out = Vec::new();
                let (mut last, mut key) = (0, Key::default());
                let mut is = wanted(key);
                for (k, best) in part.iter().enumerate() {
                    let number = best.load(Ordering::Acquire);
                    if number != last {
                        (last, key) = (number, self.numbers.key(number));
                        is = wanted(key);
                    }
                    if is {
                        out.extend(f(ObjectId((i << 14 | k) as u32), key));
                    }
                }
                out
            })
            .collect();
        parts.into_iter().flatten().collect()
    }

    /// Puts down what a task left, and empties it.
    fn finish_pass(&mut self, passed: &mut Passed) {
        self.queue(&mut passed.raised);
        for (id, number) in passed.large.drain(..) {
            self.pass_large(id, number);
        }
    }

    /// One object with many edges, some of them at a time.
    fn pass_large(&mut self, id: ObjectId, number: u32) {
        let edges = self.input.graph.edges(id);
        let Some(data) = self.slots.get(id).filter(|s| !s.noscan).map(|s| s.data) else { return };
        for from in edges.clone().step_by(BLOCK) {
            let engine = &*self;
            let to = edges.end.min(from + BLOCK);
            let raised: Vec<Vec<(ObjectId, Level)>> = (from..to)
                .into_par_iter()
                .step_by(CHUNK)
                .map_init(Memory::default, |memory, at| {
                    let mut out = Vec::new();
                    engine.pass_on(number, data, at..to.min(at + CHUNK), &mut out, memory);
                    engine.mark(&mut out);
                    out
                })
                .collect();
            raised.into_iter().for_each(|mut r| self.queue(&mut r));
        }
    }

    fn queue(&mut self, raised: &mut Vec<(ObjectId, Level)>) {
        for (id, level) in raised.drain(..) {
            self.waiting[level as usize].push(id, self.input.heap.slots);
        }
    }

    /// The result in the form that others use.
    pub fn finish(self) -> Typing {
        let any_closure = self.input.types.any_closure();
        let unread_closures = self.among(
            |key| key != Key::default() && self.type_of_rank.get(key.rank()) == Some(&any_closure),
            |id, _| Some(id),
        );
        Typing {
            best: self.best.into_iter().map(AtomicU32::into_inner).collect(),
            keys: self.numbers.into_keys(),
            type_of_rank: self.type_of_rank,
            unread_closures,
        }
    }
}
