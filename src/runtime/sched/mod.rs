//! runtime::sched: goroutines and Ms, and what goroutines wait for (`waits`). Owns `Goroutine`. Reads allgs, g, m
//! (runtime/runtime2.go).
//! Used by `stack`, `graph` (roots) and `analysis`.

use std::collections::{HashMap, HashSet};

use crate::{
    base::{Addr, Goid},
    runtime::{
        Runtime,
        heap::scattered,
        layout::{Field, Global, Struct},
        view::{ReadError, Record},
    },
    target::Registers,
};

pub mod labels;
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
}

/// More goroutines than this are taken for garbage.
const MAX_GOROUTINES: u64 = 1 << 26;
const MAX_THREADS: usize = 1 << 20;

/// All goroutines that are not dead.
pub fn read(rt: &Runtime) -> Result<Vec<Goroutine>, ReadError> {
    let at = rt.globals.get(Global::Allgs).ok_or(ReadError::NoGlobal("runtime.allgs"))?;
    let head = rt.target.read_vec(at, 24, 24).map_err(|f| ReadError::memory("runtime.allgs", at, f))?;
    let word = |i: usize| crate::base::bytes::u64_at(&head, 8 * i).unwrap_or(0);
    let slice = super::view::SliceHeader { data: Addr(word(0)), len: word(1), cap: word(2) };
    if slice.len > slice.cap || slice.len > MAX_GOROUTINES {
        return Err(ReadError::Implausible { what: "runtime.allgs", addr: at, why: format!("{slice:?}") });
    }
    let all: Vec<Addr> = rt.words("allgs", slice)?.into_iter().map(Addr).collect();
    let running = running_registers(rt);
    let size = rt.layout.size(Struct::G).unwrap_or(0) as usize;
    let mut out = Vec::with_capacity(all.len());
    for batch in all.chunks(4096) {
        for (&addr, raw) in batch.iter().zip(scattered(rt, batch, size)) {
            let Some(raw) = raw else {
                rt.diag.note("goroutine unreadable", format_args!("g at {addr}"));
                continue;
            };
            let g = decode(rt, &Record::new(&rt.layout, addr, raw), &running)?;
            if g.status != Status::Dead && g.status != Status::Idle {
                out.push(g);
            }
        }
    }
    out.sort_by_key(|g| g.goid);
    Ok(out)
}

fn decode(rt: &Runtime, r: &Record, running: &HashMap<Addr, Registers>) -> Result<Goroutine, ReadError> {
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
        regs: running.get(&r.addr).cloned(),
    })
}

/// For each g that is an m's curg: the registers of that m's thread. Walks allm by alllink.
fn running_registers(rt: &Runtime) -> HashMap<Addr, Registers> {
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
            out.insert(Addr(curg), r.clone());
        }
        at = Addr(m.opt(Field::MAlllink).unwrap_or(0));
    }
    out
}
