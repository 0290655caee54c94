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
//! | `seeds`     | where it begins: malloc headers, interfaces, closures, roots |
//! | `container` | the whole object around a part that a pointer leads to |
//! | `regions`   | typed memory outside the heap: globals
//! | `typed`     | all of it together, for one target |
//! | `guess`     | types by size, pointers and children, marked as guessed |

mod container;
mod engine;
mod fit;
mod guess;
mod regions;
mod seeds;
mod slots;
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

pub use fit::class_size;
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
    /// Objects of more than 512 bytes with pointers begin with a malloc header (Go 1.22+).
    pub malloc_headers: bool,
    /// Whether objects that nothing else types are guessed by size and pointers.
    pub guess: bool,
}

/// The types of all objects.
#[derive(Clone, Debug, Default)]
pub struct Typing {
    /// By object id; `TypeId::UNKNOWN` for free slots and where nothing is known.
    pub ty: Vec<TypeId>,
    /// By object id.
    pub known: Vec<KnownBy>,
    /// Objects of which only a part is known: byte at which the value of type `ty` begins, counted from the first data
    /// byte. All other objects begin with it.
    pub part_at: HashMap<ObjectId, u64>,
    /// Objects to which a func value points and whose function is to be read from their first word: closures in spans
    /// without pointers, which the graph pass never reads.
    pub unread_closures: Vec<ObjectId>,
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

    pub fn type_of(&self, id: ObjectId) -> TypeId {
        self.ty.get(id.index()).copied().unwrap_or_default()
    }

    pub fn known_by(&self, id: ObjectId) -> KnownBy {
        self.known.get(id.index()).copied().unwrap_or_default()
    }

    /// Only part of the object is of its type: the byte (from the first data byte) at which that part begins.
    pub fn part_of(&self, id: ObjectId) -> Option<u64> {
        self.part_at.get(&id).copied()
    }

    /// Gives the closures of `unread_closures` the types of their functions.
    pub fn name_closures(
        &mut self,
        entries: &[(ObjectId, Addr)],
        types: &mut TypeTable,
        name: impl Fn(Addr) -> Option<String>,
    ) {
        for &(id, entry) in entries {
            let ty = match types.closure_at(entry) {
                Some(ty) => ty,
                None => match name(entry) {
                    Some(name) => types.closure(entry, &name, None),
                    None => continue,
                },
            };
            if let (Some(t), Some(k)) = (self.ty.get_mut(id.index()), self.known.get_mut(id.index())) {
                (*t, *k) = (ty, KnownBy::Exact);
            }
        }
    }
}
