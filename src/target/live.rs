//! A live process, held still by ptrace. Nothing in the target is modified: whatever happens to this tool, SIGKILL
//! included, the kernel detaches and the target runs on.
//!
//! ptrace obeys only the thread that attached, so one tracer thread does all of it and waits for the word to let go.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Arch, Fault, Hold, HoldRequest, Holder, Memory, Target, TargetError, TargetKind, Thread, Watch, cache::PageCache,
    fork,
};
use crate::{
    base::Addr,
    os::{procfs, ptrace, vm},
};

/// How to hold a live target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HoldMode {
    /// Do not stop it: counters only, torn reads possible.
    None,
    #[default]
    Freeze,
    /// Stop it for the making of a copy-on-write copy, and look at that.
    Fork,
}

/// A thread that does not stop within this time (uninterruptible sleep) is left alone and reported.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Whether the threads stand still, and for how long they did.
struct Still {
    started: Instant,
    held: AtomicBool,
    stopped: Mutex<Option<Duration>>,
}

/// Keeps the threads stopped; letting go is idempotent and happens on drop, panics included.
pub(super) struct Freezer {
    release: Mutex<Option<(mpsc::Sender<()>, JoinHandle<()>)>>,
    still: Arc<Still>,
}

impl Holder for Freezer {
    /// Resumes all threads and waits until that is done.
    fn release(&self) {
        let taken = self.release.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some((sender, thread)) = taken {
            drop(sender);
            // A panic of the tracer thread ends it, and with it every attachment.
            let _ = thread.join();
            self.still.over();
        }
    }

    fn is_held(&self) -> bool {
        self.still.held.load(Ordering::SeqCst)
    }

    fn stopped_ms(&self) -> Option<f64> {
        self.still.stopped.lock().unwrap_or_else(|e| e.into_inner()).map(|d| d.as_secs_f64() * 1e3)
    }
}

impl Still {
    /// The last thread goes on.
    fn over(&self) {
        if self.held.swap(false, Ordering::SeqCst) {
            *self.stopped.lock().unwrap_or_else(|e| e.into_inner()) = Some(self.started.elapsed());
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Memory of a live process.
pub struct LiveMemory {
    pid: u32,
    /// Opened on first need: process_vm_readv does not see some mappings (and is forbidden by some seccomp profiles).
    mem: std::sync::OnceLock<Option<std::fs::File>>,
    watch: Arc<Watch>,
}

impl LiveMemory {
    fn new(pid: u32, watch: Arc<Watch>) -> LiveMemory {
        LiveMemory { pid, mem: std::sync::OnceLock::new(), watch }
    }

    /// What was read counts only if the process had not been let go before the last byte was there. Late reads are not
    /// begun at all.
    fn late(&self, addr: Addr, len: usize) -> Result<(), Fault> {
        if !self.watch.late.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.watch.missed.fetch_add(len as u64, Ordering::SeqCst);
        Err(Fault::TooLate(addr))
    }

    fn fallback(&self, addr: Addr, buf: &mut [u8], cause: io::Error) -> Result<(), Fault> {
        if cause.raw_os_error() == Some(libc::ESRCH) {
            self.watch.missed.fetch_add(buf.len() as u64, Ordering::SeqCst);
            self.watch.gone.store(true, Ordering::SeqCst);
            return Err(Fault::Gone(addr));
        }
        let file = self.mem.get_or_init(|| procfs::mem_file(self.pid).ok());
        match file {
            Some(f) if vm::read_mem_file(f, addr.0, buf).is_ok() => Ok(()),
            _ if cause.raw_os_error() == Some(libc::EFAULT) => Err(Fault::NotMapped(addr)),
            _ => Err(Fault::Unreadable(addr, cause.to_string())),
        }
    }
}

impl Memory for LiveMemory {
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Fault> {
        self.late(addr, buf.len())?;
        let mut done = 0;
        while done < buf.len() {
            let at = addr.checked_add(done as u64).ok_or(Fault::NotMapped(addr))?;
            match vm::read_ranges(self.pid, &mut [(at.0, &mut buf[done..])]) {
                Ok(n) if n > 0 => done += n,
                other => {
                    let cause = other.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EFAULT));
                    self.fallback(at, &mut buf[done..], cause)?;
                    break;
                }
            }
        }
        self.late(addr, buf.len())
    }

    fn read_scattered(&self, ranges: &mut [(Addr, &mut [u8])]) -> Vec<Result<(), Fault>> {
        let mut results = Vec::with_capacity(ranges.len());
        let mut rest = ranges;
        while !rest.is_empty() {
            let batch = rest.len().min(vm::MAX_RANGES);
            let at = rest[0].0;
            let bytes = rest[..batch].iter().map(|(_, b)| b.len()).sum();
            let mut iov: Vec<(u64, &mut [u8])> = rest[..batch].iter_mut().map(|(a, b)| (a.0, &mut **b)).collect();
            let mut copied = vm::read_ranges(self.pid, &mut iov).unwrap_or(0);
            // The kernel stops at the first range it cannot read: take what is whole, read that one alone, go on.
            let mut whole = 0;
            if self.late(at, bytes).is_err() {
                results.extend(rest[..batch].iter().map(|(a, _)| Err(Fault::TooLate(*a))));
                rest = &mut rest[batch..];
                continue;
            }
            for (_, buf) in &rest[..batch] {
                if copied < buf.len() {
                    break;
                }
                copied -= buf.len();
                whole += 1;
            }
            results.extend((0..whole).map(|_| Ok(())));
            if whole < batch {
                let (addr, buf) = &mut rest[whole];
                results.push(self.read(*addr, buf));
                whole += 1;
            }
            rest = &mut rest[whole..];
        }
        results
    }
}

/// What the tracer thread found when everything stood still.
struct Seen {
    threads: Vec<Thread>,
    unstopped: Vec<u32>,
}

impl Target {
    /// Attaches to a running process and holds it as asked.
    pub fn attach(pid: u32, request: impl Into<HoldRequest>) -> Result<Target, TargetError> {
        let HoldRequest { mode, max_pause } = request.into();
        let watch = Arc::new(Watch::default());
        if !procfs::exists(pid) {
            return Err(TargetError::NoProcess(pid));
        }
        if let Some(tgid) = procfs::status_field(pid, "Tgid").and_then(|t| t.parse::<u32>().ok())
            && tgid != pid
        {
            return Err(TargetError::ThreadNotProcess { tid: pid, pid: tgid });
        }
        let arch = arch_of_exe(pid)?;
        let mut trouble = Vec::new();
        // Whose memory is looked at.
        let mut still_pid = pid;
        let (threads, freezer): (_, Option<Arc<dyn Holder>>) = match mode {
            HoldMode::None => {
                let tids = procfs::threads(pid).map_err(|e| TargetError::proc(pid, "task", e))?;
                (tids.into_iter().map(|tid| Thread { tid, regs: None }).collect(), None)
            }
            HoldMode::Freeze => {
                let (still, freezer) = freeze(pid, arch, max_pause, &watch)?;
                for tid in &still.unstopped {
                    trouble.push(("thread did not stop (uninterruptible sleep?)", format!("thread {tid}")));
                }
                (still.threads, Some(Arc::new(freezer)))
            }
            HoldMode::Fork => {
                let (child, threads, fork) = fork::fork(pid, arch, max_pause)?;
                still_pid = child;
                if let (Some(max), Some(ms)) = (max_pause, fork.stopped_ms())
                    && ms > max.as_secs_f64() * 1e3
                {
                    let text = format!("{ms:.1} ms instead of {} ms", max.as_millis());
                    trouble.push(("making the copy took longer than --max-pause allows", text));
                }
                (threads, Some(Arc::new(fork)))
            }
        };
        let mappings = procfs::maps(still_pid).map_err(|e| TargetError::proc(pid, "maps", e))?;
        let auxv = procfs::auxv(still_pid).map_err(|e| TargetError::proc(pid, "auxv", e))?;
        let live = Arc::new(LiveMemory::new(still_pid, watch.clone()));
        // Try one read now: permission to stop a process and permission to read it can differ.
        let probe = mappings.iter().find(|m| m.readable).map(|m| m.start).unwrap_or_default();
        if let Err(fault) = live.read(probe, &mut [0; 8])
            && !matches!(fault, Fault::TooLate(_))
        {
            return Err(TargetError::Denied { pid, what: "read the memory of", why: fault.to_string() });
        }
        let memory: Arc<dyn Memory> = if mode == HoldMode::None { live } else { Arc::new(PageCache::new(live)) };
        Ok(Target {
            kind: TargetKind::Live,
            pid: Some(pid),
            arch,
            exe: procfs::exe(pid).ok(),
            exe_file: Some(procfs::exe_file(pid)),
            mappings,
            threads,
            auxv,
            memory,
            trouble,
            freezer,
            watch,
            mode: match mode {
                HoldMode::None => "none",
                HoldMode::Freeze => "freeze",
                HoldMode::Fork => "fork",
            },
        })
    }

    /// Lets the target run on before the `Target` is dropped; what was read stays valid, later reads do not fit it.
    pub fn release(&self) {
        if let Some(f) = &self.freezer {
            f.release();
        }
    }

    pub fn is_held(&self) -> bool {
        self.freezer.as_ref().is_some_and(|f| f.is_held())
    }

    pub fn hold(&self) -> Hold {
        Hold {
            mode: self.mode,
            stopped_ms: self.freezer.as_ref().and_then(|f| f.stopped_ms()),
            copy_ms: self.freezer.as_ref().and_then(|f| f.copy_ms()),
        }
    }
}

fn arch_of_exe(pid: u32) -> Result<Arch, TargetError> {
    use std::io::Read;
    let mut head = [0u8; 20];
    std::fs::File::open(procfs::exe_file(pid)).and_then(|mut f| f.read_exact(&mut head)).map_err(|e| {
        match e.kind() {
            io::ErrorKind::PermissionDenied => denied(pid, "open the executable of", &e),
            io::ErrorKind::NotFound => TargetError::KernelThread(pid),
            _ => TargetError::proc(pid, "exe", e),
        }
    })?;
    super::arch_of_elf(&head).map_err(|why| TargetError::Unsupported { what: format!("process {pid}"), why })
}

fn freeze(
    pid: u32,
    arch: Arch,
    max_pause: Option<Duration>,
    watch: &Arc<Watch>,
) -> Result<(Seen, Freezer), TargetError> {
    let (release_tx, release_rx) = mpsc::channel::<()>();
    let (result_tx, result_rx) = mpsc::channel();
    let still = Arc::new(Still { started: Instant::now(), held: AtomicBool::new(true), stopped: Mutex::new(None) });
    let (theirs, watch) = (still.clone(), watch.clone());
    let thread = std::thread::Builder::new()
        .name("tracer".into())
        .spawn(move || {
            let mut tracees = Tracees::new(pid);
            let result = tracees.stop_all().map(|unstopped| Seen { threads: tracees.registers(arch), unstopped });
            let failed = result.is_err();
            if result_tx.send(result).is_ok() && !failed {
                // Wakes when the freezer drops its end, and also if the whole process unwinds.
                let left = max_pause.map(|max| max.saturating_sub(theirs.started.elapsed()));
                let late = match left {
                    Some(left) => release_rx.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout),
                    None => release_rx.recv().is_ok(),
                };
                // Before the first thread runs: what a read finds afterwards is not taken.
                watch.late.store(late, Ordering::SeqCst);
            }
            tracees.let_go();
            theirs.over();
        })
        .map_err(|e| TargetError::Denied { pid, what: "start a tracer thread for", why: e.to_string() })?;
    let seen = result_rx
        .recv()
        .unwrap_or_else(|_| Err(TargetError::Denied { pid, what: "hold", why: "the tracer thread died".into() }));
    match seen {
        Ok(seen) => Ok((seen, Freezer { release: Mutex::new(Some((release_tx, thread))), still })),
        Err(e) => {
            drop(release_tx);
            let _ = thread.join();
            Err(e)
        }
    }
}

/// The threads seized so far, with the stop each is in. Lives on the tracer thread only.
pub(super) struct Tracees {
    pid: u32,
    stops: BTreeMap<u32, ptrace::Stop>,
}

impl Drop for Tracees {
    /// Also on a panic of the tracer thread.
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Tracees {
    pub(super) fn new(pid: u32) -> Tracees {
        Tracees { pid, stops: BTreeMap::new() }
    }

    /// The threads that are stopped.
    pub(super) fn tids(&self) -> impl Iterator<Item = u32> + '_ {
        self.stops.iter().filter(|(_, stop)| **stop != ptrace::Stop::Running).map(|(tid, _)| *tid)
    }

    pub(super) fn stop_of(&self, tid: u32) -> Option<ptrace::Stop> {
        self.stops.get(&tid).copied()
    }

    /// Seizes and stops one thread only.
    pub(super) fn stop_one(&mut self, tid: u32) -> Result<(), String> {
        ptrace::seize(tid, 0).and_then(|()| ptrace::interrupt(tid)).map_err(|e| e.to_string())?;
        self.stops.insert(tid, ptrace::Stop::Running);
        match self.wait_stop(tid) {
            Some(stop @ (ptrace::Stop::Event | ptrace::Stop::Signal(_))) => {
                self.stops.insert(tid, stop);
                Ok(())
            }
            _ => Err(format!("thread {tid} does not stop")),
        }
    }

    /// Seizes and stops every thread, those born meanwhile included. Answers the threads that would not stop.
    pub(super) fn stop_all(&mut self) -> Result<Vec<u32>, TargetError> {
        let mut unstopped = Vec::new();
        let undertaker = Undertaker::new(self.pid);
        loop {
            let mut fresh = Vec::new();
            let tids = match procfs::threads(self.pid) {
                Ok(tids) => tids,
                Err(_) => return Err(TargetError::NoProcess(self.pid)),
            };
            for tid in tids {
                if self.stops.contains_key(&tid) {
                    continue;
                }
                match undertaker.seize(tid) {
                    Ok(()) => {
                        // Only threads that were seized before their siblings stopped can still run and clone.
                        self.stops.insert(tid, ptrace::Stop::Running);
                        let _ = ptrace::interrupt(tid);
                        fresh.push(tid);
                    }
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    // A thread that is exiting may refuse.
                    Err(_) if matches!(procfs::thread_state(self.pid, tid), None | Some('Z' | 'X')) => {}
                    Err(e) => return Err(denied(self.pid, "attach to", &e)),
                }
            }
            if fresh.is_empty() {
                break;
            }
            for tid in fresh {
                match self.wait_stop(tid) {
                    Some(ptrace::Stop::Exited) | None => {
                        self.stops.remove(&tid);
                        let _ = ptrace::reap(tid);
                    }
                    // A thread that runs cannot be detached from: it stays in the list and is let go when it stops.
                    Some(ptrace::Stop::Running) => unstopped.push(tid),
                    Some(stop) => {
                        self.stops.insert(tid, stop);
                    }
                }
            }
        }
        if self.tids().next().is_none() {
            return Err(TargetError::NoProcess(self.pid));
        }
        Ok(unstopped)
    }

    /// `None`: the thread is gone or a zombie; `Running`: it did not stop in time.
    fn wait_stop(&mut self, tid: u32) -> Option<ptrace::Stop> {
        let begin = Instant::now();
        let mut spins = 0u32;
        loop {
            match ptrace::look(tid) {
                Ok(ptrace::Stop::Running) => {}
                Ok(stop) => return Some(stop),
                Err(_) => return None,
            }
            spins += 1;
            if spins < 200 {
                std::thread::yield_now();
            } else {
                // A group leader that has exited stays a zombie until its threads are gone.
                if matches!(procfs::thread_state(self.pid, tid), None | Some('Z' | 'X')) {
                    return None;
                }
                if begin.elapsed() > STOP_PATIENCE {
                    return Some(ptrace::Stop::Running);
                }
                if spins.is_multiple_of(32) {
                    self.reap_dead();
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// A thread that replaces the program has killed the others and waits until their tracer has taken note.
    fn reap_dead(&mut self) {
        self.stops.retain(|&tid, _| {
            let dead = matches!(ptrace::look(tid), Ok(ptrace::Stop::Exited));
            if dead {
                let _ = ptrace::reap(tid);
            }
            !dead
        });
    }

    fn registers(&self, arch: Arch) -> Vec<Thread> {
        let decode = match arch {
            Arch::Amd64 => ptrace::decode_amd64,
            Arch::Arm64 => ptrace::decode_arm64,
        };
        self.tids()
            .map(|tid| Thread { tid, regs: ptrace::general_registers(tid).ok().and_then(|w| decode(&w)) })
            .collect()
    }

    /// Detaches from every thread, giving back the signal that its stop caught. A thread that never stopped is in the
    /// list afterwards, to be let go later.
    ///
    /// The first thread that goes on may replace the program. That kills the others, and it waits, in the kernel and
    /// unkillable by us, until their tracer has taken note of every one of them (fs/exec.c de_thread): a thread that
    /// cannot be detached from is about to die and is waited for.
    pub(super) fn let_go(&mut self) {
        let begin = Instant::now();
        loop {
            self.stops.retain(|&tid, stop| match ptrace::look(tid) {
                Ok(ptrace::Stop::Exited) => {
                    let _ = ptrace::reap(tid);
                    false
                }
                Ok(ptrace::Stop::Running) if *stop == ptrace::Stop::Running => true,
                Ok(now) => {
                    // The stop is unconsumed, so looking again shows it; what was seen at first is the fallback, also where
                    // an injected call failed half way and took the stop.
                    let signal = match (now, *stop) {
                        (ptrace::Stop::Signal(s), _) | (_, ptrace::Stop::Signal(s)) => s,
                        _ => 0,
                    };
                    ptrace::detach(tid, signal).is_err()
                }
                Err(_) => false,
            });
            if self.tids().next().is_none() || begin.elapsed() > STOP_PATIENCE {
                return;
            }
            // The one that replaced the program has the process id now, and runs on under our eyes.
            for tid in self.tids().collect::<Vec<_>>() {
                if ptrace::look(tid).is_ok_and(|s| s == ptrace::Stop::Running) {
                    let _ = ptrace::interrupt(tid);
                }
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Is there a thread that never stopped and still is ours?
    pub(super) fn is_anyone_left(&self) -> bool {
        !self.stops.is_empty()
    }
}

/// Takes note of dead threads while the others are being seized, until it is dropped.
///
/// A thread that replaces the program holds a lock (cred_guard_mutex) until all dead siblings are taken note of; who
/// seizes one more sibling waits for that lock. Without somebody else the two would wait for each other for ever, and the
/// kernel lets any thread of the tracer's process do it.
struct Undertaker {
    /// The thread that is being seized; 0 between two.
    seizing: Arc<AtomicU32>,
    _keep: mpsc::Sender<()>,
}

impl Undertaker {
    fn new(pid: u32) -> Undertaker {
        /// Seizing takes microseconds. Looking for the dead of a process with many threads takes longer than that.
        const STUCK: Duration = Duration::from_millis(20);
        let (keep, ended) = mpsc::channel::<()>();
        let seizing = Arc::new(AtomicU32::new(0));
        let theirs = seizing.clone();
        let work = move || {
            let mut last = 0;
            while ended.recv_timeout(STUCK) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = theirs.load(Ordering::SeqCst);
                if now != 0 && now == last {
                    procfs::threads(pid).unwrap_or_default().into_iter().for_each(|tid| drop(ptrace::reap(tid)));
                }
                last = now;
            }
        };
        if let Err(e) = std::thread::Builder::new().name("undertaker".into()).spawn(work) {
            tracing::debug!(%e, "no thread that takes note of dead threads");
        }
        Undertaker { seizing, _keep: keep }
    }

    fn seize(&self, tid: u32) -> io::Result<()> {
        self.seizing.store(tid, Ordering::SeqCst);
        let result = ptrace::seize(tid, 0);
        self.seizing.store(0, Ordering::SeqCst);
        result
    }
}

/// Turns a refusal into an error that says who refused and what to do.
pub(super) fn denied(pid: u32, what: &'static str, e: &io::Error) -> TargetError {
    if !procfs::exists(pid) {
        return TargetError::NoProcess(pid);
    }
    let tracer = procfs::status_field(pid, "TracerPid").and_then(|t| t.parse::<u32>().ok()).unwrap_or(0);
    if tracer != 0 {
        // The kernel names the thread that attached.
        let tracer = procfs::status_field(tracer, "Tgid").and_then(|t| t.parse().ok()).unwrap_or(tracer);
        let name = procfs::comm(tracer).unwrap_or_else(|| "?".into());
        return TargetError::OtherTracer { pid, tracer, name };
    }
    TargetError::Denied { pid, what, why: e.to_string() }
}
