//! What keeps single objects alive, in few words: the global variable or the stack at the other end of a shortest path. Used by
//! `locks` and `goroutines` for the objects that primitives lie in. Does not know sizes: `dominators` does.

use crate::{
    analysis::{paths::BreadthFirst, places::Places},
    base::{Addr, Bitmap, ObjectId},
    graph::RootKind,
    runtime::{layout::Global, sched::waits::Wait, stack::Frame},
};

/// A breadth-first tree from the roots, made once and asked for many objects.
pub struct Keepers<'p, 'a> {
    places: &'p Places<'a>,
    tree: BreadthFirst,
}

impl<'p, 'a> Keepers<'p, 'a> {
    /// Ways through the runtime's own records (goroutines, places in queues) do not count: they lead from any channel to all that wait
    /// at it. The program's variables explain best, then stacks. Cost: one visit of each edge.
    pub fn of(places: &'p Places<'a>, waits: &[Wait]) -> Keepers<'p, 'a> {
        let (graph, heap) = (&places.built.graph, places.heap);
        let mut records = Bitmap::new(graph.slots());
        let own = places.built.goroutines.iter().map(|g| g.addr);
        let object = |a: Addr| heap.find(a).map(|f| f.0);
        for o in own.chain(waits.iter().flat_map(|w| w.sudogs.iter().copied())).filter_map(object) {
            records.set(o.index());
        }
        let mut runtimes: Vec<Addr> = Global::ALL.iter().filter_map(|&g| places.rt.globals.get(g)).collect();
        runtimes.sort_unstable();
        let is_runtimes = |at: Addr| {
            let last = runtimes[..runtimes.partition_point(|&r| r <= at)].last();
            // A slice header is the largest of those that lead into the heap.
            last.and_then(|&r| at.distance_from(r)).is_some_and(|d| d < 24)
        };
        let rank = |n: u32| {
            let r = &graph.roots[n as usize];
            match r.kind {
                RootKind::Data | RootKind::Bss if !is_runtimes(r.at) => 0,
                RootKind::Stack => 1,
                RootKind::Conservative => 2,
                _ => 3,
            }
        };
        let mut order: Vec<u32> = (0..graph.roots.len() as u32).collect();
        // Stable: goroutines stay in their order.
        order.sort_by_key(|&n| rank(n));
        Keepers { places, tree: BreadthFirst::walk(graph, &order, Some(&records), None) }
    }

    /// `global main.repo`, `the stack of goroutine 7 (main.(*pool).worker)`, `the runtime`; `None` for what is not in the heap,
    /// and where nothing but the runtime's records leads to it.
    pub fn name(&self, addr: Addr) -> Option<String> {
        let id: ObjectId = self.places.heap.find(addr)?.0;
        let (graph, built) = (&self.places.built.graph, self.places.built);
        let root = graph.roots.get(self.tree.root(graph, id)?)?;
        match root.kind {
            RootKind::Data | RootKind::Bss => self.places.global(root.at),
            RootKind::Stack | RootKind::Conservative | RootKind::Goroutine => {
                let at = built.goroutines.binary_search_by_key(&root.goid, |g| g.goid).ok();
                let frames =
                    at.and_then(|i| built.stacks.get(i)?.frames.get(root.frame as usize..)).unwrap_or_default();
                let name = |f: &Frame| self.places.rt.image.pclntab.find(f.pc).map(|f| f.name());
                // What the runtime does for a function is the function's.
                let function = frames
                    .iter()
                    .take(16)
                    .filter_map(name)
                    .find(|n| !n.starts_with("runtime.") && !n.contains(".runtime_"));
                Some(match function.filter(|_| root.kind == RootKind::Stack) {
                    Some(name) => format!("the stack of goroutine {} ({name})", root.goid),
                    None => format!("goroutine {}", root.goid),
                })
            }
            kind => Some(kind.text().to_owned()),
        }
    }
}
