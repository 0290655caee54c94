//! runtime::stack: unwinding goroutine stacks by pclntab, and which words of each frame are live pointers.
//! Reads pcsp, stack maps, stack objects (runtime/traceback.go, stkframe.go, mgcstack.go). Used by `graph` (roots) and
//! `analysis`. Needs no DWARF and no frame pointers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use rayon::prelude::*;

pub(crate) mod maps;

use super::{Runtime, layout::Struct, sched::Goroutine};
use crate::{
    base::{Addr, bytes},
    image::pclntab::{Func, funcdata, pcdata},
    target::Arch,
};

/// One physical frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Where it will go on.
    pub pc: Addr,
    /// The pc to look up lines with: inside the call instruction for callers.
    pub lookup: Addr,
    pub sp: Addr,
    /// First address above the frame (the caller's sp).
    pub fp: Addr,
    pub func_entry: Addr,
}

/// A word that is a root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackWord {
    pub at: Addr,
    pub value: u64,
    pub frame: u32,
    pub conservative: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    pub words: Vec<StackWord>,
    /// Variables on the stack that a live pointer leads to: where each lies, and its size.
    pub objects: Vec<(Addr, u64)>,
    /// Why the walk ended before the goroutine's first frame, if it did. What lies above is then taken for pointers
    /// conservatively.
    pub truncated: Option<String>,
    /// Some of its words could not be read: roots are missing.
    pub lost: bool,
}

/// Frames followed at most (Go's own limit is the 1 GB stack).
const MAX_FRAMES: usize = 1 << 20;
const MAX_STACK: u64 = 1 << 30;
/// Words of a stack whose frames are not known that are taken for pointers.
const MAX_UNKNOWN: u64 = 1 << 22;

struct Walker<'r, 'm> {
    rt: &'m Runtime,
    /// Stack memory from `base` to the stack's end.
    base: Addr,
    mem: Cow<'r, [u8]>,
    out: Stack,
    objects: Vec<Object>,
    /// Records of deferred calls that may still be read, by all walks together.
    defers: &'r AtomicU64,
    memo: &'r mut Memo<'m>,
}

/// A variable on the stack that is alive if a pointer leads to it.
struct Object {
    addr: Addr,
    size: u64,
    /// The frame that it belongs to.
    frame: u32,
    ptr_bytes: u64,
    mask: Mask,
}

enum Mask {
    /// Bits at this address, or a program that makes them.
    At(Addr, bool),
    /// `abi.RegArgs`: words of Ptrs.
    RegArgs,
}

/// abi.RegArgs of amd64 (internal/abi/abi.go): Ints [9], Floats [15], Ptrs [9], and a bit for each register; the same since 1.17.
mod reg_args {
    pub const SIZE: u64 = 272;
    pub const PTRS: std::ops::Range<u64> = 24..33;
}

/// What the tables say of each pc: most goroutines stand where others stand, too.
#[derive(Default)]
struct Memo<'m> {
    /// Function, frame size and what it is.
    frames: HashMap<Addr, Option<(Func<'m>, Option<i32>, What)>>,
    /// Number of the stack map.
    maps: HashMap<Addr, i32>,
}

/// Functions that the walk treats apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Plain,
    AsyncPreempt,
    Sigpanic,
    Cgocallback,
    /// The code of a function that reflection made.
    Reflected,
}

impl What {
    fn of(name: &str) -> What {
        match name {
            "runtime.asyncPreempt" | "runtime.debugCallV2" => What::AsyncPreempt,
            "runtime.sigpanic" => What::Sigpanic,
            "runtime.cgocallback" => What::Cgocallback,
            "reflect.makeFuncStub" | "reflect.methodValueCall" => What::Reflected,
            _ => What::Plain,
        }
    }
}

/// Pcs that are remembered.
const MAX_MEMO: usize = 1 << 16;

impl<'m> Memo<'m> {
    fn frame(&mut self, rt: &'m Runtime, pc: Addr) -> Option<(Func<'m>, Option<i32>, What)> {
        if self.frames.len() > MAX_MEMO {
            self.frames.clear();
        }
        let look = || rt.image.pclntab.find(pc).map(|f| (f, f.pcsp(pc), What::of(f.name())));
        *self.frames.entry(pc).or_insert_with(look)
    }

    fn map(&mut self, func: &Func<'_>, pc: Addr) -> i32 {
        if self.maps.len() > MAX_MEMO {
            self.maps.clear();
        }
        *self.maps.entry(pc).or_insert_with(|| func.pcdata(pcdata::STACK_MAP_INDEX, pc).unwrap_or(-1))
    }
}

impl Walker<'_, '_> {
    fn word(&self, at: Addr) -> Option<u64> {
        bytes::u64_at(&self.mem, usize::try_from(at.distance_from(self.base)?).ok()?)
    }

    fn push(&mut self, at: Addr, frame: u32, conservative: bool) {
        match self.word(at) {
            Some(0) | None => {}
            Some(value) => self.out.words.push(StackWord { at, value, frame, conservative }),
        }
    }

    /// Takes what lies from `at` on for pointers: frames there are not known.
    fn rest(&mut self, at: Addr, hi: Addr) {
        let words = hi.0.saturating_sub(at.0) / 8;
        self.out.lost |= words > MAX_UNKNOWN;
        let frame = (self.out.frames.len() as u32).saturating_sub(1);
        for i in 0..words.min(MAX_UNKNOWN) {
            self.push(at.offset(8 * i), frame, true);
        }
    }

    /// First address above the stack.
    fn hi(&self) -> Addr {
        self.base.offset(self.mem.len() as u64)
    }

    /// The words that bitmap `index` of stack map `map` marks in [low, high): counted from `low` on, or up to `high`.
    fn bitmap(&mut self, map: Addr, index: i32, (low, high): (Addr, Addr), upwards: bool, frame: u32) {
        let rt = self.rt;
        match maps::bitmap(&rt.image.pclntab, map, index, high.0.saturating_sub(low.0) / 8) {
            Ok((words, bits)) => {
                let start = if upwards { low } else { Addr(high.0 - 8 * words) };
                for j in (0..words).filter(|&j| bits[(j / 8) as usize] >> (j % 8) & 1 == 1) {
                    self.push(start.offset(8 * j), frame, false);
                }
            }
            Err(why) => {
                self.out.lost = true;
                rt.diag.note("stack map makes no sense", format_args!("at {map}: {why}"));
            }
        }
    }
}

/// Stacks of all goroutines, on all cores. Stacks that lie on one another cannot all be true: the smaller ones are believed.
pub fn walk_all(rt: &Runtime, goroutines: &[Goroutine]) -> Vec<Stack> {
    let size = rt.layout.size(Struct::Defer).unwrap_or(0).max(16);
    let defers = AtomicU64::new(rt.target.readable_bytes() / size);
    let refused = overlapping(goroutines);
    let parts: Vec<Vec<Stack>> = goroutines
        .par_chunks(CHUNK)
        .enumerate()
        .map_init(
            || (Memo::default(), Vec::new()),
            |(memo, buffer), (n, part)| {
                let memory = used(rt, part, buffer);
                let each = part.iter().zip(memory).enumerate();
                each.map(|(i, (g, memory))| {
                    if refused.contains(&(n * CHUNK + i)) {
                        let (lo, hi) = g.stack;
                        let why = format!("its stack {lo}..{hi} lies on that of another goroutine");
                        return Stack { truncated: Some(why), lost: true, ..Stack::default() };
                    }
                    walk(rt, g, memory.map(|m| &buffer[m]), &defers, memo)
                })
                .collect()
            },
        )
        .collect();
    parts.into_iter().flatten().collect()
}

/// Goroutines whose stacks are read together.
const CHUNK: usize = 512;
/// Used parts of stacks that are read together; larger ones are read one by one.
const SMALL: u64 = 16 << 10;

/// Where the walk of a goroutine begins: pc, sp, link register, and whether its thread was stopped there.
fn start(g: &Goroutine) -> (Addr, Addr, Addr, bool) {
    if !g.syscall_sp.is_null() {
        return (g.syscall_pc, g.syscall_sp, Addr::NULL, false);
    }
    match &g.regs {
        Some(r) if r.sp >= g.stack.0 && r.sp < g.stack.1 => (r.pc, r.sp, r.lr, true),
        // It asks the kernel's vDSO for the time on the thread's own stack (runtime/sys_linux_amd64.s nanotime1): what was
        // noted is where that call returns to. sched is out of date then.
        Some(_) if g.vdso.1 >= g.stack.0 && g.vdso.1 < g.stack.1 => (g.vdso.0, g.vdso.1, Addr::NULL, false),
        _ => (g.sched_pc, g.sched_sp, g.sched_lr, false),
    }
}

/// The used parts of stacks, where they are small and can be read: they are put into `buffer`, and the answer says where.
fn used(rt: &Runtime, part: &[Goroutine], buffer: &mut Vec<u8>) -> Vec<Option<Range<usize>>> {
    let size = |g: &Goroutine| {
        let sp = start(g).1;
        (sp >= g.stack.0).then(|| g.stack.1.distance_from(sp)).flatten().filter(|&n| n > 0 && n <= SMALL)
    };
    let mut end = 0;
    let mut out: Vec<Option<Range<usize>>> = Vec::with_capacity(part.len());
    for g in part {
        out.push(size(g).map(|n| {
            let begin = end;
            end += n as usize;
            begin..end
        }));
    }
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    let mut ranges: Vec<(Addr, &mut [u8])> = Vec::with_capacity(part.len());
    let mut rest = buffer.as_mut_slice();
    for (g, at) in part.iter().zip(&out) {
        if let Some(at) = at {
            let (piece, more) = std::mem::take(&mut rest).split_at_mut(at.len());
            ranges.push((start(g).1, piece));
            rest = more;
        }
    }
    let mut ok = rt.target.memory.read_scattered(&mut ranges).into_iter();
    for at in out.iter_mut().filter(|at| at.is_some()) {
        if ok.next().is_none_or(|r| r.is_err()) {
            *at = None;
        }
    }
    out
}

/// Indices of goroutines whose stacks overlap a smaller one. Cost: a sort; where there are such, a search for each.
fn overlapping(goroutines: &[Goroutine]) -> HashSet<usize> {
    let size = |i: usize| goroutines[i].stack.1.0.saturating_sub(goroutines[i].stack.0.0);
    let mut order: Vec<usize> = (0..goroutines.len()).filter(|&i| size(i) > 0).collect();
    order.sort_unstable_by_key(|&i| goroutines[i].stack);
    let fine = order.windows(2).all(|w| goroutines[w[0]].stack.1 <= goroutines[w[1]].stack.0);
    let mut refused = HashSet::new();
    if fine {
        return refused;
    }
    order.sort_by_key(|&i| size(i));
    let mut taken: BTreeMap<Addr, Addr> = BTreeMap::new();
    for i in order {
        let (lo, hi) = goroutines[i].stack;
        if taken.range(..hi).next_back().is_some_and(|(_, &end)| end > lo) {
            refused.insert(i);
        } else {
            taken.insert(lo, hi);
        }
    }
    refused
}

/// Walks one goroutine's stack. `memory`: its used part, where it was read already. Cost: else one read of that, and one
/// table lookup a frame.
fn walk<'m>(rt: &'m Runtime, g: &Goroutine, memory: Option<&[u8]>, defers: &AtomicU64, memo: &mut Memo<'m>) -> Stack {
    let amd64 = rt.target.arch == Arch::Amd64;
    let (lo, hi) = g.stack;
    let on_stack = |a: Addr| a >= lo && a < hi;
    let (mut pc, mut sp, mut lr, mut interrupted) = start(g);
    let mut w =
        Walker { rt, base: sp, mem: Cow::Borrowed(&[]), out: Stack::default(), objects: Vec::new(), defers, memo };
    if !on_stack(sp) {
        w.out.truncated = Some(format!("stack pointer {sp} is outside the stack {lo}..{hi}"));
        w.base = lo;
    }
    let read = |base: Addr| rt.target.read_vec(base, hi.0.saturating_sub(base.0), MAX_STACK);
    match memory.filter(|_| w.base == sp).map_or_else(|| read(w.base).map(Cow::Owned), |m| Ok(Cow::Borrowed(m))) {
        Ok(mem) => w.mem = mem,
        Err(e) => {
            w.out.truncated = Some(e.to_string());
            w.out.lost = true;
            return w.out;
        }
    }
    if w.out.truncated.is_some() {
        w.rest(lo, hi);
        stack_objects(&mut w, g);
        return w.out;
    }
    if interrupted && let Some(r) = &g.regs {
        // A thread stopped anywhere holds pointers in registers.
        for &value in &r.general {
            w.out.words.push(StackWord { at: Addr::NULL, value, frame: 0, conservative: true });
        }
    }
    // The pc is that of the next instruction, not a return address: of a thread stopped anywhere, and below a call that was
    // injected (sigpanic, asyncPreempt, debugCall). Parked goroutines and system calls left a return address
    // (runtime/traceback.go symPC).
    let mut exact = interrupted;
    let mut after_sigpanic = false;
    loop {
        if w.out.frames.len() >= MAX_FRAMES {
            w.out.truncated = Some(format!("more than {MAX_FRAMES} frames"));
            break;
        }
        let Some((func, delta, what)) = w.memo.frame(rt, pc) else {
            w.out.truncated = Some(format!("{pc} is in no Go function"));
            break;
        };
        let Some(delta) = delta.filter(|&d| d >= 0) else {
            w.out.truncated = Some(format!("no frame size for {} at {pc}", func.name()));
            break;
        };
        let fp = sp.offset(delta as u64 + if amd64 { 8 } else { 0 });
        let frame = w.out.frames.len() as u32;
        let entry = func.entry();
        let lookup = if exact || pc == entry { pc } else { Addr(pc.0.saturating_sub(1)) };
        w.out.frames.push(Frame { pc, lookup, sp, fp, func_entry: entry });
        let async_preempt = what == What::AsyncPreempt;
        let live = LiveAt { func, what, pc, sp, fp, frame, after_sigpanic, amd64 };
        live.words(&mut w, interrupted || async_preempt);
        let injected = async_preempt || what == What::Sigpanic;
        interrupted = async_preempt;
        after_sigpanic = what == What::Sigpanic;
        if func.flags().top_frame() {
            break;
        }
        // cgocallback switches stacks, but so that its frame is right on both (runtime/traceback.go resolveInternal).
        if func.flags().sp_write() && frame > 0 && what != What::Cgocallback {
            w.out.truncated = Some(format!("{} switches stacks", func.name()));
            break;
        }
        let ret = if amd64 {
            w.word(Addr(fp.0.wrapping_sub(8)))
        } else if fp > sp || lr.is_null() {
            w.word(sp)
        } else {
            Some(lr.0)
        };
        let Some(ret) = ret.filter(|&r| r != 0) else {
            w.out.truncated = Some(format!("no return address for {}", func.name()));
            break;
        };
        lr = Addr::NULL;
        (pc, sp, exact) = (Addr(ret), fp, injected);
        if injected && !amd64 {
            // The injected call pushed a 16-byte slot with the interrupted function's link register.
            let x = w.word(sp).unwrap_or(0);
            sp = sp.offset(16);
            if rt.image.pclntab.find(pc).is_none() {
                pc = Addr(x);
            } else if rt.image.pclntab.find(pc).and_then(|f| f.pcsp(pc)) == Some(0) {
                lr = Addr(x);
            }
        }
        if sp >= hi {
            break;
        }
    }
    if w.out.truncated.is_some() {
        w.rest(sp, hi);
    }
    stack_objects(&mut w, g);
    w.out
}

struct LiveAt<'t> {
    func: Func<'t>,
    what: What,
    pc: Addr,
    sp: Addr,
    fp: Addr,
    frame: u32,
    after_sigpanic: bool,
    amd64: bool,
}

impl LiveAt<'_> {
    /// Adds the live words of one frame, and remembers its stack objects.
    fn words(&self, w: &mut Walker<'_, '_>, conservative: bool) {
        let LiveAt { func, pc, sp, fp, frame, .. } = *self;
        let ret = if self.amd64 { 8 } else { 0 };
        let mut varp = Addr(fp.0.wrapping_sub(ret));
        if varp > sp {
            // The saved frame pointer.
            varp = Addr(varp.0 - 8);
        }
        let argp = if self.amd64 { fp } else { fp.offset(8) };
        if conservative {
            let mut at = sp;
            while at < varp {
                w.push(at, frame, true);
                at = at.offset(8);
            }
            for j in 0..(func.args().max(0) as u64) / 8 {
                w.push(argp.offset(8 * j), frame, true);
            }
            return;
        }
        let cont = if self.after_sigpanic {
            match func.deferreturn() {
                0 => return,
                d => func.entry().offset(u64::from(d) + 1),
            }
        } else {
            pc
        };
        let target = if cont == func.entry() { cont } else { Addr(cont.0 - 1) };
        let index = w.memo.map(&func, target);
        if self.amd64 && self.what == What::Reflected {
            self.reflected(w, varp, argp);
            return;
        }
        let min = if self.amd64 { 0 } else { 16 };
        if varp.0.saturating_sub(sp.0) > min
            && let Some(map) = func.funcdata(funcdata::LOCALS_POINTER_MAPS)
        {
            w.bitmap(map, index, (sp, varp), false, frame);
        }
        if func.args() > 0
            && let Some(map) = func.funcdata(funcdata::ARGS_POINTER_MAPS)
        {
            w.bitmap(map, index, (argp, w.hi()), true, frame);
        }
        let Some(at) = func.funcdata(funcdata::STACK_OBJECTS) else { return };
        let rt = w.rt;
        let Some(objects) = maps::objects(&rt.image.pclntab, at) else {
            w.out.lost = true;
            rt.diag.note("stack objects make no sense", format_args!("of {} at {at}", func.name()));
            return;
        };
        let rodata = rt.image.modules.first().map(|m| m.rodata).unwrap_or_default();
        // Being born, or stopped at its entry to get a larger stack: there are no variables yet.
        let made = varp.0.saturating_sub(sp.0) > min;
        for o in objects.into_iter().filter(|o| made || o.offset >= 0) {
            let base = if o.offset >= 0 { argp } else { varp };
            let addr = Addr(base.0.wrapping_add(i64::from(o.offset) as u64));
            // It lies in the frame, or among the arguments above.
            if addr < sp || addr.0.checked_add(o.size).is_none_or(|end| end > w.hi().0) {
                w.out.lost = true;
                rt.diag
                    .note("stack objects make no sense", format_args!("of {} at {at}: outside the frame", func.name()));
                continue;
            }
            let mask = Mask::At(rodata.offset(o.mask.into()), o.program);
            w.objects.push(Object { addr, size: o.size, frame, ptr_bytes: o.ptr_bytes.min(o.size), mask });
        }
    }

    /// The frame of a function that reflection made: its code (reflect/asm_amd64.s) has no maps. The first word is the function's
    /// context, reflect.makeFuncCtxt {fn, stack *bitVector, argLen}, whose bits say which stack arguments are pointers; the
    /// registers' values lie in an abi.RegArgs at the end of the frame (runtime/stkframe.go argMapInternal, getStackMap).
    fn reflected(&self, w: &mut Walker<'_, '_>, varp: Addr, argp: Addr) {
        const MAX_ARGS: u64 = 1 << 16;
        w.push(self.sp, self.frame, false);
        if let Some(addr) = varp.0.checked_sub(reg_args::SIZE).map(Addr).filter(|&a| a >= self.sp) {
            let ptr_bytes = 8 * reg_args::PTRS.end;
            let (size, frame) = (reg_args::SIZE, self.frame);
            w.objects.push(Object { addr, size, frame, ptr_bytes, mask: Mask::RegArgs });
        }
        let read = |at: Addr| w.rt.target.read_ptr(at).ok();
        let bits = w.word(self.sp).and_then(|ctx| {
            let vector = read(Addr(ctx).offset(8))?;
            let words = w.rt.target.read_u32(vector).ok()?;
            let data = read(vector.offset(8))?;
            let n = u64::from(words).min(MAX_ARGS);
            Some((n, w.rt.target.read_vec(data, n.div_ceil(8), MAX_ARGS).ok()?))
        });
        let Some((n, bits)) = bits else {
            w.out.lost = true;
            w.rt.diag.note("arguments of a function made by reflection could not be read", self.pc);
            return;
        };
        for j in (0..n).filter(|&j| bits[(j / 8) as usize] >> (j % 8) & 1 == 1) {
            w.push(argp.offset(8 * j), self.frame, false);
        }
    }
}

/// Stack objects are live only if a live pointer leads into them: follow from the words found so far, from defer records
/// and from other live stack objects.
fn stack_objects(w: &mut Walker<'_, '_>, g: &Goroutine) {
    w.objects.sort_by_key(|o| o.addr);
    let mut done = vec![false; w.objects.len()];
    for value in [g.defer_head, g.panic_head, g.ctxt] {
        if !value.is_null() {
            w.out.words.push(StackWord { at: Addr::NULL, value: value.0, frame: 0, conservative: false });
        }
    }
    defers(w, g);
    let mut next = 0;
    while let Some(word) = w.out.words.get(next).copied() {
        next += 1;
        let i = w.objects.partition_point(|o| o.addr.0 <= word.value);
        let Some(i) = i.checked_sub(1) else { continue };
        let Object { addr, size, frame, ptr_bytes, ref mask } = w.objects[i];
        if word.value - addr.0 >= size || std::mem::replace(&mut done[i], true) {
            continue;
        }
        w.out.objects.push((addr, size));
        let words = ptr_bytes / 8;
        let &Mask::At(mask, program) = mask else {
            reg_args::PTRS.for_each(|j| w.push(addr.offset(8 * j), frame, word.conservative));
            continue;
        };
        let Some(bits) = super::heap::bits_at(w.rt, mask, words, program) else {
            w.out.lost = true;
            continue;
        };
        for j in (0..words).filter(|&j| bits[(j / 8) as usize] >> (j % 8) & 1 == 1) {
            w.push(addr.offset(8 * j), frame, word.conservative);
        }
    }
}

/// Words of the defer records on the stack; those in the heap are found by their own pointer maps.
fn defers(w: &mut Walker<'_, '_>, g: &Goroutine) {
    use super::layout::Field;
    let (Some(link), Some(func)) = (w.rt.layout.field(Field::DeferLink), w.rt.layout.field(Field::DeferFn)) else {
        return;
    };
    let (mut at, mut seen) = (g.defer_head, HashSet::new());
    while !at.is_null() {
        if !seen.insert(at) {
            w.rt.diag.note("list of deferred calls runs in a circle", format_args!("goroutine {}", g.goid));
            break;
        }
        if w.defers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err() {
            w.rt.diag.note("more deferred calls than fit into memory", format_args!("goroutine {}", g.goid));
            break;
        }
        let read = |off: u32| w.rt.target.read_ptr(at.offset(off.into())).unwrap_or_default();
        let (f, next) = (read(func.offset), read(link.offset));
        for value in [f, next] {
            w.out.words.push(StackWord { at, value: value.0, frame: 0, conservative: false });
        }
        at = next;
    }
}
