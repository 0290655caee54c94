//! runtime::sched: goroutines and Ms, and what goroutines wait for (`waits`). Owns `Goroutine`. Reads allgs, g, m
//! (runtime/runtime2.go).
//! Used by `stack`, `graph` (roots) and `analysis`.

use std::collections::{HashMap, HashSet};

use crate::{
    base::{Addr, Goid, bytes},
    runtime::{
        Runtime,
        heap::scattered,
        layout::{Field, Global, Struct},
        view::{ReadError, Record},
    },
    target::Registers,
};

pub mod labels;
mod timers;
pub mod waits;

/// g.atomicstatus without the scan bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Idle,
    Runnable,
    Running,
    Syscall,
    Waiting,
    Dead,
    Copystack,
    Preempted,
    Leaked,
    Other,
}

impl Status {
    fn from(raw: u64) -> Status {
        match raw & !0x1000 {
            0 => Status::Idle,
            1 => Status::Runnable,
            2 => Status::Running,
            3 => Status::Syscall,
            4 => Status::Waiting,
            6 | 11 => Status::Dead,
            8 => Status::Copystack,
            9 => Status::Preempted,
            10 => Status::Leaked,
            _ => Status::Other,
        }
    }

    /// The status of this word.
    pub fn of_text(text: &str) -> Status {
        use Status::*;
        [Idle, Runnable, Running, Syscall, Waiting, Dead, Copystack, Preempted, Leaked]
            .into_iter()
            .find(|s| s.text() == text)
            .unwrap_or(Other)
    }

    /// The word the runtime prints.
    pub fn text(self) -> &'static str {
        match self {
            Status::Idle => "idle",
            Status::Runnable => "runnable",
            Status::Running => "running",
            Status::Syscall => "syscall",
            Status::Waiting => "waiting",
            Status::Dead => "dead",
            Status::Copystack => "copystack",
            Status::Preempted => "preempted",
            Status::Leaked => "leaked",
            Status::Other => "???",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Goroutine {
    pub addr: Addr,
    pub goid: Goid,
    pub status: Status,
    /// Text of g.waitreason while waiting; empty else.
    pub wait_reason: String,
    /// nanotime at which a collection first saw it waiting; 0 until then.
    pub waitsince: u64,
    pub stack: (Addr, Addr),
    pub sched_pc: Addr,
    pub sched_sp: Addr,
    pub sched_lr: Addr,
    pub syscall_pc: Addr,
    pub syscall_sp: Addr,
    /// Roots of its own: g._defer, g._panic, sched.ctxt.
    pub defer_head: Addr,
    pub panic_head: Addr,
    pub ctxt: Addr,
    pub gopc: Addr,
    pub startpc: Addr,
    /// The goroutine that started this one; 0 where unknown (before Go 1.21, or the runtime itself).
    pub parent: Goid,
    /// Head of g.waiting: sudogs of a channel operation, and from Go 1.26 on of a semaphore.
    pub waiting: Addr,
    /// g.timer, of a goroutine that has slept.
    pub timer: Addr,
    /// nanotime until which it sleeps; 0 where this release does not keep it (before Go 1.23).
    pub sleep_when: u64,
    /// g.labels: the pprof label set, or null.
    pub labels: Addr,
    /// Bound to its thread (runtime.LockOSThread).
    pub locked_to_thread: bool,
    pub async_safe_point: bool,
    /// Registers of the thread that runs it, where it was stopped.
    pub regs: Option<Registers>,
    /// While its thread reads a clock in the vDSO: pc and sp that it will return to (m.vdsoPC, m.vdsoSP); else null.
    pub vdso: (Addr, Addr),
}

/// What the thread of a running goroutine does.
type Running = (Registers, (Addr, Addr));

/// What is noted where the record of a goroutine cannot be read.
pub const UNREADABLE: &str = "goroutine unreadable";

/// More goroutines than this are taken for garbage.
const MAX_GOROUTINES: u64 = 1 << 26;
const MAX_THREADS: usize = 1 << 20;

/// Addresses of all g's that ever were (runtime.allgs).
fn all(rt: &Runtime) -> Result<Vec<Addr>, ReadError> {
    let at = rt.globals.get(Global::Allgs).ok_or(ReadError::NoGlobal("runtime.allgs"))?;
    let mut head = [0; 24];
    rt.target.memory.read(at, &mut head).map_err(|f| ReadError::memory("runtime.allgs", at, f))?;
    let word = |i: usize| bytes::u64_at(&head, 8 * i).unwrap_or(0);
    let slice = super::view::SliceHeader { data: Addr(word(0)), len: word(1), cap: word(2) };
    if slice.len > slice.cap || slice.len > MAX_GOROUTINES {
        return Err(ReadError::Implausible { what: "runtime.allgs", addr: at, why: format!("{slice:?}") });
    }
    Ok(rt.words("allgs", slice)?.into_iter().map(Addr).collect())
}

/// All goroutines that are not dead.
pub fn read(rt: &Runtime) -> Result<Vec<Goroutine>, ReadError> {
    let all = all(rt)?;
    let running = running_registers(rt);
    let size = rt.layout.size(Struct::G).unwrap_or(0) as usize;
    let mut out = Vec::with_capacity(all.len());
    for batch in all.chunks(4096) {
        for (&addr, raw) in batch.iter().zip(scattered(rt, batch, size).iter()) {
            let Some(raw) = raw else {
                rt.diag.note(UNREADABLE, format_args!("g at {addr}"));
                continue;
            };
            let g = decode(rt, &Record::new(&rt.layout, addr, raw), &running)?;
            if g.status != Status::Dead && g.status != Status::Idle {
                out.push(g);
            }
        }
    }
    out.sort_by_key(|g| (g.goid, g.addr));
    let n = out.len();
    out.dedup_by_key(|g| g.addr);
    rt.diag.note_many("goroutines listed twice", (n - out.len()) as u64, "runtime.allgs");
    Ok(out)
}

/// Looks at one record of a program that runs, at most.
const LOOKS: usize = 6;

/// All goroutines that are not dead, of a program that runs on meanwhile. A record is read again until two looks agree on what
/// is told of it: memory of a g is never given to anything else (runtime/proc.go gfget), so that this is what it was at one
/// moment, though not the same moment for all. Registers are not known. Cost: two reads of each g.
pub fn read_running(rt: &Runtime) -> Result<Vec<Goroutine>, ReadError> {
    let all = all(rt)?;
    let size = rt.layout.size(Struct::G).unwrap_or(0) as usize;
    let none: HashMap<Addr, Running> = HashMap::new();
    let told = |g: &Goroutine| (g.goid, g.status, g.wait_reason.clone(), g.waitsince, g.gopc, g.startpc, g.labels);
    let mut out = Vec::with_capacity(all.len());
    for batch in all.chunks(4096) {
        let mut known: Vec<Option<Goroutine>> = vec![None; batch.len()];
        let mut open: Vec<usize> = (0..batch.len()).collect();
        for look in 0..LOOKS {
            let at: Vec<Addr> = open.iter().map(|&i| batch[i]).collect();
            let mut again = Vec::new();
            for (&i, raw) in open.iter().zip(scattered(rt, &at, size).iter()) {
                let Some(raw) = raw else {
                    rt.diag.note(UNREADABLE, format_args!("g at {}", batch[i]));
                    continue;
                };
                let g = decode(rt, &Record::new(&rt.layout, batch[i], raw), &none)?;
                if known[i].as_ref().is_none_or(|old| told(old) != told(&g)) {
                    again.push(i);
                }
                known[i] = Some(g);
            }
            open = again;
            if open.is_empty() {
                break;
            }
            if look + 1 == LOOKS {
                let example = format_args!("g at {}", batch[open[0]]);
                rt.diag.note_many("goroutines that changed each time they were looked at", open.len() as u64, example);
            }
        }
        out.extend(known.into_iter().flatten().filter(|g| !matches!(g.status, Status::Dead | Status::Idle)));
    }
    out.sort_by_key(|g| g.goid);
    // A goroutine that ended here and was started again elsewhere meanwhile.
    out.dedup_by_key(|g| g.goid);
    Ok(out)
}

fn decode(rt: &Runtime, r: &Record, running: &HashMap<Addr, Running>) -> Result<Goroutine, ReadError> {
    let status = Status::from(r.get(Field::GAtomicstatus)?);
    let reason = r.opt(Field::GWaitreason).unwrap_or(0) as usize;
    let waiting = matches!(status, Status::Waiting | Status::Leaked | Status::Preempted);
    Ok(Goroutine {
        addr: r.addr,
        goid: Goid(r.get(Field::GGoid)?),
        status,
        wait_reason: match rt.layout.wait_reasons.get(reason) {
            Some(t) if waiting => t.clone(),
            _ => String::new(),
        },
        waitsince: match waiting || status == Status::Syscall {
            true => r.opt(Field::GWaitsince).unwrap_or(0),
            false => 0,
        },
        stack: (r.ptr(Field::GStackLo)?, r.ptr(Field::GStackHi)?),
        sched_pc: r.ptr(Field::GSchedPc)?,
        sched_sp: r.ptr(Field::GSchedSp)?,
        sched_lr: Addr(r.opt(Field::GSchedLr).unwrap_or(0)),
        syscall_pc: r.ptr(Field::GSyscallpc)?,
        syscall_sp: r.ptr(Field::GSyscallsp)?,
        defer_head: r.ptr(Field::GDefer)?,
        panic_head: Addr(r.word(Field::GPanic).unwrap_or(0)),
        ctxt: Addr(r.opt(Field::GSchedCtxt).unwrap_or(0)),
        gopc: Addr(r.opt(Field::GGopc).unwrap_or(0)),
        startpc: Addr(r.opt(Field::GStartpc).unwrap_or(0)),
        parent: Goid(r.opt(Field::GParentGoid).unwrap_or(0)),
        waiting: Addr(r.opt(Field::GWaiting).unwrap_or(0)),
        timer: Addr(r.opt(Field::GTimer).unwrap_or(0)),
        sleep_when: r.opt(Field::GSleepWhen).unwrap_or(0),
        labels: Addr(r.opt(Field::GLabels).unwrap_or(0)),
        locked_to_thread: r.opt(Field::GLockedm).unwrap_or(0) != 0,
        async_safe_point: r.opt(Field::GAsyncSafePoint).unwrap_or(0) != 0,
        regs: running.get(&r.addr).map(|o| o.0.clone()),
        vdso: running.get(&r.addr).map_or((Addr::NULL, Addr::NULL), |o| o.1),
    })
}

/// For each g that is an m's curg: the registers of that m's thread. Walks allm by alllink.
fn running_registers(rt: &Runtime) -> HashMap<Addr, Running> {
    let mut out = HashMap::new();
    let regs: HashMap<u64, &Registers> =
        rt.target.threads.iter().filter_map(|t| Some((u64::from(t.tid), t.regs.as_ref()?))).collect();
    let mut at = rt.global_ptr(Global::Allm).unwrap_or_default();
    let mut seen = HashSet::new();
    while !at.is_null() && seen.len() < MAX_THREADS && seen.insert(at) {
        let Ok(m) = rt.record(Struct::M, at) else {
            rt.diag.note("m unreadable", format_args!("m at {at}"));
            break;
        };
        if let (Some(curg), Some(id)) = (m.opt(Field::MCurg), m.opt(Field::MProcid))
            && let Some(&r) = regs.get(&id)
        {
            let r = interrupted(rt, &m, r).unwrap_or_else(|| r.clone());
            let word = |f| Addr(m.opt(f).unwrap_or(0));
            out.insert(Addr(curg), (r, (word(Field::MVdsoPc), word(Field::MVdsoSp))));
        }
        at = Addr(m.opt(Field::MAlllink).unwrap_or(0));
    }
    out
}

/// Of a thread that is in a signal handler, on m.gsignal's stack: the registers of what the signal interrupted, from the context that
/// the kernel put there (struct ucontext of arch/x86/include/uapi/asm/ucontext.h). It is known by the stack that it
/// names, which is that very one; of several the outermost counts. amd64 only.
fn interrupted(rt: &Runtime, m: &Record, r: &Registers) -> Option<Registers> {
    const MAX: u64 = 1 << 20;
    const STACK: usize = 16;
    const REGISTERS: usize = 40;
    if rt.target.arch != crate::target::Arch::Amd64 {
        return None;
    }
    let g = rt.record(Struct::G, Addr(m.opt(Field::MGsignal).filter(|&g| g != 0)?)).ok()?;
    let (lo, hi) = (g.ptr(Field::GStackLo).ok()?, g.ptr(Field::GStackHi).ok()?);
    if r.sp < lo || r.sp >= hi {
        return None;
    }
    let raw = rt.target.read_vec(r.sp, hi.0 - r.sp.0, MAX).ok()?;
    let word = |at: usize| bytes::u64_at(&raw, at);
    let at = (0..raw.len())
        .step_by(8)
        .rev()
        .find(|&p| word(p + STACK) == Some(lo.0) && word(p + STACK + 16) == Some(hi.0 - lo.0))?;
    // r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    let reg = |i: usize| word(at + REGISTERS + 8 * i);
    // In the order of user_regs_struct, with no system call.
    const ORDER: [usize; 15] = [7, 6, 5, 4, 10, 11, 3, 2, 1, 0, 13, 14, 12, 9, 8];
    let mut general = ORDER.iter().map(|&i| reg(i)).collect::<Option<Vec<u64>>>()?;
    general.push(u64::MAX);
    Some(Registers {
        pc: Addr(reg(16)?),
        sp: Addr(reg(15)?),
        fp: Addr(reg(10)?),
        g: Addr(reg(6)?),
        general,
        ..r.clone()
    })
}
