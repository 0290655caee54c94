//! Holding a process by a copy of it: all threads stop, one of them executes a clone system call, all go on; what is then
//! looked at is the child, which never runs.
//!
//! A second process does the tracing (`holder`), started from our own executable. It has a session of its own, so a
//! SIGKILL to the tool or to its process group at any moment leaves the holder to put registers back, end the child and
//! have it reaped. Only if the holder itself is killed in the few microseconds (plus the time of the clone itself)
//! between the change of the registers and their return does the target lose a thread's state.
//!
//! The child shares the table of open files (CLONE_FILES), so that files and connections which the target closes are
//! closed. Its exit signal is 0: the target gets no SIGCHLD and no wait4(-1) of the target sees it. It stays a zombie
//! until the target waits for it, so the holder makes one thread of the target execute wait4 at the end: a second stop,
//! of one thread, for some microseconds.
//!
//! A thread is chosen that is inside a system call: its pc lies directly behind a `syscall` instruction, which serves. Its
//! registers, orig_rax and the -ERESTART code included, are put back in a stop from which the kernel restarts its own
//! call (arch/x86/kernel/signal.c arch_do_signal_or_restart). All its signals are blocked meanwhile; what arrives stays
//! pending and is delivered afterwards by the kernel itself.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, mpsc::RecvTimeoutError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Arch, Holder, TargetError, Thread,
    live::{Tracees, denied},
};
use crate::{
    base::Addr,
    os::{procfs, ptrace, vm},
};

/// Name of the hidden command that runs `holder`.
pub const COMMAND: &str = "hold-by-fork";

/// With this in the environment a thread that is not in a system call makes the copy, where there is one: a rare case,
/// that tests can force.
const PREFER_RUNNING: &str = "GOSLEUTH_FORK_BY_RUNNING_THREAD";

/// amd64: numbers of system calls, flags, and places in user_regs_struct.
const SYS_CLONE: u64 = 56;
const SYS_WAIT4: u64 = 61;
const CLONE_FILES: u64 = 0x400;
const WAIT_FLAGS: u64 = (libc::__WALL | libc::WNOHANG) as u32 as u64;
const R10: usize = 7;
const R9: usize = 8;
const R8: usize = 9;
const RAX: usize = 10;
const RDX: usize = 12;
const RSI: usize = 13;
const RDI: usize = 14;
const ORIG_RAX: usize = 15;
const RIP: usize = 16;
const WORDS: usize = 27;

/// A step that takes longer has failed: every one of them is a few microseconds of work, but the clone of a large process
/// takes some 25 ms a gigabyte.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the target is stopped again when every thread was about to handle a signal.
const ATTEMPTS: usize = 20;

/// First line of the holder.
#[derive(Serialize, Deserialize, Default)]
struct Held {
    error: Option<String>,
    /// Process id of the copy, as this process sees it.
    child: u32,
    stopped_ns: u64,
    /// The system call that makes the copy, by itself.
    clone_ns: u64,
    /// (thread, general registers).
    threads: Vec<(u32, Vec<u64>)>,
    unstopped: Vec<u32>,
}

/// Last line of the holder.
#[derive(Serialize, Deserialize, Default)]
struct Ended {
    /// How long one thread stood still for having the child reaped.
    reap_ns: u64,
    error: Option<String>,
}

/// The tool's end of a holder.
pub(super) struct Fork {
    pipes: Mutex<Option<(Child, ChildStdin, BufReader<std::process::ChildStdout>)>>,
    stopped: Mutex<Duration>,
    copy_ms: f64,
}

/// Makes the copy. Answers its process id, and the threads of the original as they were.
pub(super) fn fork(pid: u32, arch: Arch, max_pause: Option<Duration>) -> Result<(u32, Vec<Thread>, Fork), TargetError> {
    let unsupported = |why: String| TargetError::Unsupported { what: format!("--hold fork of process {pid}"), why };
    if arch != Arch::Amd64 {
        return Err(unsupported("only amd64 programs can be held by a copy; --hold freeze works".into()));
    }
    if procfs::status_field(pid, "TracerPid").is_some_and(|t| t != "0") {
        return Err(denied(pid, "attach to", &io::Error::from_raw_os_error(libc::EPERM)));
    }
    room(pid).map_err(unsupported)?;
    if let Some(max) = max_pause
        && estimate(pid) > max
    {
        return Err(unsupported(format!(
            "making the copy would stop it for about {} ms, and --max-pause allows {} ms",
            estimate(pid).as_millis(),
            max.as_millis()
        )));
    }
    let mut holder = Command::new("/proc/self/exe")
        .args([COMMAND, &pid.to_string()])
        .args(std::env::var_os(PREFER_RUNNING).map(|_| "--prefer-running"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| unsupported(format!("cannot start the process that holds it: {e}")))?;
    let (Some(stdin), Some(stdout)) = (holder.stdin.take(), holder.stdout.take()) else {
        return Err(unsupported("no pipes to the process that holds it".into()));
    };
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    let read = stdout.read_line(&mut line);
    let held: Held = match (read, serde_json::from_str(&line)) {
        (Ok(_), Ok(held)) => held,
        (r, _) => {
            drop(stdin);
            let status = holder.wait();
            return Err(unsupported(format!("the process that holds it ended ({status:?}, {r:?})")));
        }
    };
    if let Some(why) = held.error {
        drop(stdin);
        let _ = holder.wait();
        // The holder says it in words.
        let refused = why.strip_prefix(&format!("not allowed to attach to process {pid}: "));
        return Err(match refused {
            Some(why) => TargetError::Denied { pid, what: "attach to", why: why.to_owned() },
            None => unsupported(why),
        });
    }
    for tid in &held.unstopped {
        tracing::warn!(tid, "thread did not stop (uninterruptible sleep?)");
    }
    let threads =
        held.threads.into_iter().map(|(tid, words)| Thread { tid, regs: ptrace::decode_amd64(&words) }).collect();
    let stopped = Mutex::new(Duration::from_nanos(held.stopped_ns));
    Ok((
        held.child,
        threads,
        Fork { pipes: Mutex::new(Some((holder, stdin, stdout))), stopped, copy_ms: held.clone_ns as f64 / 1e6 },
    ))
}

impl Holder for Fork {
    fn release(&self) {
        let taken = self.pipes.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some((mut holder, stdin, mut stdout)) = taken {
            drop(stdin);
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = holder.wait();
            match serde_json::from_str::<Ended>(&line) {
                Ok(ended) => {
                    *self.stopped.lock().unwrap_or_else(|e| e.into_inner()) += Duration::from_nanos(ended.reap_ns);
                    if let Some(why) = ended.error {
                        tracing::warn!(why, "the copy may stay as a zombie of the target");
                    }
                }
                Err(e) => tracing::warn!(%e, "the process that held the copy said nothing at its end"),
            }
        }
    }

    fn is_held(&self) -> bool {
        self.pipes.lock().unwrap_or_else(|e| e.into_inner()).is_some()
    }

    fn copy_ms(&self) -> Option<f64> {
        Some(self.copy_ms)
    }

    fn stopped_ms(&self) -> Option<f64> {
        Some(self.stopped.lock().unwrap_or_else(|e| e.into_inner()).as_secs_f64() * 1e3)
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        self.release();
    }
}

/// How long making a copy stops the process, about: the kernel copies page tables (20 to 35 ms a gigabyte measured) and
/// every thread is stopped and let go.
pub fn estimate(pid: u32) -> Duration {
    let resident = procfs::status_field(pid, "RssAnon").map_or(0, |v| kilobytes(&v));
    let threads = procfs::status_field(pid, "Threads").and_then(|t| t.parse().ok()).unwrap_or(1u32);
    Duration::from_nanos(1_000_000 + resident / 33) + Duration::from_micros(60) * threads
}

/// Is there memory for a copy? Its page tables, and the pages that the target writes meanwhile: an eighth is the guess.
fn room(pid: u32) -> Result<(), String> {
    let resident = procfs::status_field(pid, "RssAnon").map_or(0, |v| kilobytes(&v));
    let need = resident / 512 + (resident / 8).max(16 << 20);
    let mut least = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|t| t.lines().find_map(|l| l.strip_prefix("MemAvailable:").map(kilobytes)))
        .map(|free| (free, "the machine".to_owned()));
    for (limit, used, name) in cgroup_limits(pid) {
        let free = limit.saturating_sub(used);
        if least.as_ref().is_none_or(|l| free < l.0) {
            least = Some((free, name));
        }
    }
    match least {
        Some((free, who)) if free < need => Err(format!(
            "a copy may need {} MiB and {who} has {} MiB left; --hold freeze needs none",
            need >> 20,
            free >> 20
        )),
        _ => Ok(()),
    }
}

fn kilobytes(text: &str) -> u64 {
    text.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0).saturating_mul(1024)
}

/// (limit, used, name) of every memory control group around the process that has a limit. Page cache that the kernel
/// would give up counts as free.
fn cgroup_limits(pid: u32) -> Vec<(u64, u64, String)> {
    let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return Vec::new() };
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut out = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
        let (root, limit, used, cache) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
            c if c.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            }
            _ => continue,
        };
        // Deeper than any real tree; a path from another cgroup namespace simply is not there.
        for dir in PathBuf::from(path).ancestors().take(32) {
            let dir = PathBuf::from(root).join(dir.strip_prefix("/").unwrap_or(dir));
            if let (Some(l), Some(u)) = (number(dir.join(limit)), number(dir.join(used))) {
                let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
                let spare: u64 =
                    stat.lines().find_map(|l| l.strip_prefix(cache)?.trim().parse().ok()).unwrap_or_default();
                out.push((l, u.saturating_sub(spare), format!("control group {}", dir.display())));
            }
        }
    }
    out
}

/// The hidden command: holds `pid` by a copy until standard input ends. Never returns an error: what goes wrong is said
/// in its lines.
pub fn holder(pid: u32, prefer_running: bool) {
    ptrace::own_session();
    let say = |line: String| {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush())
    };
    let mut copy = match copy(pid, prefer_running) {
        Ok(copy) => copy,
        Err(why) => {
            let held = Held { error: Some(why), ..Held::default() };
            let _ = say(serde_json::to_string(&held).unwrap_or_default());
            return;
        }
    };
    // If nobody listens any more the next read ends at once.
    let _ = say(serde_json::to_string(&copy.held).unwrap_or_default());
    until_input_ends(&mut copy.late);
    let ended = match end(pid, &copy) {
        Ok(time) => Ended { reap_ns: time.as_nanos() as u64, error: None },
        Err(why) => Ended { reap_ns: 0, error: Some(why) },
    };
    let _ = say(serde_json::to_string(&ended).unwrap_or_default());
}

/// Waits for the end of standard input. A thread that did not stop when all did stops when it can, and is let go then.
fn until_input_ends(late: &mut Tracees) {
    let (keep, ended) = std::sync::mpsc::channel::<()>();
    let input = std::thread::spawn(move || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        drop(keep);
    });
    while late.is_anyone_left()
        && ended.recv_timeout(Duration::from_millis(1)).is_err_and(|e| e == RecvTimeoutError::Timeout)
    {
        late.let_go();
    }
    let _ = input.join();
}

struct Copied {
    held: Held,
    /// The child's id as the target sees it.
    inner: u64,
    /// Has the threads that did not stop.
    late: Tracees,
}

fn copy(pid: u32, prefer_running: bool) -> Result<Copied, String> {
    if matches!(procfs::thread_state(pid, pid), Some('T' | 't')) {
        return Err("it is stopped already (job control or a debugger); --hold freeze works".into());
    }
    let mut last = String::new();
    let mut tracees = Tracees::new(pid);
    for attempt in 0..ATTEMPTS {
        std::thread::sleep(Duration::from_micros(200) * attempt as u32);
        let begin = Instant::now();
        let unstopped = tracees.stop_all().map_err(|e| e.to_string())?;
        let threads: Vec<(u32, Vec<u64>)> =
            tracees.tids().map(|tid| (tid, ptrace::general_registers(tid).unwrap_or_default())).collect();
        let call = Instant::now();
        let made = match tracees.suitable(pid, &threads, prefer_running) {
            Some((tid, at)) => inject(tid, at, [SYS_CLONE, CLONE_FILES, 0, 0, 0, 0, 0]),
            None => Err("every thread is about to handle a signal".into()),
        };
        let clone_ns = call.elapsed().as_nanos() as u64;
        tracees.let_go();
        let stopped_ns = begin.elapsed().as_nanos() as u64;
        match made {
            Ok((inner, Some(child))) if inner > 0 => {
                return Ok(Copied {
                    held: Held { error: None, child, stopped_ns, clone_ns, threads, unstopped },
                    inner: inner as u64,
                    late: tracees,
                });
            }
            Ok((error, child)) => {
                if let Some(child) = child {
                    let _ = ptrace::kill(child);
                }
                let error = io::Error::from_raw_os_error((-error) as i32);
                return Err(format!("the system refused to copy it: {error}; --hold freeze works"));
            }
            Err(why) => last = why,
        }
    }
    Err(format!("{last}, {ATTEMPTS} times; --hold freeze works"))
}

impl Tracees {
    /// A thread that can execute a system call for us, and the address of a `syscall` instruction.
    fn suitable(&self, pid: u32, threads: &[(u32, Vec<u64>)], prefer_running: bool) -> Option<(u32, u64)> {
        let fit = |tid: u32, words: &[u64]| words.len() >= WORDS && self.stop_of(tid) == Some(ptrace::Stop::Event);
        let behind_syscall = |words: &[u64]| {
            let at = words[RIP].checked_sub(2)?;
            let mut code = [0u8; 2];
            (words[ORIG_RAX] as i64 >= 0 && read(pid, at, &mut code).is_some() && code == [0x0f, 0x05]).then_some(at)
        };
        let mut fitting = threads.iter().filter(|(tid, w)| fit(*tid, w));
        let outside = |(tid, _): &(u32, Vec<u64>)| Some((*tid, vdso_syscall(pid)?));
        if prefer_running && let Some(running) = fitting.clone().find(|(_, w)| (w[ORIG_RAX] as i64) < 0) {
            return outside(running);
        }
        let inside = fitting.clone().find_map(|(tid, w)| Some((*tid, behind_syscall(w)?)));
        inside.or_else(|| outside(fitting.next()?))
    }
}

/// Fills `buf`, through /proc/PID/mem where process_vm_readv is forbidden.
fn read(pid: u32, at: u64, buf: &mut [u8]) -> Option<()> {
    if vm::read_ranges(pid, &mut [(at, &mut *buf)]).ok() == Some(buf.len()) {
        return Some(());
    }
    vm::read_mem_file(&procfs::mem_file(pid).ok()?, at, buf).ok()
}

/// Address of a `syscall` instruction in the vdso, which has some for the cases that need the kernel. Bytes in the middle
/// of another instruction would do as well.
fn vdso_syscall(pid: u32) -> Option<u64> {
    let maps = procfs::maps(pid).ok()?;
    let vdso = maps.iter().find(|m| m.path.as_deref().is_some_and(|p| p.as_os_str() == "[vdso]"))?;
    let len = vdso.end.distance_from(vdso.start)?.min(1 << 20);
    let mut code = vec![0u8; len as usize];
    read(pid, vdso.start.0, &mut code)?;
    let at = code.windows(2).position(|w| w == [0x0f, 0x05])?;
    Some(Addr(vdso.start.0).offset(at as u64).0)
}

/// Waits for the next stop and takes it.
fn next_stop(tid: u32) -> Result<ptrace::Taken, String> {
    let begin = Instant::now();
    let mut spins = 0u32;
    loop {
        match ptrace::take(tid).map_err(|e| format!("waiting for thread {tid}: {e}"))? {
            ptrace::Taken::Running => {}
            stop => return Ok(stop),
        }
        spins += 1;
        if begin.elapsed() > PATIENCE {
            return Err(format!("thread {tid} did not stop again"));
        }
        if spins < 2000 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Makes a thread in an event stop execute one system call ([number, six arguments]) at `at`, and leaves it in an event
/// stop as it was. Answers the result and, after a clone, the child (stopped, and killed if this process ends).
fn inject(tid: u32, at: u64, call: [u64; 7]) -> Result<(i64, Option<u32>), String> {
    let fail = |what: &str, e: io::Error| format!("cannot {what} of thread {tid}: {e}");
    let saved = ptrace::general_registers(tid).map_err(|e| fail("read registers", e))?;
    let mask = ptrace::signal_mask(tid).map_err(|e| fail("read the signal mask", e))?;
    ptrace::set_options(tid, ptrace::OPTION_SYSGOOD | ptrace::OPTION_CLONE).map_err(|e| fail("set options", e))?;
    let mut words = saved.clone();
    for (place, value) in [RAX, RDI, RSI, RDX, R10, R8, R9].into_iter().zip(call) {
        words[place] = value;
    }
    // Without a system call to restart the kernel leaves these registers alone.
    words[ORIG_RAX] = u64::MAX;
    words[RIP] = at;
    // Nothing returns early from here to `put back`.
    let changed = ptrace::set_signal_mask(tid, u64::MAX).and_then(|()| ptrace::set_general_registers(tid, &words));
    let done = match changed {
        Ok(()) => run_call(tid),
        Err(e) => Err(fail("set registers", e)),
    };
    let result = ptrace::general_registers(tid).ok().and_then(|w| w.get(RAX).map(|&v| v as i64));
    let back = ptrace::set_general_registers(tid, &saved)
        .and_then(|()| ptrace::set_signal_mask(tid, mask))
        .and_then(|()| ptrace::set_options(tid, 0));
    if let Ok((_, true)) = done {
        // From the exit of the call into an event stop, where the kernel looks at the restored registers once more and
        // restarts the call that was interrupted.
        let _ = ptrace::interrupt(tid).and_then(|()| ptrace::resume(tid, 0));
        wait_quietly(tid);
    }
    let (child, _) = done?;
    back.map_err(|e| fail("put back registers", e))?;
    Ok((result.ok_or_else(|| format!("thread {tid} is gone"))?, child))
}

/// Runs a prepared thread through its call. (child, stopped at the exit of the call).
fn run_call(tid: u32) -> Result<(Option<u32>, bool), String> {
    let mut child = None;
    let mut entered = false;
    let mut signal = 0;
    for _ in 0..16 {
        ptrace::to_syscall(tid, std::mem::take(&mut signal)).map_err(|e| format!("cannot resume thread {tid}: {e}"))?;
        match next_stop(tid)? {
            ptrace::Taken::Syscall if entered => return Ok((child, true)),
            ptrace::Taken::Syscall => entered = true,
            ptrace::Taken::Event(ptrace::EVENT_CLONE) => {
                let pid = ptrace::event_message(tid).map_err(|e| format!("no child of thread {tid}: {e}"))? as u32;
                // Attached by inheritance, it stops before its first instruction. From now on it dies with us.
                let _ = next_stop(pid);
                let _ = ptrace::set_options(pid, ptrace::OPTION_EXITKILL);
                child = Some(pid);
            }
            // An interrupt that was still under way.
            ptrace::Taken::Event(_) => {}
            // Only SIGSTOP passes the mask.
            ptrace::Taken::Signal(s) => signal = s,
            ptrace::Taken::Exited | ptrace::Taken::Running => return Err(format!("thread {tid} is gone")),
        }
    }
    Err(format!("thread {tid} stops for other reasons again and again"))
}

/// Until the thread is in a stop, which is left as it is.
fn wait_quietly(tid: u32) {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE && matches!(ptrace::look(tid), Ok(ptrace::Stop::Running)) {
        std::thread::yield_now();
    }
}

/// Ends the copy and has the target reap it. Answers how long a thread stood still for that.
fn end(pid: u32, copy: &Copied) -> Result<Duration, String> {
    let child = copy.held.child;
    let _ = ptrace::kill(child);
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        match ptrace::take(child) {
            Ok(ptrace::Taken::Exited) | Err(_) => break,
            Ok(_) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    let mut last = "no thread".to_owned();
    let (begin, mut one) = (Instant::now(), Tracees::new(pid));
    for attempt in 0..10 * ATTEMPTS {
        if begin.elapsed() > PATIENCE {
            break;
        }
        // Gone, or the target's own business: nothing is left to reap.
        if procfs::status_field(child, "PPid").and_then(|p| p.parse().ok()) != Some(pid) {
            return Ok(Duration::ZERO);
        }
        std::thread::sleep(Duration::from_micros(200) * (attempt % 20) as u32);
        let tids = procfs::threads(pid).map_err(|e| e.to_string())?;
        let known = copy.held.threads.iter().map(|t| t.0).filter(|t| tids.contains(t));
        let order: Vec<u32> = known.chain(tids.iter().copied()).collect();
        let Some(&tid) = order.get(attempt % order.len().max(1)) else { continue };
        let begin = Instant::now();
        if let Err(e) = one.stop_one(tid) {
            one.let_go();
            last = e;
            continue;
        }
        let words = ptrace::general_registers(tid).unwrap_or_default();
        let result = match one.suitable(pid, &[(tid, words)], false) {
            Some((tid, at)) => inject(tid, at, [SYS_WAIT4, copy.inner, 0, WAIT_FLAGS, 0, 0, 0]),
            None => Err("every thread is about to handle a signal".into()),
        };
        one.let_go();
        match result {
            Ok((n, _)) if n == copy.inner as i64 => return Ok(begin.elapsed()),
            Ok((n, _)) => last = format!("wait4 answered {n}"),
            Err(why) => last = why,
        }
    }
    Err(last)
}
