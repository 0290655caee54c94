//! runtime::sched::waits: what each goroutine waits for: the channels of its operation, the primitive around its semaphore,
//! the descriptor, the time. Reads sudogs, semtable, notifyList, pollDesc (runtime/runtime2.go, sema.go, netpoll.go).
//! Used by `analysis::locks`. Does not know who holds anything.
//!
//! The kind comes from the functions on the goroutine's stack, because releases before 1.21 call every wait for a lock
//! `semacquire`; the address comes from the runtime's own queues. Every walk is bounded and remembers where it was.

use std::collections::{HashMap, HashSet};

use super::{Goroutine, Status, timers};
use crate::{
    base::{Addr, bytes},
    runtime::{
        Runtime,
        layout::{Field, Global, Struct},
        stack::Stack,
    },
};

/// What kind of thing a goroutine waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// Runs, or can run at once.
    #[default]
    Nothing,
    ChanReceive,
    ChanSend,
    Select,
    /// A channel that is nil: for ever.
    NilChan,
    /// `select {}`: for ever.
    EmptySelect,
    Mutex,
    #[serde(rename = "rwmutex-read")]
    RwRead,
    #[serde(rename = "rwmutex-write")]
    RwWrite,
    #[serde(rename = "waitgroup")]
    WaitGroup,
    Cond,
    Once,
    /// Another operation on the same descriptor has to end first: internal/poll lets one reader and one writer at a time.
    FdRead,
    FdWrite,
    /// A semaphore that none of the above owns (the runtime's own).
    Semaphore,
    Sleep,
    Io,
    Syscall,
    /// Anything that the runtime does for itself, and what is not known.
    Other,
}

impl WaitKind {
    /// The word in JSON and text.
    pub fn text(self) -> &'static str {
        match self {
            WaitKind::Nothing => "nothing",
            WaitKind::ChanReceive => "chan-receive",
            WaitKind::ChanSend => "chan-send",
            WaitKind::Select => "select",
            WaitKind::NilChan => "nil-chan",
            WaitKind::EmptySelect => "empty-select",
            WaitKind::Mutex => "mutex",
            WaitKind::RwRead => "rwmutex-read",
            WaitKind::RwWrite => "rwmutex-write",
            WaitKind::WaitGroup => "waitgroup",
            WaitKind::Cond => "cond",
            WaitKind::Once => "once",
            WaitKind::FdRead => "fd-read",
            WaitKind::FdWrite => "fd-write",
            WaitKind::Semaphore => "semaphore",
            WaitKind::Sleep => "sleep",
            WaitKind::Io => "io",
            WaitKind::Syscall => "syscall",
            WaitKind::Other => "other",
        }
    }

    /// A lock: somebody has to let go of it.
    pub fn is_lock(self) -> bool {
        matches!(
            self,
            WaitKind::Mutex
                | WaitKind::RwRead
                | WaitKind::RwWrite
                | WaitKind::Once
                | WaitKind::FdRead
                | WaitKind::FdWrite
        )
    }

    pub fn is_channel(self) -> bool {
        matches!(self, WaitKind::ChanReceive | WaitKind::ChanSend | WaitKind::Select)
    }
}

/// One channel of a channel operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    pub chan: Addr,
    pub send: bool,
}

/// What one goroutine waits for.
#[derive(Clone, Debug, Default)]
pub struct Wait {
    pub kind: WaitKind,
    /// The primitive: hchan, Mutex, RWMutex, WaitGroup, Cond, Once, semaphore word; null where there is none or it
    /// could not be found. Of a select with several channels: the first one.
    pub addr: Addr,
    /// Semaphore word behind `addr`; null for channels and Cond.
    pub sema: Addr,
    /// The lock that the operation takes on its way (the Mutex inside an RWMutex or a Once), else `addr`.
    pub lock: Addr,
    pub cases: Vec<Case>,
    /// The sudogs it stands in queues with.
    pub sudogs: Vec<Addr>,
    /// Descriptor of an `Io` wait.
    pub fd: Option<u64>,
    /// nanotime at which a sleep ends, or the timer fires (again) whose channel this is.
    pub until: Option<u64>,
    /// Nanoseconds from one tick to the next of the ticker whose channel this is.
    pub every: Option<u64>,
}

/// Where the words of package sync's types lie. The offsets have not changed from Go 1.19 to 1.27; a binary that says
/// otherwise is believed.
#[derive(Clone, Copy, Debug)]
pub struct SyncLayout {
    pub mutex_state: u64,
    pub mutex_sema: u64,
    pub rw_writer_sem: u64,
    pub rw_reader_sem: u64,
    pub rw_reader_count: u64,
    pub rw_reader_wait: u64,
    pub group_sema: u64,
    pub once_mutex: u64,
    pub cond_locker: u64,
    pub cond_notify: u64,
    notify_head: u64,
    fd_sysfd: u64,
    fd_poll: u64,
}

impl SyncLayout {
    pub fn of(rt: &Runtime) -> SyncLayout {
        let at = |f: Field, usual: u64| rt.layout.field(f).map_or(usual, |l| l.offset.into());
        SyncLayout {
            mutex_state: at(Field::SyncMutexState, 0),
            mutex_sema: at(Field::SyncMutexSema, 4),
            rw_writer_sem: at(Field::SyncRwMutexWriterSem, 8),
            rw_reader_sem: at(Field::SyncRwMutexReaderSem, 12),
            rw_reader_count: at(Field::SyncRwMutexReaderCount, 16),
            rw_reader_wait: at(Field::SyncRwMutexReaderWait, 20),
            group_sema: at(Field::SyncWaitGroupSema, 8),
            once_mutex: at(Field::SyncOnceM, 4),
            cond_locker: at(Field::SyncCondL, 0),
            cond_notify: at(Field::SyncCondNotify, 16),
            notify_head: at(Field::NotifyListHead, 16),
            fd_sysfd: at(Field::PollFdSysfd, 16),
            fd_poll: at(Field::PollFdRuntimeCtx, 32),
        }
    }
}

/// Sudogs in one goroutine's own list: a select has at most 65536 cases.
const MAX_CASES: usize = 1 << 16;
/// Waiters in all queues together.
const MAX_WAITERS: u64 = 1 << 26;

/// No more sudogs than this can lie in the target's memory.
fn most_waiters(rt: &Runtime) -> usize {
    let size = rt.layout.size(Struct::Sudog).unwrap_or(0).max(64);
    (rt.target.readable_bytes() / size).min(MAX_WAITERS) as usize
}
/// Roots of the runtime's semaphore table (runtime/sema.go semTabSize).
const SEMA_ROOTS: u64 = 251;
/// internal/poll.FD.fdmu.rsema.
const FD_RSEMA: u64 = 8;
/// Logical frames that are looked at for the kind.
const MAX_NAMES: usize = 24;

struct Sudog {
    g: Addr,
    next: Addr,
    prev: Addr,
    elem: Addr,
    waitlink: Addr,
    chan: Addr,
    select: bool,
}

fn sudog(rt: &Runtime, at: Addr) -> Option<Sudog> {
    let r = rt.record(Struct::Sudog, at).ok()?;
    // Go 1.26+: elem and c are {hidden from a leak-finding collection, address}.
    let pair = |f: Field| {
        let loc = rt.layout.field(f)?;
        let second = if loc.width == 16 { 8 } else { 0 };
        bytes::u64_at(&r.bytes, loc.offset as usize + second).map(Addr)
    };
    Some(Sudog {
        g: r.ptr(Field::SudogG).ok()?,
        next: r.ptr(Field::SudogNext).ok()?,
        prev: r.ptr(Field::SudogPrev).ok()?,
        elem: pair(Field::SudogElem)?,
        waitlink: r.ptr(Field::SudogWaitlink).ok()?,
        chan: pair(Field::SudogC)?,
        select: r.opt(Field::SudogIsSelect).unwrap_or(0) != 0,
    })
}

/// Semaphore word and sudog of every goroutine that stands in the semaphore table.
fn semaphores(rt: &Runtime) -> HashMap<Addr, (Addr, Addr)> {
    let mut out = HashMap::new();
    let (Some(table), Some(treap)) = (rt.globals.get(Global::Semtable), rt.layout.field(Field::SemaRootTreap)) else {
        return out;
    };
    // Padded to a cache line: 64 bytes on amd64; on arm64 128 from Go 1.21 on (internal/cpu CacheLinePadSize).
    let wide = rt.target.arch == crate::target::Arch::Arm64 && rt.image.go_version.minor >= 21;
    let stride = if wide { 128 } else { 64 };
    let Ok(raw) = rt.target.read_vec(table, SEMA_ROOTS * stride, 1 << 20) else {
        rt.diag.note("semaphore table unreadable", table);
        return out;
    };
    let (mut seen, most) = (HashSet::new(), most_waiters(rt));
    let mut todo: Vec<Addr> = (0..SEMA_ROOTS)
        .filter_map(|i| bytes::u64_at(&raw, (i * stride) as usize + treap.offset as usize))
        .filter(|&a| a != 0)
        .map(Addr)
        .collect();
    while let Some(at) = todo.pop() {
        if seen.len() > most || !seen.insert(at) {
            rt.diag.note("semaphore queue runs in a circle", at);
            continue;
        }
        let Some(s) = sudog(rt, at) else {
            rt.diag.note("semaphore queue broken", at);
            continue;
        };
        // A node is the first waiter of its address; its children lie in prev and next, the other waiters behind waitlink.
        todo.extend([s.prev, s.next].into_iter().filter(|a| !a.is_null()));
        out.insert(s.g, (s.elem, at));
        let mut link = s.waitlink;
        while !link.is_null() && seen.len() <= most {
            if !seen.insert(link) {
                rt.diag.note("semaphore queue runs in a circle", link);
                break;
            }
            let Some(w) = sudog(rt, link) else {
                rt.diag.note("semaphore queue broken", link);
                break;
            };
            out.insert(w.g, (s.elem, link));
            link = w.waitlink;
        }
    }
    out
}

/// Queues that were walked: each once, however many stand in it.
#[derive(Default)]
struct Queues {
    /// Sudogs of senders by channel: tells the direction of select cases.
    senders: HashMap<Addr, HashSet<Addr>>,
    /// Sudog of each goroutine in the list of a Cond, by Cond.
    conds: HashMap<Addr, HashMap<Addr, Addr>>,
    walked: usize,
    most: usize,
}

impl Queues {
    fn of(rt: &Runtime) -> Queues {
        Queues { most: most_waiters(rt), ..Queues::default() }
    }

    /// Sudogs from `at` on along `next`, with their goroutines. `what`: what to say where the queue is broken.
    fn walk(&mut self, rt: &Runtime, mut at: Addr, of: Addr, what: [&'static str; 2]) -> Vec<(Addr, Addr)> {
        let (mut out, mut seen) = (Vec::new(), HashSet::new());
        while !at.is_null() && self.walked < self.most {
            self.walked += 1;
            if !seen.insert(at) {
                rt.diag.note(what[0], of);
                break;
            }
            let Some(s) = sudog(rt, at) else {
                rt.diag.note(what[1], format_args!("{of}: sudog at {at}"));
                break;
            };
            out.push((at, s.g));
            at = s.next;
        }
        out
    }

    fn sends(&mut self, rt: &Runtime, chan: Addr, sudog_at: Addr) -> bool {
        if !self.senders.contains_key(&chan) {
            let head = rt.layout.field(Field::HchanSendq).and_then(|q| {
                let first = rt.layout.field(Field::WaitqFirst).map_or(0, |f| f.offset);
                rt.target.read_ptr(chan.offset((q.offset + first).into())).ok()
            });
            let what = ["channel queue runs in a circle", "channel queue broken"];
            let list = self.walk(rt, head.unwrap_or_default(), chan, what);
            self.senders.insert(chan, list.into_iter().map(|(at, _)| at).collect());
        }
        self.senders.get(&chan).is_some_and(|s| s.contains(&sudog_at))
    }

    /// The sudog of goroutine `g` in the list of the Cond at `cond`, if it stands there.
    fn in_cond(&mut self, rt: &Runtime, l: &SyncLayout, cond: Addr, g: Addr) -> Option<Addr> {
        if !self.conds.contains_key(&cond) {
            let head = rt.target.read_ptr(cond.offset(l.cond_notify + l.notify_head)).unwrap_or_default();
            // A live word that leads to no Cond has nothing there that could be one's list.
            let real = sudog(rt, head).is_some_and(|s| s.chan.is_null());
            let head = if real { head } else { Addr::NULL };
            let list = self.walk(rt, head, cond, ["list of a Cond runs in a circle", "list of a Cond broken"]);
            self.conds.insert(cond, list.into_iter().map(|(at, g)| (g, at)).collect());
        }
        self.conds.get(&cond)?.get(&g).copied()
    }
}

/// Names of the innermost logical frames, up to and including the first function outside the runtime and package sync.
fn inner_names<'r>(rt: &'r Runtime, stack: &Stack) -> Vec<&'r str> {
    let mut names = Vec::new();
    for f in stack.frames.iter().take(MAX_NAMES) {
        let Some(func) = rt.image.pclntab.find(f.pc) else { break };
        for l in func.inline_frames(f.lookup) {
            names.push(l.function);
            let inner = ["runtime.", "sync.", "internal/sync.", "internal/runtime/", "internal/poll."];
            if names.len() >= MAX_NAMES || !inner.iter().any(|p| l.function.starts_with(p)) {
                return names;
            }
        }
    }
    names
}

/// (kind, offset of the semaphore word in the primitive, offset of the mutex in it) from the names on the stack.
fn semaphore_owner(names: &[&str], l: &SyncLayout) -> (WaitKind, u64, u64) {
    let mutex = names.iter().position(|n| n.ends_with("sync.(*Mutex).lockSlow") || n.ends_with("sync.(*Mutex).Lock"));
    // internal/poll/fd_mutex.go: fdMutex {state uint64, rsema, wsema uint32} is the first member of FD.
    if names.iter().any(|n| n.ends_with("poll.(*fdMutex).rwlock")) {
        if names.contains(&"internal/poll.(*FD).readLock") {
            return (WaitKind::FdRead, FD_RSEMA, 0);
        }
        if names.contains(&"internal/poll.(*FD).writeLock") {
            return (WaitKind::FdWrite, FD_RSEMA + 4, 0);
        }
    }
    // The first function that is not the mutex itself or the runtime below it.
    let owner = names[mutex.unwrap_or(0)..]
        .iter()
        .find(|n| !n.starts_with("runtime.") && !n.contains("sync.runtime_") && !n.contains("sync.(*Mutex)"))
        .copied()
        .unwrap_or_default();
    match owner {
        "sync.(*RWMutex).RLock" => (WaitKind::RwRead, l.rw_reader_sem, 0),
        "sync.(*RWMutex).Lock" if mutex.is_some() => (WaitKind::RwWrite, l.mutex_sema, 0),
        "sync.(*RWMutex).Lock" => (WaitKind::RwWrite, l.rw_writer_sem, 0),
        "sync.(*WaitGroup).Wait" => (WaitKind::WaitGroup, l.group_sema, 0),
        "sync.(*Once).doSlow" | "sync.(*Once).Do" if mutex.is_some() => {
            (WaitKind::Once, l.once_mutex + l.mutex_sema, l.once_mutex)
        }
        _ if mutex.is_some() => (WaitKind::Mutex, l.mutex_sema, 0),
        _ => (WaitKind::Semaphore, 0, 0),
    }
}

/// What each goroutine waits for, in their order. Cost: one read for each queued sudog, a few for Cond, descriptors,
/// sleepers and timers. The target must be held.
pub fn read(rt: &Runtime, goroutines: &[Goroutine], stacks: &[Stack]) -> Vec<Wait> {
    let l = SyncLayout::of(rt);
    let semaphores = semaphores(rt);
    let mut queues = Queues::of(rt);
    let mut kinds: HashMap<Vec<Addr>, Vec<&str>> = HashMap::new();
    let mut waits: Vec<Wait> = goroutines
        .iter()
        .zip(stacks)
        .map(|(g, stack)| {
            let mut w = Wait::default();
            match g.status {
                Status::Syscall => w.kind = WaitKind::Syscall,
                Status::Waiting | Status::Leaked => {
                    let key = stack.frames.iter().take(12).map(|f| f.pc).collect();
                    let names = kinds.entry(key).or_insert_with(|| inner_names(rt, stack));
                    one(rt, &l, g, stack, names, &semaphores, &mut queues, &mut w);
                }
                _ => {}
            }
            w
        })
        .collect();
    timers::fill(rt, &mut waits);
    waits
}

#[allow(clippy::too_many_arguments)] // the parts of one target, named where they are used
fn one(
    rt: &Runtime,
    l: &SyncLayout,
    g: &Goroutine,
    stack: &Stack,
    names: &[&str],
    semaphores: &HashMap<Addr, (Addr, Addr)>,
    queues: &mut Queues,
    w: &mut Wait,
) {
    let reason = g.wait_reason.as_str();
    let called = |name: &str| names.contains(&name);
    // Without a name for the reason (an unknown release) the stack has to do.
    w.kind = match reason {
        "chan receive (nil chan)" | "chan send (nil chan)" => WaitKind::NilChan,
        "select (no cases)" => WaitKind::EmptySelect,
        _ if reason.starts_with("chan receive") || called("runtime.chanrecv") => WaitKind::ChanReceive,
        _ if reason.starts_with("chan send") || called("runtime.chansend") => WaitKind::ChanSend,
        _ if reason.starts_with("select") || called("runtime.selectgo") => WaitKind::Select,
        "sync.Cond.Wait" => WaitKind::Cond,
        "sleep" => WaitKind::Sleep,
        "IO wait" => WaitKind::Io,
        _ if called("sync.(*Cond).Wait") && !names.iter().any(|n| n.contains("sync.(*Mutex)")) => WaitKind::Cond,
        "semacquire" => WaitKind::Semaphore,
        _ if reason.starts_with("sync.") => WaitKind::Semaphore,
        _ => WaitKind::Other,
    };
    // The goroutine's own list: channels, and from Go 1.26 on semaphores and Cond.
    let mut own_sema = None;
    let (mut at, mut seen) = (g.waiting, HashSet::new());
    while !at.is_null() && w.sudogs.len() < MAX_CASES {
        if !seen.insert(at) {
            rt.diag.note("list of waits runs in a circle", format_args!("goroutine {}", g.goid));
            break;
        }
        let Some(s) = sudog(rt, at).filter(|s| s.g == g.addr) else {
            rt.diag.note("list of waits broken", format_args!("goroutine {}: sudog at {at}", g.goid));
            break;
        };
        w.sudogs.push(at);
        if !s.chan.is_null() {
            let send = match w.kind {
                WaitKind::ChanReceive => false,
                WaitKind::ChanSend => true,
                _ => s.select && queues.sends(rt, s.chan, at),
            };
            w.cases.push(Case { chan: s.chan, send });
        } else if !s.elem.is_null() {
            own_sema = Some(s.elem);
        }
        at = s.waitlink;
        // A semaphore's waitlink leads to other goroutines.
        if s.chan.is_null() {
            break;
        }
    }
    match w.kind {
        WaitKind::ChanReceive | WaitKind::ChanSend | WaitKind::Select => {
            w.addr = w.cases.first().map_or(Addr::NULL, |c| c.chan);
        }
        WaitKind::Semaphore => {
            let queued = semaphores.get(&g.addr);
            if let Some(&(_, at)) = queued
                && !w.sudogs.contains(&at)
            {
                w.sudogs.push(at);
            }
            let (kind, sema_off, lock_off) = semaphore_owner(names, l);
            w.kind = kind;
            match queued.map(|q| q.0).or(own_sema) {
                Some(sema) => {
                    w.sema = sema;
                    w.addr = Addr(sema.0.saturating_sub(sema_off));
                    w.lock = w.addr.offset(lock_off);
                }
                None => rt.diag.note("semaphore of a goroutine not found", format_args!("goroutine {}", g.goid)),
            }
        }
        WaitKind::Cond => cond(rt, l, g, stack, queues, w),
        WaitKind::Io => w.fd = descriptor(rt, l, g, stack),
        WaitKind::Sleep => {
            w.until = Some(g.sleep_when).filter(|&t| t != 0).or_else(|| {
                let when = rt.layout.field(Field::TimerWhen)?;
                rt.target.read_u64(g.timer.offset(when.offset.into())).ok().filter(|_| !g.timer.is_null())
            });
        }
        _ => {}
    }
    if w.lock.is_null() {
        w.lock = w.addr;
    }
}

/// Live pointers in the frames of functions whose names begin with `prefix`.
fn frame_words<'s>(rt: &'s Runtime, stack: &'s Stack, prefix: &'static str) -> impl Iterator<Item = Addr> + 's {
    let matching: Vec<u32> = (0..stack.frames.len().min(MAX_NAMES) as u32)
        .filter(|&i| {
            let f = stack.frames[i as usize];
            rt.image
                .pclntab
                .find(f.pc)
                .is_some_and(|func| func.inline_frames(f.lookup).any(|l| l.function.starts_with(prefix)))
        })
        .collect();
    stack.words.iter().filter(move |w| matching.contains(&w.frame)).map(|w| Addr(w.value))
}

/// The Cond: a live word of the frame of Wait whose list has this goroutine.
fn cond(rt: &Runtime, l: &SyncLayout, g: &Goroutine, stack: &Stack, queues: &mut Queues, w: &mut Wait) {
    for at in frame_words(rt, stack, "sync.(*Cond).Wait") {
        if let Some(link) = queues.in_cond(rt, l, at, g.addr) {
            w.addr = at;
            if !w.sudogs.contains(&link) {
                w.sudogs.push(link);
            }
            return;
        }
    }
    rt.diag.note("Cond of a goroutine not found", format_args!("goroutine {}", g.goid));
}

/// The descriptor: of a live poll.FD on the stack whose pollDesc names this goroutine as its reader or writer.
fn descriptor(rt: &Runtime, l: &SyncLayout, g: &Goroutine, stack: &Stack) -> Option<u64> {
    let fields = [rt.layout.field(Field::PollDescRg)?, rt.layout.field(Field::PollDescWg)?];
    frame_words(rt, stack, "internal/poll.").find_map(|fd| {
        let desc = rt.target.read_ptr(fd.offset(l.fd_poll)).ok().filter(|d| !d.is_null())?;
        let mine = fields.iter().any(|f| rt.target.read_ptr(desc.offset(f.offset.into())).ok() == Some(g.addr));
        rt.target.read_u64(fd.offset(l.fd_sysfd)).ok().filter(|_| mine)
    })
}
