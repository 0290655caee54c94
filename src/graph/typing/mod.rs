//! graph::typing: which object has which type, and how that is known. Owns `Typing`. Reads the graph, the hints gathered
//! with it, the type table, and typed memory outside the heap (globals, locals). Used by `analysis` and `values`.
//!
//! Evidence is offered to objects; each object keeps the best, by a total order that does not depend on the order of
//! arrival. Rounds run level by level from the strongest evidence down, each round in parallel over the objects that
//! changed; what an object offers to its children is worked out from a copy of its state at the start of the round. So
//! the result is the same on any number of threads. Cost: a few visits per edge.
//!
//! | file        | does |
//! |-------------|------|
//! | `slots`     | size, class and first data byte of the slot behind an object id |
//! | `fit`       | how well a type and a pointer to it fit a slot |
//! | `engine`    | the best evidence of every object, and its spreading |
//! | `spread`    | what an object says of those that it points to, remembered per kind of holder |
//! | `numbers`   | distinct pieces of evidence, by number |
//! | `seeds`     | where it begins: malloc headers, interfaces, closures, roots |
//! | `asked`     | what sampled objects were allocated as, from the code that asked for them |
//! | `container` | the whole object around a part that a pointer leads to |
//! | `regions`   | typed memory outside the heap: globals |
//! | `locals`    | local variables of stopped frames |
//! | `spilled`   | the same without DWARF, by the code of their functions |
//! | `typed`     | all of it together, for one target |
//! | `guess`     | types by size, pointers and children, marked as guessed |

mod asked;
mod container;
mod engine;
mod fit;
mod guess;
mod locals;
mod numbers;
mod regions;
mod seeds;
mod slots;
mod spilled;
mod spread;
#[cfg(test)]
mod tests;
mod typed;

use std::collections::HashMap;

use super::{Graph, Hints};
use crate::{
    base::{Addr, KnownBy, ObjectId},
    runtime::{
        heap::Heap,
        types::{TypeId, TypeTable},
    },
};

use fit::Level;

pub use fit::class_size;
pub use locals::{LocalRoot, Locals};
pub use regions::regions;
pub use slots::{Slot, Slots};
pub use typed::Typed;

/// Typed memory outside the heap: a global variable, a local in a stopped frame, a structure of the runtime.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Region {
    pub start: Addr,
    pub ty: TypeId,
}

/// What typing needs to know about one heap.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub heap: &'a Heap,
    pub graph: &'a Graph,
    pub hints: &'a Hints,
    pub types: &'a TypeTable,
    /// Sorted by start; where two overlap, the later one counts.
    pub regions: &'a [Region],
    pub locals: &'a Locals,
    /// Objects whose place of allocation is known, and what it asked for: a type, or the array of many.
    pub asked: &'a [(ObjectId, TypeId)],
    /// Objects of more than 512 bytes with pointers begin with a malloc header (Go 1.22+).
    pub malloc_headers: bool,
    /// Whether objects that nothing else types are guessed by size and pointers.
    pub guess: bool,
}

/// The types of all objects.
#[derive(Clone, Debug, Default)]
pub struct Typing {
    /// Best evidence by object id: its number.
    best: Vec<u32>,
    /// What evidence each number stands for; all zero where nothing is known, as of free slots.
    keys: Vec<engine::Key>,
    type_of_rank: Vec<TypeId>,
    /// Objects to which a func value points and whose function is to be read from their first word: closures in spans
    /// without pointers, which the graph pass never reads.
    pub unread_closures: Vec<ObjectId>,
}

impl PartialEq for Typing {
    /// What they say; numbers may differ.
    fn eq(&self, other: &Typing) -> bool {
        let same = |id| self.key(ObjectId(id)) == other.key(ObjectId(id));
        self.best.len() == other.best.len()
            && (0..self.best.len() as u32).all(same)
            && self.type_of_rank == other.type_of_rank
            && self.unread_closures == other.unread_closures
    }
}

impl Typing {
    /// Works out the types of all allocated objects.
    pub fn new(input: Input<'_>) -> Typing {
        let slots = Slots::new(input.heap, input.malloc_headers);
        let mut engine = engine::Engine::new(input, &slots);
        seeds::sow(&mut engine);
        engine.run();
        container::complete(&mut engine);
        if input.guess {
            guess::complete(&mut engine);
        }
        engine.finish()
    }

    fn key(&self, id: ObjectId) -> engine::Key {
        self.best.get(id.index()).and_then(|&n| self.keys.get(n as usize)).copied().unwrap_or_default()
    }

    /// A number for what is known of an object: those with the same number have the same type, known in the same way.
    #[inline]
    pub fn number_of(&self, id: ObjectId) -> u32 {
        self.best.get(id.index()).copied().unwrap_or(0)
    }

    /// What is known of an object, for a snapshot: (level, place, type), (0, 0, unknown) where nothing is.
    pub(crate) fn mark_of(&self, id: ObjectId) -> (u8, u64, TypeId) {
        let key = self.key(id);
        key.level().map_or((0, 0, TypeId::UNKNOWN), |l| (l as u8, key.at(), self.rank_type(key)))
    }

    /// The other way round: the distinct marks, and the number of each object's mark.
    pub(crate) fn of_marks(marks: &[(u8, u64, TypeId)], of: Vec<u32>) -> Option<Typing> {
        let mut keys = Vec::with_capacity(marks.len());
        for (rank, &(level, at, _)) in marks.iter().enumerate() {
            keys.push(match level {
                0 => engine::Key::default(),
                l => engine::Key::new(Level::from_bits(l.into())?, 0, rank as u32, at),
            });
        }
        Some(Typing { best: of, keys, type_of_rank: marks.iter().map(|m| m.2).collect(), unread_closures: Vec::new() })
    }

    /// `TypeId::UNKNOWN` for free slots and where nothing is known.
    pub fn type_of(&self, id: ObjectId) -> TypeId {
        let key = self.key(id);
        if key.level().is_none() { TypeId::UNKNOWN } else { self.rank_type(key) }
    }

    fn rank_type(&self, key: engine::Key) -> TypeId {
        self.type_of_rank.get(key.rank()).copied().unwrap_or_default()
    }

    pub fn known_by(&self, id: ObjectId) -> KnownBy {
        match self.key(id).level() {
            None => KnownBy::Unknown,
            Some(Level::Guess | Level::Part | Level::Start) => KnownBy::Guessed,
            Some(Level::Container | Level::Elements | Level::Whole) => KnownBy::Propagated,
            Some(Level::Interface | Level::Closure | Level::Header) => KnownBy::Exact,
        }
    }

    /// Only part of the object is of its type: the byte, counted from the first data byte, at which that part begins.
    /// All other objects begin with it.
    pub fn part_of(&self, id: ObjectId) -> Option<u64> {
        let key = self.key(id);
        match key.level()? {
            Level::Part | Level::Start => Some(key.at()),
            Level::Elements if key.at() > 0 => Some(key.at()),
            _ => None,
        }
    }

    /// Gives the closures of `unread_closures` the types of their functions.
    pub fn name_closures(
        &mut self,
        entries: &[(ObjectId, Addr)],
        types: &mut TypeTable,
        name: impl Fn(Addr) -> Option<String>,
    ) {
        let mut numbers: HashMap<TypeId, u32> = HashMap::new();
        for &(id, entry) in entries {
            let ty = match types.closure_at(entry) {
                Some(ty) => ty,
                None => match name(entry) {
                    Some(name) => types.closure(entry, &name, None),
                    None => continue,
                },
            };
            let number = *numbers.entry(ty).or_insert_with(|| {
                self.type_of_rank.push(ty);
                self.keys.push(engine::Key::new(Level::Closure, 0, self.type_of_rank.len() as u32 - 1, 0));
                self.keys.len() as u32 - 1
            });
            if let Some(best) = self.best.get_mut(id.index()) {
                *best = number;
            }
        }
    }
}
