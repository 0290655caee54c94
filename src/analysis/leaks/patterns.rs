//! Names a pile: which known pattern it is, how sure that is, and what to do about it.

use serde::Serialize;

use super::{
    Case, Certainty, Site, Suspect, Thresholds,
    piles::{Content, Pile},
};
use crate::{
    analysis::{
        goroutines::{StackFrame, plain_name},
        holders::HolderKind,
        locals::LocalHolders,
    },
    base::{Addr, KnownBy, ObjectId, units},
    image::{
        FuncId,
        codetypes::{Place, Said, receiver},
    },
    runtime::{
        Runtime,
        layout::Global,
        types::{Kind, TypeId},
    },
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    GoroutinePileUp,
    TickerNotStopped,
    ResponseBodyNotClosed,
    DeferInLoop,
    TimerNotStopped,
    ContextNotCancelled,
    FinalizerCycle,
    CleanupCycle,
    PoolHoard,
    ChannelBacklog,
    SubstringPin,
    SubslicePin,
    SlackCapacity,
    SparseMap,
    LinkedList,
    ListenerList,
    ClosureCapture,
    GlobalMap,
    GlobalSlice,
    LargeObject,
    CgoMemory,
}

impl Pattern {
    pub fn advice(self) -> &'static str {
        match self {
            Pattern::GoroutinePileUp => {
                "find what should end these goroutines: close the channel they wait on, or give them a context and select on its Done"
            }
            Pattern::TickerNotStopped => "stop every ticker when its work is over: defer ticker.Stop()",
            Pattern::ResponseBodyNotClosed => {
                "read the HTTP response body to its end and close it on every path: defer resp.Body.Close()"
            }
            Pattern::DeferInLoop => {
                "deferred calls run when the function returns: move the loop body into a function of its own"
            }
            Pattern::TimerNotStopped => "keep the timer and call Stop when the work it guards is over",
            Pattern::ContextNotCancelled => {
                "call the cancel function of every derived context when its work is over: defer cancel()"
            }
            Pattern::FinalizerCycle => {
                "objects with a finalizer that point back to themselves are never freed: break the cycle, or runtime.SetFinalizer(obj, nil)"
            }
            Pattern::CleanupCycle => {
                "the cleanup's function or argument refers to its object: pass it only what it needs, never the object"
            }
            Pattern::PoolHoard => "put back only buffers of ordinary size: drop those that grew large before Pool.Put",
            Pattern::ChannelBacklog => {
                "receivers do not keep up: bound the queue, drop or slow the senders, add receivers"
            }
            Pattern::SubstringPin => "copy the part that is kept: strings.Clone(s[i:j])",
            Pattern::SubslicePin => {
                "copy the part that is kept: slices.Clone(b[i:j]) or append([]byte(nil), b[i:j]...)"
            }
            Pattern::SlackCapacity => "allocate what is needed, or slices.Clip what is kept for long",
            Pattern::SparseMap => "maps never shrink: copy what is left into a new map, now and then",
            Pattern::LinkedList => "the list only grows: remove what is done with, or bound its length",
            Pattern::ListenerList => {
                "remove the listener when its owner goes: let registration return a function that unregisters"
            }
            Pattern::ClosureCapture => {
                "the functions kept there hold the variables that they use: unregister them, or capture less"
            }
            Pattern::GlobalMap => "delete keys that are done with, or bound the map: expiry, LRU, a fixed size",
            Pattern::GlobalSlice => "remove what is done with, or bound the slice: a ring of fixed size",
            Pattern::LargeObject => "check whether this is meant to stay",
            Pattern::CgoMemory => {
                "look for C.malloc, C.CString and handles of C libraries that are not freed; the allocator's own statistics (malloc_info, jemalloc) tell who"
            }
        }
    }
}

struct Verdict {
    pattern: Pattern,
    certainty: Certainty,
    evidence: Vec<String>,
    holder: Option<String>,
}

/// `None`: nothing to complain of.
pub fn judge(case: &Case, pile: &Pile, limits: Thresholds) -> Option<Suspect> {
    let names = Names::of(case, pile);
    let v = goroutines(case, pile, limits)
        .or_else(|| roots_of_their_own(case, pile))
        .or_else(|| plumbing(case, pile, &names))
        .or_else(|| pinned(case, pile))
        .or_else(|| containers(case, pile, &names))?;
    let main = main_content(case, pile);
    let members: Vec<usize> = match pile.goroutines >= limits.goroutines {
        true => pile.holder.map(|h| case.holders.members(h).collect()).unwrap_or_default(),
        false => Vec::new(),
    };
    let stands = super::stand::of(case, &members);
    let holder = v.holder.unwrap_or_else(|| holder_name(case, pile));
    let type_name = match main {
        Some(c) => content_name(case, &c),
        None => String::new(),
    };
    Some(Suspect {
        pattern: v.pattern,
        holder,
        type_name,
        objects: main.map_or(0, |c| c.objects),
        retained_bytes: pile.retained,
        share_permille: pile.retained * 1000 / case.live_bytes.max(1),
        stack_bytes: pile.stack_bytes,
        growth_bytes_per_hour: None,
        growth_interval: None,
        growth_is_certain: None,
        stand: stands,
        certainty: v.certainty,
        evidence: v.evidence,
        path: path(case, pile),
        allocated_at: allocated_at(case, pile),
        advice: v.pattern.advice().to_owned(),
    })
}

/// The type as a variable of it would be declared: backing arrays and string contents go by their value.
fn short(name: &str) -> String {
    name.trim_end_matches(" (bytes)").to_owned()
}

/// None where only the runtime's own objects hang there: records of goroutines say nothing.
fn main_content(case: &Case, pile: &Pile) -> Option<Content> {
    let types = &case.typed.types;
    let contents = || pile.contents.iter().filter(|c| types.package(c.ty) != "runtime").copied();
    // One object is all that is held: it is the hook itself, or the last of a list.
    let one = pile.contents.iter().map(|c| c.objects).sum::<u64>() == 1;
    if pile.contents.is_empty() || (one && pile.run > 1 && !pile.contents[0].ty.is_known()) {
        let &id = pile.chain.last().filter(|_| pile.goroutines < 2)?;
        let guessed = case.typed.typing.known_by(id) == KnownBy::Guessed;
        let ty = if guessed { TypeId::UNKNOWN } else { case.typed.typing.type_of(id) };
        return Some(Content { ty, objects: alike(case, pile), bytes: pile.retained, example: id });
    }
    // A type of the program says more than a bare buffer or string, if it stands for a good part.
    let all: u64 = pile.contents.iter().map(|c| c.bytes).sum();
    let own = |c: &Content| types.is_named(c.ty) && c.bytes * 4 >= all;
    let known = |c: &Content| c.ty.is_known() && c.bytes * 8 >= all;
    contents().find(own).or_else(|| contents().find(known)).or_else(|| contents().next())
}

/// Objects of a pile that is nothing but a list: as many as the first of those that look like the last retains, if all of that is made of
/// such objects; else one.
fn alike(case: &Case, pile: &Pile) -> u64 {
    let size = |id: ObjectId| (case.heap.span_of(id).elemsize, case.heap.span_of(id).noscan);
    let Some(&last) = pile.chain.last() else { return 1 };
    let first = pile.chain.iter().find(|&&id| size(id) == size(last)).and_then(|&id| case.dom.object(id));
    let all = first.map_or((0, 0), |n| (case.dom.retained_objects(n), case.dom.retained(n)));
    if all.1 == all.0 * size(last).0 { all.0.max(1) } else { 1 }
}

/// `main.User`, or what is known of an object without a type.
fn content_name(case: &Case, c: &Content) -> String {
    if c.ty.is_known() {
        return short(case.typed.types.name(c.ty));
    }
    let span = case.heap.span_of(c.example);
    let holds = if span.noscan { "without pointers" } else { "with pointers" };
    format!("(untyped, {} bytes, {holds})", span.elemsize)
}

/// Types on the way and below, by name.
struct Names<'a> {
    chain: Vec<(&'a str, TypeId)>,
    met: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn of(case: &'a Case, pile: &Pile) -> Names<'a> {
        let types = &case.typed.types;
        let entry = |id: &ObjectId| {
            let ty = case.typed.typing.type_of(*id);
            (types.name(ty), ty)
        };
        Names {
            chain: pile.chain.iter().map(entry).collect(),
            met: pile.met.iter().map(|&(t, _)| types.name(t)).collect(),
        }
    }

    fn on_way(&self, what: &[&str]) -> bool {
        self.chain.iter().any(|(n, _)| what.iter().any(|w| n.contains(w)))
    }

    fn below(&self, what: &[&str]) -> bool {
        self.met.iter().any(|n| what.iter().any(|w| n.contains(w)))
    }
}

fn holder_kind(case: &Case, pile: &Pile) -> Option<HolderKind> {
    pile.holder.map(|h| case.holders.list[h as usize].kind)
}

fn is_global(case: &Case, pile: &Pile, g: Global) -> bool {
    pile.holder.is_some_and(|h| {
        let holder = case.holders.list[h as usize];
        holder.kind == HolderKind::Global && case.rt.globals.get(g) == Some(holder.addr)
    })
}

/// The holder by name; where several hold the pile, the first global that leads there, else the first root.
fn holder_name(case: &Case, pile: &Pile) -> String {
    if let Some(h) = pile.holder {
        return case.holders.name(case.rt, case.built, h);
    }
    let target = pile.chain.first().copied().or(pile.contents.first().map(|c| c.example));
    target
        .and_then(|t| nearest_root(case, t))
        .map_or("several holders".into(), |h| case.holders.name(case.rt, case.built, h))
}

/// Holder of the shortest way from a root, globals first.
fn nearest_root(case: &Case, target: ObjectId) -> Option<u32> {
    let graph = &case.built.graph;
    let mut order: Vec<u32> = (0..graph.roots.len() as u32).collect();
    order.sort_by_key(|&r| (graph.roots[r as usize].kind, r));
    let walk = crate::analysis::paths::BreadthFirst::walk(graph, &order, None, Some(target));
    let path = walk.path(graph, target)?;
    let h = *case.holders.tree.of_root.get(path.root)?;
    Some(case.holders.tree.parent[h as usize].unwrap_or(h))
}

fn goroutines(case: &Case, pile: &Pile, limits: Thresholds) -> Option<Verdict> {
    if holder_kind(case, pile) != Some(HolderKind::Goroutines) {
        return None;
    }
    let types = &case.typed.types;
    let met = |what: &[&str]| pile.met.iter().any(|&(t, _)| what.iter().any(|w| types.name(t).contains(w)));
    let name = holder_name(case, pile);
    if pile.goroutines < limits.goroutines {
        let deferred =
            pile.chain.iter().any(|&id| case.type_name(id).contains("runtime._defer")) || met(&["runtime._defer"]);
        return Some(Verdict {
            pattern: if deferred { Pattern::DeferInLoop } else { return None },
            certainty: Certainty::Likely,
            evidence: vec!["deferred calls that have not run hold it".into()],
            holder: None,
        });
    }
    let is_stuck = |&i: &usize| case.evidence.stuck.binary_search(&case.built.goroutines[i].goid.0).is_ok();
    let stuck = case.holders.members(pile.holder?).filter(is_stuck).count() as u64;
    let members: Vec<_> = case.holders.members(pile.holder?).map(|i| &case.built.goroutines[i]).collect();
    let waiting = members.iter().filter(|g| !g.wait_reason.is_empty()).count() as u64;
    let mut evidence =
        vec![format!("{} of {} goroutines are waiting", units::count(waiting), units::count(pile.goroutines))];
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for g in members.iter().filter(|g| !g.wait_reason.is_empty()) {
        match reasons.iter_mut().find(|r| r.0 == g.wait_reason) {
            Some(r) => r.1 += 1,
            None => reasons.push((&g.wait_reason, 1)),
        }
    }
    reasons.sort_by_key(|r| std::cmp::Reverse(r.1));
    if let Some((reason, n)) = reasons.first() {
        evidence.push(format!("{} in \"{reason}\"", units::count(*n as u64)));
    }
    let node = pile.holder.and_then(|h| case.dom.holder(h));
    let heaviest = node.and_then(|n| Some((n, LocalHolders::of(case.built, case.typed).heaviest(case.dom, n)?)));
    if let Some((n, (variable, bytes))) = heaviest
        && 2 * bytes >= case.dom.retained(n)
    {
        evidence.push(format!("{} of it hang from the local variable {variable}", units::bytes(bytes)));
    }
    if !pile.companions.is_empty() {
        let names: Vec<String> = pile.companions.iter().map(|&h| case.holders.name(case.rt, case.built, h)).collect();
        evidence.push(format!("counted together with {}, started in the same place", names.join(", ")));
    }
    if stuck > 0 {
        let n = units::count(stuck);
        evidence.push(format!("{n} are stuck for ever: nothing that runs or can be woken reaches what they wait for"));
    }
    // A crowd that is at work is no pile.
    if waiting * 10 < pile.goroutines * 9 {
        return None;
    }
    let pattern = if name.contains("net/http.(*persistConn).") {
        Pattern::ResponseBodyNotClosed
    } else if met(&["time.Ticker"]) {
        Pattern::TickerNotStopped
    } else {
        Pattern::GoroutinePileUp
    };
    let proven = stuck * 10 >= members.len() as u64 * 9;
    let certainty = if proven { Certainty::Sure } else { Certainty::Likely };
    Some(Verdict { pattern, certainty, evidence, holder: None })
}

/// Finalizers and cleanups.
fn roots_of_their_own(case: &Case, pile: &Pile) -> Option<Verdict> {
    let (pattern, what) = match holder_kind(case, pile)? {
        HolderKind::Finalizer => (Pattern::FinalizerCycle, "finalizers"),
        HolderKind::Cleanup => (Pattern::CleanupCycle, "cleanups"),
        _ => return None,
    };
    Some(Verdict {
        pattern,
        certainty: Certainty::Likely,
        evidence: vec![format!("nothing but what their {what} hold leads to these objects")],
        holder: None,
    })
}

/// Contexts, timers, pools, channels: known by the types on the way.
fn plumbing(case: &Case, pile: &Pile, names: &Names) -> Option<Verdict> {
    let likely = |pattern, why: String, holder: Option<&str>| {
        Some(Verdict { pattern, certainty: Certainty::Likely, evidence: vec![why], holder: holder.map(str::to_owned) })
    };
    let timers = is_global(case, pile, Global::Allp) || names.on_way(&["runtime.timer", "runtime.p"]);
    if timers && names.below(&["time.Timer", "runtime.timer", "context.timerCtx"]) {
        return if names.below(&["context.timerCtx", "context.afterFuncCtx"]) {
            likely(
                Pattern::ContextNotCancelled,
                "contexts with a deadline hang on the timer queue".into(),
                Some("timer"),
            )
        } else if fires_again(case, pile) {
            likely(Pattern::TickerNotStopped, "timers that fire again and again hold it".into(), Some("timer"))
        } else {
            likely(Pattern::TimerNotStopped, "timers that have not fired hold it".into(), Some("timer"))
        };
    }
    if names.on_way(&["context.cancelCtx", "context.canceler", "context.timerCtx"]) {
        return likely(
            Pattern::ContextNotCancelled,
            "derived contexts hang on their parent, not cancelled".into(),
            None,
        );
    }
    let var = pile.holder.and_then(|h| variable_type(case, h)).unwrap_or_default();
    if var == "sync.Pool" || names.on_way(&["sync.poolLocal", "sync.poolChain", "sync.poolDequeue"]) {
        return likely(Pattern::PoolHoard, "a sync.Pool keeps it between collections".into(), None);
    }
    let channel = pile.chain.iter().rev().find_map(|&id| {
        let ty = case.typed.typing.type_of(id);
        (case.typed.types.kind(ty) == Kind::ChanHeader).then(|| (id, case.evidence.fills.get(&id)))
    });
    if let Some((_, fill)) = channel {
        let why = match fill {
            Some(f) => {
                format!("{} of {} places of the channel are taken", units::count(f.used), units::count(f.capacity))
            }
            None => "a channel's buffer holds it".into(),
        };
        return likely(Pattern::ChannelBacklog, why, None);
    }
    None
}

/// Most timers of the queues on the way are periodic.
fn fires_again(case: &Case, pile: &Pile) -> bool {
    let children = pile.chain.iter().rev().take(2).flat_map(|&id| case.built.graph.children(id));
    let (n, again) =
        children.fold((0u64, 0u64), |(n, a), c| (n + 1, a + u64::from(case.evidence.tickers.contains(&c))));
    again * 2 > n
}

fn variable_type(case: &Case, holder: u32) -> Option<String> {
    let h = case.holders.list.get(holder as usize).filter(|h| h.kind == HolderKind::Global)?;
    type_of_variable(case.rt, h.addr)
}

/// Name of the type of the global variable that begins at `at`: from DWARF, else from the methods that the code calls on it.
pub fn type_of_variable(rt: &Runtime, at: Addr) -> Option<String> {
    let Some(dwarf) = &rt.image.dwarf else {
        let statements = rt.image.code_types();
        let place = Place { at, member: None };
        let from = statements.partition_point(|s| s.place < place);
        return statements[from..].iter().take_while(|s| s.place == place).find_map(|s| match s.said {
            Said::IsReceiver(entry) => receiver(rt.image.pclntab.find(entry)?.name()),
            _ => None,
        });
    };
    let vars = &dwarf.variables;
    let elf = at.0.wrapping_sub(rt.image.bias);
    let i = vars.binary_search_by_key(&elf, |v| v.addr).ok()?;
    Some(vars[i].type_name.clone())
}

/// Large buffers kept for a sliver of theirs: a fact, whatever holds them.
fn pinned(case: &Case, pile: &Pile) -> Option<Verdict> {
    let p = pile.pinned;
    if p.buffers < 10 || p.bytes < pile.retained / 2 {
        return None;
    }
    let _ = case;
    let pattern = if p.text * 2 > p.buffers {
        Pattern::SubstringPin
    } else if p.inside * 2 > p.buffers {
        Pattern::SubslicePin
    } else {
        Pattern::SlackCapacity
    };
    // What only has room may be about to use it.
    let certainty = if pattern == Pattern::SlackCapacity { Certainty::Likely } else { Certainty::Sure };
    let why = format!(
        "{} buffers of {} together are kept for {} that can be seen through them",
        units::count(p.buffers),
        units::bytes(p.bytes),
        units::bytes(p.visible)
    );
    Some(Verdict { pattern, certainty, evidence: vec![why], holder: None })
}

/// Maps, slices, lists.
fn containers(case: &Case, pile: &Pile, names: &Names) -> Option<Verdict> {
    let types = &case.typed.types;
    let possible = |pattern, why: String| {
        Some(Verdict { pattern, certainty: Certainty::Possible, evidence: vec![why], holder: None })
    };
    if pile.run > 64 && names.on_way(&["runtime._defer"]) {
        return Some(Verdict {
            pattern: Pattern::DeferInLoop,
            certainty: Certainty::Likely,
            evidence: vec![format!(
                "{} deferred calls of one goroutine wait for its function to return",
                units::count(pile.run)
            )],
            holder: None,
        });
    }
    if pile.run > 64 {
        return possible(Pattern::LinkedList, format!("a list of more than {} nodes", units::count(pile.run)));
    }
    let map = pile.chain.iter().rev().find(|&&id| types.kind(case.typed.typing.type_of(id)) == Kind::MapHeader);
    let fill = map.and_then(|id| case.evidence.fills.get(id));
    if let (Some(&id), Some(fill)) = (map, fill) {
        let of = types.key(case.typed.typing.type_of(id));
        let entry = types.size(types.key(of)) + types.size(types.elem(of)) + 1;
        let parts = map_bytes(case, pile, id);
        if parts > (1 << 20) && fill.used.saturating_mul(entry).saturating_mul(16) < parts {
            return Some(Verdict {
                pattern: Pattern::SparseMap,
                certainty: Certainty::Sure,
                evidence: vec![format!("{} entries in tables of {}", units::count(fill.used), units::bytes(parts))],
                holder: None,
            });
        }
    }
    let hook = names.chain.last().map(|(n, _)| *n).unwrap_or("");
    let of_funcs = hook.contains("func(") || mostly_closures(case, pile);
    let in_map = map.is_some()
        || names.on_way(&["map[", "sync.Map", "HashTrieMap", "sync.indirect["])
        || pile
            .holder
            .and_then(|h| variable_type(case, h))
            .is_some_and(|t| t.starts_with("sync.Map") || t.contains(".HashTrieMap["))
        || main_is_in_map(case, pile);
    if in_map {
        let n = fill.map_or(String::new(), |f| format!("a map of {} entries", units::count(f.used)));
        let n = if n.is_empty() { "a map holds it".to_owned() } else { n };
        return possible(if of_funcs { Pattern::ClosureCapture } else { Pattern::GlobalMap }, n);
    }
    let elements: u64 = pile.met.iter().filter(|(t, _)| types.name(*t) == "list.Element").map(|m| m.1).sum();
    if elements > 64 && elements * 4 >= pile.contents.iter().map(|c| c.objects).sum() {
        return possible(Pattern::LinkedList, format!("lists of {} elements together", units::count(elements)));
    }
    // A buffer by itself: nothing in it can be removed.
    let bare = |c: &Content| c.objects == 1 && case.heap.span_of(c.example).noscan && c.bytes * 10 >= pile.retained * 9;
    if main_content(case, pile).is_some_and(|c| bare(&c)) {
        return possible(Pattern::LargeObject, "one buffer is most of it".to_owned());
    }
    let in_slice = pile.chain.iter().rev().any(|&id| types.kind(case.typed.typing.type_of(id)) == Kind::Backing);
    if in_slice {
        let why = "a slice holds it".to_owned();
        return possible(if of_funcs { Pattern::ListenerList } else { Pattern::GlobalSlice }, why);
    }
    let few = pile.contents.iter().map(|c| c.objects).sum::<u64>() < 4;
    possible(if few { Pattern::LargeObject } else { Pattern::GlobalSlice }, "one place holds it".to_owned())
}

/// Most of what the hook points to are closures.
fn mostly_closures(case: &Case, pile: &Pile) -> bool {
    let Some(children) = pile.chain.last().map(|&id| case.built.graph.children(id)) else { return false };
    let closure = |id: &ObjectId| case.typed.types.kind(case.typed.typing.type_of(*id)) == Kind::Closure;
    children.clone().filter(closure).count() * 2 > children.len()
}

/// Below a hook that is no map itself: is there one map for the many things (and not many small maps, one in each)?
fn main_is_in_map(case: &Case, pile: &Pile) -> bool {
    let types = &case.typed.types;
    let Some(main) = main_content(case, pile).filter(|m| m.objects >= 100) else { return false };
    let of_map = |kind| {
        let count = |&(t, n): &(TypeId, u64)| if types.kind(t) == kind && types.key(t).is_known() { n } else { 0 };
        pile.met.iter().map(count).sum::<u64>()
    };
    let (headers, parts) = (of_map(Kind::MapHeader), of_map(Kind::MapPart) + of_map(Kind::Backing));
    headers + parts > 0 && headers * 10 <= main.objects
}

/// Bytes of a map's own parts: header, directory, tables, groups or buckets.
fn map_bytes(case: &Case, _pile: &Pile, header: ObjectId) -> u64 {
    const MAX_PARTS: usize = 1 << 22;
    let types = &case.typed.types;
    let mut stack = vec![header];
    let mut seen = std::collections::HashSet::from([header]);
    let mut bytes = 0;
    while let Some(id) = stack.pop() {
        bytes += case.heap.extent(id).1;
        for c in case.built.graph.children(id) {
            let part = types.key(case.typed.typing.type_of(c)).is_known();
            let kind = types.kind(case.typed.typing.type_of(c));
            if part && matches!(kind, Kind::MapPart | Kind::Backing) && seen.len() < MAX_PARTS && seen.insert(c) {
                stack.push(c);
            }
        }
    }
    bytes
}

/// The stack that allocated most of the pile's sampled bytes, without the allocator's own frames.
fn allocated_at(case: &Case, pile: &Pile) -> Option<Site> {
    let of = pile.samples.iter().map(|s| s.objects).sum();
    pile.samples.iter().find_map(|s| {
        let stack = site(case, case.evidence.stacks.get(s.stack as usize)?);
        (!stack.is_empty()).then_some(Site { samples: s.objects, of, stack })
    })
}

/// Frames from the first one outside the runtime; empty where all are the runtime's (goroutines, stacks).
fn site(case: &Case, stack: &[Addr]) -> Vec<StackFrame> {
    const MAX_FRAMES: usize = 32;
    let mut frames: Vec<StackFrame> = Vec::new();
    // Calls that were inlined and those around them have an entry each (runtime/traceback.go tracebackPCs), but for those
    // around the last one: what an entry shares with the next is told there.
    let mut next: Vec<StackFrame> = Vec::new();
    for pc in stack.iter().rev() {
        // Return addresses: the call is the instruction before.
        let at = Addr(pc.0.saturating_sub(1));
        let Some(f) = case.rt.image.pclntab.find(at) else { continue };
        let own = f.inline_frames(at).filter(|l| l.func_id != FuncId::Wrapper);
        let own: Vec<StackFrame> = own
            .map(|l| StackFrame { function: plain_name(l.function), file: l.file.to_owned(), line: l.line })
            .collect();
        let shared = own.len() > 1 && own[1..] == next[..];
        frames.extend(own[..if shared { 1 } else { own.len() }].iter().rev().cloned());
        next = own;
    }
    frames.reverse();
    let allocator = |f: &StackFrame| ["runtime.", "internal/runtime/"].iter().any(|p| f.function.starts_with(p));
    frames.into_iter().skip_while(allocator).take(MAX_FRAMES).collect()
}

/// The way from the holder to the pile; long lists are shortened.
fn path(case: &Case, pile: &Pile) -> Vec<String> {
    const SHOWN: usize = 8;
    let graph = &case.built.graph;
    let n = pile.chain.len();
    let step = |i: usize| {
        let id = pile.chain[i];
        let next = pile.chain.get(i + 1);
        let edge = next.and_then(|t| graph.edges(id).find(|&e| graph.target.get(e) == *t));
        let field = edge.map(|e| case.typed.field(case.heap, graph, id, e)).unwrap_or_default();
        // A guess by size is no name to go by.
        if !case.typed.typing.type_of(id).is_known() || case.typed.typing.known_by(id) == KnownBy::Guessed {
            let word = edge.filter(|&e| e < graph.words.len()).map(|e| format!("+{}", 8 * graph.words.get(e)));
            return format!(
                "{} (untyped, {} bytes){}",
                case.addr(id),
                case.heap.extent(id).1,
                word.unwrap_or_default()
            );
        }
        format!("{} {}{field}", case.addr(id), case.type_name(id))
    };
    if n <= SHOWN {
        return (0..n).map(step).collect();
    }
    let mut out: Vec<String> = (0..SHOWN / 2).map(step).collect();
    out.push(format!("... {} more", n - SHOWN));
    out.extend((n - SHOWN / 2..n).map(step));
    out
}
