//! Finds the piles: from each holder down the dominator tree as long as one child has most of what is retained.

use std::collections::HashMap;

use super::{Case, Thresholds};
use crate::{
    analysis::{
        dominators::{Node, Vertex},
        holders::HolderKind,
    },
    base::{Addr, Bitmap, Goid, KnownBy, ObjectId},
    graph::{Root, RootKind, reach::reach},
    runtime::{
        layout::Global,
        types::{Kind, TypeId},
    },
};

/// One pile.
pub struct Pile {
    /// Top-level holder; `None` where several hold it.
    pub holder: Option<u32>,
    /// Objects from the holder to the pile, the pile's own node last; empty where the holder itself is the hook.
    pub chain: Vec<ObjectId>,
    pub retained: u64,
    /// What hangs there, by type, heaviest first: the first thing on each way down that is a program's own type.
    pub contents: Vec<Content>,
    /// Objects of one type in a row, each the only way to the next.
    pub run: u64,
    /// For goroutine groups: how many, and their stacks.
    pub goroutines: u64,
    /// Other groups that were started with these goroutines and hold the same things: counted in `retained` and `stack_bytes`.
    pub companions: Vec<u32>,
    pub stack_bytes: u64,
    /// Large buffers that hang there and what of them can be seen.
    pub pinned: Pinned,
    /// Sampled objects below, by stack, heaviest first.
    pub samples: Vec<Sampled>,
    /// Types of everything below, containers included, and how many of each.
    pub met: Vec<(TypeId, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub ty: TypeId,
    pub objects: u64,
    /// Retained by them.
    pub bytes: u64,
    /// One of them, to show.
    pub example: ObjectId,
}

/// Objects that one stack allocated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampled {
    /// In `Evidence::stacks`.
    pub stack: u32,
    pub objects: u64,
    /// Bytes that these stand for.
    pub weight: f64,
}

/// Buffers below a pile of which only a sliver is visible.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pinned {
    pub buffers: u64,
    pub bytes: u64,
    pub visible: u64,
    /// The sliver does not begin where the buffer does.
    pub inside: u64,
    pub text: u64,
}

pub fn find(case: &Case, limits: Thresholds) -> Vec<Pile> {
    let mut out = Vec::new();
    let threshold = limits.smallest(case.live_bytes);
    // Multiply held objects hang on the super root: by type.
    let mut loose: HashMap<TypeId, (Vec<Node>, u64)> = HashMap::new();
    let mut crowds = Vec::new();
    for child in case.dom.children(case.dom.root()) {
        match case.dom.vertex(child) {
            Vertex::Holder(h) => {
                let kind = case.holders.list[h as usize].kind;
                match kind {
                    HolderKind::Goroutines => crowds.extend(group(case, child, h, limits, threshold, &mut out)),
                    HolderKind::Finalizer | HolderKind::Cleanup => {
                        if case.dom.retained(child) >= threshold {
                            out.push(pile(case, Some(h), vec![], &[child]));
                        }
                    }
                    // Each P has a queue of timers of its own: their parts are put together when they have been judged.
                    HolderKind::Global
                        if case.rt.globals.get(Global::Allp) == Some(case.holders.list[h as usize].addr) =>
                    {
                        if case.dom.retained(child) >= threshold {
                            descend(case, Some(h), child, (threshold / 16, PARTS), &mut out);
                        }
                    }
                    HolderKind::Global => descend(case, Some(h), child, (threshold, HEAVY), &mut out),
                    HolderKind::Runtime | HolderKind::Goroutine | HolderKind::Frames => {}
                }
            }
            Vertex::Object(id) => {
                if case.dom.retained(child) >= threshold {
                    descend(case, None, child, (threshold, HEAVY), &mut out);
                } else {
                    let l = loose.entry(case.typed.typing.type_of(id)).or_default();
                    l.0.push(child);
                    l.1 += case.dom.retained(child);
                }
            }
            Vertex::Super => {}
        }
    }
    let mut told = Bitmap::new(case.built.graph.slots());
    out.extend(judge_crowds(case, crowds, &mut told));
    for (ty, (mut nodes, _)) in loose {
        nodes.retain(|&n| case.object(n).is_some_and(|id| !told.get(id.index())));
        let bytes = nodes.iter().map(|&n| case.dom.retained(n)).sum::<u64>();
        if bytes >= threshold && nodes.len() as u64 >= limits.goroutines && ty.is_known() {
            let mut p = pile(case, None, vec![], &nodes);
            p.retained = bytes;
            out.push(p);
        }
    }
    out
}

/// Many goroutines that run one function.
struct Crowd {
    node: Node,
    holder: u32,
    members: Vec<usize>,
    /// Function whose `go` statement started them, and their number: those of companions are the same.
    origin: (Addr, usize),
}

/// All goroutines of one function, if they are many; or the few of them that hold much by themselves, into `out`.
fn group(
    case: &Case,
    node: Node,
    holder: u32,
    limits: Thresholds,
    threshold: u64,
    out: &mut Vec<Pile>,
) -> Option<Crowd> {
    let members: Vec<usize> = case.holders.members(holder).collect();
    if members.len() as u64 >= limits.goroutines {
        let gopc = case.built.goroutines[members[0]].gopc;
        let creator = case.rt.image.pclntab.find(gopc).map_or(gopc, |f| f.entry());
        let origin = (creator, members.len());
        return Some(Crowd { node, holder, members, origin });
    }
    if case.dom.retained(node) >= threshold {
        for g in case.dom.children(node).filter(|&n| case.dom.retained(n) >= threshold) {
            let before = out.len();
            descend(case, Some(holder), g, (threshold, HEAVY), out);
            for p in &mut out[before..] {
                p.goroutines = 1;
            }
        }
    }
    None
}

/// Crowds that one function starts in equal numbers (a reader and a writer for each connection) are one pile where they
/// hold together is not what each holds by itself. `told`: takes the objects that would be freed without them.
fn judge_crowds(case: &Case, mut crowds: Vec<Crowd>, told: &mut Bitmap) -> Vec<Pile> {
    /// Each walk costs as much as finding the live objects.
    const MAX_WALKS: usize = 24;
    crowds.sort_by_key(|c| std::cmp::Reverse(c.members.len()));
    if crowds.is_empty() {
        return Vec::new();
    }
    let finalized = only_finalized(case);
    let mut walks = 0;
    let mut freed = |members: &[usize], otherwise: u64| {
        walks += 1;
        if walks > MAX_WALKS { (otherwise, Vec::new()) } else { freed_without(case, members, &finalized, told) }
    };
    let stack = |&i: &usize| {
        let (low, high) = case.built.goroutines[i].stack;
        high.0.saturating_sub(low.0)
    };
    let mut piles: Vec<Pile> = Vec::new();
    for group in by_origin(crowds) {
        let mut single: Vec<Pile> = group
            .iter()
            .map(|c| {
                let (retained, shared) = freed(&c.members, case.dom.retained(c.node));
                let mut p = pile(case, Some(c.holder), vec![], &[&[c.node], &shared[..]].concat());
                p.goroutines = c.members.len() as u64;
                p.stack_bytes = c.members.iter().map(stack).sum();
                p.retained = retained;
                p
            })
            .collect();
        let apart: u64 = single.iter().map(|p| p.retained).sum();
        let all: Vec<usize> = group.iter().flat_map(|c| c.members.iter().copied()).collect();
        if group.len() > 1 {
            let (together, shared) = freed(&all, apart);
            if together.abs_diff(apart) > apart / 8 {
                single.sort_by_key(|p| std::cmp::Reverse(p.retained));
                let nodes: Vec<Node> = group.iter().map(|c| c.node).chain(shared).collect();
                let mut first = pile(case, single[0].holder, vec![], &nodes);
                first.retained = together;
                first.goroutines = single[0].goroutines;
                first.stack_bytes = single.iter().map(|p| p.stack_bytes).sum();
                first.companions = single[1..].iter().filter_map(|p| p.holder).collect();
                single = vec![first];
            }
        }
        piles.extend(single);
    }
    piles
}

fn by_origin(mut crowds: Vec<Crowd>) -> Vec<Vec<Crowd>> {
    crowds.sort_by_key(|c| (c.origin, c.holder));
    let mut out: Vec<Vec<Crowd>> = Vec::new();
    for c in crowds {
        match out.last_mut().filter(|g| g[0].origin == c.origin) {
            Some(g) => g.push(c),
            None => out.push(vec![c]),
        }
    }
    out
}

/// Targets of finalizers that nothing else leads to, whoever runs.
fn only_finalized(case: &Case) -> Vec<ObjectId> {
    let graph = &case.built.graph;
    let (finalizers, others): (Vec<&Root>, Vec<&Root>) =
        graph.roots.iter().partition(|r| r.kind == RootKind::Finalizer);
    if finalizers.is_empty() {
        return Vec::new();
    }
    let reached = reach(graph, others.iter().map(|r| r.target));
    finalizers.iter().map(|r| r.target).filter(|t| !reached.get(t.index())).collect()
}

/// Bytes that would be freed if these goroutines ended: a walk without their stacks and what the runtime keeps for them:
/// the g itself, its places in queues of waiters, its entries in the timer heaps. And what of it several roots hold together,
/// the top of each part. `finalized`: see `only_finalized`; what else finalizers hold goes with the object that they are set on.
fn freed_without(case: &Case, members: &[usize], finalized: &[ObjectId], told: &mut Bitmap) -> (u64, Vec<Node>) {
    let graph = &case.built.graph;
    let mut seen = Bitmap::new(graph.slots());
    let gone: std::collections::HashSet<Goid> = members.iter().map(|&i| case.built.goroutines[i].goid).collect();
    // Arrays share their names with slices, so by name and not by id.
    const QUEUES: [&str; 3] = ["runtime.sudog", "[]runtime.timerWhen", "[]*runtime.timer"];
    let types = &case.typed.types;
    // An HTTP transport keeps its connections, and its requests, in maps until their goroutines take them out
    // (net/http/transport.go Transport.idleConn, reqCanceler).
    const OF_REQUESTS: [&str; 2] = ["map[*http.Request]context.CancelCauseFunc", "map[http.cancelKey]func(error)"];
    let http = case.holders.function_of(members[0]).contains("net/http.(*persistConn).");
    let cut = |t: &TypeId| {
        let name = types.name(*t);
        QUEUES.contains(&name)
            || http && (name == "http.persistConn" || OF_REQUESTS.iter().any(|m| name.starts_with(m)))
    };
    let queues: Vec<TypeId> = types.ids().filter(cut).collect();
    let avoid = |id: ObjectId| queues.contains(&case.typed.typing.type_of(id));
    for &i in members {
        if let Some((id, _)) = case.heap.find(case.built.goroutines[i].addr) {
            seen.set(id.index());
        }
    }
    let mut stack: Vec<ObjectId> = Vec::new();
    let stay = |r: &&Root| r.kind != RootKind::Finalizer && (r.goid.0 == 0 || !gone.contains(&r.goid));
    let kept_by_roots = graph.roots.iter().filter(stay).map(|r| r.target);
    for target in kept_by_roots.chain(finalized.iter().copied()) {
        if !avoid(target) && seen.insert(target.index()) {
            stack.push(target);
        }
    }
    let mut kept = 0u64;
    let mut reached = Bitmap::new(graph.slots());
    while let Some(o) = stack.pop() {
        reached.set(o.index());
        kept += case.heap.extent(o).1;
        for t in graph.children(o) {
            if !avoid(t) && seen.insert(t.index()) {
                stack.push(t);
            }
        }
    }
    for o in graph.reachable.iter_ones().filter(|&o| !reached.get(o)) {
        told.set(o);
    }
    let freed = |n: &Node| case.object(*n).is_some_and(|id| !reached.get(id.index()));
    let shared = case.dom.children(case.dom.root()).filter(freed).collect();
    // Queues of others were avoided as well: what hangs there alone is little, and theirs.
    (case.live_bytes.saturating_sub(kept), shared)
}

/// A child is heavy that retains one of so many parts of its parent.
const HEAVY: u64 = 5;
/// The same of queues of timers: there are as many as processors.
const PARTS: u64 = 256;

/// Follows the heavy children; a node whose heavy children leave much unexplained is a pile as well. `share`: as `HEAVY`.
fn descend(case: &Case, holder: Option<u32>, top: Node, (threshold, share): (u64, u64), out: &mut Vec<Pile>) {
    const MAX_CHAIN: usize = 1 << 20;
    let mut todo = vec![(top, Vec::new())];
    while let Some((mut node, mut chain)) = todo.pop() {
        if case.dom.retained(node) < threshold {
            continue;
        }
        let mut run = 0u64;
        loop {
            if let Some(id) = case.object(node) {
                let ty = case.typed.typing.type_of(id);
                let same = chain.last().is_some_and(|&p| case.typed.typing.type_of(p) == ty) && ty.is_known();
                run = if same { run + 1 } else { run };
                chain.push(id);
            }
            let bytes = case.dom.retained(node);
            let heavy: Vec<Node> =
                case.dom.children(node).filter(|&c| case.dom.retained(c) >= threshold.max(bytes / share)).collect();
            // The parts of one map are one pile, however large each is.
            let whole = heavy.len() > 1 && heavy.iter().all(|&n| case.object(n).is_some_and(|id| case.is_part(id)));
            // A list as long as that is one pile from its start.
            let ends = whole || chain.len() >= MAX_CHAIN;
            match if ends { &[][..] } else { heavy.as_slice() } {
                [one] if case.dom.retained(*one) >= bytes / 10 * 6 => node = *one,
                [] => {
                    // The parts of a map (groups and their overflow) are told as the map that they belong to.
                    let header = chain.iter().rposition(|&id| case.kind(id) == Kind::MapHeader);
                    if let Some(i) = header.filter(|&i| chain[i + 1..].iter().all(|&id| case.is_part(id)))
                        && let Some(n) = case.dom.object(chain[i])
                    {
                        chain.truncate(i + 1);
                        node = n;
                    }
                    let start = *chain.first().unwrap_or(&ObjectId(0));
                    let from = if run > 64 { case.dom.object(start).unwrap_or(node) } else { node };
                    let mut p = pile(case, holder, chain, &[from]);
                    p.run = run;
                    out.push(p);
                    break;
                }
                many => {
                    let told: u64 = many.iter().map(|&c| case.dom.retained(c)).sum();
                    if bytes.saturating_sub(told) >= threshold {
                        let mut p = pile(case, holder, chain.clone(), &[node]);
                        p.retained = bytes - told;
                        out.push(p);
                    }
                    todo.extend(many.iter().map(|&c| (c, chain.clone())));
                    break;
                }
            }
        }
    }
}

/// Sums up what is below `nodes`.
fn pile(case: &Case, holder: Option<u32>, chain: Vec<ObjectId>, nodes: &[Node]) -> Pile {
    let mut p = Pile {
        holder,
        chain,
        retained: nodes.iter().map(|&n| case.dom.retained(n)).sum(),
        contents: Vec::new(),
        run: 0,
        goroutines: 0,
        companions: Vec::new(),
        stack_bytes: 0,
        pinned: Pinned::default(),
        samples: Vec::new(),
        met: Vec::new(),
    };
    let mut samples: HashMap<u32, Sampled> = HashMap::new();
    // What has no type goes by its size and whether it has pointers.
    let mut sums: HashMap<(TypeId, u64, bool), Content> = HashMap::new();
    let mut met: HashMap<TypeId, u64> = HashMap::new();
    // (node, below the first own type: count no more)
    let mut stack: Vec<(Node, bool)> = nodes.iter().map(|&n| (n, false)).collect();
    let hook: Option<ObjectId> = p.chain.last().copied();
    while let Some((node, counted)) = stack.pop() {
        let mut below = counted;
        if let Some(id) = case.object(node) {
            // A guess is no ground to accuse a type.
            let guessed = case.typed.typing.known_by(id) == KnownBy::Guessed;
            let ty = if guessed { TypeId::UNKNOWN } else { case.typed.typing.type_of(id) };
            *met.entry(ty).or_default() += 1;
            look_at_buffer(case, id, &mut p.pinned);
            if let Some(&stack) = case.evidence.samples.get(&id) {
                let s = samples.entry(stack).or_insert(Sampled { stack, ..Sampled::default() });
                s.objects += 1;
                s.weight += case.evidence.weight(case.heap.extent(id).1);
            }
            let leaf = case.dom.children(node).next().is_none();
            // The nodes of a list are each below the other: every one counts, with its own bytes only.
            let own = is_own(case, ty);
            if own || (leaf && !counted && Some(id) != hook) {
                let bytes = if own && counted { 0 } else { case.dom.retained(node) };
                let span = case.heap.span_of(id);
                let class = if ty.is_known() { (0, false) } else { (span.elemsize, span.noscan) };
                let c = sums.entry((ty, class.0, class.1)).or_insert(Content { ty, objects: 0, bytes: 0, example: id });
                c.objects += 1;
                c.bytes += bytes;
                below = true;
            }
        }
        stack.extend(case.dom.children(node).map(|c| (c, below)));
    }
    p.contents = sums.into_values().collect();
    p.contents.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.ty.cmp(&b.ty)).then(a.example.cmp(&b.example)));
    p.samples = samples.into_values().collect();
    p.samples.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight).then(a.stack.cmp(&b.stack)));
    p.met = met.into_iter().collect();
    p.met.sort_unstable();
    p
}

fn look_at_buffer(case: &Case, id: ObjectId, pinned: &mut Pinned) {
    let Some(seen) = case.evidence.buffers.get(&id) else { return };
    let size = case.heap.extent(id).1;
    let visible = seen.to.saturating_sub(seen.from);
    // An eighth: what append's growth leaves unused is less.
    if visible > size / 8 {
        return;
    }
    pinned.buffers += 1;
    pinned.bytes += size;
    pinned.visible += visible;
    pinned.inside += u64::from(seen.from > 0);
    pinned.text += u64::from(seen.text);
}

impl Case<'_> {
    fn kind(&self, id: ObjectId) -> Kind {
        self.typed.types.kind(self.typed.typing.type_of(id))
    }

    /// A directory, table, group or bucket array of a map.
    fn is_part(&self, id: ObjectId) -> bool {
        let ty = self.typed.typing.type_of(id);
        matches!(self.typed.types.kind(ty), Kind::MapPart | Kind::Backing) && self.typed.types.key(ty).is_known()
    }
}

/// A struct of the program or of a library with a name of its own, not plumbing.
fn is_own(case: &Case, ty: TypeId) -> bool {
    const PLUMBING: [&str; 9] = [
        "runtime",
        "sync",
        "internal/sync",
        "sync/atomic",
        "context",
        "time",
        "container/list",
        "internal/runtime/maps",
        "bufio",
    ];
    let types = &case.typed.types;
    if types.kind(ty) != Kind::Struct || !types.is_named(ty) {
        return false;
    }
    let package = types.package(ty);
    !PLUMBING.contains(&package) && !package.starts_with("internal/")
}
