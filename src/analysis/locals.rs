//! Which local variable holds an object: for answers that begin at goroutines.

use std::collections::HashMap;

use super::dominators::{Dominators, Node, Vertex};
use crate::{
    base::ObjectId,
    graph::{build::Built, typing::Typed},
};

/// Objects to which roots in local variables lead.
pub struct LocalHolders<'a> {
    typed: &'a Typed,
    /// (object, index into `Locals::of_root`), sorted: of several the first root.
    of_object: Vec<(ObjectId, u32)>,
}

impl<'a> LocalHolders<'a> {
    /// Cost: a sort of the roots that lie in local variables.
    pub fn of(built: &Built, typed: &'a Typed) -> LocalHolders<'a> {
        let roots = typed.locals.of_root.iter().enumerate();
        let mut of_object: Vec<(ObjectId, u32)> =
            roots.filter_map(|(i, l)| Some((built.graph.roots.get(l.root as usize)?.target, i as u32))).collect();
        of_object.sort_unstable();
        of_object.dedup_by_key(|o| o.0);
        LocalHolders { typed, of_object }
    }

    fn index(&self, id: ObjectId) -> Option<usize> {
        let i = self.of_object.binary_search_by_key(&id, |o| o.0).ok()?;
        Some(self.of_object[i].1 as usize)
    }

    /// `main.handler.req.Body`.
    pub fn name(&self, id: ObjectId) -> Option<String> {
        let local = self.typed.locals.of_root.get(self.index(id)?)?;
        self.typed.locals.name(&self.typed.types, local.root as usize)
    }

    /// The variable of a function from which most bytes hang below `node`, a goroutine or all of a function; and the bytes.
    pub fn heaviest(&self, dom: &Dominators, node: Node) -> Option<(String, u64)> {
        let mut sums: HashMap<u32, u64> = HashMap::new();
        let mut count = |n: Node| {
            if let Vertex::Object(id) = dom.vertex(n)
                && let Some(local) = self.index(id).and_then(|i| self.typed.locals.of_root.get(i))
            {
                *sums.entry(local.variable).or_default() += dom.retained(n);
            }
        };
        for n in dom.children(node) {
            match dom.vertex(n) {
                Vertex::Holder(_) => dom.children(n).for_each(&mut count),
                _ => count(n),
            }
        }
        let variables = &self.typed.locals.variables;
        let (variable, bytes) =
            sums.into_iter().max_by_key(|&(v, bytes)| (bytes, std::cmp::Reverse(variables.get(v as usize))))?;
        Some((variables.get(variable as usize)?.clone(), bytes))
    }
}
