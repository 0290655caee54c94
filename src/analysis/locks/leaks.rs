//! Goroutines that can never go on: blocked on primitives that nothing can reach that runs, may run, or can be woken from
//! outside. The same fixed point as the leak-finding collection of Go 1.26 (runtime/mgc.go, findGoroutineLeaks): mark from
//! all roots but the stacks of blocked goroutines; a goroutine whose primitive is marked may go on, so its stack is a
//! root, too; repeat. What a global keeps is never proven, although no code may use it any more.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    base::{Addr, Bitmap, Goid, ObjectId},
    graph::{RootKind, build::Built},
    runtime::{
        Runtime,
        heap::Heap,
        sched::waits::{Wait, WaitKind},
    },
};

/// Proven leaks that were started at the same place and wait alike.
#[derive(Clone, Debug, Serialize)]
pub struct LeakGroup {
    pub count: u64,
    pub kind: WaitKind,
    /// Function with the `go` statement.
    pub created_by: String,
    /// Function that the goroutine began with.
    pub function: String,
    /// Bytes of their stacks.
    pub stack_bytes: u64,
    pub goids: Vec<Goid>,
}

/// Waits that only other goroutines can end.
fn blocked(w: &Wait) -> bool {
    match w.kind {
        WaitKind::NilChan | WaitKind::EmptySelect => true,
        WaitKind::ChanReceive | WaitKind::ChanSend | WaitKind::Select => !w.cases.is_empty(),
        WaitKind::Mutex
        | WaitKind::RwRead
        | WaitKind::RwWrite
        | WaitKind::WaitGroup
        | WaitKind::Cond
        | WaitKind::Once => !w.addr.is_null(),
        _ => false,
    }
}

/// Indices of the goroutines that are proven to leak. Cost: one visit of every edge, and of every stack word once.
pub fn proven(heap: &Heap, built: &Built, waits: &[Wait]) -> Vec<usize> {
    let n = built.goroutines.len();
    let mut live: Vec<bool> = waits.iter().map(|w| !blocked(w)).collect();
    // `select {}` in the main goroutine keeps a program alive on purpose.
    for (i, g) in built.goroutines.iter().enumerate() {
        live[i] |= g.goid == Goid(1) && waits[i].kind == WaitKind::EmptySelect;
    }
    let index: HashMap<Goid, usize> = built.goroutines.iter().enumerate().map(|(i, g)| (g.goid, i)).collect();
    // The runtime's own records lead from any channel to all who wait at it, and from the list of goroutines to all of
    // them: what they hold counts only once the goroutine may go on.
    let slots = heap.slots as usize;
    let mut closed = Bitmap::new(slots);
    let object = |a: Addr| heap.find(a).map(|f| f.0).filter(|&o| heap.is_allocated(o));
    let mut own: Vec<Vec<ObjectId>> = vec![Vec::new(); n];
    for (i, g) in built.goroutines.iter().enumerate().filter(|(i, _)| !live[*i]) {
        for o in waits[i].sudogs.iter().copied().chain([g.addr]).filter_map(object) {
            closed.set(o.index());
            own[i].push(o);
        }
    }
    let mut stack_roots: Vec<Vec<ObjectId>> = vec![Vec::new(); n];
    let mut todo: Vec<ObjectId> = Vec::new();
    for r in &built.graph.roots {
        let of = matches!(r.kind, RootKind::Stack | RootKind::Conservative | RootKind::Goroutine)
            .then(|| index.get(&r.goid).copied())
            .flatten();
        match of {
            Some(i) if !live[i] => stack_roots[i].push(r.target),
            _ => todo.push(r.target),
        }
    }
    // What each blocked goroutine waits for: objects, or the stacks of other goroutines.
    let mut waiters: HashMap<ObjectId, Vec<usize>> = HashMap::new();
    let mut on_stack: Vec<(usize, usize)> = Vec::new();
    let mut ready: Vec<usize> = Vec::new();
    let mut stacks: Vec<(Addr, Addr, usize)> =
        built.goroutines.iter().enumerate().map(|(i, g)| (g.stack.0, g.stack.1, i)).collect();
    stacks.sort_unstable();
    for i in (0..n).filter(|&i| !live[i]) {
        let w = &waits[i];
        let single = (!w.kind.is_channel()).then_some(w.addr).filter(|a| !a.is_null());
        for addr in w.cases.iter().map(|c| c.chan).chain(single) {
            match object(addr) {
                Some(o) => waiters.entry(o).or_default().push(i),
                None => {
                    let at = stacks.partition_point(|s| s.0 <= addr).checked_sub(1).map(|k| stacks[k]);
                    match at.filter(|s| addr < s.1) {
                        // Its own stack: only it could reach the primitive.
                        Some((_, _, owner)) if owner == i => {}
                        Some((_, _, owner)) => on_stack.push((owner, i)),
                        // A global, or memory that is not understood.
                        None => ready.push(i),
                    }
                }
            }
        }
    }
    for &(owner, i) in &on_stack {
        if live[owner] {
            ready.push(i);
        }
    }
    let mut seen = Bitmap::new(slots);
    loop {
        while let Some(o) = todo.pop() {
            if !seen.insert(o.index()) {
                continue;
            }
            if let Some(list) = waiters.get(&o) {
                ready.extend(list);
            }
            if !closed.get(o.index()) {
                todo.extend(built.graph.children(o).iter().filter(|t| !seen.get(t.index())));
            }
        }
        let Some(i) = ready.pop() else { break };
        if std::mem::replace(&mut live[i], true) {
            continue;
        }
        todo.append(&mut stack_roots[i]);
        for o in std::mem::take(&mut own[i]) {
            closed.clear(o.index());
            if seen.get(o.index()) {
                todo.extend(built.graph.children(o));
            } else {
                todo.push(o);
            }
        }
        ready.extend(on_stack.iter().filter(|s| s.0 == i).map(|s| s.1));
    }
    (0..n).filter(|&i| !live[i]).collect()
}

/// Proven leaks by where they were started and what they wait for, most first.
pub fn groups(rt: &Runtime, built: &Built, waits: &[Wait], proven: &[usize]) -> Vec<LeakGroup> {
    let mut by: BTreeMap<(Addr, Addr, WaitKind), LeakGroup> = BTreeMap::new();
    let name = |a: Addr| rt.image.pclntab.find(a).map_or("?", |f| f.name()).to_owned();
    for &i in proven {
        let (g, w) = (&built.goroutines[i], &waits[i]);
        let group = by.entry((g.gopc, g.startpc, w.kind)).or_insert_with(|| LeakGroup {
            count: 0,
            kind: w.kind,
            created_by: name(g.gopc),
            function: name(g.startpc),
            stack_bytes: 0,
            goids: Vec::new(),
        });
        group.count += 1;
        group.stack_bytes += g.stack.1.0.saturating_sub(g.stack.0.0);
        group.goids.push(g.goid);
    }
    let mut out: Vec<LeakGroup> = by.into_values().collect();
    out.sort_by_key(|g| std::cmp::Reverse(g.count));
    out
}
