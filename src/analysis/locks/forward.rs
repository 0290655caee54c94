//! What a parked goroutine will do when it goes on: its frames are run forward on a copy, instruction by instruction, both
//! ways at every branch that the known values do not decide, and what it lets go of (Unlock, Done, receive, ...) is noted
//! with the address. Nothing in the target is touched.
//!
//! Why forward: after the call in which a goroutine is parked every value that it still needs lies in its stack (Go's ABI
//! saves no registers), so the receiver of a coming Unlock can be read, the bits and closures of deferred calls
//! included. amd64 only.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use iced_x86::{ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::calls::{Api, Code, Held};
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
/// Frames run for one goroutine.
const MAX_FRAMES: usize = 64;
/// Helpers stepped into, one in the other.
const MAX_DEPTH: u32 = 6;

#[derive(Clone, Copy, Debug, Default)]
enum Flags {
    #[default]
    Unknown,
    /// Of a comparison of two values of so many bytes.
    Compare(u64, u64, u32),
    /// Only zero and sign are known, of a result.
    Result(u64, u32),
}

#[derive(Clone, Debug)]
struct State {
    pc: u64,
    regs: [Option<u64>; 16],
    xmm: [Option<u128>; 16],
    flags: Flags,
    /// Words changed on this way, by address / 8; `None`: changed to what is not known.
    memory: BTreeMap<u64, Option<u64>>,
    balance: BTreeMap<Thing, i8>,
    released: BTreeSet<Thing>,
    /// Deferred functions registered on this way: (sp of the frame, function value).
    defers: Vec<(u64, u64)>,
    depth: u32,
}

const RSP: usize = 4;
const RDX: usize = 2;

fn number(r: Register) -> Option<usize> {
    let full = r.full_register();
    full.is_gpr64().then(|| full.number())
}

fn mask(size: u32) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

impl State {
    fn reg(&self, r: Register) -> Option<u64> {
        if matches!(r, Register::AH | Register::BH | Register::CH | Register::DH) {
            return None;
        }
        Some(self.regs[number(r)?]? & mask(r.size() as u32))
    }

    fn set(&mut self, r: Register, value: Option<u64>) {
        let Some(n) = number(r) else { return };
        let size = r.size() as u32;
        self.regs[n] = match (value, size) {
            _ if matches!(r, Register::AH | Register::BH | Register::CH | Register::DH) => None,
            // 32-bit writes clear the upper half; of narrower ones only the written part is asked for later.
            (Some(v), 4) => Some(v & mask(4)),
            (Some(v), 1 | 2) => Some(self.regs[n].unwrap_or(0) & !mask(size) | v & mask(size)),
            (v, _) => v,
        };
    }
}

/// Where two ways are taken for one: pc, stack pointer, balance.
type Met = (u64, u64, Vec<(Thing, i8)>);

struct Run<'r, 'c, 'i> {
    rt: &'r Runtime,
    code: &'c mut Code<'i>,
    info: InstructionInfoFactory,
    /// Pending deferred functions of the goroutine: (sp of the frame, function value).
    defers: Vec<(u64, u64)>,
    /// A frame's end: returning above this stack pointer.
    end_sp: u64,
    steps: usize,
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

/// Functions below the program's own code: their frames are not run, what they are in the middle of is `in_flight`.
fn skipped(name: &str) -> bool {
    let name = name.strip_prefix("internal/").unwrap_or(name);
    name.starts_with("runtime.") && name != "runtime.main"
        || name.starts_with("sync.runtime_")
        || name.starts_with("sync.(*Mutex).")
        || name.starts_with("sync.(*RWMutex).")
        || name.starts_with("sync.(*WaitGroup).")
        || name.starts_with("poll.runtime_")
}

/// What `g` will let go of. `in_flight`: what it is about to take where it is parked. `unknown`: bytes of its stack that
/// the operation it is parked in will overwrite.
pub fn releases(
    rt: &Runtime,
    code: &mut Code<'_>,
    g: &Goroutine,
    stack: &Stack,
    in_flight: Option<Thing>,
    unknown: Option<(Addr, u64)>,
) -> (Vec<Release>, bool) {
    let mut out = Vec::new();
    let mut complete = stack.truncated.is_none();
    let mut carry: BTreeMap<Thing, i8> = in_flight.map(|t| (t, 1)).into_iter().collect();
    let defers = pending(rt, g);
    let mut started = false;
    for (n, frame) in stack.frames.iter().enumerate() {
        let Some(f) = code.function(frame.pc) else {
            complete = false;
            continue;
        };
        if !started && skipped(f.name()) {
            continue;
        }
        started = true;
        if f.name() == "runtime.goexit" || f.name() == "runtime.main" {
            break;
        }
        if n > MAX_FRAMES {
            complete = false;
            break;
        }
        let mut run = Run {
            rt,
            code,
            info: InstructionInfoFactory::new(),
            defers: defers.clone(),
            end_sp: frame.fp.0,
            steps: 0,
            broken: false,
        };
        let mut state = start(frame);
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
        complete &= result.complete;
        for &thing in &result.may {
            let must = result.must.contains(&thing) && result.complete;
            out.push(Release { thing, frame: n as u32, must });
        }
        carry = result.carry;
    }
    (out, complete)
}

/// Deferred calls of one frame that are looked at.
const MAX_DEFERS: usize = 64;

/// What the deferred calls of `frame` that are registered and have not run let go of, on some way at least.
///
/// Open-coded ones have a bit each in a byte of the frame and a slot for the function value; where these lie is in
/// FUNCDATA_OpenCodedDeferInfo (runtime/panic.go: runOpenDeferFrame up to 1.21, initOpenCodedDefers since). All others have a
/// record with the frame's sp. Cost: up to `MAX_STEPS` instructions a call.
pub fn deferred(rt: &Runtime, code: &mut Code<'_>, g: &Goroutine, frame: &Frame) -> BTreeSet<Thing> {
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
        let mut run = Run {
            rt,
            code,
            info: InstructionInfoFactory::new(),
            defers: Vec::new(),
            end_sp: frame.sp.0,
            steps: 0,
            broken: false,
        };
        out.extend(run.frame(state).may);
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
    }
}

impl Run<'_, '_, '_> {
    /// Runs one frame to its return, on all ways.
    fn frame(&mut self, first: State) -> Outcome {
        let mut out = Outcome::default();
        let mut seen: HashSet<Met> = HashSet::new();
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
            (pc, s.regs[RSP].unwrap_or(0), balance)
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
                        if !seen.insert(key(&s, s.pc)) {
                            meet(&mut endless, &s.released);
                            out.may.extend(&s.released);
                            break;
                        }
                    }
                    Next::Fork(pc) => {
                        let (a, b) = (seen.insert(key(&s, pc)), seen.insert(key(&s, s.pc)));
                        if a {
                            let mut other = s.clone();
                            other.pc = pc;
                            todo.push(other);
                        }
                        if !b {
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

    fn load_word(&self, s: &State, number: u64) -> Option<u64> {
        match s.memory.get(&number) {
            Some(&v) => v,
            None => self.rt.target.read_u64(Addr(number.checked_mul(8)?)).ok(),
        }
    }

    fn load(&self, s: &State, at: u64, size: u32) -> Option<u64> {
        if !matches!(size, 1 | 2 | 4 | 8) {
            return None;
        }
        let low = self.load_word(s, at / 8)?;
        let off = at % 8;
        let mut value = low >> (8 * off);
        if off + u64::from(size) > 8 {
            value |= self.load_word(s, (at / 8).checked_add(1)?)? << (64 - 8 * off);
        }
        Some(value & mask(size))
    }

    fn store(&self, s: &mut State, at: u64, size: u32, value: Option<u64>) {
        for byte in 0..u64::from(size.min(64)) {
            let Some(to) = at.checked_add(byte) else { return };
            if byte > 0 && to % 8 != 0 {
                continue;
            }
            // The part of the value that falls into this word.
            let (off, first) = (to % 8, byte);
            let n = (u64::from(size) - first).min(8 - off) as u32;
            let word = match value {
                None => None,
                Some(v) => {
                    let part = if first >= 8 { 0 } else { v >> (8 * first) } & mask(n);
                    if n == 8 {
                        Some(part)
                    } else {
                        self.load_word(s, to / 8).map(|old| old & !(mask(n) << (8 * off)) | part << (8 * off))
                    }
                }
            };
            s.memory.insert(to / 8, word);
        }
    }

    fn address(&self, s: &State, i: &Instruction) -> Option<u64> {
        if i.segment_prefix() != Register::None {
            return None;
        }
        let base = match i.memory_base() {
            Register::None => 0,
            Register::RIP => return Some(i.memory_displacement64()),
            r => s.reg(r)?,
        };
        let index = match i.memory_index() {
            Register::None => 0,
            r => s.reg(r)?.wrapping_mul(i.memory_index_scale().into()),
        };
        Some(base.wrapping_add(index).wrapping_add(i.memory_displacement64()))
    }

    fn operand(&self, s: &State, i: &Instruction, n: u32) -> Option<u64> {
        match i.op_kind(n) {
            OpKind::Register => s.reg(i.op_register(n)),
            OpKind::Memory => self.load(s, self.address(s, i)?, i.memory_size().size() as u32),
            k if (OpKind::Immediate8..=OpKind::Immediate32to64).contains(&k) => Some(i.immediate(n)),
            _ => None,
        }
    }

    fn size(i: &Instruction, n: u32) -> u32 {
        match i.op_kind(n) {
            OpKind::Register => i.op_register(n).size() as u32,
            OpKind::Memory => i.memory_size().size() as u32,
            _ => 8,
        }
    }

    fn assign(&self, s: &mut State, i: &Instruction, value: Option<u64>) {
        match i.op0_kind() {
            OpKind::Register => s.set(i.op0_register(), value),
            OpKind::Memory => {
                if let Some(at) = self.address(s, i) {
                    self.store(s, at, i.memory_size().size() as u32, value);
                }
            }
            _ => {}
        }
    }

    fn condition(flags: Flags, c: ConditionCode) -> Option<bool> {
        use ConditionCode as C;
        let (a, b, size, full) = match flags {
            Flags::Unknown => return None,
            Flags::Compare(a, b, n) => (a & mask(n), b & mask(n), n, true),
            Flags::Result(r, n) => (r & mask(n), 0, n, false),
        };
        let shift = 64 - 8 * size.clamp(1, 8);
        let (sa, sb) = ((a << shift) as i64, (b << shift) as i64);
        Some(match c {
            C::e => a == b,
            C::ne => a != b,
            C::s => ((a.wrapping_sub(b) << shift) as i64) < 0,
            C::ns => ((a.wrapping_sub(b) << shift) as i64) >= 0,
            _ if !full => return None,
            C::l => sa < sb,
            C::le => sa <= sb,
            C::g => sa > sb,
            C::ge => sa >= sb,
            C::b => a < b,
            C::be => a <= b,
            C::a => a > b,
            C::ae => a >= b,
            _ => return None,
        })
    }

    /// A call: everything but the stack pointer is lost.
    fn forget(s: &mut State) {
        let sp = s.regs[RSP];
        s.regs = [None; 16];
        s.regs[RSP] = sp;
        s.xmm = [None; 16];
        s.xmm[15] = Some(0);
        s.flags = Flags::Unknown;
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
            Self::forget(s);
            s.regs[RDX] = closure;
        } else {
            s.regs = args;
        }
        s.regs[RSP] = Some(sp.wrapping_sub(8));
        self.store(s, sp.wrapping_sub(8), 8, Some(back));
        s.pc = entry;
        s.depth += 1;
        true
    }

    fn call(&mut self, s: &mut State, i: &Instruction) -> Next {
        let target = if i.is_call_near() || i.is_jmp_near() || i.is_jmp_short() {
            Some(i.near_branch_target())
        } else {
            self.operand(s, i, 0)
        };
        let back = i.next_ip();
        let (rax, rbx) = (s.regs[0], s.regs[3]);
        let Some(target) = target else {
            // A function value that is not known: hardly ever one that lets go of a lock of its caller.
            Self::forget(s);
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
                        && let Some(f) = self.rt.layout.field(Field::HchanElemsize)
                    {
                        let n = self.load(s, a.wrapping_add(f.offset.into()), 2).unwrap_or(8) as u32;
                        for w in (0..u64::from(n)).step_by(8) {
                            self.store(s, to.wrapping_add(w), 8, None);
                        }
                    }
                }
            }
            Some(Api::GroupAdd) => {
                if let (Some(a), Some(n)) = (rax, rbx) {
                    Self::count(s, (Held::Group, Addr(a)), if (n as i64) < 0 { -1 } else { 1 });
                }
            }
            Some(Api::Defer) => {
                if let (Some(sp), Some(f)) = (s.regs[RSP], rax) {
                    s.defers.push((sp, f));
                }
                Self::forget(s);
                s.regs[0] = Some(0);
                s.pc = back;
                return Next::One;
            }
            Some(Api::DeferStack) => {
                if let (Some(sp), Some(d), Some(f)) = (s.regs[RSP], rax, self.rt.layout.field(Field::DeferFn))
                    && let Some(f) = self.load(s, d.wrapping_add(f.offset.into()), 8)
                {
                    s.defers.push((sp, f));
                }
                Self::forget(s);
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
                    let entry = self.load(s, f, 8);
                    let again = i.ip();
                    match entry {
                        Some(e) if self.enter(s, e, Some(f), again) => return Next::One,
                        Some(_) => {
                            Self::forget(s);
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
        Self::forget(s);
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
            && let Some(at) = self.address(s, &i)
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
                let Some(back) = self.load(s, sp, 8) else {
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
                return match Self::condition(s.flags, i.condition_code()) {
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
                let to = self.operand(s, &i, 0);
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
        self.plain(s, &i);
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
        let back = self.load(s, sp, 8);
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

    /// Everything that does not change the course.
    fn plain(&mut self, s: &mut State, i: &Instruction) {
        use Mnemonic as M;
        match i.mnemonic() {
            M::Nop | M::Endbr64 | M::Prefetcht0 | M::Prefetchnta | M::Pause => {}
            // `xchg ax,ax` is the assembler's no-op.
            M::Xchg if i.op0_kind() == OpKind::Register && i.op0_register() == i.op1_register() => {}
            M::Mov | M::Movzx => {
                let v = self.operand(s, i, 1);
                self.assign(s, i, v);
            }
            M::Movsx | M::Movsxd => {
                let shift = 64 - 8 * Self::size(i, 1).clamp(1, 8);
                let v = self.operand(s, i, 1).map(|v| ((v << shift) as i64 >> shift) as u64);
                self.assign(s, i, v);
            }
            M::Lea => {
                let v = self.address(s, i);
                self.assign(s, i, v);
            }
            M::Push => {
                let v = self.operand(s, i, 0);
                if let Some(sp) = s.regs[RSP].map(|sp| sp.wrapping_sub(8)) {
                    s.regs[RSP] = Some(sp);
                    self.store(s, sp, 8, v);
                }
            }
            M::Pop => {
                if let Some(sp) = s.regs[RSP] {
                    let v = self.load(s, sp, 8);
                    s.regs[RSP] = Some(sp.wrapping_add(8));
                    self.assign(s, i, v);
                }
            }
            M::Cmp | M::Test => {
                let n = Self::size(i, 0);
                s.flags = match (self.operand(s, i, 0), self.operand(s, i, 1)) {
                    (Some(a), Some(b)) if i.mnemonic() == M::Cmp => Flags::Compare(a, b, n),
                    (Some(a), Some(b)) => Flags::Compare(a & b & mask(n), 0, n),
                    _ => Flags::Unknown,
                };
            }
            M::Xor | M::Sub
                if i.op0_kind() == OpKind::Register
                    && i.op1_kind() == OpKind::Register
                    && i.op0_register() == i.op1_register() =>
            {
                s.set(i.op0_register(), Some(0));
                s.flags = Flags::Compare(0, 0, 8);
            }
            M::Add | M::Sub | M::And | M::Or | M::Xor if !i.has_lock_prefix() => {
                let n = Self::size(i, 0);
                let v = match (self.operand(s, i, 0), self.operand(s, i, 1)) {
                    (Some(a), Some(b)) => {
                        let v = match i.mnemonic() {
                            M::Add => a.wrapping_add(b),
                            M::Sub => a.wrapping_sub(b),
                            M::And => a & b,
                            M::Or => a | b,
                            _ => a ^ b,
                        } & mask(n);
                        s.flags = match i.mnemonic() {
                            M::Sub => Flags::Compare(a, b, n),
                            M::Add => Flags::Result(v, n),
                            _ => Flags::Compare(v, 0, n),
                        };
                        Some(v)
                    }
                    _ => {
                        s.flags = Flags::Unknown;
                        None
                    }
                };
                self.assign(s, i, v);
            }
            M::Inc | M::Dec if !i.has_lock_prefix() => {
                let n = Self::size(i, 0);
                let step = if i.mnemonic() == M::Inc { 1 } else { u64::MAX };
                let v = self.operand(s, i, 0).map(|a| a.wrapping_add(step) & mask(n));
                s.flags = v.map_or(Flags::Unknown, |v| Flags::Result(v, n));
                self.assign(s, i, v);
            }
            M::Movups | M::Movaps | M::Movdqu | M::Movdqa | M::Movq | M::Movd if i.op_count() == 2 => self.vector(s, i),
            _ => self.other(s, i),
        }
    }

    /// Copies through vector registers: zeroing, pairs of words, spills.
    fn vector(&mut self, s: &mut State, i: &Instruction) {
        let n = if matches!(i.mnemonic(), Mnemonic::Movq) {
            8
        } else if matches!(i.mnemonic(), Mnemonic::Movd) {
            4
        } else {
            16
        };
        let value: Option<u128> = match i.op1_kind() {
            OpKind::Register if i.op1_register().is_xmm() => s.xmm[i.op1_register().number() & 15],
            OpKind::Register => s.reg(i.op1_register()).map(u128::from),
            OpKind::Memory => self.address(s, i).and_then(|at| {
                let low = self.load(s, at, n.min(8))?;
                let high = if n == 16 { self.load(s, at.wrapping_add(8), 8)? } else { 0 };
                Some(u128::from(low) | u128::from(high) << 64)
            }),
            _ => None,
        };
        match i.op0_kind() {
            OpKind::Register if i.op0_register().is_xmm() => s.xmm[i.op0_register().number() & 15] = value,
            OpKind::Register => s.set(i.op0_register(), value.map(|v| v as u64)),
            OpKind::Memory => {
                if let Some(at) = self.address(s, i) {
                    self.store(s, at, n.min(8), value.map(|v| v as u64));
                    if n == 16 {
                        self.store(s, at.wrapping_add(8), 8, value.map(|v| (v >> 64) as u64));
                    }
                }
            }
            _ => {}
        }
    }

    /// An instruction whose result is not worked out: what it writes is not known.
    fn other(&mut self, s: &mut State, i: &Instruction) {
        let info = self.info.info(i);
        let writes = |a: OpAccess| {
            matches!(a, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
        };
        for r in info.used_registers().iter().filter(|r| writes(r.access())) {
            if r.register().is_xmm() || r.register().is_ymm() || r.register().is_zmm() {
                s.xmm[r.register().number() & 15] = None;
            } else {
                s.set(r.register().full_register(), None);
            }
        }
        let stores: Vec<(Register, u32)> = info
            .used_memory()
            .iter()
            .filter(|m| writes(m.access()))
            .map(|m| (m.base(), m.memory_size().size() as u32))
            .collect();
        for (_, n) in stores {
            if let Some(at) = self.address(s, i) {
                self.store(s, at, n, None);
            }
        }
        s.flags = Flags::Unknown;
    }
}
