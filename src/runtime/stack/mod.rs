//! runtime::stack: unwinding goroutine stacks by pclntab, and which words of each frame are live pointers.
//! Reads pcsp, stack maps, stack objects (runtime/traceback.go, stkframe.go, mgcstack.go). Used by `graph` (roots) and
//! `analysis`. Needs no DWARF and no frame pointers.

use super::{Runtime, sched::Goroutine};
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
    /// Why the walk ended before the goroutine's first frame, if it did.
    pub truncated: Option<String>,
}

/// Frames followed at most (Go's own limit is the 1 GB stack).
const MAX_FRAMES: usize = 1 << 20;
const MAX_STACK: u64 = 1 << 30;

struct Walker<'r> {
    rt: &'r Runtime,
    /// Stack memory from `base` to the stack's end.
    base: Addr,
    mem: Vec<u8>,
    out: Stack,
    objects: Vec<(Addr, u64, u64, Addr)>,
}

impl Walker<'_> {
    fn word(&self, at: Addr) -> Option<u64> {
        bytes::u64_at(&self.mem, usize::try_from(at.distance_from(self.base)?).ok()?)
    }

    fn push(&mut self, at: Addr, frame: u32, conservative: bool) {
        match self.word(at) {
            Some(0) | None => {}
            Some(value) => self.out.words.push(StackWord { at, value, frame, conservative }),
        }
    }

    /// The words of bitmap `index` of stack map `map`, word j at `start + 8 j` (start may depend on the width).
    fn bitmap(&mut self, map: Addr, index: i32, start: impl Fn(u64) -> Option<Addr>, frame: u32) -> Option<()> {
        let table = &self.rt.image.pclntab;
        let head = table.funcdata_bytes(map, 8)?;
        let (n, nbit) = (bytes::i32_at(head, 0)?, bytes::i32_at(head, 4)?);
        let index = index.max(0);
        if index >= n || !(0..1 << 24).contains(&nbit) {
            return None;
        }
        let len = (nbit as usize).div_ceil(8);
        let bits = table.funcdata_bytes(map.offset(8 + index as u64 * len as u64), len)?.to_vec();
        let start = start(nbit as u64)?;
        for j in (0..nbit as u64).filter(|&j| bits[(j / 8) as usize] >> (j % 8) & 1 == 1) {
            self.push(start.offset(8 * j), frame, false);
        }
        Some(())
    }
}

/// Walks one goroutine's stack. Cost: one read of the used part of the stack, one table lookup a frame.
pub fn walk(rt: &Runtime, g: &Goroutine) -> Stack {
    let amd64 = rt.target.arch == Arch::Amd64;
    let (lo, hi) = g.stack;
    let on_stack = |a: Addr| a >= lo && a < hi;
    let (mut pc, mut sp, mut lr, mut interrupted) = if !g.syscall_sp.is_null() {
        (g.syscall_pc, g.syscall_sp, Addr::NULL, false)
    } else {
        match &g.regs {
            Some(r) if on_stack(r.sp) => (r.pc, r.sp, r.lr, true),
            _ => (g.sched_pc, g.sched_sp, g.sched_lr, false),
        }
    };
    let mut w = Walker { rt, base: sp, mem: Vec::new(), out: Stack::default(), objects: Vec::new() };
    if !on_stack(sp) {
        w.out.truncated = Some(format!("stack pointer {sp} is outside the stack {lo}..{hi}"));
        return w.out;
    }
    match rt.target.read_vec(sp, hi.0 - sp.0, MAX_STACK) {
        Ok(mem) => w.mem = mem,
        Err(e) => {
            w.out.truncated = Some(e.to_string());
            return w.out;
        }
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
        let Some(func) = rt.image.pclntab.find(pc) else {
            w.out.truncated = Some(format!("{pc} is in no Go function"));
            break;
        };
        let Some(delta) = func.pcsp(pc).filter(|&d| d >= 0) else {
            w.out.truncated = Some(format!("no frame size for {} at {pc}", func.name()));
            break;
        };
        let fp = sp.offset(delta as u64 + if amd64 { 8 } else { 0 });
        let frame = w.out.frames.len() as u32;
        let entry = func.entry();
        let lookup = if exact || pc == entry { pc } else { Addr(pc.0.saturating_sub(1)) };
        w.out.frames.push(Frame { pc, lookup, sp, fp, func_entry: entry });
        let name = func.name();
        let async_preempt = name == "runtime.asyncPreempt" || name == "runtime.debugCallV2";
        let live = LiveAt { func, pc, sp, fp, frame, after_sigpanic, amd64 };
        live.words(&mut w, interrupted || async_preempt);
        let injected = async_preempt || name == "runtime.sigpanic";
        interrupted = async_preempt;
        after_sigpanic = name == "runtime.sigpanic";
        if func.flags().top_frame() {
            break;
        }
        if func.flags().sp_write() && frame > 0 {
            w.out.truncated = Some(format!("{name} switches stacks"));
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
            w.out.truncated = Some(format!("no return address for {name}"));
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
    stack_objects(&mut w, g);
    w.out
}

struct LiveAt<'t> {
    func: Func<'t>,
    pc: Addr,
    sp: Addr,
    fp: Addr,
    frame: u32,
    after_sigpanic: bool,
    amd64: bool,
}

impl LiveAt<'_> {
    /// Adds the live words of one frame, and remembers its stack objects.
    fn words(&self, w: &mut Walker, conservative: bool) {
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
        let index = func.pcdata(pcdata::STACK_MAP_INDEX, target).unwrap_or(-1);
        let min = if self.amd64 { 0 } else { 16 };
        if varp.0.saturating_sub(sp.0) > min
            && let Some(map) = func.funcdata(funcdata::LOCALS_POINTER_MAPS)
        {
            w.bitmap(map, index, |nbit| varp.0.checked_sub(8 * nbit).map(Addr), frame);
        }
        if func.args() > 0
            && let Some(map) = func.funcdata(funcdata::ARGS_POINTER_MAPS)
        {
            w.bitmap(map, index, |_| Some(argp), frame);
        }
        let table = &w.rt.image.pclntab;
        if let Some(at) = func.funcdata(funcdata::STACK_OBJECTS)
            && let Some(n) = table.funcdata_bytes(at, 8).and_then(|b| bytes::u64_at(b, 0)).filter(|&n| n < 1 << 16)
            && let Some(recs) = table.funcdata_bytes(at.offset(8), 16 * n as usize)
        {
            let rodata = w.rt.image.modules.first().map(|m| m.rodata).unwrap_or_default();
            for r in recs.chunks_exact(16) {
                let get = |o| bytes::i32_at(r, o).unwrap_or(0);
                let base = if get(0) >= 0 { argp } else { varp };
                let addr = Addr(base.0.wrapping_add(get(0) as i64 as u64));
                let mask = rodata.offset(bytes::u32_at(r, 12).unwrap_or(0).into());
                w.objects.push((addr, get(4).max(0) as u64, get(8).unsigned_abs().into(), mask));
            }
        }
    }
}

/// Stack objects are live only if a live pointer leads into them: follow from the words found so far, from defer records
/// and from other live stack objects.
fn stack_objects(w: &mut Walker, g: &Goroutine) {
    w.objects.sort_by_key(|o| o.0);
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
        let i = w.objects.partition_point(|o| o.0.0 <= word.value);
        let Some(i) = i.checked_sub(1) else { continue };
        let (addr, size, ptr_bytes, mask) = w.objects[i];
        if word.value - addr.0 >= size || std::mem::replace(&mut done[i], true) {
            continue;
        }
        let words = ptr_bytes / 8;
        let Some(bits) = super::heap::bits_at(w.rt, mask, words) else { continue };
        for j in (0..words).filter(|&j| bits[(j / 8) as usize] >> (j % 8) & 1 == 1) {
            w.push(addr.offset(8 * j), word.frame, word.conservative);
        }
    }
}

/// Words of the defer records on the stack; those in the heap are found by their own pointer maps.
fn defers(w: &mut Walker, g: &Goroutine) {
    use super::layout::Field;
    let (Some(link), Some(func)) = (w.rt.layout.field(Field::DeferLink), w.rt.layout.field(Field::DeferFn)) else {
        return;
    };
    let mut at = g.defer_head;
    for _ in 0..1 << 16 {
        if at.is_null() {
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
