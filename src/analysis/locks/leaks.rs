//! Goroutines that can never go on: blocked on primitives that nothing can reach that runs, may run, or can be woken from
//! outside. The same fixed point as the leak-finding collection of Go 1.26 (runtime/mgc.go, findGoroutineLeaks): mark from
//! all roots but the stacks of blocked goroutines; a goroutine whose primitive is marked may go on, so its stack is a
//! root, too; repeat. What a global keeps is never proven, although no code may use it any more.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::calls::Code;
use crate::{
    analysis::{
        dominators::{Dominators, HolderTree},
        goroutines::{StackFrame, created_by, symbolize, waited},
    },
    base::{Addr, Bitmap, Goid, ObjectId},
    graph::{Root, RootKind, build::Built},
    runtime::{
        Runtime,
        heap::Heap,
        layout::Global,
        sched::waits::{Wait, WaitKind},
    },
};

/// Goroutines that are stuck for ever, or seem so, started at the same place and waiting alike.
#[derive(Clone, Debug, Serialize)]
pub struct LeakGroup {
    pub count: u64,
    pub kind: WaitKind,
    /// Function with the `go` statement.
    pub created_by: String,
    /// File and line of the `go` statement.
    pub created_at: String,
    /// Function that the goroutine began with.
    pub function: String,
    /// Where in the program's own code they wait.
    pub waits_in: Option<StackFrame>,
    /// What the first of them waits for.
    pub waits_for: String,
    /// Bytes of their stacks.
    pub stack_bytes: u64,
    /// Bytes of objects that only they keep.
    pub retained_bytes: u64,
    /// At least so long, the longest of them.
    pub longest_wait_s: Option<f64>,
    /// Why it is held for a leak, where that is no proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub goids: Vec<Goid>,
}

const UNPROVABLE: &str =
    "leaks cannot be proven, since something could not be read that may lead to what is waited for";

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

/// Indices of the goroutines that are proven to leak: none where roots are missing, because a stack or a goroutine could not
/// be read. Cost: one visit of every edge, and of every stack word once.
pub fn proven(rt: &Runtime, heap: &Heap, built: &Built, waits: &[Wait]) -> Vec<usize> {
    let unread = built.stacks.iter().position(|s| s.lost);
    if let Some(i) = unread {
        rt.diag.note(UNPROVABLE, format_args!("the stack of goroutine {}", built.goroutines[i].goid));
        return Vec::new();
    }
    if rt.diag.list().iter().any(|d| d.kind == crate::runtime::sched::UNREADABLE) {
        rt.diag.note(UNPROVABLE, "a goroutine's record");
        return Vec::new();
    }
    stuck(heap, built, waits, None)
}

/// The proven ones, and those that only global variables lead to which no code refers to that goroutines are in that can go on: nor has any
/// of these what they wait for on its stack, or reaches it from there. An idle worker of a pool that a global keeps looks the same, so this is no proof.
pub fn proven_and_suspected(rt: &Runtime, heap: &Heap, built: &Built, waits: &[Wait]) -> (Vec<usize>, Vec<usize>) {
    // The runtime's own variables are no program's globals: its processors hold the timers that wake goroutines.
    let mut own: Vec<Addr> = Global::ALL.iter().filter_map(|&g| rt.globals.get(g)).collect();
    own.extend(touched(rt, built, waits));
    own.sort_unstable();
    let (proven, mut out) = rayon::join(|| proven(rt, heap, built, waits), || stuck(heap, built, waits, Some(&own)));
    out.retain(|i| proven.binary_search(i).is_err());
    (proven, out)
}

/// Global variables that code refers to in which goroutines are that can go on, or that it calls, two calls deep: os/signal's table of
/// channels, say. Sorted. Cost: each such function is decoded once.
fn touched(rt: &Runtime, built: &Built, waits: &[Wait]) -> Vec<Addr> {
    const DEPTH: u32 = 2;
    const MOST: usize = 20_000;
    let mut out = Vec::new();
    let code = Code::new(&rt.image, 0);
    let mut seen: HashSet<Addr> = HashSet::new();
    let mut todo: Vec<(Addr, u32)> = Vec::new();
    for (stack, _) in built.stacks.iter().zip(waits).filter(|(_, w)| !blocked(w)) {
        todo.extend(stack.frames.iter().filter(|f| seen.insert(f.func_entry)).map(|f| (f.func_entry, 0)));
    }
    while let Some((entry, depth)) = todo.pop() {
        let Some(f) = code.function(entry).filter(|f| f.entry() == entry && !f.name().starts_with("runtime.")) else {
            continue;
        };
        out.extend(rt.image.global_references(&f).iter().map(|r| r.addr));
        if depth < DEPTH && seen.len() < MOST {
            todo.extend(code.callees(&f).into_iter().filter(|&to| seen.insert(to)).map(|to| (to, depth + 1)));
        }
    }
    out
}

/// Does it come back to the channel that it waits for, as far as the code of its frames says: a loop around the receive or select,
/// in the function that waits or in one that called it? Then no work and nobody left to give it any look alike.
pub fn in_a_loop(code: &mut Code<'_>, built: &Built, waits: &[Wait], index: usize) -> bool {
    matches!(waits[index].kind, WaitKind::ChanReceive | WaitKind::Select)
        && built.stacks[index].frames.iter().take(64).any(|f| code.comes_back(f.pc))
}

/// `only`: of the global variables, those at these addresses (sorted) count as roots; `None`: all.
fn stuck(heap: &Heap, built: &Built, waits: &[Wait], only: Option<&[Addr]>) -> Vec<usize> {
    const SLICE: u64 = 24;
    let near = |own: &[Addr], at: Addr| {
        let last = own[..own.partition_point(|&o| o <= at)].last();
        last.is_some_and(|&o| at.distance_from(o).is_some_and(|d| d < SLICE))
    };
    let counts = |at: Addr| only.is_none_or(|own| near(own, at));
    let n = built.goroutines.len();
    let mut live: Vec<bool> = waits.iter().map(|w| !blocked(w)).collect();
    // `select {}` in the main goroutine keeps a program alive on purpose.
    for (i, g) in built.goroutines.iter().enumerate() {
        live[i] |= g.goid == Goid(1) && waits[i].kind == WaitKind::EmptySelect;
    }
    // The runtime's own records lead from any channel to all who wait at it, and from the list of goroutines to all of
    // them: what they hold counts only once the goroutine may go on.
    let slots = heap.slots as usize;
    let mut closed = Bitmap::new(slots);
    let object = |a: Addr| heap.find(a).map(|f| f.0).filter(|&o| heap.is_allocated(o));
    let mut own = Rows::default();
    for (i, g) in built.goroutines.iter().enumerate().filter(|(i, _)| !live[*i]) {
        for o in waits[i].sudogs.iter().copied().chain([g.addr]).filter_map(object) {
            closed.set(o.index());
            own.push(i, o.0);
        }
    }
    own.sort();
    let mut stack_roots = Rows::default();
    let mut todo: Vec<ObjectId> = Vec::new();
    // Roots of a goroutine stand together: its place is looked up once.
    let mut last: (Goid, Option<usize>) = (Goid(0), None);
    for r in &built.graph.roots {
        let of = if matches!(r.kind, RootKind::Stack | RootKind::Conservative | RootKind::Goroutine) {
            if last.0 != r.goid || last.1.is_none() {
                last = (r.goid, built.goroutines.binary_search_by_key(&r.goid, |g| g.goid).ok());
            }
            last.1
        } else {
            None
        };
        match of {
            Some(i) if !live[i] => stack_roots.push(i, r.target.0),
            None if matches!(r.kind, RootKind::Data | RootKind::Bss) && !counts(r.at) => {}
            _ => todo.push(r.target),
        }
    }
    stack_roots.sort();
    // What each blocked goroutine waits for: objects, or the stacks of other goroutines.
    let mut waited = Bitmap::new(slots);
    let (mut waiters, mut on_stack) = (Rows::default(), Rows::default());
    let mut ready: Vec<usize> = Vec::new();
    let mut stacks: Vec<(Addr, Addr, usize)> = Vec::new();
    for i in (0..n).filter(|&i| !live[i]) {
        let w = &waits[i];
        let single = (!w.kind.is_channel()).then_some(w.addr).filter(|a| !a.is_null());
        for addr in w.cases.iter().map(|c| c.chan).chain(single) {
            match object(addr) {
                Some(o) => {
                    waited.set(o.index());
                    waiters.push(o.index(), i as u32);
                }
                None => {
                    if stacks.is_empty() {
                        stacks = built.goroutines.iter().enumerate().map(|(i, g)| (g.stack.0, g.stack.1, i)).collect();
                        stacks.sort_unstable();
                    }
                    let at = stacks.partition_point(|s| s.0 <= addr).checked_sub(1).map(|k| stacks[k]);
                    match at.filter(|s| addr < s.1) {
                        // Its own stack: only it could reach the primitive.
                        Some((_, _, owner)) if owner == i => {}
                        Some((_, _, owner)) => on_stack.push(owner, i as u32),
                        // A global, or memory that is not understood.
                        None if only.is_none() => ready.push(i),
                        None => {}
                    }
                }
            }
        }
    }
    waiters.sort();
    on_stack.sort();
    for &(owner, i) in &on_stack.0 {
        if live[owner as usize] {
            ready.push(i as usize);
        }
    }
    let mut seen = Bitmap::new(slots);
    loop {
        while let Some(o) = todo.pop() {
            if !seen.insert(o.index()) {
                continue;
            }
            if waited.get(o.index()) {
                ready.extend(waiters.of(o.index()).map(|i| i as usize));
            }
            if !closed.get(o.index()) {
                todo.extend(built.graph.children(o).filter(|t| !seen.get(t.index())));
            }
        }
        let Some(i) = ready.pop() else { break };
        if std::mem::replace(&mut live[i], true) {
            continue;
        }
        todo.extend(stack_roots.of(i).map(ObjectId));
        for o in own.of(i).map(ObjectId) {
            closed.clear(o.index());
            if seen.get(o.index()) {
                todo.extend(built.graph.children(o));
            } else {
                todo.push(o);
            }
        }
        ready.extend(on_stack.of(i).map(|i| i as usize));
    }
    (0..n).filter(|&i| !live[i]).collect()
}

/// Lists by number: pairs, sorted.
#[derive(Default)]
struct Rows(Vec<(u32, u32)>);

impl Rows {
    fn push(&mut self, of: usize, value: u32) {
        self.0.push((of as u32, value));
    }

    fn sort(&mut self) {
        if !self.0.is_sorted_by_key(|p| p.0) {
            self.0.sort_unstable();
        }
    }

    fn of(&self, number: usize) -> impl Iterator<Item = u32> + '_ {
        let number = number as u32;
        let first = self.0.partition_point(|p| p.0 < number);
        self.0[first..].iter().take_while(move |p| p.0 == number).map(|p| p.1)
    }
}

/// Leaks by where they were started and what they wait for; `name` says what one waits for. Retained bytes are filled in
/// by `measure`.
pub fn groups(
    rt: &Runtime,
    built: &Built,
    waits: &[Wait],
    list: &[usize],
    now: Option<u64>,
    mut name: impl FnMut(usize) -> String,
) -> Vec<LeakGroup> {
    let mut by: BTreeMap<(Addr, Addr, WaitKind), LeakGroup> = BTreeMap::new();
    let function = |a: Addr| rt.image.pclntab.find(a).map_or("?", |f| f.name()).to_owned();
    for &i in list {
        let (g, w) = (&built.goroutines[i], &waits[i]);
        let group = by.entry((g.gopc, g.startpc, w.kind)).or_insert_with(|| {
            let creator = created_by(rt, g);
            let frames = symbolize(rt, &built.stacks[i]);
            LeakGroup {
                count: 0,
                kind: w.kind,
                created_by: creator.as_ref().map_or("?".to_owned(), |c| c.function.clone()),
                created_at: creator.map_or(String::new(), |c| format!("{}:{}", c.file, c.line)),
                function: function(g.startpc),
                waits_in: frames.iter().find(|f| !super::chains::library(&f.function)).cloned(),
                waits_for: name(i),
                stack_bytes: 0,
                retained_bytes: 0,
                longest_wait_s: None,
                reason: None,
                goids: Vec::new(),
            }
        });
        group.count += 1;
        group.stack_bytes += g.stack.1.0.saturating_sub(g.stack.0.0);
        group.longest_wait_s = [group.longest_wait_s, waited(g, now)].into_iter().flatten().reduce(f64::max);
        group.goids.push(g.goid);
    }
    by.into_values().collect()
}

/// Fills in what each group alone keeps alive (exact: dominators of the groups), ranks them by it, and returns what each list
/// keeps together: what two groups share counts there only. Expects the records of
/// goroutines to be handed over (`holders::hand_over_records`). Cost: dominators of the whole heap, if there is a group.
pub fn measure<const N: usize>(heap: &Heap, built: &Built, lists: [&mut Vec<LeakGroup>; N]) -> [u64; N] {
    let mut of: HashMap<Goid, u32> = HashMap::new();
    let mut n = 0;
    let mut list_of = Vec::new();
    for (i, list) in lists.iter().enumerate() {
        for group in list.iter() {
            of.extend(group.goids.iter().map(|&g| (g, n)));
            list_of.push(i as u32);
            n += 1;
        }
    }
    if n == 0 {
        return [0; N];
    }
    // One holder for each group, under one for each list, and one for all other roots: groups, the rest, lists.
    let held_by = |r: &Root| match r.kind {
        RootKind::Stack | RootKind::Conservative | RootKind::Goroutine => of.get(&r.goid).copied().unwrap_or(n),
        _ => n,
    };
    let mut parent: Vec<Option<u32>> = list_of.iter().map(|i| Some(n + 1 + i)).collect();
    parent.extend(std::iter::repeat_n(None, 1 + N));
    let tree = HolderTree { parent, of_root: built.graph.roots.iter().map(held_by).collect() };
    let Ok(dom) = Dominators::compute(&built.graph, &tree, |o| heap.extent(o).1) else { return [0; N] };
    let retained = |h| dom.holder(h).map_or(0, |v| dom.retained(v));
    let together = std::array::from_fn(|i| retained(n + 1 + i as u32));
    let mut n = 0;
    for list in lists {
        for group in list.iter_mut() {
            group.retained_bytes = retained(n);
            n += 1;
        }
        list.sort_by_key(|g| std::cmp::Reverse((g.retained_bytes.saturating_add(g.stack_bytes), g.count)));
    }
    together
}
