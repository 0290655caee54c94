//! Who waits for whom. Go keeps no owner of a lock, so holders are inferred; each edge says from what, and how sure it is.
//!
//! | file      | does |
//! |-----------|------|
//! | `calls`   | which functions take and let go, and where code calls them |
//! | `forward` | runs a parked goroutine's frames forward on a copy: what will it let go of |
//! | `machine` | the copy: registers, words, instructions |
//! | `lookup`  | where a map has the element of a key |
//! | `state`   | what the primitives say of themselves |
//! | `chains`  | deadlocks, chains to their last goroutine, what that one does |
//! | `leaks`   | goroutines that nothing can wake any more |
//!
//! A holder is `sure` if it will let go of this very address on every way out of a function that has taken a lock of this
//! kind on every way in, the lock is held, and no other goroutine might let go of it. `likely`: it will let go of the
//! address on every way, or is the only one between Lock and Unlock with a pointer to it. `possible`: on some way.

pub mod calls;
pub mod chains;
pub mod forward;
pub mod leaks;
mod lookup;
mod machine;
pub mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rayon::prelude::*;
use serde::Serialize;

use self::{
    calls::{Code, Held},
    forward::{Release, Thing},
};
use super::{
    goroutines::{WaitsFor, waited},
    keepers::Keepers,
    places::Places,
};
use crate::{
    base::{Addr, Goid},
    graph::{build::Built, typing::Typed},
    runtime::{
        Runtime,
        heap::Heap,
        layout::Field,
        sched::waits::{SyncLayout, Wait, WaitKind},
    },
    target::Arch,
};

/// How sure an edge is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    Sure,
    Likely,
    Possible,
    /// No holder is known.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Primitive {
    pub kind: WaitKind,
    pub addr: Addr,
    #[serde(rename = "where")]
    pub place: String,
    /// What keeps the object alive that it lies in (`Places::kept_by`); absent for global variables, and where `place` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<state::State>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Edge {
    pub waiter: Goid,
    pub holder: Option<Goid>,
    pub primitive: Primitive,
    pub certainty: Certainty,
    pub evidence: String,
    /// Function of the holder that has taken it, or will serve it.
    pub held_in: Option<String>,
    /// A deferred call of that function, registered and not run yet, lets go of it.
    pub deferred: bool,
    /// At least so many seconds (see `chains::Doing`).
    pub waited_s: Option<f64>,
    /// Its select has other cases, of which nobody is known that would serve them: they may end the wait, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other_cases: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Locks {
    pub edges: Vec<Edge>,
    pub cycles: Vec<Vec<Goid>>,
    pub chains: Vec<chains::Chain>,
    pub proven_leaks: Vec<Goid>,
    /// Proven leaks by where they were started, those that keep most first.
    pub leak_groups: Vec<leaks::LeakGroup>,
    /// Bytes of objects that only proven leaks keep, all together, and of their stacks.
    pub leaked_bytes: u64,
    /// Goroutines that only global variables lead to, and that wait for one thing once: perhaps leaks, without proof.
    pub suspected: Vec<leaks::LeakGroup>,
    /// The same, but they come back to the wait in a loop, as workers do that have nothing to do.
    pub idle: Vec<leaks::LeakGroup>,
    /// Goroutines by what they wait for.
    pub waits: BTreeMap<&'static str, u64>,
}

/// Goroutines with the same stack that are run forward first; the others only if one of these lets go of anything.
const SAMPLE: u32 = 256;
/// Goroutines that are run forward in all; where there are more, nothing is sure.
const MAX_RUN: usize = 200_000;
/// Holders of one primitive that are told.
const MAX_HOLDERS: usize = 16;

/// A goroutine that lets go of something.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    index: usize,
    frame: u32,
    must: bool,
    /// Every way into the frame took a lock of the kind.
    taken: bool,
    /// A registered deferred call of the frame lets go of it.
    deferred: bool,
}

fn held_index(h: Held) -> Option<usize> {
    Some(match h {
        Held::Mutex => 0,
        Held::RwWrite => 1,
        Held::RwRead => 2,
        _ => return None,
    })
}

/// What the call that lets go is called.
fn call(h: Held) -> &'static str {
    match h {
        Held::Mutex | Held::RwWrite => "Unlock",
        Held::RwRead => "RUnlock",
        Held::FdRead | Held::FdWrite => "letting the descriptor go",
        Held::Group => "Done",
        Held::Cond => "a wake-up",
        Held::Receive => "a receive",
        Held::Send => "a send or close",
    }
}

/// What the goroutine will have taken when its wait is over.
fn in_flight(w: &Wait, l: &SyncLayout) -> Option<Thing> {
    match w.kind {
        WaitKind::Mutex | WaitKind::Once => Some((Held::Mutex, w.lock)),
        WaitKind::RwRead => Some((Held::RwRead, w.addr)),
        WaitKind::RwWrite => Some((Held::RwWrite, w.addr)),
        WaitKind::FdRead => Some((Held::FdRead, w.addr)),
        WaitKind::FdWrite => Some((Held::FdWrite, w.addr)),
        _ => None,
    }
    .filter(|_| !w.lock.is_null() && l.mutex_sema > 0)
}

/// What others must let go of so that it goes on.
fn needs(w: &Wait, l: &SyncLayout) -> Vec<Thing> {
    if w.addr.is_null() {
        return Vec::new();
    }
    match w.kind {
        WaitKind::Mutex | WaitKind::Once => vec![(Held::Mutex, w.lock)],
        WaitKind::RwRead => vec![(Held::RwWrite, w.addr)],
        WaitKind::RwWrite if w.sema == w.addr.offset(l.rw_writer_sem) => vec![(Held::RwRead, w.addr)],
        WaitKind::RwWrite => vec![(Held::RwWrite, w.addr)],
        WaitKind::FdRead => vec![(Held::FdRead, w.addr)],
        WaitKind::FdWrite => vec![(Held::FdWrite, w.addr)],
        WaitKind::WaitGroup => vec![(Held::Group, w.addr)],
        WaitKind::Cond => vec![(Held::Cond, w.addr)],
        WaitKind::ChanReceive | WaitKind::ChanSend | WaitKind::Select => {
            w.cases.iter().map(|c| (if c.send { Held::Receive } else { Held::Send }, c.chan)).collect()
        }
        _ => Vec::new(),
    }
}

/// All that goroutines will let go of and others wait for. Needs the target held. The flag says that not all goroutines
/// were looked at.
fn candidates(
    rt: &Runtime,
    built: &Built,
    waits: &[Wait],
    l: &SyncLayout,
    wanted: &HashSet<Thing>,
) -> (HashMap<Thing, Vec<Candidate>>, LetGo, bool) {
    let mut out: HashMap<Thing, Vec<Candidate>> = HashMap::new();
    let mut counts = LetGo::new();
    if wanted.is_empty() {
        return (out, counts, false);
    }
    if rt.target.arch != Arch::Amd64 {
        rt.diag.note("lock holders are inferred from code of amd64 only: none is told", rt.target.arch);
        return (out, counts, true);
    }
    // Goroutines by equal stacks: (number, rest beyond the sample).
    let mut seen: HashMap<Vec<Addr>, (u32, Vec<usize>)> = HashMap::new();
    let mut chosen: Vec<usize> = Vec::new();
    let pcs = |i: usize| -> Vec<Addr> { built.stacks[i].frames.iter().map(|f| f.pc).collect() };
    for i in 0..built.stacks.len() {
        let (n, rest) = seen.entry(pcs(i)).or_default();
        *n += 1;
        if *n <= SAMPLE { chosen.push(i) } else { rest.push(i) }
    }
    let mut found = run(rt, built, waits, l, wanted, &chosen, &mut counts);
    let mut rest: Vec<usize> = Vec::new();
    for i in counts.keys().map(|k| k.0).collect::<BTreeSet<_>>() {
        if let Some((_, more)) = seen.get_mut(&pcs(i)) {
            rest.append(more);
        }
    }
    let capped = rest.len() > MAX_RUN;
    if capped {
        rt.diag.note("more goroutines than are looked at for locks", rest.len());
        rest.truncate(MAX_RUN);
    }
    found.extend(run(rt, built, waits, l, wanted, &rest, &mut counts));
    for (thing, c) in found {
        let list = out.entry(thing).or_default();
        // The innermost frame that lets go counts.
        match list.iter_mut().find(|o| o.index == c.index) {
            Some(o) => {
                o.must |= c.must;
                o.deferred |= c.deferred && o.frame == c.frame;
            }
            None => list.push(c),
        }
    }
    (out, counts, capped)
}

/// Runs goroutines forward: what they let go of of what is wanted, and how much of anything.
fn run(
    rt: &Runtime,
    built: &Built,
    waits: &[Wait],
    l: &SyncLayout,
    wanted: &HashSet<Thing>,
    chosen: &[usize],
    counts: &mut LetGo,
) -> Vec<(Thing, Candidate)> {
    let elemsize = rt.layout.field(Field::HchanElemsize);
    let parts: Vec<(Vec<(Thing, Candidate)>, LetGo)> = chosen
        .par_chunks(64)
        .map(|part| {
            let mut code = Code::new(&rt.image, l.rw_reader_count);
            let (mut found, mut counts) = (Vec::new(), LetGo::new());
            for &i in part {
                let (g, stack, w) = (&built.goroutines[i], &built.stacks[i], &waits[i]);
                let flying = in_flight(w, l);
                // What it is about to receive lies in its stack already, but is not there yet.
                let unknown = w.kind.is_channel().then(|| receive_slot(rt, w, elemsize)).flatten();
                let (releases, _) = forward::releases(rt, &mut code, g, stack, flying, unknown, chosen.len());
                for r in &releases {
                    let count = counts.entry((i, r.frame)).or_default();
                    if let Some(k) = held_index(r.thing.0) {
                        count[k] += 1;
                    }
                }
                let mut defers: HashMap<u32, BTreeSet<Thing>> = HashMap::new();
                for r in releases.iter().filter(|r| wanted.contains(&r.thing)) {
                    let taken = taken(&mut code, built, i, r, &releases, flying);
                    let own = defers.entry(r.frame).or_insert_with(|| {
                        let frame = stack.frames.get(r.frame as usize);
                        frame.map_or_else(BTreeSet::new, |f| forward::deferred(rt, &mut code, g, f, chosen.len()))
                    });
                    let deferred = own.contains(&r.thing);
                    found.push((r.thing, Candidate { index: i, frame: r.frame, must: r.must, taken, deferred }));
                }
            }
            (found, counts)
        })
        .collect();
    let mut found = Vec::new();
    for (f, c) in parts {
        found.extend(f);
        counts.extend(c);
    }
    found
}

/// Locks of each kind that a frame (of a goroutine) will let go of.
type LetGo = HashMap<(usize, u32), [i8; 3]>;

/// Where the value of a blocked receive will be put.
fn receive_slot(rt: &Runtime, w: &Wait, elemsize: Option<crate::runtime::layout::FieldLoc>) -> Option<(Addr, u64)> {
    let case = w.cases.first().filter(|c| !c.send)?;
    let elem = rt.layout.field(Field::SudogElem)?;
    let second = if elem.width == 16 { 8 } else { 0 };
    let at = rt.target.read_ptr(w.sudogs.first()?.offset((elem.offset + second).into())).ok()?;
    let n = rt.target.read_u64(case.chan.offset(elemsize?.offset.into())).ok()? & 0xffff;
    (!at.is_null()).then_some((at, n))
}

/// Has every way into the frame taken at least as many locks of the kind as it will let go of?
fn taken(
    code: &mut Code<'_>,
    built: &Built,
    index: usize,
    r: &Release,
    all: &[Release],
    flying: Option<Thing>,
) -> bool {
    let Some(k) = held_index(r.thing.0) else { return false };
    let frames = &built.stacks[index].frames;
    let Some(frame) = frames.get(r.frame as usize) else { return false };
    let Some(counts) = code.taken_before(frame.pc) else { return false };
    // The lock that it is about to take was counted on the way in, if it is taken by this frame.
    let innermost = frames[..r.frame as usize].iter().all(|f| {
        code.function(f.pc).is_some_and(|f| {
            let n = f.name();
            n.starts_with("runtime.") || n.contains("sync.(*") || n.contains("sync.runtime_")
        })
    });
    let own = i8::from(innermost && flying.is_some_and(|t| t.0 == r.thing.0));
    let lets_go = all.iter().filter(|o| o.frame == r.frame && o.thing.0 == r.thing.0).count();
    i64::from(counts[k] - own) >= lets_go as i64
}

/// Goroutines of `list` that come back to what they wait for in a loop, and the others.
pub fn split_idle(rt: &Runtime, built: &Built, waits: &[Wait], list: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut code = Code::new(&rt.image, 0);
    list.iter().partition(|&&i| leaks::in_a_loop(&mut code, built, waits, i))
}

/// What was found out about holders, for `edges`.
pub struct Holders {
    candidates: HashMap<Thing, Vec<Candidate>>,
    capped: bool,
    /// Code was followed at all: its architecture is known.
    looked: bool,
    layout: SyncLayout,
    /// State words of locks: locked for a Mutex, (readerCount, readerWait) for an RWMutex.
    states: HashMap<Addr, (u64, u64)>,
    /// What the primitives say of themselves, for the answer.
    said: HashMap<Addr, state::State>,
    fallback: HashMap<Thing, Vec<Candidate>>,
}

/// All that needs target memory. Cost: some thousand instructions a goroutine.
pub fn infer(rt: &Runtime, built: &Built, waits: &[Wait]) -> Holders {
    let layout = SyncLayout::of(rt);
    let l = &layout;
    let wanted: HashSet<Thing> = waits.iter().flat_map(|w| needs(w, l)).collect();
    let (candidates, counts, capped) = candidates(rt, built, waits, l, &wanted);
    let mut states = HashMap::new();
    for w in waits.iter().filter(|w| !w.addr.is_null()) {
        match w.kind {
            WaitKind::Mutex | WaitKind::Once => {
                let state = rt.target.read_u32(w.lock.offset(l.mutex_state)).unwrap_or(0);
                states.insert(w.lock, (state.into(), 0));
            }
            WaitKind::RwRead | WaitKind::RwWrite => {
                let read = |off| rt.target.read_u32(w.addr.offset(off)).unwrap_or(0).into();
                states.insert(w.addr, (read(l.rw_reader_count), read(l.rw_reader_wait)));
            }
            _ => {}
        }
    }
    let mut said = HashMap::new();
    for w in waits {
        let cases = w.cases.iter().map(|c| Wait { kind: w.kind, addr: c.chan, ..Wait::default() });
        let own = Wait { kind: w.kind, addr: w.addr, lock: w.lock, ..Wait::default() };
        for one in cases.chain([own]) {
            if !said.contains_key(&one.addr)
                && let Some(state) = state::read(rt, l, &one)
            {
                said.insert(one.addr, state);
            }
        }
    }
    let taken = |t: &Thing| candidates.get(t).is_some_and(|l| l.iter().any(|c| c.taken));
    let unanswered: HashSet<Thing> = wanted.into_iter().filter(|t| held_index(t.0).is_some() && !taken(t)).collect();
    let fallback = between(rt, built, waits, l, &unanswered, &counts);
    let looked = rt.target.arch == Arch::Amd64;
    Holders { candidates, capped, looked, layout, states, said, fallback }
}

/// Frames of functions that have taken a lock of the kind and not let go, with a pointer to the primitive in a live slot
/// (or the address of the global in their code): for holders that never come to an Unlock.
fn between(
    rt: &Runtime,
    built: &Built,
    waits: &[Wait],
    l: &SyncLayout,
    wanted: &HashSet<Thing>,
    lets_go: &LetGo,
) -> HashMap<Thing, Vec<Candidate>> {
    let mut out: HashMap<Thing, Vec<Candidate>> = HashMap::new();
    if wanted.is_empty() || rt.target.arch != Arch::Amd64 {
        return out;
    }
    let mut code = Code::new(&rt.image, l.rw_reader_count);
    for (i, stack) in built.stacks.iter().enumerate() {
        let flying = in_flight(&waits[i], l);
        let mut inner = true;
        for (n, f) in stack.frames.iter().take(64).enumerate() {
            let Some(func) = code.function(f.pc) else { continue };
            let name = func.name();
            if name.starts_with("runtime.") || name.contains("sync.(*") || name.contains("sync.runtime_") {
                continue;
            }
            let first = std::mem::replace(&mut inner, false);
            let Some(counts) = code.taken_before(f.pc) else { continue };
            for &thing in wanted {
                let Some(k) = held_index(thing.0) else { continue };
                let own = i8::from(first && flying.is_some_and(|t| t.0 == thing.0));
                // Locks that it will let go of are others.
                let others = lets_go.get(&(i, n as u32)).map_or(0, |c| c[k]);
                if counts[k] - own - others < 1 || (first && flying == Some(thing)) {
                    continue;
                }
                let near = |v: u64| thing.1.0.checked_sub(v).is_some_and(|d| d < 256);
                let points = stack.words.iter().any(|w| w.frame == n as u32 && !w.at.is_null() && near(w.value));
                let names = !points
                    && rt.image.modules.iter().any(|m| m.is_global(thing.1))
                    && rt.image.global_references(&func).iter().any(|r| r.addr == thing.1);
                if points || names {
                    out.entry(thing).or_default().push(Candidate {
                        index: i,
                        frame: n as u32,
                        must: false,
                        taken: true,
                        deferred: false,
                    });
                    break;
                }
            }
        }
    }
    out
}

impl Holders {
    /// Edges of all goroutines that wait for something that somebody has to let go of.
    pub fn edges(&self, places: &Places<'_>, waits: &[Wait], now: Option<u64>) -> Vec<Edge> {
        let l = &self.layout;
        let mut named: HashMap<Addr, String> = HashMap::new();
        // Writers that have announced themselves and wait for readers: they keep new readers and writers out.
        let writers: HashMap<Addr, usize> = waits
            .iter()
            .enumerate()
            .filter(|(_, w)| w.kind == WaitKind::RwWrite && w.sema == w.addr.offset(l.rw_writer_sem))
            .map(|(i, w)| (w.addr, i))
            .collect();
        let mut edges = Vec::new();
        for (i, w) in waits.iter().enumerate() {
            let needs = needs(w, l);
            if needs.is_empty() {
                continue;
            }
            let goids = |index: usize| places.built.goroutines[index].goid;
            let before = edges.len();
            let mut served = 0;
            for thing in &needs {
                let all = edges.len();
                let addr = if w.kind.is_channel() { thing.1 } else { w.addr };
                let found = self.candidates.get(thing).map(Vec::as_slice).unwrap_or_default();
                let users: Vec<(usize, u32)> = found.iter().take(4).map(|c| (c.index, c.frame)).collect();
                // Named only where something is told: most goroutines wait for work that nobody is on the way to.
                let mut place = || named.entry(addr).or_insert_with(|| place(places, w, addr, &users, i)).clone();
                let mut edge = |holder: Option<(usize, Option<u32>)>, certainty, evidence, deferred| Edge {
                    waiter: goids(i),
                    holder: holder.map(|h| goids(h.0)),
                    primitive: Primitive {
                        kind: w.kind,
                        addr,
                        place: place(),
                        kept_by: None,
                        state: self.said.get(&addr).copied(),
                    },
                    certainty,
                    evidence,
                    held_in: holder.and_then(|(h, frame)| {
                        let f = places.built.stacks[h].frames.get(frame? as usize)?;
                        Some(places.rt.image.pclntab.find(f.pc)?.name().to_owned())
                    }),
                    deferred,
                    waited_s: waited(&places.built.goroutines[i], now),
                    other_cases: false,
                };
                let announced = writers.get(&w.addr).filter(|_| thing.0 == Held::RwWrite);
                if let Some(&writer) = announced {
                    let text = "it has announced itself as a writer and waits for the readers before it".to_owned();
                    edges.push(edge(Some((writer, None)), Certainty::Sure, text, false));
                    continue;
                }
                for (c, certainty, evidence) in self.holders(places, i, thing, w) {
                    edges.push(edge(Some((c.index, Some(c.frame))), certainty, evidence, c.deferred));
                }
                served += usize::from(edges.len() > all);
                // Everybody waits for channels; one that nobody is known for is no finding here.
                if edges.len() == before && !w.kind.is_channel() {
                    edges.push(edge(None, Certainty::None, self.nobody(w), false));
                }
            }
            if w.kind == WaitKind::Select && served < needs.len() {
                edges[before..].iter_mut().for_each(|e| e.other_cases = true);
            }
        }
        edges
    }

    /// Why no holder can be told.
    fn nobody(&self, w: &Wait) -> String {
        if !self.looked {
            return "holders are inferred from the code of amd64 only; this is another architecture".to_owned();
        }
        match w.kind {
            WaitKind::WaitGroup => "no goroutine is on its way to a Done of it".to_owned(),
            WaitKind::Cond => "no goroutine is on its way to a Signal or Broadcast of it".to_owned(),
            WaitKind::Mutex | WaitKind::Once if self.states.get(&w.lock).is_some_and(|s| s.0 & 1 == 0) => {
                "it is not locked at this moment: the waiter is about to go on".to_owned()
            }
            WaitKind::FdRead | WaitKind::FdWrite => "no goroutine was found in an operation of that descriptor".to_owned(),
            _ => "no goroutine was found on its way to an Unlock of it: its holder has returned or ended without one, or will come to it in a way that could not be followed".to_owned(),
        }
    }

    fn holders(
        &self,
        places: &Places<'_>,
        waiter: usize,
        thing: &Thing,
        w: &Wait,
    ) -> Vec<(Candidate, Certainty, String)> {
        let (held, addr) = *thing;
        let lock = held_index(held).is_some();
        let mut list: Vec<Candidate> = self.candidates.get(thing).cloned().unwrap_or_default();
        // A blocked goroutine cannot serve its own channel, group or Cond.
        list.retain(|c| lock || c.index != waiter);
        if list.iter().any(|c| c.must) {
            list.retain(|c| c.must);
        }
        let name = |c: &Candidate| {
            let f = places.built.stacks[c.index].frames.get(c.frame as usize);
            f.and_then(|f| places.rt.image.pclntab.find(f.pc)).map_or("?", |f| f.name())
        };
        // Of one that took the lock and one that will let go of it, and did not take it, the first has it: the other
        // waits to be handed it.
        let near = self.fallback.get(thing).cloned().unwrap_or_default();
        if !near.is_empty() && !list.iter().any(|c| c.taken) {
            let says =
                |c: &Candidate| format!("{} has taken a lock and not let go, and holds a pointer to this one", name(c));
            return near.iter().take(MAX_HOLDERS).map(|c| (*c, Certainty::Possible, says(c))).collect();
        }
        let (verb, noun) = match held {
            Held::Mutex | Held::RwWrite => ("unlocks it", "lock"),
            Held::RwRead => ("ends its reading (RUnlock)", "read lock"),
            Held::FdRead => ("ends its reading of the descriptor", ""),
            Held::FdWrite => ("ends its writing to the descriptor", ""),
            Held::Group => ("comes to Done", ""),
            Held::Cond => ("comes to Signal or Broadcast", ""),
            Held::Receive => ("comes to receive from it", ""),
            Held::Send => ("comes to send to it or close it", ""),
        };
        let state = self.states.get(&if held == Held::Mutex { w.lock } else { addr }).copied().unwrap_or_default();
        let all = self.candidates.get(thing).map_or(0, Vec::len);
        let taken = list.iter().filter(|c| c.taken).count();
        let held_now = match held {
            Held::Mutex => state.0 & 1 == 1 && all == 1,
            Held::RwWrite => (state.0 as u32 as i32) < 0 && all == 1,
            // A waiting writer counts the readers that it waits for.
            Held::RwRead => state.1 == list.len() as u64,
            _ => false,
        };
        list.sort_by_key(|c| (!c.taken, c.index));
        list.iter()
            .take(MAX_HOLDERS)
            .map(|c| {
                let certainty = match (c.must, c.taken) {
                    (true, true) if held_now && !self.capped => Certainty::Sure,
                    (true, true) => Certainty::Likely,
                    // Others took the lock for certain; this one has not.
                    (true, false) if lock && taken > 0 => Certainty::Possible,
                    (true, false) if !lock || all == 1 => Certainty::Likely,
                    _ => Certainty::Possible,
                };
                let ways = if c.must { "on every way" } else { "on some ways" };
                let before = if c.taken {
                    format!(", having taken a {noun} of this kind on every way in")
                } else {
                    String::new()
                };
                let text = if c.deferred {
                    format!("{} is deferred in {}, and comes {ways} on from where it is{before}", call(held), name(c))
                } else {
                    format!("{} {verb} {ways} on from where it is{before}", name(c))
                };
                (*c, certainty, text)
            })
            .collect()
    }
}

/// Where a primitive lives. A channel is an object of its own: who holds it says more. `users`: goroutines that let go
/// of it, with the frame that does.
fn place(places: &Places<'_>, w: &Wait, addr: Addr, users: &[(usize, u32)], waiter: usize) -> String {
    let what = match w.kind {
        WaitKind::Mutex => "sync.Mutex",
        WaitKind::RwRead | WaitKind::RwWrite => "sync.RWMutex",
        WaitKind::WaitGroup => "sync.WaitGroup",
        WaitKind::Cond => "sync.Cond",
        WaitKind::Once => "sync.Once",
        WaitKind::FdRead | WaitKind::FdWrite => "internal/poll.FD",
        _ => "channel",
    };
    let name = |i: usize, n: usize| {
        let f = places.built.stacks[i].frames.get(n)?;
        Some(places.rt.image.pclntab.find(f.pc)?.name())
    };
    let functions: Vec<&str> = users
        .iter()
        .filter_map(|&(i, n)| name(i, n as usize))
        .chain((0..16).filter_map(|n| name(waiter, n)))
        .chain(users.iter().flat_map(|&(i, _)| (0..16).filter_map(move |n| name(i, n))))
        .filter(|n| !n.starts_with("sync.") && !n.starts_with("internal/sync.") && !n.starts_with("runtime."))
        .collect();
    if w.kind.is_channel() || w.kind == WaitKind::Cond {
        let what = if w.kind == WaitKind::Cond { "*sync.Cond" } else { what };
        if let Some(p) = places.holder(addr, what, functions.iter().copied()) {
            return p;
        }
    }
    match places.of(addr, what, functions) {
        name if w.kind.is_channel() && name.starts_with("runtime.hchan.") => "heap channel".to_owned(),
        // Its first member, of a channel whose elements are known.
        name if w.kind.is_channel() && name.starts_with("chan ") => {
            format!("heap {}", name.strip_suffix(".qcount").unwrap_or(&name))
        }
        name => name,
    }
}

/// Adds to each edge what keeps its primitive alive, where the name of its place does not say so already.
pub fn keepers(edges: &mut [Edge], places: &Places<'_>, waits: &[Wait]) {
    if edges.iter().all(|e| places.heap.find(e.primitive.addr).is_none()) {
        return;
    }
    let keepers = Keepers::of(places, waits);
    let mut known: HashMap<Addr, Option<String>> = HashMap::new();
    for p in edges.iter_mut().map(|e| &mut e.primitive) {
        let name = known.entry(p.addr).or_insert_with(|| keepers.name(p.addr));
        p.kept_by = name.clone().filter(|n| *n != p.place);
    }
}

/// Where the primitive at `addr` lives that goroutine `index` waits for, one of several or the only one.
pub fn place_of(places: &Places<'_>, waits: &[Wait], index: usize, addr: Addr) -> String {
    place(places, &waits[index], addr, &[], index)
}

/// What a goroutine waits for, in words.
pub fn waits_for(places: &Places<'_>, waits: &[Wait], index: usize) -> String {
    let w = &waits[index];
    match w.kind {
        WaitKind::NilChan => "a nil channel".to_owned(),
        WaitKind::EmptySelect => "nothing (select without cases)".to_owned(),
        WaitKind::Select if w.cases.len() > 1 => {
            let cases: Vec<String> = w.cases.iter().take(4).map(|c| place(places, w, c.chan, &[], index)).collect();
            let more = if w.cases.len() > 4 { ", ..." } else { "" };
            format!("{}{more}", cases.join(", "))
        }
        _ if w.addr.is_null() => String::new(),
        _ => place(places, w, w.addr, &[], index),
    }
}

/// What each goroutine waits for: the address, and its name where heap and types are there.
pub fn all_waited_for(rt: &Runtime, scene: Option<(&Heap, &Typed)>, built: &Built, waits: &[Wait]) -> Vec<WaitsFor> {
    let places = scene.map(|(heap, typed)| Places::new(rt, heap, built, typed, objects_to_name(heap, waits)));
    let mut named: HashMap<(WaitKind, Vec<Addr>), String> = HashMap::new();
    waits
        .iter()
        .enumerate()
        .map(|(i, w)| {
            let mut addrs: Vec<Addr> =
                w.cases.iter().map(|c| c.chan).chain([w.addr]).filter(|a| !a.is_null()).collect();
            addrs.sort_unstable();
            addrs.dedup();
            let what = !addrs.is_empty() || matches!(w.kind, WaitKind::NilChan | WaitKind::EmptySelect);
            let Some(places) = places.as_ref().filter(|_| what) else { return WaitsFor { addrs, name: String::new() } };
            let name = named.entry((w.kind, addrs.clone())).or_insert_with(|| {
                let place = waits_for(places, waits, i);
                match addrs.as_slice() {
                    [] => place,
                    [one] => format!("{} {place} ({one})", w.kind.text()),
                    more => {
                        let shown: Vec<String> = more.iter().take(4).map(ToString::to_string).collect();
                        let rest = if more.len() > 4 { ", ..." } else { "" };
                        format!("{} {place} ({}{rest})", w.kind.text(), shown.join(", "))
                    }
                }
            });
            WaitsFor { name: name.clone(), addrs }
        })
        .collect()
}

/// Objects whose holders are to be named.
pub fn objects_to_name(places: &crate::runtime::heap::Heap, waits: &[Wait]) -> Vec<crate::base::ObjectId> {
    waits
        .iter()
        .filter(|w| w.kind.is_channel() || w.kind == WaitKind::Cond)
        .flat_map(|w| w.cases.iter().map(|c| c.chan).chain([w.addr]))
        .filter_map(|a| places.find(a).map(|f| f.0))
        .collect()
}
