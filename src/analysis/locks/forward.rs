//! What a parked goroutine will do when it goes on: its frames are run forward on a copy, instruction by instruction, both
//! ways at every branch that the known values do not decide, and what it lets go of (Unlock, Done, receive, ...) is noted
//! with the address. Nothing in the target is touched.
//!
//! Why forward: after the call in which a goroutine is parked every value that it still needs lies in its stack (Go's ABI
//! saves no registers), so the receiver of a coming Unlock can be read, the bits and closures of deferred calls
//! included. amd64 only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use iced_x86::{FlowControl, Instruction};

use super::{
    calls::{Api, Code, Held, KeyKind},
    lookup,
    machine::{Flags, Machine, RDX, RSP, State},
};
use crate::{
    base::{Addr, bytes},
    image::pclntab::funcdata,
    runtime::{
        Runtime,
        layout::Field,
        sched::Goroutine,
        stack::{Frame, Stack},
    },
};

/// A thing that is let go of.
pub type Thing = (Held, Addr);

/// What running one frame to its end showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Let go of more often than taken, on every way that ends without a panic.
    pub must: BTreeSet<Thing>,
    /// On at least one way.
    pub may: BTreeSet<Thing>,
    /// All ways were followed to their ends.
    pub complete: bool,
    /// Balance at the end for things still held there (the smallest over all ways).
    carry: BTreeMap<Thing, i8>,
}

/// What one goroutine will let go of, with the frame that does it.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    pub thing: Thing,
    /// Index of the frame in the goroutine's stack, innermost 0.
    pub frame: u32,
    /// On every way, and all ways were followed.
    pub must: bool,
}

/// Instructions run for one frame.
const MAX_STEPS: usize = 20_000;
/// Rounds of one loop that are run before its conditions are no longer decided.
const MAX_ROUNDS: u32 = 16;
/// Groups of maps that are looked at for all goroutines together, and for one.
const MAX_GROUPS: u64 = 1 << 22;
const MAX_GROUPS_EACH: std::ops::RangeInclusive<u64> = 64..=4096;
/// Frames run for one goroutine.
const MAX_FRAMES: usize = 64;
/// Helpers stepped into, one in the other.
const MAX_DEPTH: u32 = 6;

/// Where two ways are taken for one: pc, stack pointer, whether conditions are decided, balance.
type Met = (u64, u64, bool, Vec<(Thing, i8)>);

struct Run<'r, 'c, 'i> {
    m: Machine<'r>,
    code: &'c mut Code<'i>,
    /// Pending deferred functions of the goroutine: (sp of the frame, function value).
    defers: Vec<(u64, u64)>,
    /// A frame's end: returning above this stack pointer.
    end_sp: u64,
    steps: usize,
    /// Groups of maps that may still be looked at.
    groups: u64,
    broken: bool,
}

enum Next {
    /// Go on with this state.
    One,
    /// And with another one at this pc.
    Fork(u64),
    /// Went back in the code.
    Loop,
    /// The frame returned.
    Returned,
    /// A panic, the end of the program, or a way that cannot be followed (then `broken` is set).
    Dead,
}

/// Function values of the goroutine's defer records, with the stack pointer of the frame that registered them. Those of
/// open-coded defers have no record: they lie in the frame.
fn pending(rt: &Runtime, g: &Goroutine) -> Vec<(u64, u64)> {
    let (Some(sp), Some(func), Some(link)) =
        (rt.layout.field(Field::DeferSp), rt.layout.field(Field::DeferFn), rt.layout.field(Field::DeferLink))
    else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let (mut at, mut seen) = (g.defer_head, HashSet::new());
    while !at.is_null() && out.len() < 1 << 12 && seen.insert(at) {
        let read = |off: u32| rt.target.read_u64(at.offset(off.into()));
        let (Ok(s), Ok(f), Ok(l)) = (read(sp.offset), read(func.offset), read(link.offset)) else { break };
        out.push((s, f));
        at = Addr(l);
    }
    out
}

/// Groups of maps that may be looked at for one of so many goroutines.
fn groups(of: usize) -> u64 {
    (MAX_GROUPS / of.max(1) as u64).clamp(*MAX_GROUPS_EACH.start(), *MAX_GROUPS_EACH.end())
}

/// Functions below the program's own code: their frames are not run, what they are in the middle of is `in_flight`.
fn skipped(name: &str) -> bool {
    let name = name.strip_prefix("internal/").unwrap_or(name);
    name.starts_with("runtime.") && name != "runtime.main"
        || name.starts_with("sync.runtime_")
        || name.starts_with("sync.(*Mutex).")
        || name.starts_with("sync.(*RWMutex).")
        || name.starts_with("sync.(*WaitGroup).")
        || name.starts_with("poll.runtime_")
        || name.starts_with("poll.(*fdMutex).")
        || matches!(name, "poll.(*FD).readLock" | "poll.(*FD).writeLock")
}

/// What `g` will let go of. `in_flight`: what it is about to take where it is parked. `unknown`: bytes of its stack that
/// the operation it is parked in will overwrite. `of`: goroutines that are asked about in all.
pub fn releases(
    rt: &Runtime,
    code: &mut Code<'_>,
    g: &Goroutine,
    stack: &Stack,
    in_flight: Option<Thing>,
    unknown: Option<(Addr, u64)>,
    of: usize,
) -> (Vec<Release>, bool) {
    let mut groups = groups(of);
    let mut out = Vec::new();
    let mut complete = stack.truncated.is_none();
    let mut carry: BTreeMap<Thing, i8> = in_flight.map(|t| (t, 1)).into_iter().collect();
    let defers = pending(rt, g);
    let (mut started, mut deferring, mut panicking) = (false, false, None);
    for (n, frame) in stack.frames.iter().enumerate() {
        let Some(f) = code.function(frame.pc) else {
            complete = false;
            continue;
        };
        if !started && skipped(f.name()) {
            continue;
        }
        started = true;
        // Deferred calls under way: what is left of them comes next (runtime/panic.go).
        match f.name() {
            "runtime.deferreturn" => {
                deferring = true;
                continue;
            }
            "runtime.gopanic" => {
                panicking = Some(n);
                continue;
            }
            name if panicking.is_some() && name.starts_with("runtime.") && name != "runtime.goexit" => continue,
            _ => {}
        }
        if let Some(at) = panicking {
            // Its deferred calls come, whoever recovers. What else it would have done does not, or not for certain.
            let own = deferred(rt, code, g, frame, of);
            out.extend(own.iter().map(|&thing| Release { thing, frame: n as u32, must: true }));
            carry.retain(|t, _| !own.contains(t));
            if stack.frames[at + 1..n]
                .iter()
                .all(|f| code.function(f.pc).is_some_and(|f| f.name().starts_with("runtime.")))
            {
                continue;
            }
        }
        if f.name() == "runtime.goexit" || f.name() == "runtime.main" {
            break;
        }
        if n > MAX_FRAMES {
            complete = false;
            break;
        }
        let mut run = Run {
            m: Machine::new(rt),
            code,
            defers: defers.clone(),
            end_sp: frame.fp.0,
            steps: 0,
            groups,
            broken: false,
        };
        let mut state = start(frame);
        if std::mem::take(&mut deferring) {
            state.pc = before_call(run.code, frame.pc).unwrap_or(frame.pc.0);
        }
        if n == 0
            && let Some(r) = &g.regs
            && let &[r15, _r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, ..] = &r.general[..]
        {
            let known = [rax, rcx, rdx, rbx, frame.sp.0, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, 0, r15];
            state.regs = known.map(Some);
            state.regs[14] = None;
        }
        if let Some((at, len)) = unknown {
            (0..len.min(1 << 12).div_ceil(8)).for_each(|w| _ = state.memory.insert(at.0 / 8 + w, None));
        }
        state.balance = carry.clone();
        let result = run.frame(state);
        groups = run.groups;
        complete &= result.complete;
        for &thing in &result.may {
            let must = result.must.contains(&thing) && result.complete && panicking.is_none();
            out.push(Release { thing, frame: n as u32, must });
        }
        carry = result.carry;
    }
    (out, complete)
}

/// The call of deferreturn that returns to `pc`.
fn before_call(code: &mut Code<'_>, pc: Addr) -> Option<u64> {
    const CALL: u64 = 5;
    let at = pc.0.checked_sub(CALL)?;
    let i = code.instruction(Addr(at)).filter(|i| i.is_call_near())?;
    matches!(code.api_at(Addr(i.near_branch_target())), Some(Api::DeferReturn)).then_some(at)
}

/// Deferred calls of one frame that are looked at.
const MAX_DEFERS: usize = 64;

/// What the deferred calls of `frame` that are registered and have not run let go of, on some way at least.
///
/// Open-coded ones have a bit each in a byte of the frame and a slot for the function value; where these lie is in
/// FUNCDATA_OpenCodedDeferInfo (runtime/panic.go: runOpenDeferFrame up to 1.21, initOpenCodedDefers since). All others have a
/// record with the frame's sp. Cost: up to `MAX_STEPS` instructions a call.
pub fn deferred(rt: &Runtime, code: &mut Code<'_>, g: &Goroutine, frame: &Frame, of: usize) -> BTreeSet<Thing> {
    let mut groups = groups(of);
    let mut values: Vec<u64> =
        pending(rt, g).into_iter().filter(|d| d.0 == frame.sp.0).map(|d| d.1).take(MAX_DEFERS).collect();
    values.extend(open_coded(rt, code, frame).unwrap_or_default());
    let mut out = BTreeSet::new();
    for value in values {
        let Some(entry) = rt.target.read_u64(Addr(value)).ok().filter(|&e| code.function(Addr(e)).is_some()) else {
            continue;
        };
        let mut state = start(frame);
        state.regs = [None; 16];
        // As if the frame had just called it: the return address lies below the frame.
        state.regs[RSP] = Some(frame.sp.0.wrapping_sub(8));
        state.regs[RDX] = Some(value);
        state.pc = entry;
        let mut run =
            Run { m: Machine::new(rt), code, defers: Vec::new(), end_sp: frame.sp.0, steps: 0, groups, broken: false };
        out.extend(run.frame(state).may);
        groups = run.groups;
    }
    out
}

/// Function values of the open-coded deferred calls of a frame that have not run.
fn open_coded(rt: &Runtime, code: &Code<'_>, frame: &Frame) -> Option<Vec<u64>> {
    let data = code.function(frame.pc)?.funcdata_bytes(funcdata::OPEN_CODED_DEFER_INFO)?;
    let mut numbers = data.get(..data.len().min(128))?;
    let mut number = || {
        let (n, len) = bytes::uvarint(numbers)?;
        numbers = numbers.get(len..)?;
        Some(n)
    };
    // runtime/traceback.go: the locals end below the saved frame pointer, which lies below the return address.
    let varp = frame.fp.0.checked_sub(16)?;
    let byte = varp.checked_sub(number()?)?;
    let mut bits = [0];
    rt.target.read(Addr(byte), &mut bits).ok()?;
    // A byte of bits: eight calls at most.
    let mut slots = [None; 8];
    if rt.image.go_version.minor < 22 {
        let n = number()?;
        for slot in slots.iter_mut().take(n.min(8) as usize).rev() {
            *slot = varp.checked_sub(number()?);
        }
    } else {
        let first = varp.checked_sub(number()?)?;
        slots.iter_mut().enumerate().for_each(|(i, s)| *s = first.checked_add(8 * i as u64));
    }
    let set = |i: &usize| bits[0] >> i & 1 != 0;
    Some((0..8).filter(set).filter_map(|i| rt.target.read_u64(Addr(slots[i]?)).ok()).collect())
}

fn start(frame: &Frame) -> State {
    let mut regs = [None; 16];
    regs[RSP] = Some(frame.sp.0);
    // Go keeps the caller's frame pointer in the word below the return address, and rbp points there.
    regs[5] = Some(frame.fp.0.wrapping_sub(16));
    let mut xmm = [None; 16];
    xmm[15] = Some(0);
    State {
        pc: frame.pc.0,
        regs,
        xmm,
        flags: Flags::Unknown,
        memory: BTreeMap::new(),
        balance: BTreeMap::new(),
        released: BTreeSet::new(),
        defers: Vec::new(),
        depth: 0,
        wide: false,
        decided: BTreeSet::new(),
    }
}

impl Run<'_, '_, '_> {
    /// Runs one frame to its return, on all ways.
    fn frame(&mut self, first: State) -> Outcome {
        let mut out = Outcome::default();
        let mut seen: HashSet<Met> = HashSet::new();
        let mut rounds: HashMap<Met, u32> = HashMap::new();
        let mut todo = vec![first];
        let mut must: Option<BTreeSet<Thing>> = None;
        let mut endless: Option<BTreeSet<Thing>> = None;
        let mut carry: Option<BTreeMap<Thing, i8>> = None;
        let meet = |set: &mut Option<BTreeSet<Thing>>, with: &BTreeSet<Thing>| {
            *set = Some(match set.take() {
                Some(old) => old.intersection(with).copied().collect(),
                None => with.clone(),
            });
        };
        // Ways that meet with the same balance go on alike; only one is followed.
        let key = |s: &State, pc: u64| {
            let balance: Vec<(Thing, i8)> = s.balance.iter().map(|(&t, &n)| (t, n)).collect();
            (pc, s.regs[RSP].unwrap_or(0), s.wide, balance)
        };
        // Has no way been here? One that has is gone on with once more, to find the ends of the loop.
        let fresh = |seen: &mut HashSet<Met>, s: &mut State| {
            seen.insert(key(s, s.pc)) || !std::mem::replace(&mut s.wide, true) && seen.insert(key(s, s.pc))
        };
        while let Some(mut s) = todo.pop() {
            loop {
                if self.steps >= MAX_STEPS {
                    self.broken = true;
                    break;
                }
                self.steps += 1;
                match self.step(&mut s) {
                    Next::One => {}
                    Next::Loop => {
                        // Rounds that known values decide are run; not for ever.
                        let round = rounds.entry(key(&s, s.pc)).or_insert(0);
                        *round += 1;
                        if *round > MAX_ROUNDS && !fresh(&mut seen, &mut s) {
                            meet(&mut endless, &s.released);
                            out.may.extend(&s.released);
                            break;
                        }
                    }
                    Next::Fork(pc) => {
                        let mut other = s.clone();
                        other.pc = pc;
                        if fresh(&mut seen, &mut other) {
                            todo.push(other);
                        }
                        if !fresh(&mut seen, &mut s) {
                            meet(&mut endless, &s.released);
                            out.may.extend(&s.released);
                            break;
                        }
                    }
                    Next::Returned => {
                        meet(&mut must, &s.released);
                        out.may.extend(&s.released);
                        carry = Some(match carry.take() {
                            Some(old) => old
                                .into_iter()
                                .map(|(t, n)| (t, n.max(s.balance.get(&t).copied().unwrap_or(0))))
                                .chain(s.balance.iter().map(|(&t, &n)| (t, n)))
                                .collect(),
                            None => s.balance.clone(),
                        });
                        break;
                    }
                    Next::Dead => {
                        out.may.extend(&s.released);
                        break;
                    }
                }
            }
        }
        // A loop that never ends has no return; what every round does counts.
        out.must = must.or(endless).unwrap_or_default();
        out.complete = !self.broken;
        out.carry = carry.unwrap_or_default();
        out.carry.retain(|_, n| *n > 0);
        out
    }

    fn count(s: &mut State, thing: Thing, step: i8) {
        let n = s.balance.entry(thing).or_insert(0);
        *n = n.saturating_add(step);
        if *n < 0 {
            s.released.insert(thing);
            *n = -1;
        } else if *n == 0 {
            s.balance.remove(&thing);
        }
        // A hostile program shall not make this grow.
        if s.balance.len() > 256 {
            s.balance.clear();
        }
    }

    /// Steps into the function value `f`, to come back to `back`.
    fn enter(&mut self, s: &mut State, entry: u64, closure: Option<u64>, back: u64) -> bool {
        let Some(sp) = s.regs[RSP].filter(|_| s.depth < MAX_DEPTH) else { return false };
        if !self.code.worth_entering(Addr(entry), 2) {
            return false;
        }
        let args = s.regs;
        if closure.is_some() {
            Machine::forget(s);
            s.regs[RDX] = closure;
        } else {
            s.regs = args;
        }
        s.regs[RSP] = Some(sp.wrapping_sub(8));
        self.m.store(s, sp.wrapping_sub(8), 8, Some(back));
        s.pc = entry;
        s.depth += 1;
        true
    }

    /// Where the element lies that a lookup in a map will find: (map type, map, key) are its arguments.
    fn lookup(&mut self, s: &State, kind: KeyKind) -> Option<u64> {
        let [rax, rbx, rcx, rdi] = [0, 3, 1, 7].map(|n| s.regs[n]);
        let (ty, map, key) = (Addr(rax?), Addr(rbx?), rcx?);
        let found = match kind {
            KeyKind::Text => lookup::find_text(self.m.rt, ty, map, &mut self.groups, (Addr(key), rdi?)),
            KeyKind::Word(n) => lookup::find(self.m.rt, ty, map, &mut self.groups, |k| k == &key.to_le_bytes()[..n]),
            KeyKind::Pointed => {
                let words: Option<Vec<u8>> = (0..lookup::key_size(self.m.rt, ty)?)
                    .map(|i| self.m.load(s, key.wrapping_add(i), 1).map(|b| b as u8))
                    .collect();
                let words = words?;
                lookup::find(self.m.rt, ty, map, &mut self.groups, |k| k == words)
            }
        };
        found.map(|a| a.0)
    }

    fn call(&mut self, s: &mut State, i: &Instruction) -> Next {
        let target = if i.is_call_near() || i.is_jmp_near() || i.is_jmp_short() {
            Some(i.near_branch_target())
        } else {
            self.m.operand(s, i, 0)
        };
        let back = i.next_ip();
        let (rax, rbx) = (s.regs[0], s.regs[3]);
        let Some(target) = target else {
            // A function value that is not known: hardly ever one that lets go of a lock of its caller.
            Machine::forget(s);
            s.pc = back;
            return Next::One;
        };
        match self.code.api_at(Addr(target)) {
            Some(Api::Ends) => return Next::Dead,
            Some(Api::Step(held, step)) => {
                if let Some(a) = rax {
                    Self::count(s, (held, Addr(a)), step);
                    if held == Held::Receive
                        && let Some(to) = rbx
                        && let Some(f) = self.m.rt.layout.field(Field::HchanElemsize)
                    {
                        let n = self.m.load(s, a.wrapping_add(f.offset.into()), 2).unwrap_or(8) as u32;
                        for w in (0..u64::from(n)).step_by(8) {
                            self.m.store(s, to.wrapping_add(w), 8, None);
                        }
                    }
                }
            }
            Some(Api::GroupAdd) => {
                if let (Some(a), Some(n)) = (rax, rbx) {
                    Self::count(s, (Held::Group, Addr(a)), if (n as i64) < 0 { -1 } else { 1 });
                }
            }
            Some(Api::FdLock(step)) => {
                if let (Some(a), Some(read)) = (rax, rbx) {
                    let held = if read & 1 == 1 { Held::FdRead } else { Held::FdWrite };
                    Self::count(s, (held, Addr(a)), step);
                }
            }
            Some(Api::Lookup(kind)) => {
                let found = self.lookup(s, kind);
                Machine::forget(s);
                s.regs[0] = found;
                s.regs[3] = found.map(|_| 1);
                s.pc = back;
                return Next::One;
            }
            Some(Api::Defer) => {
                if let (Some(sp), Some(f)) = (s.regs[RSP], rax) {
                    s.defers.push((sp, f));
                }
                Machine::forget(s);
                s.regs[0] = Some(0);
                s.pc = back;
                return Next::One;
            }
            Some(Api::DeferStack) => {
                if let (Some(sp), Some(d), Some(f)) = (s.regs[RSP], rax, self.m.rt.layout.field(Field::DeferFn))
                    && let Some(f) = self.m.load(s, d.wrapping_add(f.offset.into()), 8)
                {
                    s.defers.push((sp, f));
                }
                Machine::forget(s);
                s.regs[0] = Some(0);
                s.pc = back;
                return Next::One;
            }
            Some(Api::DeferReturn) => {
                // Runs the next deferred function of this frame, then is called again.
                let sp = s.regs[RSP];
                let own = s.defers.iter().rposition(|d| Some(d.0) == sp);
                let next = match own {
                    Some(n) => Some(s.defers.remove(n).1),
                    // Which pending record comes next is kept as a marker in the list of this way.
                    None => {
                        let done = s.defers.iter().filter(|d| d.0 == u64::MAX && Some(d.1) == sp).count();
                        let f = self.defers.iter().filter(|d| Some(d.0) == sp).nth(done).map(|d| d.1);
                        if f.is_some() {
                            s.defers.push((u64::MAX, sp.unwrap_or(0)));
                        }
                        f
                    }
                };
                if let Some(f) = next {
                    let entry = self.m.load(s, f, 8);
                    let again = i.ip();
                    match entry {
                        Some(e) if self.enter(s, e, Some(f), again) => return Next::One,
                        Some(_) => {
                            Machine::forget(s);
                            s.pc = again;
                            return Next::One;
                        }
                        None => self.broken = true,
                    }
                }
            }
            Some(Api::Try(_) | Api::Slow) => {}
            None => {
                if self.enter(s, target, None, back) {
                    return Next::One;
                }
                // A pointer to a local that is handed out: its first word is not known any more.
                let sp = s.regs[RSP].unwrap_or(u64::MAX);
                for a in [s.regs[0], s.regs[3], s.regs[1]].into_iter().flatten() {
                    if a >= sp && a < self.end_sp {
                        s.memory.insert(a / 8, None);
                    }
                }
            }
        }
        Machine::forget(s);
        s.pc = back;
        Next::One
    }

    fn step(&mut self, s: &mut State) -> Next {
        let Some(i) = self.code.instruction(Addr(s.pc)) else {
            self.broken = true;
            return Next::Dead;
        };
        let next = i.next_ip();
        if let Some((api, off)) = self.code.inlined(&i)
            && let Some(at) = self.m.address(s, &i)
            && let Api::Step(held, step) = api
        {
            Self::count(s, (held, Addr(at.wrapping_sub(off))), step);
        }
        match i.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => return self.call(s, &i),
            FlowControl::Return => {
                let Some(sp) = s.regs[RSP] else {
                    self.broken = true;
                    return Next::Dead;
                };
                if sp.wrapping_add(8) >= self.end_sp {
                    return Next::Returned;
                }
                let Some(back) = self.m.load(s, sp, 8) else {
                    self.broken = true;
                    return Next::Dead;
                };
                s.regs[RSP] = Some(sp.wrapping_add(8));
                s.depth = s.depth.saturating_sub(1);
                s.pc = back;
                return Next::One;
            }
            FlowControl::UnconditionalBranch => {
                let to = Addr(i.near_branch_target());
                let here = self.code.function(Addr(s.pc));
                if here.is_some_and(|f| to >= f.entry() && to < f.end()) {
                    s.pc = to.0;
                    // Loops meet themselves.
                    return if to.0 <= i.ip() { Next::Loop } else { Next::One };
                }
                // A tail call: as a call, then a return.
                return self.tail(s, &i);
            }
            FlowControl::ConditionalBranch => {
                let to = i.near_branch_target();
                let known = Machine::condition(s.flags, i.condition_code());
                let first = known.is_none() || s.decided.insert(i.ip());
                return match known.filter(|_| first || !s.wide) {
                    Some(true) => {
                        s.pc = to;
                        if to <= i.ip() { Next::Loop } else { Next::One }
                    }
                    Some(false) => {
                        s.pc = next;
                        Next::One
                    }
                    None => {
                        s.pc = next;
                        Next::Fork(to)
                    }
                };
            }
            FlowControl::IndirectBranch => {
                let to = self.m.operand(s, &i, 0);
                let Some(to) = to.filter(|&t| self.code.function(Addr(t)).is_some()) else {
                    self.broken = true;
                    return Next::Dead;
                };
                s.pc = to;
                return Next::One;
            }
            FlowControl::Exception | FlowControl::Interrupt => return Next::Dead,
            _ => {}
        }
        self.m.plain(s, &i);
        s.pc = next;
        Next::One
    }

    /// A jump to another function.
    fn tail(&mut self, s: &mut State, i: &Instruction) -> Next {
        let Some(sp) = s.regs[RSP] else {
            self.broken = true;
            return Next::Dead;
        };
        let last = sp.wrapping_add(8) >= self.end_sp;
        let back = self.m.load(s, sp, 8);
        let to = i.near_branch_target();
        let known = self.code.api_at(Addr(to));
        if known.is_none() && self.code.worth_entering(Addr(to), 2) && s.depth < MAX_DEPTH {
            s.pc = to;
            return Next::One;
        }
        if matches!(self.call(s, i), Next::Dead) {
            return Next::Dead;
        }
        if last {
            return Next::Returned;
        }
        let Some(back) = back else {
            self.broken = true;
            return Next::Dead;
        };
        s.regs[RSP] = Some(sp.wrapping_add(8));
        s.depth = s.depth.saturating_sub(1);
        s.pc = back;
        Next::One
    }
}
